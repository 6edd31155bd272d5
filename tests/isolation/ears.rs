//! Raw sockets on an interface of another network namespace: what is heard there, and frames sent from there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};

use super::frames::{self, Mac};
use crate::namespaces::in_namespace;

/// Ends every frame of the tests: who sent it, and as part of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// Number of the guest that sent it.
    pub sender: u16,
    /// Number of the attack or the flow.
    pub run: u32,
}

const MAGIC: [u8; 6] = *b"grange";

impl Mark {
    pub fn bytes(self) -> Vec<u8> {
        [&MAGIC[..], &self.sender.to_be_bytes(), &self.run.to_be_bytes()].concat()
    }

    fn of(frame: &[u8]) -> Option<Self> {
        let mark = frame.get(frame.len().checked_sub(12)?..)?;
        let number = mark.strip_prefix(&MAGIC)?;
        let sender = u16::from_be_bytes(number[..2].try_into().ok()?);
        let run = u32::from_be_bytes(number[2..].try_into().ok()?);
        Some(Self { sender, run })
    }
}

/// What an ear tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    /// A frame of a test.
    Marked(Mark),
    /// A kernel's answer to a question of ours.
    ArpAnswer(Mac),
}

type Counts = Arc<Mutex<HashMap<Heard, usize>>>;

/// Listens on an interface, and sends from it.
pub struct Ear {
    counts: Counts,
    sender: Mutex<Box<dyn DataLinkSender>>,
    closed: Arc<AtomicBool>,
}

impl Ear {
    /// Opens one; `own`: frames that leave with this address are not heard.
    pub fn open(namespace: &str, interface: &str, own: Option<Mac>) -> Self {
        let (give, take) = mpsc::channel();
        let (counts, closed) = (Counts::default(), Arc::<AtomicBool>::default());
        let (counted, ended) = (counts.clone(), closed.clone());
        let interface = interface.to_owned();
        in_namespace(namespace, move || {
            let all = pnet_datalink::interfaces();
            let found = all.iter().find(|other| other.name == interface).expect("the interface is there");
            let config = Config { read_timeout: Some(Duration::from_millis(200)), ..Config::default() };
            let Ok(Channel::Ethernet(sender, receiver)) = pnet_datalink::channel(found, config) else {
                panic!("no raw socket on {interface}");
            };
            give.send(sender).unwrap();
            listen(receiver, own, &counted, &ended);
        });
        Self { counts, sender: Mutex::new(take.recv().expect("a raw socket")), closed }
    }

    /// Sends a frame as it is. One that the kernel refuses is as good as one that is dropped.
    pub fn send(&self, frame: &[u8]) {
        let _ = self.sender.lock().unwrap().send_to(frame, None).expect("a frame that fits");
    }

    /// How many of these were heard so far.
    pub fn heard(&self, what: Heard) -> usize {
        self.counts.lock().unwrap().get(&what).copied().unwrap_or_default()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

fn listen(mut receiver: Box<dyn DataLinkReceiver>, own: Option<Mac>, counts: &Counts, closed: &AtomicBool) {
    while !closed.load(Ordering::Relaxed) {
        let Ok(frame) = receiver.next() else { continue };
        let source = frame.get(6..12).and_then(|source| Mac::try_from(source).ok());
        if own.is_some() && source == own {
            continue;
        }
        let heard = Mark::of(frame).map(Heard::Marked).or_else(|| frames::arp_answer_from(frame).map(Heard::ArpAnswer));
        if let Some(heard) = heard {
            *counts.lock().unwrap().entry(heard).or_default() += 1;
        }
    }
}
