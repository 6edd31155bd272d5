//! Who is let in to the HTTP pages, and for how long: whoever reaches the port may open connections and say nothing.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

/// The pause after a connection couldn't be taken, for want of file descriptors say.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// What a stranger may take of the server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. One more ends the oldest: probes and scrapes are answered at once, so the oldest is one that waits.
    pub connections: usize,
    /// How long a request may take to arrive.
    pub request_within: Duration,
    /// How long a connection may last, its answer included. It serves one request.
    pub done_within: Duration,
    /// The size of a request's head, in bytes.
    pub head: usize,
    /// How many headers a request may have.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            request_within: Duration::from_secs(5),
            done_within: Duration::from_secs(30),
            head: 16 << 10,
            headers: 64,
        }
    }
}

/// Serves these pages as long as the process lives.
pub async fn serve(listener: TcpListener, pages: Router, limits: Limits) {
    let mut guests = Guests::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => guests.admit(answer(stream, pages.clone(), limits), limits.connections),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "a connection to the HTTP pages couldn't be taken");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn answer(stream: TcpStream, pages: Router, limits: Limits) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_within)
        .max_buf_size(limits.head)
        .max_headers(limits.headers)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    match tokio::time::timeout(limits.done_within, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection to the HTTP pages ended early"),
        Err(_) => debug!("a connection to the HTTP pages took too long"),
    }
}

/// The connections that are open, oldest first.
#[derive(Default)]
struct Guests {
    tasks: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl Guests {
    fn admit(&mut self, guest: impl Future<Output = ()> + Send + 'static, limit: usize) {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|guest| !guest.is_finished());
        while self.by_age.len() >= limit
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(guest));
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMITS: Limits = Limits {
        connections: 8,
        request_within: Duration::from_millis(300),
        done_within: Duration::from_secs(2),
        head: 16 << 10,
        headers: 64,
    };

    async fn served(limits: Limits) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = get(async || tokio::time::sleep(Duration::from_secs(3600)).await);
        let pages = Router::new().route("/livez", get(async || "ok")).route("/slow", slow);
        tokio::spawn(serve(listener, pages, limits));
        address
    }

    async fn said(address: std::net::SocketAddr, text: &str) -> (TcpStream, io::Result<()>) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let sent = stream.write_all(text.as_bytes()).await;
        (stream, sent)
    }

    async fn asked(address: std::net::SocketAddr, text: &str) -> String {
        let mut answer = Vec::new();
        // What comes before a reset counts too.
        let _ = said(address, text).await.0.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn hundreds_of_half_sent_requests_keep_nobody_waiting_and_are_ended() {
        let long = Limits { request_within: Duration::from_secs(60), done_within: Duration::from_secs(60), ..LIMITS };
        let address = served(long).await;
        let mut silent = Vec::new();
        for _ in 0..800 {
            silent.push(said(address, "GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: ").await.0);
        }
        assert!(asked(address, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("ok"));
        let mut ended = 0;
        for stream in &mut silent[..800 - long.connections] {
            // An end or a reset, not more silence.
            let _ = stream.read(&mut [0]).await;
            ended += 1;
        }
        assert_eq!(ended, 792, "all but the newest are ended");
    }

    #[tokio::test]
    async fn a_request_that_does_not_arrive_and_an_answer_that_nobody_fetches_end() {
        let address = served(LIMITS).await;
        let (mut half, _) = said(address, "GET /livez HTTP/1.1\r\n").await;
        assert!(matches!(half.read(&mut [0]).await, Ok(0) | Err(_)));
        assert_eq!(asked(address, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let address = served(LIMITS).await;
        let request = |headers: String| format!("GET /livez HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let large = request(format!("X-Large: {}\r\n", "x".repeat(64 << 10)));
        let many = request((0..100).map(|number| format!("X-{number}: 1\r\n")).collect());
        for text in [large, many] {
            let answer = asked(address, &text).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        }
        assert!(asked(address, &request("X-Small: 1\r\n".into())).await.ends_with("ok"));
    }

    #[tokio::test]
    async fn a_connection_serves_one_request() {
        let request = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        let answers = asked(served(LIMITS).await, &request.repeat(3)).await;
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    }
}
