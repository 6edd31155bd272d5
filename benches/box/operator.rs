//! What the operator does and uses: counts from its metrics, memory and CPU from the kernel.

use std::path::PathBuf;
use std::time::Duration;

use crate::support::TheBox;

/// Long enough to see several heartbeats of every host.
const LOOK: Duration = Duration::from_secs(15);

/// Calls with which a machine is made; the rest, but for surveys of hosts, watch it.
const MAKING: [&str; 6] = ["ensure_filter", "create_volume", "write_volume", "define", "start", "delete_volume"];

/// Totals since the operator started.
#[derive(Default)]
pub struct Cost {
    /// Writes about machines.
    pub writes: f64,
    /// Of these other than status.
    pub other_writes: f64,
    /// Events about machines, counted where they stand.
    pub events: f64,
    /// Calls to hosts that make something.
    pub making: f64,
    /// Calls to hosts about one machine that only look.
    pub watching: f64,
}

impl Cost {
    /// As they are now.
    pub async fn now(the_box: &TheBox) -> Self {
        use k8s_openapi::api::events::v1::Event;
        let metrics = the_box.metrics();
        let writes = |labels: &[(&str, &str)]| metrics.sum("cascina_kubernetes_writes_total", labels);
        let calls =
            |operation: &str| metrics.sum("cascina_libvirt_call_duration_seconds_count", &[("operation", operation)]);
        let machines = ("kind", "VirtualMachine");
        let events: Vec<Event> = the_box.all().list(&Default::default()).await.unwrap().items;
        let about =
            |event: &&Event| event.regarding.as_ref().and_then(|about| about.kind.as_deref()) == Some("VirtualMachine");
        Self {
            writes: writes(&[machines]),
            other_writes: writes(&[machines]) - writes(&[machines, ("part", "status")]),
            events: events.iter().filter(about).count() as f64,
            making: MAKING.iter().map(|operation| calls(operation)).sum(),
            watching: calls("domain") + calls("agent_answers"),
        }
    }

    /// What was added since.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            other_writes: self.other_writes - before.other_writes,
            events: self.events - before.events,
            making: self.making - before.making,
            watching: self.watching - before.watching,
        }
    }
}

/// What the operator uses while nothing is asked of it.
pub struct Idle {
    /// Memory.
    pub rss_mib: f64,
    /// Share of one core.
    pub cpu_percent: f64,
}

/// Looks at the first operator for a while.
pub async fn idle(the_box: &TheBox) -> Idle {
    let proc = process(the_box);
    let before = ticks(&proc);
    tokio::time::sleep(LOOK).await;
    let used = ticks(&proc) - before;
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let rss: f64 = rss.split_whitespace().next().unwrap().parse().unwrap();
    // A tick is a hundredth of a second on Linux, whatever the kernel was built with.
    Idle { rss_mib: rss / 1024.0, cpu_percent: used / LOOK.as_secs_f64() }
}

impl Idle {
    /// Which program was measured.
    pub fn build(the_box: &TheBox) -> String {
        let size = std::fs::metadata(process(the_box).join("exe")).map(|file| file.len() >> 20).unwrap_or_default();
        let kind = if size > 60 { "a debug build: build the box anew with make up" } else { "a release build" };
        format!("the operator is {kind} ({size} MiB)")
    }
}

fn process(the_box: &TheBox) -> PathBuf {
    let status = the_box.script("operator", &["status", "1"]);
    let (_, pid) = status.split_once("operator-1 runs as process ").unwrap();
    PathBuf::from("/proc").join(pid.split(',').next().unwrap())
}

fn ticks(proc: &std::path::Path) -> f64 {
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split_whitespace().collect();
    // User and system time of all threads, fields 14 and 15 of proc(5).
    fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
}
