//! Opening a file over http: each hop of a redirect is judged as the first address was.

use std::sync::Once;
use std::time::Duration;

use futures::{Stream, StreamExt, stream::BoxStream};
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use tokio_util::bytes::Bytes as Chunk;
use url::Url;

use super::ImageError;
use super::address::{NotAdmitted, Resolver};
use super::fetch::{Rules, innermost};
use super::source::{judge, redact};

/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// A body that has begun.
pub(super) struct Answer {
    /// Where it comes from in the end, as it may be shown.
    pub(super) url: String,
    /// Its length, where the source says.
    pub(super) total: Option<u64>,
    pub(super) body: BoxStream<'static, reqwest::Result<Chunk>>,
}

fn client(rules: &Rules) -> reqwest::Result<Client> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails where another part of the program has installed one: that serves too.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder()
        .user_agent(concat!("cascina/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .referer(false)
        .no_proxy()
        .connect_timeout(rules.window.min(Duration::from_secs(30)))
        .dns_resolver(Resolver(rules.reach))
        .build()
}

/// Asks for a file and follows redirects until its body begins.
pub(super) async fn open(url: &Url, rules: &Rules) -> Result<Answer, ImageError> {
    let client = client(rules).map_err(|error| unreachable(&redact(url), &error))?;
    let mut url = url.clone();
    for _ in 0..=REDIRECTS {
        judge(&url, rules.reach)?;
        let shown = redact(&url);
        let answer = tokio::time::timeout(rules.window, client.get(url.clone()).send()).await;
        let response = match answer {
            Ok(answer) => answer.map_err(|error| unreachable(&shown, &error))?,
            Err(_) => return Err(ImageError::Unreachable { url: shown, message: "no answer in time".into() }),
        };
        match response.status() {
            StatusCode::OK => {
                let total = response.content_length();
                return Ok(Answer { url: shown, total, body: body(response).boxed() });
            }
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => url = target(&url, &response)?,
            status => return Err(ImageError::Status { url: shown, status: status.to_string() }),
        }
    }
    Err(ImageError::Redirect { url: redact(&url), problem: "more than 5 redirects" })
}

fn body(response: Response) -> impl Stream<Item = reqwest::Result<Chunk>> {
    response.bytes_stream()
}

fn target(url: &Url, response: &Response) -> Result<Url, ImageError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    location
        .and_then(|location| url.join(location).ok())
        .ok_or_else(|| ImageError::Redirect { url: redact(url), problem: "redirects to something that is no URL" })
}

/// Why there is no answer, or no more of it. The error's own text would repeat the URL with its query.
pub(super) fn unreachable(url: &str, error: &reqwest::Error) -> ImageError {
    let cause = innermost(error);
    if let Some(NotAdmitted(address)) = cause.downcast_ref() {
        return ImageError::PrivateAddress { url: url.to_owned(), address: address.to_string() };
    }
    let message = match cause.downcast_ref::<reqwest::Error>() {
        Some(_) if error.is_timeout() => "timed out".to_owned(),
        Some(_) => "the connection failed".to_owned(),
        None => cause.to_string(),
    };
    ImageError::Unreachable { url: url.to_owned(), message }
}
