//! The site's configuration as a file, read again when it changes. A bad one keeps the last good.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::api::site::Site;

/// A mounted ConfigMap changes by a swapped link, which file notifications miss; looking is cheap.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The site's configuration, kept up to date until `stop`.
///
/// # Errors
/// The first reading must succeed: there is no last good to keep.
pub async fn watch(path: Option<PathBuf>, stop: CancellationToken) -> Result<watch::Receiver<Arc<Site>>> {
    let Some(path) = path else { return Ok(watch::channel(Arc::new(Site::default())).1) };
    let first = read(&path).await?;
    let site = Site::parse(&first).with_context(|| path.display().to_string())?;
    let (sender, receiver) = watch::channel(Arc::new(site));
    tokio::spawn(stop.run_until_cancelled_owned(keep_up_to_date(path, first, sender)));
    Ok(receiver)
}

async fn keep_up_to_date(path: PathBuf, mut last: String, sender: watch::Sender<Arc<Site>>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let text = match read(&path).await {
            Ok(text) if text == last => continue,
            Ok(text) => text,
            Err(error) => {
                error!(path = %path.display(), %error, "site configuration can't be read; the last good one stays");
                continue;
            }
        };
        match Site::parse(&text) {
            Ok(site) => {
                info!(path = %path.display(), "site configuration changed");
                sender.send_replace(Arc::new(site));
            }
            Err(error) => error!(path = %path.display(), %error, "site configuration refused; the last good one stays"),
        }
        last = text;
    }
}

async fn read(path: &Path) -> Result<String> {
    tokio::fs::read_to_string(path).await.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bad_change_keeps_the_last_good_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("site.yaml");
        std::fs::write(&path, "dnsDomain: one.example").unwrap();
        let mut site = watch(Some(path.clone()), CancellationToken::new()).await.unwrap();
        std::fs::write(&path, "dnsDomian: two.example").unwrap();
        tokio::time::sleep(LOOK_EVERY * 3).await;
        assert_eq!(site.borrow().dns_domain, "one.example");
        std::fs::write(&path, "dnsDomain: three.example").unwrap();
        site.changed().await.unwrap();
        assert_eq!(site.borrow().dns_domain, "three.example");
    }

    #[tokio::test]
    async fn a_bad_first_one_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("site.yaml");
        std::fs::write(&path, "limits: {callsInFlight: 0}").unwrap();
        assert!(watch(Some(path), CancellationToken::new()).await.is_err());
    }
}
