//! Frees a thread that waits for a host which will never answer.
//!
//! A host that loses its power leaves the thread that opens a connection, or waits for the answer to a call, there for
//! ever. libvirt doesn't tell which socket it uses, but the kernel tells where each socket of this process leads.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, RawFd};

/// The sockets to a host that were there before another one is opened.
#[derive(Debug)]
pub(super) struct Bystanders {
    host: Vec<SocketAddr>,
    own: BTreeSet<SocketAddr>,
}

impl Bystanders {
    /// Looks at the sockets that lead to one of these addresses.
    pub(super) fn at(host: Vec<SocketAddr>) -> Self {
        let own = sockets_to(&host).filter_map(|socket| socket.local_addr().ok()).collect();
        Self { host, own }
    }

    /// The sockets to the host that came since: those of the connection that was opened, if only one is at a time.
    pub(super) fn newcomers(&self) -> Line {
        let is_new = |socket: &TcpStream| socket.local_addr().is_ok_and(|own| !self.own.contains(&own));
        Line(sockets_to(&self.host).filter(is_new).collect())
    }
}

/// The sockets of a connection; none over ssh, which ends by itself when the host falls silent.
#[derive(Debug)]
pub(super) struct Line(Vec<TcpStream>);

impl Line {
    /// What waits on it fails at once.
    pub(super) fn cut(&self) {
        for socket in &self.0 {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn sockets_to(host: &[SocketAddr]) -> impl Iterator<Item = TcpStream> {
    let candidates = if host.is_empty() { Vec::new() } else { descriptors() };
    candidates
        .into_iter()
        .filter_map(duplicate)
        .filter(|socket| socket.peer_addr().is_ok_and(|peer| host.contains(&peer)))
}

/// Another handle of the same socket. From here on it is ours, so that the peer that is checked is the peer that is shut.
fn duplicate(descriptor: RawFd) -> Option<TcpStream> {
    // SAFETY: nothing is done with the number but duplicating it, which fails if it was closed meanwhile.
    unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned().map(TcpStream::from).ok()
}

fn descriptors() -> Vec<RawFd> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_reader_that_waits_is_freed_and_others_are_left_alone() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let mut older = TcpStream::connect(address).unwrap();
        let bystanders = Bystanders::at(vec![address]);
        let mut stuck = TcpStream::connect(address).unwrap();
        let reader = thread::spawn(move || stuck.read(&mut [0; 1]));
        thread::sleep(Duration::from_millis(20));
        bystanders.newcomers().cut();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
        let (mut peer, _) = silent.accept().unwrap();
        older.write_all(b"x").unwrap();
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 1);
    }
}
