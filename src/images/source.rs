//! Where an image comes from: a URL that has been judged.

use std::net::IpAddr;
use std::path::PathBuf;

use url::{Host, Url};

use super::ImageError;
use super::address::Reach;

/// A source that may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Over the network.
    Web(Url),
    /// A file; its place has yet to be judged, links and all.
    File { path: PathBuf, url: String },
}

impl Source {
    /// Judges a URL by its text. Names are judged again when they are looked up.
    pub(super) fn parse(text: &str, reach: Reach) -> Result<Self, ImageError> {
        let url = Url::parse(text)
            .map_err(|_| ImageError::Url { url: redact_text(text), problem: "not a URL: give https://host/path" })?;
        let refuse = |problem| Err(ImageError::Url { url: redact(&url), problem });
        if url.scheme() == "file" {
            return match url.to_file_path() {
                Ok(path) if url.query().is_none() && url.fragment().is_none() => {
                    Ok(Self::File { path, url: redact(&url) })
                }
                _ => refuse("not a local file: give file:///absolute/path"),
            };
        }
        judge(&url, reach)?;
        Ok(Self::Web(url))
    }

    /// As it may be shown.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Web(url) => redact(url),
            Self::File { url, .. } => url.clone(),
        }
    }
}

/// Judges a web address: the one of the spec and each that a redirect leads to.
pub(super) fn judge(url: &Url, reach: Reach) -> Result<(), ImageError> {
    let refuse = |problem| Err(ImageError::Url { url: redact(url), problem });
    match url.scheme() {
        "https" => {}
        "http" if reach.admits_http() => {}
        "http" => return refuse("http is not admitted: use https, or set images.allowPrivateSources of the site"),
        _ => return refuse("https, http and file are admitted"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("credentials in a URL are refused: objects and logs are no place for them");
    }
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        Some(Host::Domain(_)) => return Ok(()),
        None => return refuse("it names no host"),
    };
    if reach.admits(address) {
        return Ok(());
    }
    Err(ImageError::PrivateAddress { url: redact(url), address: address.to_string() })
}

/// A URL as it may be shown: no credentials, no query, no fragment, not too long.
pub(super) fn redact(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // These fail on URLs that can't have credentials.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shorten(shown.as_str())
}

/// The same for text that is no URL: whatever comes before a `?` and behind an `@`.
fn redact_text(text: &str) -> String {
    let shown = text.split(['?', '#']).next().unwrap_or_default();
    shorten(shown.rsplit('@').next().unwrap_or_default())
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => [text.get(..end).unwrap_or_default(), "…"].concat(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::Hope;
    use proptest::prelude::*;

    fn refusal(text: &str, reach: Reach) -> ImageError {
        Source::parse(text, reach).unwrap_err()
    }

    #[test]
    fn what_may_not_be_read_is_refused_by_its_text() {
        for (text, word) in [
            ("http://example.org/a.qcow2", "InvalidUrl"),
            ("ftp://example.org/a", "InvalidUrl"),
            ("https://ann:secret@example.org/a", "InvalidUrl"),
            ("https:///", "InvalidUrl"),
            ("file://server/share", "InvalidUrl"),
            ("file:///a?secret", "InvalidUrl"),
            ("data:text/plain,secret", "InvalidUrl"),
            ("nonsense?secret", "InvalidUrl"),
            ("https://ann:secret@[nonsense/?secret", "InvalidUrl"),
            ("https://127.0.0.1/?secret", "PrivateAddress"),
            ("https://2130706433/", "PrivateAddress"),
            ("https://0x7f.1/", "PrivateAddress"),
            ("https://[::ffff:7f00:1]/", "PrivateAddress"),
            ("https://169.254.169.254/latest/meta-data", "PrivateAddress"),
        ] {
            let error = refusal(text, Reach::Public);
            assert_eq!(error.reason(), word, "{text}: {error}");
            assert_ne!(error.hope(), Hope::Time, "{error}");
            assert!(text.starts_with("data") || !error.to_string().contains("secret"), "{error}");
        }
        assert_eq!(refusal("http://169.254.169.254/", Reach::Private).reason(), "PrivateAddress");
        assert!(Source::parse("http://10.0.0.1/a", Reach::Private).is_ok());
    }

    #[test]
    fn a_file_url_is_decoded() {
        let Source::File { path, .. } = Source::parse("file:///srv/a%20b/../c", Reach::Public).unwrap() else {
            panic!("not a file");
        };
        assert_eq!(path, PathBuf::from("/srv/c"));
    }

    proptest! {
        #[test]
        fn no_query_is_ever_shown(text in "[a-z]{1,6}:[/@:a-z0-9.%\\[\\]]{0,20}", query in "[A-Z]{8}") {
            let url = [text.as_str(), "?token=", &query].concat();
            if let Err(error) = Source::parse(&url, Reach::Public) {
                prop_assert!(!error.to_string().contains(&query));
            }
        }
    }
}
