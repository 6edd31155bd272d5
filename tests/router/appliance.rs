//! The router's image in QEMU, and its agent.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cascina::network::MacAddress;
use cascina::network::router::{Router, pieces};
use serde_json::{Value, json};

/// Memory that a router is given, in mebibytes.
pub const MEMORY: u32 = 256;

/// A command in the guest takes at most so long: it is emulated, and shares its processors.
const WITHIN: Duration = Duration::from_secs(60);

/// How long it took to tell a router what to do.
#[derive(Clone, Copy)]
pub struct Took {
    /// Handing over the files that changed.
    pub push: Duration,
    /// Checking them and putting them in force.
    pub apply: Duration,
}

impl fmt::Display for Took {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.2} | {:.2}", self.push.as_secs_f64(), self.apply.as_secs_f64())
    }
}

/// A router that runs.
pub struct Appliance {
    qemu: Mutex<Child>,
    socket: PathBuf,
    agent: Mutex<BufReader<UnixStream>>,
    /// The files that it was handed last.
    known: Mutex<BTreeMap<String, String>>,
    /// How long after its creation its agent answered.
    pub answered: Duration,
    /// Size of kernel and initramfs together, in bytes.
    pub size: u64,
}

impl Appliance {
    /// Boots one in a network namespace, with cards on these devices there, and waits for its agent.
    pub fn boot(state: &Path, namespace: &str, cards: &[(String, MacAddress)]) -> Self {
        let built = Command::new(state.parent().unwrap().join("box/images/build")).arg("router").output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let folder = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim());
        let index: Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
        let file = |kind: &str| index["files"][kind]["path"].as_str().unwrap().to_owned();
        let size = index["files"].as_object().unwrap().values().map(|file| file["size"].as_u64().unwrap()).sum();
        let socket = state.join(format!("{}.sock", cards[0].0));
        let _ = std::fs::remove_file(&socket);
        let card = |(device, mac): &(String, MacAddress)| {
            [
                "-netdev".to_owned(),
                format!("tap,id={device},ifname={device},script=no,downscript=no"),
                "-device".to_owned(),
                format!("virtio-net-pci,netdev={device},mac={mac}"),
            ]
        };
        let begin = Instant::now();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "qemu-system-x86_64"]);
        command.args([
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-machine",
            "q35",
            "-smp",
            "1",
            "-display",
            "none",
            "-nodefaults",
        ]);
        command.args(["-m", &MEMORY.to_string(), "-kernel", &file("vmlinuz"), "-initrd", &file("initrd"), "-append"]);
        // As the box's machines are: the kernel's self-tests take a second and a half under emulation.
        command.arg("console=ttyS0 quiet mitigations=off cryptomgr.notests tsc=reliable no_timer_check");
        let console = state.join(format!("log/{}.log", cards[0].0));
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci", "-chardev"]);
        command.arg(format!("socket,id=agent,server=on,wait=off,path={}", socket.display()));
        command.args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
        command.args(cards.iter().flat_map(card));
        let qemu = command.stdin(Stdio::null()).spawn().unwrap();
        let agent = connected(&socket);
        let mut router = Self {
            qemu: Mutex::new(qemu),
            socket,
            agent: Mutex::new(agent),
            known: Mutex::default(),
            answered: Duration::ZERO,
            size,
        };
        router.ask(&json!({"execute": "guest-ping"}));
        router.answered = begin.elapsed();
        router
    }

    /// Ends it, as a host that loses its power does.
    pub fn kill(&self) {
        let mut qemu = self.qemu.lock().unwrap();
        qemu.kill().and_then(|()| qemu.wait()).unwrap();
    }

    fn ask(&self, question: &Value) -> Value {
        let mut agent = self.agent.lock().unwrap();
        agent.get_mut().write_all(format!("{question}\n").as_bytes()).unwrap();
        let mut line = String::new();
        agent.read_line(&mut line).expect("the agent answers in time");
        serde_json::from_str::<Value>(&line).unwrap()["return"].clone()
    }

    /// Runs a command in it, and gives what it wrote.
    pub fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> String {
        let begun = self.ask(&json!({"execute": "guest-exec", "arguments": {
            "path": program, "arg": arguments, "input-data": STANDARD.encode(input), "capture-output": true,
        }}));
        let end = Instant::now() + WITHIN;
        loop {
            let status = self.ask(&json!({"execute": "guest-exec-status", "arguments": {"pid": begun["pid"]}}));
            if status["exited"] == true {
                let text = |field: &str| STANDARD.decode(status[field].as_str().unwrap_or_default()).unwrap();
                assert_eq!(status["exitcode"], 0, "{program}: {}", String::from_utf8_lossy(&text("err-data")));
                return String::from_utf8(text("out-data")).unwrap();
            }
            assert!(Instant::now() < end, "{program} doesn't end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is in force and what was counted.
    pub fn status(&self) -> Value {
        let mut state: Value = serde_json::from_str(&self.run("cascina-router", &["state"], b"")).unwrap();
        let counts: Value = serde_json::from_str(&self.run("cascina-router", &["count", "0"], b"")).unwrap();
        state.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
        state
    }

    /// Hands over what changed; its answer, and how long handing over and putting in force took.
    pub fn hand(&self, router: &Router) -> (Value, Took) {
        let documents = router.documents();
        let bundle = documents.bundle(&self.known.lock().unwrap());
        let begin = Instant::now();
        for (place, piece) in pieces(&bundle) {
            self.run("cascina-router", &["take", &place.to_string()], piece);
        }
        let push = begin.elapsed();
        let answer = self.run("cascina-router", &["apply"], b"");
        let took = Took { push, apply: begin.elapsed().saturating_sub(push) };
        let hashes = documents.hashes().into_iter().map(|(name, hash)| (name.file().to_owned(), hash.to_string()));
        *self.known.lock().unwrap() = hashes.collect();
        (serde_json::from_str(&answer).unwrap(), took)
    }

    /// The same, and it has to be in force then; until then names are served too.
    pub fn works_by(&self, router: &Router) -> Took {
        let (answer, took) = self.hand(router);
        assert_eq!(answer, json!({"hash": router.documents().hash().to_string()}));
        let end = Instant::now() + WITHIN;
        while self.status()["serves"] != true {
            assert!(Instant::now() < end, "names aren't served");
        }
        took
    }

    /// Packets that a counter counted.
    pub fn counted(&self, counter: &str) -> u64 {
        self.status()["counters"][counter][0].as_u64().unwrap_or_default()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let qemu = self.qemu.get_mut().unwrap();
        let _ = qemu.kill();
        let _ = qemu.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn connected(socket: &Path) -> BufReader<UnixStream> {
    let end = Instant::now() + WITHIN;
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            stream.set_read_timeout(Some(WITHIN)).unwrap();
            return BufReader::new(stream);
        }
        assert!(Instant::now() < end, "QEMU makes no socket");
        std::thread::sleep(Duration::from_millis(50));
    }
}
