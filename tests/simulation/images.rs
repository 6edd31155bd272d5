//! Image files, and a store that has verified them for the operators of each thread.

use std::cell::OnceCell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cascina::api::ImageSpec;
use cascina::api::site::{ImageLimits, Isolation, PublicNetwork, Routers, SelfTest, Site};
use cascina::images::{FetchProgress, ImageStore, volumes_of};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Image files.
pub struct Images {
    directory: TempDir,
}

/// Their names: two disks, and what routers boot from.
pub const NAMES: [&str; 3] = ["one", "two", "router"];

/// The images of this process.
pub fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(Images::new)
}

/// A store and where its files are.
pub type Store = (TempDir, Arc<ImageStore>);

impl Images {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in NAMES {
            std::fs::write(directory.path().join(name), content(name)).unwrap();
        }
        Self { directory }
    }

    /// A store that has verified them, of this thread: while one simulation waited for the store of another, its own time
    /// would fly.
    pub fn store(&self) -> Arc<ImageStore> {
        thread_local! { static STORE: OnceCell<Store> = const { OnceCell::new() } }
        // Fetching and judging take real time, so they happen before any simulation and outside of its runtime.
        let verified = || std::thread::scope(|scope| scope.spawn(|| self.verified()).join().unwrap());
        STORE.with(|store| Arc::clone(&store.get_or_init(verified).1))
    }

    /// A store without a file, whose sources are all gone, and the directory that it is in.
    pub fn nothing(&self) -> Store {
        let open = || {
            let cache = tempfile::tempdir().unwrap();
            let limits = limits(&cache);
            let opening = ImageStore::open(cache.path(), &limits);
            let store = tokio::runtime::Runtime::new().unwrap().block_on(opening).unwrap();
            (cache, Arc::new(store))
        };
        std::thread::scope(|scope| scope.spawn(open).join().unwrap())
    }

    fn verified(&self) -> Store {
        let cache = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(ImageStore::open(cache.path(), &limits(&self.directory))).unwrap();
        for name in NAMES {
            let spec: ImageSpec = serde_json::from_value(self.spec(name)).unwrap();
            for volume in volumes_of(&spec).unwrap().iter() {
                runtime.block_on(store.ensure(volume, &Arc::new(FetchProgress::default()))).unwrap();
            }
        }
        (cache, Arc::new(store))
    }

    /// The spec of an image.
    pub fn spec(&self, name: &str) -> Value {
        let url = format!("file://{}", self.directory.path().join(name).display());
        let digest = Sha256::digest(content(name));
        let checksum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if name == "router" {
            let kernel = json!({"kernel": {"url": url, "checksum": format!("sha256:{checksum}")}});
            return json!({"kernel": kernel, "cache": {"policy": "All"}});
        }
        json!({
            "disk": {"source": {"url": url}, "checksum": format!("sha256:{checksum}"), "format": "raw"},
            "cache": {"policy": "All"},
        })
    }

    /// A site that takes them, and whose hosts have canaries or don't.
    pub fn site(&self, proves_isolation: bool) -> Site {
        let self_test = if proves_isolation { SelfTest::Required } else { SelfTest::Disabled };
        // Whatever is done again and again leaves no site quiet.
        let interval = Duration::from_secs(600);
        let isolation = Isolation { self_test, image: "router".into(), interval, ..Isolation::default() };
        let public = PublicNetwork {
            network: "198.51.100.0/24".parse().unwrap(),
            gateway: "198.51.100.1".parse().unwrap(),
            addresses: vec!["198.51.100.20-198.51.100.29".parse().unwrap()],
        };
        let routers = Routers { public: Some(public), ..Routers::default() };
        Site { images: limits(&self.directory), isolation, routers, ..Site::default() }
    }
}

fn limits(directory: &TempDir) -> ImageLimits {
    ImageLimits { file_roots: vec![directory.path().to_owned()], ..ImageLimits::default() }
}

/// A raw disk of a mebibyte.
fn content(name: &str) -> Vec<u8> {
    let mut disk: Vec<_> = name.bytes().cycle().take(1 << 20).collect();
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}
