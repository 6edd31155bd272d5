//! Two routers between which the farm's network is cut, and made whole again.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cascina::network::RouterSeat;

use super::appliance::Appliance;
use super::place::{PUBLIC, Place, WEB_SERVER};
use super::talk::greeting;
use super::turns::{eventually, leads, pings, silence};

/// Whatever of the farm's network was cut or became whole, a farm is without its way for no longer.
const WITHOUT_A_WAY: Duration = Duration::from_secs(2);

/// Pings of a round.
const COUNT: u32 = 80;

/// How often each is tried.
fn rounds() -> u32 {
    if std::env::var_os("CASCINA_SOAK").is_some() { 20 } else { 3 }
}

/// Of a pair whose second one leads, either is cut off from the farm in turn, and comes back.
pub fn cut_and_heal(place: &Place, first: &Appliance, second: &Appliance) {
    let mut worst = [Duration::ZERO; 2];
    for round in 0..rounds() {
        let healed = the_leader_is_cut_off_and_leads_on(place, first, second);
        let cut = the_other_is_cut_off(place, first, second);
        println!(
            "round {round}: {:.1} s without a way after the leader's return, {:.1} s by a cut of the other",
            healed.as_secs_f64(),
            cut.as_secs_f64()
        );
        worst = [worst[0].max(healed), worst[1].max(cut)];
    }
    assert!(worst.iter().all(|time| *time <= WITHOUT_A_WAY), "{worst:?}");
}

/// The first takes its turn meanwhile. When the cut is healed the second, which has the higher address, leads on without having
/// been anything else.
fn the_leader_is_cut_off_and_leads_on(place: &Place, first: &Appliance, second: &Appliance) -> Duration {
    let login = place.of("login");
    place.cut_off(RouterSeat::Second);
    eventually("the first takes its turn", || leads(first));
    eventually("a machine gets out", || greeting(&login, WEB_SERVER, 80).is_some());
    assert_eq!(greeting(&place.of("friend"), PUBLIC, 2222).as_deref(), Some("login 198.51.100.1"), "and is reached");
    assert!(leads(second), "it knows no better");
    let watch = pings(place, &WEB_SERVER.to_string(), COUNT);
    sleep(Duration::from_secs(1));
    place.heal(RouterSeat::Second);
    eventually("the first gives its turn back", || !leads(first));
    let silent = silence(watch, COUNT);
    assert!(leads(second));
    silent
}

/// It takes its turn, since it hears nobody, and nobody outside notices. Nothing but forwards is used meanwhile: packets that
/// leave would show the way to the right one.
fn the_other_is_cut_off(place: &Place, first: &Appliance, second: &Appliance) -> Duration {
    place.cut_off(RouterSeat::First);
    let cut = longest_without_a_forward(place, Duration::from_secs(6));
    assert_eq!((leads(first), leads(second)), (true, true), "neither knows better");
    place.heal(RouterSeat::First);
    let healed = longest_without_a_forward(place, Duration::from_secs(4));
    eventually("the first gives its turn back", || !leads(first));
    cut.max(healed)
}

/// The longest time in which nobody outside gets in.
fn longest_without_a_forward(place: &Place, watched: Duration) -> Duration {
    let friend = place.of("friend");
    let (begin, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    while begin.elapsed() < watched {
        if greeting(&friend, PUBLIC, 2222).as_deref() == Some("login 198.51.100.1") {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        sleep(Duration::from_millis(50));
    }
    longest.max(last.elapsed())
}
