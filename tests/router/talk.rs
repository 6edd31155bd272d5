//! Connections between namespaces.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::namespaces;

/// Who doesn't answer within this time is not there.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Does something in a network namespace.
pub fn in_namespace<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    namespaces::in_namespace(namespace, work).join().unwrap()
}

/// Listens at a port of all addresses, until its process ends. Whoever comes is told by whom, and as whom they came, and
/// then hears what they say.
pub fn greet(namespace: &str, name: &'static str, port: u16) {
    let listener = in_namespace(namespace, move || TcpListener::bind(("0.0.0.0", port)).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = stream;
                let peer = stream.peer_addr().unwrap().ip();
                let _ = writeln!(stream, "{name} {peer}");
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A connection, and what one was greeted with; `None`: nobody answered.
pub fn call(namespace: &str, to: Ipv4Addr, port: u16) -> Option<(TcpStream, String)> {
    in_namespace(namespace, move || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = Vec::new();
        let mut byte = [0; 1];
        while stream.read_exact(&mut byte).is_ok() && byte != *b"\n" {
            greeting.extend(byte);
        }
        let greeting = String::from_utf8(greeting).unwrap();
        (!greeting.is_empty()).then_some((stream, greeting))
    })
}

/// What one is greeted with.
pub fn greeting(namespace: &str, to: Ipv4Addr, port: u16) -> Option<String> {
    call(namespace, to, port).map(|(_, greeting)| greeting)
}

/// Two who send each other datagrams: each end, and what the second one knows the first by.
pub struct Datagrams {
    near: UdpSocket,
    far: UdpSocket,
    peer: SocketAddr,
}

impl Datagrams {
    /// Begun from one namespace towards an address in another.
    pub fn between(namespace: &str, other: &str, to: Ipv4Addr, port: u16) -> Self {
        let open = |namespace: &str, at: (Ipv4Addr, u16)| {
            in_namespace(namespace, move || {
                let socket = UdpSocket::bind(at).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            })
        };
        let (near, far) = (open(namespace, (Ipv4Addr::UNSPECIFIED, 0)), open(other, (to, port)));
        near.connect((to, port)).unwrap();
        near.send(b"hello").unwrap();
        let (_, peer) = far.recv_from(&mut [0; 8]).expect("it gets there");
        Self { near, far, peer }
    }

    /// Whether what the first one sends arrives.
    pub fn arrive(&self) -> bool {
        // The next one that is sent is told of a refusal that came before, and isn't sent.
        if self.near.send(b"out").is_err() {
            self.near.send(b"out").unwrap();
        }
        let mut buffer = [0; 8];
        matches!(self.far.recv_from(&mut buffer), Ok((_, peer)) if peer == self.peer)
    }

    /// Whether what the other one sends comes back, though nobody asks for it.
    pub fn come_back(&self) -> bool {
        let mut buffer = [0; 8];
        self.far.send_to(b"back", self.peer).unwrap();
        loop {
            match self.near.recv(&mut buffer) {
                Ok(4) => return true,
                Ok(_) => {}
                // A refusal that was told, and no silence.
                Err(error) if error.kind() != ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }
}

/// Whether the other end still answers.
pub fn is_alive(stream: &mut TcpStream) -> bool {
    let mut echo = [0; 4];
    stream.write_all(b"echo").is_ok() && stream.read_exact(&mut echo).is_ok() && echo == *b"echo"
}
