//! The same machines by `virsh` alone: seed volume, upload, define, start, wait for the agent.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cascina::api::VirtualMachine;
use kube::ResourceExt;
use uuid::Uuid;

use crate::support::TheBox;
use crate::{Times, WORKERS, home};

/// So many machines are made at a time on one host, as the operator does.
const AT_A_TIME: usize = 4;

/// What machines are made from: the operator's own definition and seed of a machine that runs.
pub struct Floor<'a> {
    the_box: &'a TheBox,
    uid: String,
    seed: String,
    definition: String,
    directory: tempfile::TempDir,
}

struct Made<'a> {
    floor: &'a Floor<'a>,
    host: &'static str,
    uuid: String,
}

impl<'a> Floor<'a> {
    /// As this machine.
    pub fn of(the_box: &'a TheBox, model: &VirtualMachine) -> Self {
        let uid = model.uid().unwrap();
        let host = home(model);
        let volumes = the_box.volumes(&host);
        let seed = volumes.into_iter().find(|volume| volume.starts_with(&format!("{uid}-seed-"))).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("seed");
        the_box.virsh(&host, &["vol-download", "--pool", "cascina", &seed, file.to_str().unwrap()]);
        Self { the_box, definition: the_box.domain_xml(model), uid, seed, directory }
    }

    /// Makes so many machines, waits until all answer, and removes them.
    pub fn create(&self, count: usize) -> Times {
        let queue: Mutex<VecDeque<usize>> = Mutex::new((0..count).collect());
        let (answered, made) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for worker in 0..AT_A_TIME * WORKERS.len() {
                let (queue, answered, made) = (&queue, &answered, &made);
                scope.spawn(move || {
                    loop {
                        let Some(number) = queue.lock().unwrap().pop_front() else { return };
                        let machine = self.make(WORKERS[worker % WORKERS.len()], number);
                        // Booting guests don't keep their maker from the next one.
                        scope.spawn(move || {
                            machine.wait();
                            answered.lock().unwrap().push(begin.elapsed());
                            made.lock().unwrap().push(machine);
                        });
                    }
                });
            }
        });
        let mut answered = answered.into_inner().unwrap();
        answered.sort();
        made.into_inner().unwrap().iter().for_each(Made::remove);
        Times { first: answered[0], last: *answered.last().unwrap() }
    }

    fn make(&'a self, host: &'static str, number: usize) -> Made<'a> {
        let uuid = Uuid::new_v4().to_string();
        let seed = self.seed.replace(&self.uid, &uuid);
        let octet = number + 2;
        let file = self.directory.path().join(format!("{uuid}.xml"));
        std::fs::write(&file, self.definition_of(&uuid, octet)).unwrap();
        let content = self.directory.path().join("seed");
        let size = std::fs::metadata(&content).unwrap().len();
        // One connection for all of it, as the operator has one.
        let steps = format!(
            "vol-create-as cascina {seed} {size} --format raw; vol-upload --pool cascina {seed} {}; define {}; start {uuid}",
            content.display(),
            file.display(),
        );
        self.the_box.virsh(host, &[&steps]);
        Made { floor: self, host, uuid }
    }

    /// The model's definition with another identity and another address, in a network that no farm has.
    fn definition_of(&self, uuid: &str, octet: usize) -> String {
        let mut text = String::new();
        for line in self.definition.replace(&self.uid, uuid).lines() {
            let line = match line.trim() {
                trimmed if trimmed.starts_with("<mac address=") => {
                    format!("<mac address='02:00:ac:10:fa:{octet:02x}'/>")
                }
                trimmed if trimmed.starts_with("<target dev='c") => format!("<target dev='cac10fa{octet:02x}'/>"),
                trimmed if trimmed.contains("name='FARMMAC'") => {
                    "<parameter name='FARMMAC' value='02:00:ac:10:fa:00'/>".to_owned()
                }
                trimmed if trimmed.contains("name='FARMNET'") => {
                    "<parameter name='FARMNET' value='172.16.250.0'/>".to_owned()
                }
                trimmed if trimmed.contains("name='IP'") => {
                    format!("<parameter name='IP' value='172.16.250.{octet}'/>")
                }
                _ => line.to_owned(),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

impl Made<'_> {
    fn wait(&self) {
        let ping = ["qemu-agent-command", "--timeout", "1", &self.uuid, r#"{"execute":"guest-ping"}"#];
        let end = Instant::now() + Duration::from_secs(900);
        let arguments = [&[self.host], ping.as_slice()].concat();
        while !self.floor.the_box.try_script("virsh", &arguments).status.success() {
            assert!(Instant::now() < end, "{} doesn't answer", self.uuid);
            std::thread::sleep(Duration::from_millis(500)); // as often as the operator asks
        }
    }

    fn remove(&self) {
        let seed = self.floor.seed.replace(&self.floor.uid, &self.uuid);
        let steps = format!("destroy {0}; undefine {0}; vol-delete --pool cascina {seed}", self.uuid);
        self.floor.the_box.virsh(self.host, &[&steps]);
    }
}
