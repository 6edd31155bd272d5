use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes as Chunk};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use futures::StreamExt;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::api::{DiskFormat, ImageSource};
use crate::images::Hope;
use crate::images::address::Reach;
use crate::images::header::tests::valid;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const INITRD: &[u8] = b"\x28\xb5\x2f\xfd, packed";

fn content() -> Vec<u8> {
    (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect()
}

/// A server of files, good and bad. Counts what it is asked for.
async fn serve() -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let endless = || Body::from_stream(futures::stream::repeat_with(|| Ok::<_, io::Error>(Chunk::from(vec![7; 4096]))));
    let slow = || {
        let drops = futures::stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, io::Error>(Chunk::from_static(b"drop"))
        });
        Body::from_stream(drops)
    };
    let stalled = || {
        let first = futures::stream::iter([Ok::<_, io::Error>(Chunk::from(vec![7; 4096]))]);
        Body::from_stream(first.chain(futures::stream::pending()))
    };
    let router = Router::new()
        .route(
            "/good",
            get(move || async move {
                counted.fetch_add(1, Ordering::SeqCst);
                content()
            }),
        )
        .route("/qcow2", get(|| async { valid() }))
        .route("/initrd", get(|| async { INITRD }))
        .route("/page", get(|| async { [&b"<!DOCTYPE html>"[..], &[b' '; 497]].concat() }))
        .route("/moved", get(|| async { Redirect::temporary("/good?token=secret") }))
        .route("/loop", get(|| async { Redirect::permanent("/loop?token=secret") }))
        .route("/metadata", get(|| async { Redirect::temporary("http://169.254.169.254/latest/?token=secret") }))
        .route("/internal", get(|| async { Redirect::temporary("http://localhost.localdomain.invalid/?token=secret") }))
        .route("/private", get(|| async { Redirect::temporary("https://10.0.0.1/?token=secret") }))
        .route("/shadow", get(|| async { Redirect::temporary("file:///etc/shadow") }))
        .route("/login", get(|| async { Redirect::temporary("http://ann:secret@127.0.0.1/") }))
        .route("/nowhere", get(|| async { (StatusCode::FOUND, "").into_response() }))
        .route("/endless", get(move || async move { endless() }))
        .route("/slow", get(move || async move { slow() }))
        .route("/stalled", get(move || async move { stalled() }))
        .route("/silent", get(|| async { futures::future::pending::<()>().await }))
        .route("/forbidden", get(|| async { StatusCode::FORBIDDEN }));
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, asked)
}

struct Setting {
    folder: TempDir,
    store: ImageStore,
    server: SocketAddr,
    asked: Arc<AtomicUsize>,
}

fn settings(reach: Reach) -> Settings {
    Settings {
        fetch: Rules {
            reach,
            file_roots: Vec::new(),
            max_size: Bytes::mebi(2),
            min_speed: 16 << 10,
            window: Duration::from_millis(500),
        },
        disk: DiskLimits { max_virtual_size: Bytes::gibi(1) },
    }
}

async fn setting(reach: Reach) -> Setting {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path(), &ImageLimits::default()).await.unwrap();
    *store.rules.write().unwrap() = settings(reach);
    let (server, asked) = serve().await;
    Setting { folder, store, server, asked }
}

fn sha256(content: &[u8]) -> Checksum {
    Checksum::new(Sha256::digest(content).into())
}

fn blob(url: String, content: &[u8]) -> ImageVolume {
    ImageVolume {
        name: "img-0.kernel".into(),
        source: ImageSource { url },
        checksum: sha256(content),
        kind: FileKind::Blob,
    }
}

impl Setting {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}?token=secret", self.server)
    }

    async fn ensure(&self, volume: &ImageVolume) -> Result<Stored, ImageError> {
        self.store.ensure(volume, &Arc::default()).await
    }

    /// The refusal of a path, after which nothing may be left behind.
    async fn refusal(&self, path: &str) -> ImageError {
        let error = self.ensure(&blob(self.url(path), &content())).await.unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(self.left(), Vec::<String>::new(), "{path}");
        error
    }

    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_file_is_fetched_once_and_kept_by_its_checksum() {
    let setting = setting(Reach::PublicAnd(LOCAL)).await;
    let volume = blob(setting.url("/moved"), &content());
    let progress = Arc::new(FetchProgress::default());
    let stored = setting.store.ensure(&volume, &progress).await.unwrap();
    assert_eq!(std::fs::read(&stored.path).unwrap(), content());
    assert_eq!((stored.size, stored.virtual_size), (Bytes::mebi(1), None));
    assert_eq!(progress.report().percent(), Some(100));
    assert_eq!(setting.left(), [volume.checksum.hex()]);
    assert_eq!(setting.ensure(&volume).await.unwrap(), stored);
    assert_eq!(setting.asked(), 1);
}

#[tokio::test]
async fn after_a_restart_a_file_is_believed_only_if_it_is_right() {
    let setting = setting(Reach::Private).await;
    let volume = blob(setting.url("/good"), &content());
    let stored = setting.ensure(&volume).await.unwrap();
    std::fs::write(setting.folder.path().join([&volume.checksum.hex(), PARTIAL].concat()), b"half").unwrap();
    let mut setting =
        Setting { store: ImageStore::open(setting.folder.path(), &ImageLimits::default()).await.unwrap(), ..setting };
    *setting.store.rules.get_mut().unwrap() = settings(Reach::Private);
    assert_eq!(setting.left(), [volume.checksum.hex()]);
    setting.ensure(&volume).await.unwrap();
    assert_eq!(setting.asked(), 1);
    // Same size, other content: seen by the next process.
    let mut changed = content();
    changed[5] ^= 1;
    std::fs::write(&stored.path, changed).unwrap();
    setting.store.forget(volume.checksum);
    setting.ensure(&volume).await.unwrap();
    assert_eq!(setting.asked(), 2);
    // Another size, or gone: seen at once.
    std::fs::write(&stored.path, b"short").unwrap();
    setting.ensure(&volume).await.unwrap();
    std::fs::remove_file(&stored.path).unwrap();
    setting.ensure(&volume).await.unwrap();
    assert_eq!(setting.asked(), 4);
    assert_eq!(std::fs::read(&stored.path).unwrap(), content());
}

#[tokio::test]
async fn callers_for_one_file_share_one_fetch() {
    let setting = setting(Reach::Private).await;
    let volume = blob(setting.url("/good"), &content());
    let all = futures::future::join_all((0..8).map(|_| setting.ensure(&volume))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(setting.asked(), 1);
}

#[tokio::test]
async fn redirects_lead_to_no_private_place() {
    let setting = setting(Reach::PublicAnd(LOCAL)).await;
    for (path, reason) in [
        ("/metadata", "PrivateAddress"),
        ("/private", "PrivateAddress"),
        ("/shadow", "InvalidUrl"),
        ("/login", "InvalidUrl"),
        ("/loop", "BadRedirect"),
        ("/nowhere", "BadRedirect"),
        ("/internal", "SourceUnreachable"),
    ] {
        let error = setting.refusal(path).await;
        assert_eq!(error.reason(), reason, "{path}: {error}");
    }
    assert!(setting.refusal("/metadata").await.to_string().contains("169.254.169.254"));
    *setting.store.rules.write().unwrap() = settings(Reach::Private);
    assert_eq!(setting.refusal("/metadata").await.reason(), "PrivateAddress");
}

#[tokio::test]
async fn a_name_is_judged_by_its_addresses() {
    let setting = setting(Reach::Public).await;
    let url = format!("https://localhost:{}/good?token=secret", setting.server.port());
    let error = setting.ensure(&blob(url, &content())).await.unwrap_err();
    assert_eq!(error.reason(), "PrivateAddress", "{error}");
    assert!(error.hope() != Hope::Time && !error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn limits_end_a_fetch() {
    let setting = setting(Reach::Private).await;
    for (path, reason, permanent) in [
        ("/endless", "TooLarge", true),
        ("/slow", "SourceTooSlow", false),
        ("/stalled", "SourceTooSlow", false),
        ("/silent", "SourceUnreachable", false),
        ("/forbidden", "SourceRefused", false),
        ("/nothing", "SourceRefused", false),
    ] {
        let error = setting.refusal(path).await;
        assert_eq!((error.reason(), error.hope() != Hope::Time), (reason, permanent), "{path}: {error}");
    }
    assert!(setting.refusal("/nothing").await.to_string().ends_with("/nothing: the source answered 404 Not Found"));
    setting.store.rules.write().unwrap().fetch.max_size = Bytes::mebi(1).saturating_sub(Bytes::new(1));
    assert_eq!(setting.refusal("/good").await.reason(), "TooLarge");
}

#[tokio::test]
async fn another_file_than_meant_is_refused_and_removed() {
    let setting = setting(Reach::Private).await;
    let error = setting.refusal("/page").await;
    assert_eq!((error.reason(), error.hope()), ("ChecksumMismatch", Hope::OtherFile));
    let message = error.to_string();
    assert!(message.contains(&sha256(&content()).to_string()) && message.contains("got sha256:"), "{message}");
}

#[tokio::test]
async fn a_body_that_ends_early_is_tried_again() {
    let setting = setting(Reach::Private).await;
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let url = format!("http://{}/cut?token=secret", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = connection.read(&mut request).await;
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this").await.unwrap();
    });
    let error = setting.ensure(&blob(url, &content())).await.unwrap_err();
    assert_eq!((error.reason(), error.hope() != Hope::Time), ("SourceUnreachable", false), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let refused = setting.ensure(&blob("http://127.0.0.1:1/?token=secret".into(), b"")).await.unwrap_err();
    assert_eq!(refused.to_string(), "http://127.0.0.1:1/: Connection refused (os error 111)");
    assert_eq!(setting.left(), Vec::<String>::new());
}

#[tokio::test]
async fn who_stops_waiting_leaves_nothing_behind() {
    let setting = setting(Reach::Private).await;
    let volume = blob(setting.url("/stalled"), &content());
    let short = tokio::time::timeout(Duration::from_millis(100), setting.ensure(&volume)).await;
    assert!(short.is_err());
    assert_eq!(setting.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_disk_is_given_out_only_after_the_gate() {
    let setting = setting(Reach::Private).await;
    let disk = |format| ImageVolume { kind: FileKind::Disk(format), ..blob(setting.url("/qcow2"), &valid()) };
    let stored = setting.ensure(&disk(DiskFormat::Qcow2)).await.unwrap();
    assert_eq!(stored.virtual_size, Some(Bytes::new(64 << 10)));
    let error = setting.ensure(&disk(DiskFormat::Raw)).await.unwrap_err();
    assert_eq!((error.reason(), error.hope()), ("WrongFormat", Hope::None));
    // A host's pool would look into it, whatever it is called.
    let error = setting.ensure(&blob(setting.url("/qcow2"), &valid())).await.unwrap_err();
    assert_eq!(error.reason(), "WrongFormat", "{error}");
    // Limits count for what has passed before, too.
    setting.store.rules.write().unwrap().disk.max_virtual_size = Bytes::new(1024);
    assert_eq!(setting.ensure(&disk(DiskFormat::Qcow2)).await.unwrap_err().reason(), "TooLarge");
}

#[tokio::test]
async fn qemu_is_asked_too() {
    let setting = setting(Reach::Private).await;
    let Some(examiner) = &setting.store.examiner else { return };
    let path = setting.folder.path().join("disk");
    let facts = DiskFacts { virtual_size: Bytes::new(64 << 10) };
    let mut file = valid();
    std::fs::write(&path, &file).unwrap();
    examiner.confirm(&path, DiskFormat::Qcow2, facts).await.unwrap();
    let other = DiskFacts { virtual_size: Bytes::new(1) };
    let error = examiner.confirm(&path, DiskFormat::Qcow2, other).await.unwrap_err();
    assert_eq!(error.reason(), "RefusedByQemu", "{error}");
    // Clusters that are in use and counted as free: the gate doesn't look, qemu-img does.
    file[2 * 512..2 * 512 + 14].fill(0);
    std::fs::write(&path, &file).unwrap();
    let error = examiner.confirm(&path, DiskFormat::Qcow2, facts).await.unwrap_err();
    assert_eq!((error.reason(), error.hope()), ("RefusedByQemu", Hope::None), "{error}");
    assert!(!error.to_string().contains("disk"), "{error}");
    // Whatever the content, raw is what raw is declared as.
    std::fs::write(&path, vec![0; 4096]).unwrap();
    examiner.confirm(&path, DiskFormat::Raw, DiskFacts { virtual_size: Bytes::new(4096) }).await.unwrap();
}

#[tokio::test]
async fn what_nobody_keeps_is_removed() {
    let setting = setting(Reach::Private).await;
    let kept = setting.ensure(&blob(setting.url("/good"), &content())).await.unwrap();
    let unused = setting.ensure(&blob(setting.url("/initrd"), INITRD)).await.unwrap();
    std::fs::write(setting.folder.path().join("README"), b"somebody's").unwrap();
    let keep = BTreeSet::from([sha256(&content())]);
    assert_eq!(setting.store.remove_unused(&keep).await.unwrap(), 1);
    assert!(kept.path.exists() && !unused.path.exists());
    assert!(setting.folder.path().join("README").exists());
    assert_eq!(setting.store.remove_unused(&keep).await.unwrap(), 0);
}

#[tokio::test]
async fn files_are_read_below_the_roots_only() {
    let setting = setting(Reach::Public).await;
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("kernel"), content()).unwrap();
    let url = ["file://", &root.path().join("kernel").to_string_lossy()].concat();
    let volume = blob(url, &content());
    assert!(setting.ensure(&volume).await.unwrap_err().to_string().contains("fileRoots"));
    setting.store.rules.write().unwrap().fetch.file_roots = vec![root.path().to_owned()];
    assert_eq!(std::fs::read(setting.ensure(&volume).await.unwrap().path).unwrap(), content());
    let error = setting.ensure(&blob("file:///etc/passwd".into(), b"")).await.unwrap_err();
    assert_eq!(error.reason(), "FileNotAvailable");
}

#[tokio::test]
async fn a_full_disk_is_told_as_such() {
    let setting = setting(Reach::Private).await;
    let source = Source::parse(&setting.url("/good"), Reach::Private).unwrap();
    let rules = settings(Reach::Private).fetch;
    let error = fetch(&source, &rules, Path::new("/dev/full"), &FetchProgress::default()).await.unwrap_err();
    assert_eq!((error.reason(), error.hope() != Hope::Time), ("NoSpace", false), "{error}");
}
