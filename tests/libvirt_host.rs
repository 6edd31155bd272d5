//! The real libvirtd of the box, over TLS: what a host does, and what a host that hangs doesn't do to others.
//!
//! Runs in the control network of a running box: `make test` sets `CASCINA_BOX_DIR` and enters it.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cascina::api::{Bytes, DiskFormat, Virtualization};
use cascina::libvirt::{
    CallObserver, ConsoleLog, Credentials, DataDisk, DomainRole, DomainRun, DomainSpec, DomainUuid, Firmware,
    GuestCommand, Host, HostConfig, HostError, HostEvent, Kernel, LONGEST_GUEST_INPUT, LibvirtHost, Nic, OwnershipTag,
    Progress, RootDisk, RuleSet, StopReason, VolumeSpec,
};
use cascina::network::{Hold, MacAddress};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use uuid::Uuid;

/// The tests share hosts, and one of them hangs a host.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct TheBox {
    directory: PathBuf,
    index: String,
    runtime: TempDir,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// The running box; `None`, and a line that says so: there is none.
async fn the_box() -> Option<TheBox> {
    let Some(directory) = std::env::var_os("CASCINA_BOX_DIR").map(PathBuf::from) else {
        println!("SKIPPED: CASCINA_BOX_DIR is not set; `make test` runs this against the box");
        return None;
    };
    let environment = fs::read_to_string(directory.join("env")).unwrap();
    let (_, index) = environment.split_once("CASCINA_BOX_INDEX='").unwrap();
    let index = index.split('\'').next().unwrap().to_owned();
    let turn = ONE_AT_A_TIME.lock().await;
    Some(TheBox { directory, index, runtime: tempfile::tempdir().unwrap(), _turn: turn })
}

impl TheBox {
    fn config(&self, name: &str, identity: &str) -> HostConfig {
        let last = BTreeMap::from([("worker-1", 11), ("worker-2", 12), ("service-1", 21), ("service-2", 22)])[name];
        let pki = self.directory.join("pki").join(identity);
        let credentials = Credentials::Tls {
            ca: fs::read(pki.join("cacert.pem")).unwrap(),
            certificate: fs::read(pki.join("clientcert.pem")).unwrap(),
            key: fs::read(pki.join("clientkey.pem")).unwrap(),
        };
        let uri = format!("qemu+tls://198.18.{}.{last}/system", self.index);
        let mut config = HostConfig::new(name, uri, credentials, "cascina", self.runtime.path());
        config.shared = name.starts_with("service");
        config
    }

    fn host(&self, name: &str) -> LibvirtHost {
        LibvirtHost::new(self.config(name, "operator")).unwrap()
    }

    fn power(&self, verb: &str, name: &str) {
        self.script("host", &[verb, name]);
    }

    /// A script in `box/` of the repository that the box belongs to. It works on namespaces, so it runs in the network
    /// that the runner of the tests came from, where that is known (`CASCINA_BOX_OUTSIDE=/proc/PID/ns/net`).
    fn script(&self, name: &str, arguments: &[&str]) -> String {
        let environment = fs::read_to_string(self.directory.join("env")).unwrap();
        let (_, the_box) = environment.split_once("CASCINA_BOX='").unwrap();
        let program = self.directory.parent().unwrap().join("box").join(name);
        let mut command = match std::env::var("CASCINA_BOX_OUTSIDE") {
            Ok(outside) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={outside}")).arg(program);
                command
            }
            Err(_) => Command::new(program),
        };
        let output = command.args(arguments).env("BOX", the_box.split('\'').next().unwrap()).output().unwrap();
        assert!(output.status.success(), "box/{name} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Freezes a host until what is returned is dropped.
    fn hang<'a>(&'a self, name: &'a str) -> Hung<'a> {
        let hung = Hung(self, name);
        let is_hung = |line: &str| line.starts_with(name) && line.ends_with("hung");
        // Signals reach the threads one after the other.
        for _ in 0..10 {
            self.power("hang", name);
            std::thread::sleep(Duration::from_millis(200));
            if self.script("host", &["list"]).lines().any(is_hung) {
                return hung;
            }
        }
        panic!("{name} doesn't hang")
    }

    fn file(&self, length: usize) -> PathBuf {
        let path = self.runtime.path().join("upload");
        fs::write(&path, (0..=250).cycle().take(length).collect::<Vec<u8>>()).unwrap();
        path
    }
}

struct Hung<'a>(&'a TheBox, &'a str);

impl Drop for Hung<'_> {
    fn drop(&mut self) {
        let verb = if std::thread::panicking() { "start" } else { "resume" };
        self.0.power(verb, self.1);
    }
}

/// A machine that boots nothing, with the names of its volumes.
fn machine(name: &str, octet: u8) -> DomainSpec {
    let uuid = Uuid::new_v4();
    let address = Ipv4Addr::new(172, 31, 250, octet);
    DomainSpec {
        uuid: DomainUuid(uuid),
        title: format!("test/{name} <&'\">"),
        role: DomainRole::Machine,
        tag: OwnershipTag {
            cluster: "test-cluster".to_owned(),
            namespace: "test".to_owned(),
            name: name.to_owned(),
            uid: uuid,
            epoch: 1,
            spec_hash: "abc".to_owned(),
        },
        virtualization: Virtualization::Emulated,
        cpus: 1,
        memory: Bytes::mebi(64),
        firmware: Firmware::Disk,
        root: Some(RootDisk {
            volume: format!("test-{uuid}-root.qcow2"),
            base: format!("test-{uuid}-base.qcow2"),
            base_format: DiskFormat::Qcow2,
        }),
        data: Some(DataDisk { volume: format!("test-{uuid}-data.qcow2") }),
        seed: Some(format!("test-{uuid}-seed.img")),
        nics: vec![Nic {
            bridge: "br-private".to_owned(),
            mac: MacAddress::of(address),
            hold: Hold::Machine(address),
            bandwidth: None,
        }],
        shared_storage: false,
        console: ConsoleLog::Pty,
    }
}

async fn make_volumes(host: &LibvirtHost, spec: &DomainSpec) {
    let root = spec.root.clone().unwrap();
    let base = VolumeSpec::Blank { name: root.base.clone(), size: Bytes::mebi(16) };
    let overlay = VolumeSpec::Overlay {
        name: root.volume,
        base: root.base,
        base_format: root.base_format,
        size: Bytes::mebi(32),
    };
    let data = VolumeSpec::Blank { name: spec.data.clone().unwrap().volume, size: Bytes::gibi(1) };
    for volume in [base, overlay, data] {
        host.create_volume(&volume).await.unwrap();
        host.create_volume(&volume).await.unwrap();
    }
    host.write_volume(spec.seed.as_deref().unwrap(), &[7; 4096]).await.unwrap();
}

fn volumes(spec: &DomainSpec) -> Vec<String> {
    let mut volumes: Vec<_> = spec.root.iter().flat_map(|root| [root.volume.clone(), root.base.clone()]).collect();
    volumes.extend(spec.data.iter().map(|data| data.volume.clone()));
    volumes.extend(spec.seed.clone());
    if let Firmware::Kernel(kernel) = &spec.firmware {
        volumes.push(kernel.kernel.clone());
        volumes.extend(kernel.initrd.clone());
    }
    volumes
}

async fn remove(host: &LibvirtHost, spec: &DomainSpec) {
    for _ in 0..2 {
        host.destroy(spec.uuid).await.unwrap();
        host.undefine(spec.uuid).await.unwrap();
        for volume in volumes(spec) {
            host.delete_volume(&volume).await.unwrap();
        }
    }
}

/// Says how long something took: the numbers stand in the report of a test run.
async fn timed<T>(what: &str, call: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let result = call.await;
    println!("{:>7.3} s  {what}", started.elapsed().as_secs_f64());
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lives_and_dies() {
    let Some(the_box) = the_box().await else { return };
    let host = the_box.host("worker-1");
    let spec = machine("lives", 10);
    let survey = timed("connect and survey", host.survey()).await.unwrap();
    println!("{:?} {:?}", survey.facts, survey.space);
    assert!(survey.facts.uuid.is_some() && survey.facts.cpus > 0 && survey.facts.memory > Bytes::gibi(1));
    assert!(survey.facts.libvirt_version.starts_with("9."), "{:?}", survey.facts);
    assert!(survey.space.capacity >= survey.space.available && survey.space.available > Bytes::gibi(1));

    timed("ensure filter", host.ensure_filter(RuleSet::Machine)).await.unwrap();
    timed("ensure filter again", host.ensure_filter(RuleSet::Machine)).await.unwrap();
    host.ensure_filter(RuleSet::Router).await.unwrap();
    timed("four volumes, made twice", make_volumes(&host, &spec)).await;

    assert!(host.domain(spec.uuid).await.unwrap().is_none());
    assert!(!host.agent_answers(spec.uuid).await.unwrap());
    assert_eq!(host.start(spec.uuid).await.unwrap_err().reason(), "HostRefused");
    timed("define", host.define(&spec)).await.unwrap();
    timed("define again", host.define(&spec)).await.unwrap();
    let off = host.domain(spec.uuid).await.unwrap().unwrap();
    assert_eq!(off.run, DomainRun::Off(StopReason::NotStarted));
    assert_eq!(off.tag.as_ref(), Some(&spec.tag));

    timed("start", host.start(spec.uuid)).await.unwrap();
    timed("start again", host.start(spec.uuid)).await.unwrap();
    timed("define what runs", host.define(&spec)).await.unwrap();
    let mut other = spec.clone();
    other.tag.epoch += 1;
    assert!(matches!(host.define(&other).await, Err(HostError::InUse { .. })));
    assert!(matches!(host.undefine(spec.uuid).await, Err(HostError::InUse { .. })));

    let survey = timed("survey", host.survey()).await.unwrap();
    let seen = &survey.domains[&spec.uuid];
    assert_eq!(seen.run, DomainRun::Running);
    assert_eq!(seen.tag.as_ref(), Some(&spec.tag));
    assert_eq!((seen.cpus, seen.memory), (1, Bytes::mebi(64)));
    assert_eq!(seen.name, format!("casc-{}", spec.uuid));
    assert!(survey.volumes.contains(&spec.data.as_ref().unwrap().volume));
    assert!(survey.incomplete_volumes.is_empty(), "{:?}", survey.incomplete_volumes);
    assert!(survey.filters.contains(&RuleSet::Machine.filter_name()));
    timed("survey, tags known", host.survey()).await.unwrap();

    let silent_agent = timed("an agent that isn't there", host.agent_answers(spec.uuid)).await;
    assert!(!silent_agent.unwrap());
    timed("shutdown by ACPI", host.shutdown(spec.uuid)).await.unwrap();
    let used = timed("delete a filter in use", host.delete_filter(&RuleSet::Machine.filter_name())).await;
    assert!(matches!(used, Err(HostError::InUse { .. })), "{used:?}");

    timed("destroy", host.destroy(spec.uuid)).await.unwrap();
    timed("destroy again", host.destroy(spec.uuid)).await.unwrap();
    let off = host.domain(spec.uuid).await.unwrap().unwrap();
    assert_eq!(off.run, DomainRun::Off(StopReason::Destroyed));
    host.shutdown(spec.uuid).await.unwrap();
    host.define(&other).await.unwrap();
    assert_eq!(host.survey().await.unwrap().domains[&spec.uuid].tag.as_ref(), Some(&other.tag));
    timed("remove all of it, twice", remove(&host, &spec)).await;
    let survey = host.survey().await.unwrap();
    assert!(!survey.domains.contains_key(&spec.uuid));
    assert!(!survey.volumes.iter().any(|name| name.contains(&spec.uuid.to_string())), "{:?}", survey.volumes);
}

/// What a host tells, heard as the fleet hears it: anew at every heartbeat.
struct Listener(tokio::sync::mpsc::UnboundedReceiver<HostEvent>);

impl Listener {
    fn to(host: &Arc<LibvirtHost>) -> Self {
        let (host, (sender, receiver)) = (host.clone(), tokio::sync::mpsc::unbounded_channel());
        tokio::spawn(async move {
            while !sender.is_closed() {
                if let Ok(event) = tokio::time::timeout(Duration::from_secs(1), host.event()).await {
                    let _ = sender.send(event);
                }
            }
        });
        Self(receiver)
    }

    async fn hears(&mut self, wanted: HostEvent, within: Duration) -> bool {
        let heard = async { while self.0.recv().await != Some(wanted) {} };
        tokio::time::timeout(within, heard).await.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_tells_that_a_domain_stopped_also_after_it_was_away() {
    let Some(the_box) = the_box().await else { return };
    let host = Arc::new(the_box.host("worker-1"));
    let mut listener = Listener::to(&host);
    let spec = machine("told", 12);
    host.ensure_filter(RuleSet::Machine).await.unwrap();
    make_volumes(&host, &spec).await;
    host.define(&spec).await.unwrap();
    host.start(spec.uuid).await.unwrap();
    host.destroy(spec.uuid).await.unwrap();
    let stopped = HostEvent::Domain(spec.uuid);
    let told = timed("told that it stopped, after the call returned", listener.hears(stopped, Duration::from_secs(10)));
    assert!(told.await);

    the_box.power("crash", "worker-1");
    let started = Instant::now();
    while host.survey().await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // It listens again from one of the next heartbeats on; what was told before is lost.
    loop {
        host.start(spec.uuid).await.unwrap();
        host.destroy(spec.uuid).await.unwrap();
        if listener.hears(stopped, Duration::from_secs(1)).await {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(40), "it never tells again");
    }
    println!("{:>7.3} s  from the crash to being told again", started.elapsed().as_secs_f64());
    remove(&host, &spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_nobody_uses_can_go() {
    let Some(the_box) = the_box().await else { return };
    let host = the_box.host("worker-2");
    host.ensure_filter(RuleSet::Router).await.unwrap();
    let name = RuleSet::Router.filter_name();
    let deleted = host.delete_filter(&name).await;
    if matches!(deleted, Err(HostError::InUse { .. })) {
        println!("a router runs on worker-2: its filter stays");
        return;
    }
    deleted.unwrap();
    host.delete_filter(&name).await.unwrap();
    assert!(!host.survey().await.unwrap().filters.contains(&name));
    host.ensure_filter(RuleSet::Router).await.unwrap();
    assert!(matches!(host.delete_filter("clean-traffic").await, Err(HostError::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_another_version_get_the_rules_of_this_one() {
    let Some(the_box) = the_box().await else { return };
    let host = the_box.host("worker-2");
    // With a machine there, nobody tidies filters away.
    let mut spec = machine("renews", 12);
    (spec.root, spec.data, spec.seed) = (None, None, None);
    host.ensure_filter(RuleSet::Machine).await.unwrap();
    host.define(&spec).await.unwrap();
    host.renew_filters().await.unwrap();

    let earlier = "cascina-machine-0000000000e2";
    let file = the_box.runtime.path().join("filter.xml");
    let uuid = Uuid::new_v4();
    let theirs = format!(
        "<filter name='{earlier}' chain='root'><uuid>{uuid}</uuid><rule action='drop' direction='in'/></filter>"
    );
    fs::write(&file, theirs).unwrap();
    let virsh = |command: &str| the_box.script("virsh", &["worker-2", command]);
    virsh(&format!("nwfilter-define {}", file.display()));
    let renewed = timed("renew rules", host.renew_filters()).await.unwrap();
    let now = virsh(&format!("nwfilter-dumpxml {earlier}"));
    let again = timed("renew rules again", host.renew_filters()).await.unwrap();
    host.refresh_filters().await.unwrap();
    let refreshed = host.renew_filters().await.unwrap();
    host.delete_filter(earlier).await.unwrap();
    remove(&host, &spec).await;

    assert_eq!((renewed, again, refreshed), (vec![earlier.to_owned()], vec![], vec![]));
    assert!(now.contains(&uuid.to_string()), "{now}");
    assert_eq!(now.matches("<rule ").count(), RuleSet::Machine.rules().len(), "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_arrives_whole_or_not_at_all() {
    let Some(the_box) = the_box().await else { return };
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
    the_box.directory.join(pool).join(volume)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_waits_for_is_known_as_incomplete_and_cleaned_up() {
    let Some(the_box) = the_box().await else { return };
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
async fn what_can_not_fit_is_refused_as_such() {
    let Some(the_box) = the_box().await else { return };
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
async fn a_missing_pool_is_no_empty_pool() {
    let Some(the_box) = the_box().await else { return };
    let config = HostConfig { pool: "elsewhere".to_owned(), ..the_box.config("worker-1", "operator") };
    let host = LibvirtHost::new(config).unwrap();
    let survey = host.survey().await;
    assert!(matches!(survey, Err(HostError::Refused { .. })), "{survey:?}");
    let absent = host.delete_volume("test-absent").await;
    assert!(matches!(absent, Err(HostError::Refused { .. })), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_refused_at_once() {
    let Some(the_box) = the_box().await else { return };
    for identity in ["stranger", "rogue-operator"] {
        let host = LibvirtHost::new(the_box.config("worker-1", identity)).unwrap();
        let refused = timed(identity, host.survey()).await;
        assert!(matches!(refused, Err(HostError::Unreachable { .. })), "{refused:?}");
        println!("           {}", refused.unwrap_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_unreachable() {
    let Some(the_box) = the_box().await else { return };
    let config = the_box.config("worker-1", "operator");
    let uri = format!("qemu+tls://198.18.{}.99/system", the_box.index);
    let host = LibvirtHost::new(HostConfig { uri, ..config }).unwrap();
    let refused = timed("an address where nobody is", host.survey()).await;
    assert!(refused.as_ref().is_err_and(HostError::is_silence), "{refused:?}");
}

#[derive(Default)]
struct Heard(Mutex<Vec<(String, &'static str, &'static str)>>);

impl CallObserver for Heard {
    fn observe(&self, host: &str, operation: &'static str, _: f64, outcome: &'static str) {
        self.0.lock().unwrap().push((host.to_owned(), operation, outcome));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hangs_stalls_only_itself_and_comes_back() {
    let Some(the_box) = the_box().await else { return };
    let heard = Arc::new(Heard::default());
    let config = HostConfig {
        call_deadline: Duration::from_secs(2),
        connect_deadline: Duration::from_secs(2),
        observer: heard.clone(),
        ..the_box.config("worker-2", "operator")
    };
    let (hung, other) = (Arc::new(LibvirtHost::new(config.clone()).unwrap()), the_box.host("worker-1"));
    hung.survey().await.unwrap();
    other.survey().await.unwrap();
    let hung_host = the_box.hang("worker-2");
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();

    let started = Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let hung = hung.clone();
                async move { hung.survey().await }
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < Duration::from_secs(2) {
        let began = Instant::now();
        other.survey().await.unwrap();
        slowest = slowest.max(began.elapsed());
    }
    for call in calls {
        assert!(call.await.unwrap().is_err_and(|error| error.is_silence()));
    }
    println!("{:>7.3} s  until 20 calls to the hung host gave up", started.elapsed().as_secs_f64());
    println!("{:>7.3} s  the slowest of the other host's surveys meanwhile", slowest.as_secs_f64());
    println!("{before} threads before, {} after", threads());
    assert!(slowest < Duration::from_secs(1));
    assert!(threads() <= before + 8 + 4, "{} threads, {before} before", threads());

    // Nobody opens a connection to it either, and that ends by itself too.
    let fresh = LibvirtHost::new(config).unwrap();
    for _ in 0..3 {
        let silent = timed("a new connection to the hung host", fresh.survey()).await;
        assert!(silent.is_err_and(|error| error.is_silence()));
    }

    drop(hung_host);
    for host in [&*hung, &fresh] {
        let started = Instant::now();
        while let Err(error) = host.survey().await {
            assert!(error.is_silence(), "{error}");
            assert!(started.elapsed() < Duration::from_secs(30), "{error}");
        }
        println!("{:>7.3} s  until it answered again", started.elapsed().as_secs_f64());
    }
    let heard = heard.0.lock().unwrap();
    assert_eq!(heard.first(), Some(&("worker-2".to_owned(), "survey", "ok")));
    assert!(heard.iter().filter(|(_, _, outcome)| *outcome == "HostTimeout").count() >= 20, "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_loses_power_while_a_connection_is_opened_comes_back() {
    let Some(the_box) = the_box().await else { return };
    let config = HostConfig {
        call_deadline: Duration::from_secs(1),
        connect_deadline: Duration::from_secs(2),
        ..the_box.config("worker-2", "operator")
    };
    let host = LibvirtHost::new(config).unwrap();
    let hung_host = the_box.hang("worker-2");
    let silent = host.survey().await;
    assert!(matches!(silent, Err(HostError::Deadline { .. })), "{silent:?}");
    the_box.power("stop", "worker-2");
    let silent = host.survey().await;
    assert!(silent.as_ref().is_err_and(HostError::is_silence), "{silent:?}");
    the_box.power("start", "worker-2");
    drop(hung_host);
    let started = Instant::now();
    while let Err(error) = host.survey().await {
        assert!(error.is_silence() && started.elapsed() < Duration::from_secs(20), "{error}");
    }
    println!("{:>7.3} s  from power to the first answer", started.elapsed().as_secs_f64());
}

/// The box's appliance, built last: its kernel and its initramfs.
fn appliance() -> Option<(PathBuf, PathBuf)> {
    let cache = std::env::var_os("CASCINA_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/cascina")))?;
    let built = |entry: &fs::DirEntry| entry.metadata().and_then(|metadata| metadata.modified()).ok();
    let images = fs::read_dir(cache.join("images")).ok()?.flatten();
    let is_appliance = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("appliance-");
    let newest = images.filter(is_appliance).max_by_key(built)?;
    let index: serde_json::Value = serde_json::from_slice(&fs::read(newest.path().join("index.json")).ok()?).ok()?;
    let file = |kind: &str| index["files"][kind]["path"].as_str().map(PathBuf::from);
    Some((file("vmlinux").or_else(|| file("vmlinuz")).or_else(|| file("kernel"))?, file("initrd")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_answers_by_its_agent_and_shuts_down() {
    let Some(the_box) = the_box().await else { return };
    let Some((kernel, initrd)) = appliance() else {
        println!("SKIPPED: the box has built no appliance");
        return;
    };
    let host = Arc::new(the_box.host("worker-1"));
    let mut listener = Listener::to(&host);
    let mut spec = machine("agent", 11);
    let names = ["kernel", "initrd"].map(|kind| format!("test-{}-{kind}", spec.uuid));
    spec.firmware = Firmware::Kernel(Kernel {
        kernel: names[0].clone(),
        initrd: Some(names[1].clone()),
        cmdline: "console=ttyS0 quiet".to_owned(),
    });
    (spec.root, spec.data, spec.seed) = (None, None, None);
    spec.memory = Bytes::mebi(384);
    host.ensure_filter(RuleSet::Machine).await.unwrap();
    for (name, file) in names.iter().zip([kernel, initrd]) {
        host.upload_volume(name, DiskFormat::Raw, &file, &Progress::default()).await.unwrap();
    }
    host.define(&spec).await.unwrap();
    timed("start", host.start(spec.uuid)).await.unwrap();

    let started = Instant::now();
    while !host.agent_answers(spec.uuid).await.unwrap() {
        assert!(started.elapsed() < Duration::from_mins(2), "no agent");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{:>7.3} s  from start to the agent's first answer", started.elapsed().as_secs_f64());
    assert!(
        listener.hears(HostEvent::Agent(spec.uuid), Duration::from_secs(10)).await,
        "it is told that the agent came"
    );
    timed("an agent that answers", host.agent_answers(spec.uuid)).await.unwrap();

    // As much as a command is given at most, and more.
    let input: Vec<u8> = (0..98_304_u32).map(|number| number.to_le_bytes()[number as usize % 3]).collect();
    assert_eq!(input.len(), LONGEST_GUEST_INPUT);
    let expected = Sha256::digest(&input).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut command =
        GuestCommand { program: "sha256sum".to_owned(), arguments: Vec::new(), input, within: Duration::from_secs(20) };
    let output = timed("96 KiB to a command", host.run_in_guest(spec.uuid, &command)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(output.output).unwrap(), format!("{expected}  -\n"));
    command.input = vec![0; LONGEST_GUEST_INPUT + 1];
    assert!(matches!(host.run_in_guest(spec.uuid, &command).await, Err(HostError::Refused { .. })));

    let started = Instant::now();
    timed("ask for a shutdown", host.shutdown(spec.uuid)).await.unwrap();
    loop {
        let run = host.domain(spec.uuid).await.unwrap().unwrap().run;
        if run == DomainRun::Off(StopReason::Shutdown) {
            break;
        }
        assert!(started.elapsed() < Duration::from_mins(1), "{run:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{:>7.3} s  from the question to being off", started.elapsed().as_secs_f64());
    remove(&host, &spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_ends_with_its_deadline_and_so_does_its_thread() {
    let Some(the_box) = the_box().await else { return };
    let config = HostConfig { call_deadline: Duration::from_secs(2), ..the_box.config("worker-2", "operator") };
    let host = LibvirtHost::new(config).unwrap();
    host.survey().await.unwrap();
    let hung_host = the_box.hang("worker-2");
    // More often than calls may be under way: what hung before has to be over.
    for _ in 0..6 {
        let silent = timed("until a survey gave up", host.survey()).await;
        assert!(silent.as_ref().is_err_and(HostError::is_silence), "{silent:?}");
    }
    drop(hung_host);
    timed("survey on a new connection", host.survey()).await.unwrap();
}

/// libvirt's client may corrupt memory when two threads use one connection, or its keepalive is on (CVE-2024-4418).
#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_survive_and_are_answered() {
    let Some(the_box) = the_box().await else { return };
    let host = Arc::new(LibvirtHost::new(the_box.config("worker-2", "operator")).unwrap());
    let callers = (0..16).map(|_| {
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            for _ in 0..25 {
                host.survey().await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}
