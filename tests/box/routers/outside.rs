//! Somebody outside of all farms: a web server, a name server, and a browser.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::namespaces::in_namespace;
use crate::support::TheBox;

/// Who doesn't answer within this time is not there.
const PATIENCE: Duration = Duration::from_secs(1);

/// The name that the name server knows.
pub const NAME: &str = "www.elsewhere.test";

/// The box's outside.
#[derive(Clone)]
pub struct Outside {
    namespace: String,
    /// Its address, which is also that of both servers.
    pub address: Ipv4Addr,
}

impl Outside {
    /// Serves until the test's process ends: at port 8080 who asks is told their own address, and at port 53 that [`NAME`] is
    /// here. Another test in the same process may have begun that already.
    pub fn serves(the_box: &TheBox) -> Self {
        let index = the_box.cluster.turn.index.parse().unwrap();
        let outside = Self { namespace: the_box.network_of("outside"), address: Ipv4Addr::new(198, 19, index, 1) };
        if let Ok(web) = outside.inside(|| TcpListener::bind("0.0.0.0:8080")) {
            thread::spawn(move || web.incoming().flatten().for_each(tell_address));
        }
        if let Ok(names) = outside.inside(|| UdpSocket::bind("0.0.0.0:53")) {
            let address = outside.address;
            thread::spawn(move || answer_names(&names, address));
        }
        outside
    }

    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        in_namespace(&self.namespace, work).join().unwrap()
    }

    /// What a web server says, its greeting left out; `None`: nobody answers there.
    pub fn page(&self, address: Ipv4Addr, port: u16) -> Option<String> {
        self.inside(move || {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            text.split_once("\r\n\r\n").map(|(_, page)| page.trim().to_owned())
        })
    }

    /// Whether a web server says this within the time. One browser after another begins every 100 ms and none waits for those
    /// before it: what is dropped would be sent again only after a second.
    pub fn says(&self, address: Ipv4Addr, port: u16, page: &str, within: Duration) -> bool {
        let begin = Instant::now();
        let (tell, hear) = mpsc::channel();
        while begin.elapsed() < within {
            let (browser, tell, page) = (self.clone(), tell.clone(), page.to_owned());
            thread::spawn(move || browser.page(address, port).is_some_and(|said| said == page).then(|| tell.send(())));
            if hear.recv_timeout(Duration::from_millis(100)).is_ok() {
                return true;
            }
        }
        false
    }
}

fn tell_address(mut stream: TcpStream) {
    let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.read(&mut [0; 1024]);
    let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{peer}", peer.len());
}

/// As much of RFC 1035 as answers a question for the one address that is known, and says that there is no other.
fn answer_names(socket: &UdpSocket, address: Ipv4Addr) {
    let mut packet = [0; 512];
    let wanted: Vec<u8> = NAME.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    while let Ok((length, peer)) = socket.recv_from(&mut packet) {
        let Some(question) = packet.get(12..length) else { continue };
        let Some(end) = question.iter().position(|byte| *byte == 0).filter(|end| question.len() >= end + 5) else {
            continue;
        };
        let known = question[..end].eq_ignore_ascii_case(&wanted);
        let is_address = known && question[end + 1..end + 3] == [0, 1];
        let mut answer = packet[..2].to_vec();
        answer.extend([0x84, if known { 0 } else { 3 }, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
        answer.extend(&question[..end + 5]);
        if is_address {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend(address.octets());
        }
        let _ = socket.send_to(&answer, peer);
    }
}
