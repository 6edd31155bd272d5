//! Guests in QEMU without libvirt: an image of the box in a network namespace, and its agent.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cascina::network::MacAddress;
use serde_json::{Value, json};

/// Memory that a guest is given, in mebibytes.
pub const MEMORY: u32 = 256;

/// A command in the guest takes at most so long: it is emulated, and shares its processors.
pub const WITHIN: Duration = Duration::from_secs(60);

/// What each guest has: an emulated processor, and no device that isn't named.
const MACHINE: &str = "-accel tcg -cpu max -machine q35 -smp 1 -display none -nodefaults \
                       -device virtio-serial-pci -device virtio-rng-pci \
                       -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0";

/// As the box's machines are: the kernel's self-tests take a second and a half under emulation.
const KERNEL: &str = "console=ttyS0 quiet mitigations=off cryptomgr.notests tsc=reliable no_timer_check";

/// A guest that runs.
pub struct Emulated {
    qemu: Mutex<Child>,
    socket: PathBuf,
    agent: Mutex<BufReader<UnixStream>>,
    /// How long after its creation its agent answered.
    pub answered: Duration,
    /// Size of kernel and initramfs together, in bytes.
    pub size: u64,
}

impl Emulated {
    /// Boots one of the box's images without a disk in a network namespace, with cards on these devices there, and waits for
    /// its agent.
    pub fn boot(state: &Path, image: &str, namespace: &str, cards: &[(String, MacAddress)]) -> Self {
        let files = files(state, image);
        let size = files.iter().map(|file| file.metadata().unwrap().len()).sum();
        let [kernel, initrd] = &files;
        let socket = state.join(format!("{}.sock", cards[0].0));
        let console = state.join(format!("log/{}.log", cards[0].0));
        let _ = std::fs::remove_file(&socket);
        let begin = Instant::now();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "qemu-system-x86_64", "-m", &MEMORY.to_string()]);
        command.arg("-chardev").arg(format!("socket,id=agent,server=on,wait=off,path={}", socket.display()));
        command.args(MACHINE.split_whitespace());
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", KERNEL]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        for (device, mac) in cards {
            command.arg("-netdev").arg(format!("tap,id={device},ifname={device},script=no,downscript=no"));
            command.arg("-device").arg(format!("virtio-net-pci,netdev={device},mac={mac}"));
        }
        let qemu = command.stdin(Stdio::null()).spawn().unwrap();
        let agent = connected(&socket);
        let mut guest =
            Self { qemu: Mutex::new(qemu), socket, agent: Mutex::new(agent), answered: Duration::ZERO, size };
        guest.ask(&json!({"execute": "guest-ping"}));
        guest.answered = begin.elapsed();
        guest
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
}

impl Drop for Emulated {
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

/// Kernel and initramfs of an image, built if they weren't.
pub fn files(state: &Path, image: &str) -> [PathBuf; 2] {
    let built = Command::new(state.parent().unwrap().join("box/images/build")).arg(image).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let folder = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim());
    let index: Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let path = |kind: &str| index["files"][kind]["path"].as_str().map(PathBuf::from);
    let kernel = path("vmlinuz").or_else(|| path("vmlinux"));
    [kernel, path("initrd")].map(|file| file.expect("an image without a disk"))
}
