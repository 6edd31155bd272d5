//! The operator's own store of image files, named by their checksums.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::api::Bytes;
use crate::api::site::ImageLimits;

use super::fetch::{Fetched, Rules, fetch};
use super::opinion::Examiner;
use super::source::Source;
use super::{Checksum, DiskFacts, DiskLimits, FetchProgress, FileKind, ImageError, ImageVolume, header};

/// What ends the name of a file that is still being fetched.
const PARTIAL: &str = ".partial";

/// The store: one file per checksum in one directory, which no other process writes to.
///
/// A file counts once its checksum has been seen to be right by this process; a disk is given out only after the gate.
#[derive(Debug)]
pub struct ImageStore {
    dir: PathBuf,
    rules: RwLock<Settings>,
    examiner: Option<Examiner>,
    known: Mutex<Known>,
}

#[derive(Clone, Debug)]
struct Settings {
    fetch: Rules,
    disk: DiskLimits,
}

/// What this process has seen with its own eyes.
#[derive(Debug, Default)]
struct Known {
    sizes: HashMap<Checksum, u64>,
    /// What has passed the gate as what; of disks, what is known of them.
    passed: HashMap<(Checksum, FileKind), Option<DiskFacts>>,
    /// One fetch per file at a time; others wait and find it there.
    turns: HashMap<Checksum, Arc<tokio::sync::Mutex<()>>>,
}

/// A file that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub size: Bytes,
    /// Of a disk: its size as a guest sees it.
    pub virtual_size: Option<Bytes>,
}

impl Settings {
    fn of(limits: &ImageLimits) -> Self {
        Self { fetch: Rules::from(limits), disk: DiskLimits { max_virtual_size: limits.max_virtual_size } }
    }
}

impl ImageStore {
    /// Opens the store, makes its directory and removes what was left half fetched.
    ///
    /// # Errors
    /// When the directory can't be made or read.
    pub async fn open(dir: impl Into<PathBuf>, limits: &ImageLimits) -> Result<Self, ImageError> {
        let dir = dir.into();
        tokio::fs::create_dir_all(&dir).await.map_err(|error| ImageError::store(&dir, error))?;
        let dir = tokio::fs::canonicalize(&dir).await.map_err(|error| ImageError::store(&dir, error))?;
        let examiner = Examiner::find();
        if examiner.is_none() {
            tracing::debug!("qemu-img or prlimit isn't installed: disks are judged by our own reader alone");
        }
        let store = Self { dir, rules: RwLock::new(Settings::of(limits)), examiner, known: Mutex::default() };
        for (name, path) in store.files().await? {
            if name.ends_with(PARTIAL) {
                remove(&path).await?;
            }
        }
        Ok(store)
    }

    /// Takes over changed limits. Fetches that run keep the old ones; disks are judged by the new ones from now on.
    pub fn set_limits(&self, limits: &ImageLimits) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Settings::of(limits);
    }

    /// Gives the file of a volume: from the store, or fetched, hashed, and, if it is a disk, judged. Idempotent; several
    /// callers for one file share one fetch. Dropping the future ends the fetch.
    ///
    /// # Errors
    /// [`ImageError::hope`] says when trying again may help. A rejected disk's file stays in the store, so
    /// that it isn't fetched again only to be rejected again, until [`ImageStore::remove_unused`] takes it.
    pub async fn ensure(&self, volume: &ImageVolume, progress: &Arc<FetchProgress>) -> Result<Stored, ImageError> {
        let turn = self.known().turns.entry(volume.checksum).or_default().clone();
        let _turn = turn.lock().await;
        let settings = self.rules.read().unwrap_or_else(PoisonError::into_inner).clone();
        let path = self.dir.join(volume.checksum.hex());
        let size = match self.look(&path, volume.checksum, progress).await? {
            Some(size) => size,
            None => self.fetch(volume, &settings.fetch, &path, progress).await?,
        };
        let facts = self.judge(&path, volume, settings.disk).await?;
        let virtual_size = facts.map(|facts| facts.virtual_size);
        Ok(Stored { path, size: Bytes::new(size), virtual_size })
    }

    /// Removes the files that nobody keeps and isn't just asking for. Gives how many these were.
    ///
    /// # Errors
    /// When the directory can't be read or a file can't be removed.
    pub async fn remove_unused(&self, keep: &BTreeSet<Checksum>) -> Result<usize, ImageError> {
        let mut removed = 0;
        for (name, path) in self.files().await? {
            let digits = name.strip_suffix(PARTIAL).unwrap_or(&name);
            let Ok(checksum) = Checksum::from_hex(digits) else { continue };
            let turn = self.known().turns.entry(checksum).or_default().clone();
            let Ok(_turn) = turn.try_lock() else { continue };
            if keep.contains(&checksum) && !name.ends_with(PARTIAL) {
                continue;
            }
            self.forget(checksum);
            remove(&path).await?;
            removed += 1;
        }
        self.known().turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Ok(removed)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, checksum: Checksum) {
        let mut known = self.known();
        known.sizes.remove(&checksum);
        known.passed.retain(|(of, _), _| *of != checksum);
    }

    /// The size of a file that is there and right. It is hashed once per process; later its size is enough.
    async fn look(
        &self,
        path: &Path,
        checksum: Checksum,
        progress: &Arc<FetchProgress>,
    ) -> Result<Option<u64>, ImageError> {
        let size = match tokio::fs::metadata(path).await {
            Ok(facts) => facts.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.forget(checksum);
                return Ok(None);
            }
            Err(error) => return Err(ImageError::store(path, error)),
        };
        if self.known().sizes.get(&checksum) == Some(&size) {
            return Ok(Some(size));
        }
        let found = hash(path, size, progress).await?;
        if found.checksum == checksum {
            self.known().sizes.insert(checksum, found.size);
            return Ok(Some(found.size));
        }
        tracing::warn!(file = %path.display(), "a file of the image store has changed; it is fetched again");
        self.forget(checksum);
        remove(path).await?;
        Ok(None)
    }

    async fn fetch(
        &self,
        volume: &ImageVolume,
        rules: &Rules,
        path: &Path,
        progress: &Arc<FetchProgress>,
    ) -> Result<u64, ImageError> {
        let source = Source::parse(&volume.source.url, rules.reach)?;
        let partial = Partial(self.dir.join([&volume.checksum.hex(), PARTIAL].concat()));
        let Fetched { checksum: actual, size } = fetch(&source, rules, &partial.0, progress).await?;
        if actual != volume.checksum {
            return Err(ImageError::Mismatch { url: source.shown(), expected: volume.checksum, actual, size });
        }
        let (from, to, dir) = (partial.0.clone(), path.to_owned(), self.dir.clone());
        let settle = move || {
            std::fs::rename(&from, &to)?;
            std::fs::File::open(&dir)?.sync_all()
        };
        let settled = tokio::task::spawn_blocking(settle).await.map_err(|_| ImageError::Interrupted)?;
        settled.map_err(|error| ImageError::store(path, error))?;
        self.known().sizes.insert(volume.checksum, size);
        Ok(size)
    }

    /// The gate, then the second opinion. What has passed is remembered; the limits count each time.
    async fn judge(
        &self,
        path: &Path,
        volume: &ImageVolume,
        limits: DiskLimits,
    ) -> Result<Option<DiskFacts>, ImageError> {
        let key = (volume.checksum, volume.kind);
        let passed = self.known().passed.get(&key).copied();
        if let Some(facts) = passed {
            return Ok(facts.map(|facts| limits.check(facts.virtual_size.get())).transpose()?);
        }
        let (file, kind) = (path.to_owned(), volume.kind);
        let inspect = move || {
            let mut file = std::fs::File::open(file)?;
            match kind {
                FileKind::Disk(format) => header::inspect(&mut file, format, limits).map(Some),
                FileKind::Blob => header::inspect_blob(&mut file).map(|()| None),
            }
        };
        let facts = tokio::task::spawn_blocking(inspect).await.map_err(|_| ImageError::Interrupted)??;
        if let (Some(examiner), Some(facts)) = (&self.examiner, facts) {
            examiner.confirm(path, volume.format(), facts).await?;
        }
        self.known().passed.insert(key, facts);
        Ok(facts)
    }

    async fn files(&self) -> Result<Vec<(String, PathBuf)>, ImageError> {
        let failed = |error| ImageError::store(&self.dir, error);
        let mut entries = tokio::fs::read_dir(&self.dir).await.map_err(failed)?;
        let mut files = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            if let Ok(name) = entry.file_name().into_string() {
                files.push((name, entry.path()));
            }
        }
        Ok(files)
    }
}

async fn remove(path: &Path) -> Result<(), ImageError> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ImageError::store(path, error)),
        _ => Ok(()),
    }
}

async fn hash(path: &Path, size: u64, progress: &Arc<FetchProgress>) -> Result<Fetched, ImageError> {
    progress.begin(Some(size));
    let (file, progress) = (path.to_owned(), Arc::clone(progress));
    let read = move || {
        let mut file = std::fs::File::open(file)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0_u64;
        loop {
            let length = file.read(&mut buffer)?;
            if length == 0 {
                return Ok(Fetched { checksum: Checksum::new(hash.finalize().into()), size });
            }
            hash.update(buffer.get(..length).unwrap_or_default());
            size += length as u64;
            progress.add(length as u64);
        }
    };
    let hashed = tokio::task::spawn_blocking(read).await.map_err(|_| ImageError::Interrupted)?;
    hashed.map_err(|error| ImageError::store(path, error))
}

/// A file that is being fetched; removed with this, unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Not there after the rename. What can't be removed now is when the store is opened again.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
