//! Image files and a store that has verified them, shared by all operators of this process.

use std::sync::{Arc, OnceLock};

use cascina::api::ImageSpec;
use cascina::api::site::{ImageLimits, Isolation, SelfTest, Site};
use cascina::images::{FetchProgress, ImageStore, volumes_of};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Image files and a store that has verified them.
pub struct Images {
    directory: TempDir,
    /// The store.
    pub store: Arc<ImageStore>,
}

/// The images of this process.
pub fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| std::thread::spawn(Images::new).join().unwrap())
}

impl Images {
    /// Fetching and judging take real time, so that happens once and before any simulation.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            std::fs::write(directory.path().join(name), content(name)).unwrap();
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let cache = directory.path().join("cache");
        let store = runtime.block_on(ImageStore::open(&cache, &limits(&directory))).unwrap();
        let images = Self { directory, store: Arc::new(store) };
        for name in ["one", "two"] {
            let spec: ImageSpec = serde_json::from_value(images.spec(name)).unwrap();
            for volume in volumes_of(&spec).unwrap().iter() {
                runtime.block_on(images.store.ensure(volume, &Arc::new(FetchProgress::default()))).unwrap();
            }
        }
        images
    }

    /// The spec of the image `one` or `two`.
    pub fn spec(&self, name: &str) -> Value {
        let url = format!("file://{}", self.directory.path().join(name).display());
        let digest = Sha256::digest(content(name));
        let checksum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({
            "disk": {"source": {"url": url}, "checksum": format!("sha256:{checksum}"), "format": "raw"},
            "cache": {"policy": "All"},
        })
    }

    /// A site that takes them.
    pub fn site(&self) -> Site {
        // Guests that attack each other need a network, which is not simulated.
        let isolation = Isolation { self_test: SelfTest::Disabled, ..Isolation::default() };
        Site { images: limits(&self.directory), isolation, ..Site::default() }
    }
}

fn limits(directory: &TempDir) -> ImageLimits {
    ImageLimits { file_roots: vec![directory.path().to_owned()], ..ImageLimits::default() }
}

/// A raw disk of a mebibyte.
fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(1 << 20).collect()
}
