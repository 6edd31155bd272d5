//! Volumes, and files that are sent to a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cascina::api::DiskFormat;
use cascina::libvirt::{Host, HostConfig, HostError, LibvirtHost, Progress};
use uuid::Uuid;

use crate::the_box::{TheBox, the_box, timed};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn an_upload_arrives_whole_or_not_at_all() {
    let the_box = the_box().await;
    for name in ["worker-1", "service-1"] {
        let host = the_box.host(name);
        let volume = format!("test-{}.img", Uuid::new_v4());
        let length = 48 * 1024 * 1024 + 12_345;
        let file = the_box.file(length);
        for _ in 0..2 {
            let progress = Progress::default();
            let what = format!("upload of 48 MiB to {name}");
            timed(&what, host.upload_volume(&volume, DiskFormat::Raw, &file, &progress)).await.unwrap();
            assert_eq!(progress.done(), length as u64);
        }
        let survey = host.survey().await.unwrap();
        assert!(survey.volumes.contains(&volume) && survey.incomplete_volumes.is_empty());
        assert_eq!(fs::read(stored(&the_box, name, &volume)).unwrap(), fs::read(&file).unwrap());

        host.write_volume(&volume, b"").await.unwrap();
        assert_eq!(fs::read(stored(&the_box, name, &volume)).unwrap(), b"");
        let absent = host.upload_volume(&volume, DiskFormat::Raw, Path::new("/absent"), &Progress::default()).await;
        assert!(matches!(absent, Err(HostError::Refused { .. })));
        host.delete_volume(&volume).await.unwrap();
        host.delete_volume(&volume).await.unwrap();
        assert!(!host.survey().await.unwrap().volumes.contains(&volume));
    }
}

/// Where the box keeps a host's volume.
fn stored(the_box: &TheBox, host: &str, volume: &str) -> PathBuf {
    let pool = if host.starts_with("service") { "hosts/service-pool" } else { &format!("hosts/{host}/pool") };
    the_box.turn.state.join(pool).join(volume)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn an_upload_that_nobody_waits_for_is_known_as_incomplete_and_cleaned_up() {
    let the_box = the_box().await;
    let host = the_box.host("worker-1");
    let volume = format!("test-{}.img", Uuid::new_v4());
    let file = the_box.file(256 * 1024 * 1024);
    let progress = Progress::default();
    tokio::select! {
        _ = host.upload_volume(&volume, DiskFormat::Raw, &file, &progress) => panic!("faster than the test"),
        () = has_begun(&progress) => println!("given up after {} bytes", progress.done()),
    }
    let survey = host.survey().await.unwrap();
    assert!(!survey.volumes.contains(&volume));
    let started = Instant::now();
    loop {
        let survey = host.survey().await.unwrap();
        assert!(!survey.volumes.contains(&volume));
        if !survey.incomplete_volumes.contains(&volume) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{:>7.3} s  until nothing of it was left", started.elapsed().as_secs_f64());
}

/// Ends when an upload has sent something.
async fn has_begun(progress: &Progress) {
    while progress.done() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn what_can_not_fit_is_refused_as_such() {
    let the_box = the_box().await;
    let host = the_box.host("worker-1");
    let volume = format!("test-{}.img", Uuid::new_v4());
    let path = the_box.runtime.path().join("huge");
    fs::File::create(&path).unwrap().set_len(1 << 43).unwrap();
    let refused = host.upload_volume(&volume, DiskFormat::Raw, &path, &Progress::default()).await;
    assert!(matches!(refused, Err(HostError::NoSpace { .. })), "{refused:?}");
    let survey = host.survey().await.unwrap();
    assert!(!survey.volumes.contains(&volume) && !survey.incomplete_volumes.contains(&volume));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_missing_pool_is_no_empty_pool() {
    let the_box = the_box().await;
    let config = HostConfig { pool: "elsewhere".to_owned(), ..the_box.config("worker-1", "operator") };
    let host = LibvirtHost::new(config).unwrap();
    let survey = host.survey().await;
    assert!(matches!(survey, Err(HostError::Refused { .. })), "{survey:?}");
    let absent = host.delete_volume("test-absent").await;
    assert!(matches!(absent, Err(HostError::Refused { .. })), "{absent:?}");
}
