//! Fetching a file under limits: its size, its pace, where it may come from. Hashed while it is written.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::bytes::Bytes as Chunk;
use tokio_util::io::ReaderStream;

use crate::api::Bytes;
use crate::api::site::ImageLimits;

use super::address::Reach;
use super::source::Source;
use super::{Checksum, FetchProgress, ImageError, file, web};

/// What holds for a fetch.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) reach: Reach,
    pub(super) file_roots: Vec<PathBuf>,
    pub(super) max_size: Bytes,
    /// Bytes per second, over a window. As every window but the last must bring its share, a fetch ends after at most
    /// `max_size / min_speed` and one window.
    pub(super) min_speed: u64,
    pub(super) window: Duration,
}

impl From<&ImageLimits> for Rules {
    fn from(limits: &ImageLimits) -> Self {
        Self {
            reach: if limits.allow_private_sources { Reach::Private } else { Reach::Public },
            file_roots: limits.file_roots.clone(),
            max_size: limits.max_download,
            min_speed: limits.min_speed.get(),
            window: Duration::from_secs(60),
        }
    }
}

/// A file that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) checksum: Checksum,
    pub(super) size: u64,
}

/// Fetches a source into a new file at `target`, written through to the disk. On failure the caller removes it.
pub(super) async fn fetch(
    source: &Source,
    rules: &Rules,
    target: &Path,
    progress: &FetchProgress,
) -> Result<Fetched, ImageError> {
    match source {
        Source::Web(url) => {
            let answer = web::open(url, rules).await?;
            let shown = answer.url.clone();
            let body = answer.body.map(|chunk| chunk.map_err(|error| web::unreachable(&shown, &error)));
            Transfer { url: &answer.url, total: answer.total, rules, progress }.run(body, target).await
        }
        Source::File { path, url } => {
            let (opened, size) = file::open(path, url, &rules.file_roots).await?;
            let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(opened), 256 << 10);
            let failed = |error: io::Error| ImageError::Unreachable { url: url.clone(), message: error.to_string() };
            let body = stream.map(|chunk| chunk.map_err(failed));
            Transfer { url, total: Some(size), rules, progress }.run(body, target).await
        }
    }
}

/// One body on its way into a file.
struct Transfer<'a> {
    url: &'a str,
    total: Option<u64>,
    rules: &'a Rules,
    progress: &'a FetchProgress,
}

impl Transfer<'_> {
    async fn run(
        &self,
        body: impl Stream<Item = Result<Chunk, ImageError>>,
        target: &Path,
    ) -> Result<Fetched, ImageError> {
        let limit = self.rules.max_size;
        let too_large = || ImageError::TooLarge { url: self.url.to_owned(), limit };
        if self.total.is_some_and(|total| total > limit.get()) {
            return Err(too_large());
        }
        self.progress.begin(self.total);
        let sink = Sink::create(target)?;
        let mut pace = Pace::begin(self.rules);
        let mut done = 0_u64;
        let mut body = std::pin::pin!(body);
        loop {
            let chunk = match timeout_at(pace.ends, body.next()).await {
                Ok(Some(chunk)) => chunk?,
                Ok(None) => break,
                Err(_) => Chunk::new(),
            };
            let length = chunk.len() as u64;
            done = done.saturating_add(length);
            if done > limit.get() {
                return Err(too_large());
            }
            if !sink.write(chunk).await {
                break;
            }
            self.progress.add(length);
            pace.add(length, self.url)?;
        }
        let fetched = sink.finish(target).await?;
        match self.total {
            Some(total) if fetched.size != total => {
                Err(ImageError::Truncated { url: self.url.to_owned(), done: fetched.size, total })
            }
            _ => Ok(fetched),
        }
    }
}

/// Watches that each window of time brings its share.
struct Pace {
    window: Duration,
    least: u64,
    ends: Instant,
    bytes: u64,
}

impl Pace {
    fn begin(rules: &Rules) -> Self {
        Self { window: rules.window, least: rules.min_speed, ends: Instant::now() + rules.window, bytes: 0 }
    }

    fn add(&mut self, bytes: u64, url: &str) -> Result<(), ImageError> {
        self.bytes = self.bytes.saturating_add(bytes);
        let now = Instant::now();
        if now < self.ends {
            return Ok(());
        }
        // Without a limit too, a window in which nothing comes is the end of it.
        let share = (u128::from(self.least) * self.window.as_millis() / 1000).max(1);
        if u128::from(self.bytes) < share {
            let seconds = self.window.as_secs().max(1);
            return Err(ImageError::TooSlow { url: url.to_owned(), bytes: self.bytes, seconds, least: self.least });
        }
        self.ends = now + self.window;
        self.bytes = 0;
        Ok(())
    }
}

/// Hashes and writes in a thread of its own, so that neither holds up the other tasks.
struct Sink {
    chunks: mpsc::Sender<Chunk>,
    writer: JoinHandle<io::Result<Fetched>>,
}

impl Sink {
    /// The file is made here and not in the thread: one that was given up must not truncate its successor's.
    fn create(target: &Path) -> Result<Self, ImageError> {
        let file = File::create(target).map_err(|error| ImageError::store(target, error))?;
        let (chunks, received) = mpsc::channel(16);
        Ok(Self { chunks, writer: tokio::task::spawn_blocking(move || write_all(file, received)) })
    }

    /// `false`: the writer has given up, and [`Sink::finish`] says why.
    async fn write(&self, chunk: Chunk) -> bool {
        chunk.is_empty() || self.chunks.send(chunk).await.is_ok()
    }

    async fn finish(self, target: &Path) -> Result<Fetched, ImageError> {
        drop(self.chunks);
        let written = self.writer.await.map_err(|_| ImageError::Interrupted)?;
        written.map_err(|error| ImageError::store(target, error))
    }
}

fn write_all(mut file: File, mut chunks: mpsc::Receiver<Chunk>) -> io::Result<Fetched> {
    let mut hash = Sha256::new();
    let mut size = 0_u64;
    while let Some(chunk) = chunks.blocking_recv() {
        hash.update(&chunk);
        file.write_all(&chunk)?;
        size += chunk.len() as u64;
    }
    file.sync_all()?;
    Ok(Fetched { checksum: Checksum::new(hash.finalize().into()), size })
}

/// The innermost cause of an error: the outer ones say little and may repeat the URL.
pub(super) fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
