//! Frees a thread that waits for a host which will never answer.
//!
//! Once a connection is open libvirt's keepalive ends it when the host falls silent. While it is being opened nothing
//! does: a host that accepts and then loses its power leaves the thread in `virConnectOpen` for ever. libvirt doesn't
//! tell which socket it uses, but the kernel tells where each socket of this process leads.

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

    /// Shuts the sockets to the host that came since. What waits on them fails at once.
    ///
    /// This may hit another connection that is being opened to the same silent host; it is tried anew like this one.
    pub(super) fn shut_newcomers(&self) {
        for socket in sockets_to(&self.host) {
            if socket.local_addr().is_ok_and(|own| !self.own.contains(&own)) {
                let _ = socket.shutdown(Shutdown::Both);
            }
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
        bystanders.shut_newcomers();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
        let (mut peer, _) = silent.accept().unwrap();
        older.write_all(b"x").unwrap();
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 1);
    }
}
