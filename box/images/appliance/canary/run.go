package main

import "time"

// Report is the answer to whoever asked for the test.
type report struct {
	Nonce  string  `json:"nonce"`
	Checks []check `json:"checks"`
}

// Check tells of frames of one kind how many were sent, arrived where they should, and arrived where they shouldn't.
// Of an attack none should arrive anywhere; of what is sent after an attempt to steal, all should arrive at the victim.
type check struct {
	Name    string `json:"name"`
	Sent    int    `json:"sent"`
	Arrived int    `json:"arrived"`
	Strayed int    `json:"strayed"`
}

const (
	frames = 3
	// What shall arrive may take so long, on a host that has much to do.
	patience = time.Second
	// What shall not arrive gets so long to do it all the same, once what was sent after it has arrived.
	grace = 60 * time.Millisecond
)

// air is where frames are sent and heard; tests have one without network cards.
type air interface {
	listen(nonce [8]byte)
	sendFrom(at int, frame []byte, times int) error
	heardOn(at, check int) int
}

func (w *wires) sendFrom(at int, frame []byte, times int) error { return w.all[at].send(frame, times) }

// tryAll sends honest frames, then every attack.
func tryAll(air air, who Parties, nonce [8]byte) []check {
	air.listen(nonce)
	test := &test{air: air, who: who, nonce: nonce}
	test.teach()
	checks := []check{test.deliver(good)}
	for number := crossFarmUnicast; number <= vlanTag; number++ {
		test.attack(number)
	}
	test.settle()
	for number := crossFarmUnicast; number <= vlanTag; number++ {
		checks = append(checks, test.strayed(number))
	}
	for number := stealByFrame; number <= stealByLinkLocal; number++ {
		test.teach()
		attack := attacks[checkNames[number]](who, mark{nonce, theft})
		test.send(attacker, attack)
		test.settle()
		checks = append(checks, test.deliver(number))
	}
	test.teach() // what was stolen is given back
	return checks
}

type test struct {
	air   air
	who   Parties
	nonce [8]byte
}

// A frame that can't be sent doesn't arrive, and that is told.
func (t *test) send(at int, frame []byte) { _ = t.air.sendFrom(at, frame, frames) }

// teach lets the bridge learn where the victim is.
func (t *test) teach() { t.toPeer(victim, t.who.victim) }

// settle waits until whatever the attacker sent has been where it can get.
func (t *test) settle() {
	t.toPeer(attacker, t.who.attacker)
	time.Sleep(grace)
}

// toPeer sends honest frames to the peer and waits for them: what was sent before them is there, too.
func (t *test) toPeer(at int, from Station) {
	enough := t.air.heardOn(peer, lesson) + frames
	t.send(at, honest(from, t.who.peer, mark{t.nonce, lesson}))
	t.wait(func() bool { return t.air.heardOn(peer, lesson) >= enough })
}

// deliver sends honest frames from the peer to the victim and tells who got them.
func (t *test) deliver(number int) check {
	t.send(peer, honest(t.who.peer, t.who.victim, mark{t.nonce, byte(number)}))
	t.wait(func() bool { return t.air.heardOn(victim, number)+t.air.heardOn(attacker, number) >= frames })
	return check{
		Name: checkNames[number], Sent: frames, Arrived: t.air.heardOn(victim, number),
		Strayed: t.air.heardOn(attacker, number) + t.air.heardOn(outsider, number),
	}
}

func (t *test) attack(number int) {
	t.send(attacker, attacks[checkNames[number]](t.who, mark{t.nonce, byte(number)}))
}

// strayed tells where the frames of an attack came out. A broadcast may be heard within the farm.
func (t *test) strayed(number int) check {
	strayed := t.air.heardOn(outsider, number)
	if number != crossFarmBroadcast {
		strayed += t.air.heardOn(victim, number) + t.air.heardOn(peer, number)
	}
	return check{Name: checkNames[number], Sent: frames, Strayed: strayed}
}

func (t *test) wait(enough func() bool) {
	for end := time.Now().Add(patience); !enough() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}
