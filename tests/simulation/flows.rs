//! What people and machines do to a site, and where it begins.

use std::sync::OnceLock;
use std::time::Duration;

use cascina::libvirt::{DomainRun, StopReason};
use serde_json::{Value, json};

use crate::apiserver::Write;
use crate::datacentre::{Datacentre, Live, ours};
use crate::drive::{Act, drive};
use crate::faults::Faults;
use crate::state::faults_of;

/// Something that happens to a site, from a known beginning.
pub struct Flow {
    /// Its name.
    pub name: &'static str,
    /// Where it begins.
    pub start: fn() -> &'static Datacentre,
    /// What happens.
    pub acts: &'static [Act],
}

/// Something that happens so many seconds after the one before.
pub const fn act(after: u64, work: fn(&Live, &Faults)) -> Act {
    Act { after: Duration::from_secs(after), work }
}

/// All flows.
pub const FLOWS: &[Flow] = &[
    Flow { name: "create a farm", start: empty, acts: &[act(0, |live, _| live.create_farm(3))] },
    Flow {
        name: "roll a group",
        start: with_farm,
        acts: &[act(0, |live, _| live.edit_group("userData", &json!({"inline": "#!/bin/sh"})))],
    },
    Flow {
        name: "roll to another image",
        start: with_farm,
        acts: &[act(0, |live, _| live.edit_group("image", &json!("two")))],
    },
    Flow {
        name: "shrink and grow",
        start: with_farm,
        acts: &[
            act(0, |live, _| live.edit_group("replicas", &json!(1))),
            act(4, |live, _| live.edit_group("replicas", &json!(4))),
        ],
    },
    Flow {
        name: "ask for more than the quota, then raise it",
        start: with_farm,
        acts: &[
            act(0, |live, _| live.patch_farm(&json!({"quota": {"instances": 4}}))),
            act(1, |live, _| live.edit_group("replicas", &json!(6))),
            act(30, |live, _| live.patch_farm(&json!({"quota": {"instances": 6}}))),
        ],
    },
    Flow {
        name: "delete a machine",
        start: with_farm,
        acts: &[act(0, |live, _| live.delete("virtualmachines", "tenant", "farm-nodes-1"))],
    },
    Flow {
        name: "halt and start",
        start: with_farm,
        acts: &[
            act(0, |live, _| live.edit_group("runStrategy", &json!("Halted"))),
            act(60, |live, _| live.edit_group("runStrategy", &json!("Always"))),
        ],
    },
    Flow {
        name: "delete the farm",
        start: with_farm,
        acts: &[act(0, |live, _| live.delete("virtualfarms", "tenant", "farm"))],
    },
    Flow {
        name: "delete while it is made",
        start: empty,
        acts: &[act(0, |live, _| live.create_farm(3)), act(1, |live, _| live.delete("virtualfarms", "tenant", "farm"))],
    },
    Flow {
        name: "lose a host and get it back",
        start: with_farm,
        acts: &[act(0, |live, _| live.power("worker-1", false)), act(100, |live, _| live.power("worker-1", true))],
    },
    Flow {
        name: "cut a host off and let it back",
        start: with_farm,
        acts: &[
            act(0, |live, _| live.world(|world| world.host("worker-1").linked = false)),
            act(100, |live, _| live.world(|world| world.host("worker-1").linked = true)),
        ],
    },
    Flow {
        name: "lose a worker for long",
        start: with_farm,
        acts: &[act(0, |live, _| live.power("worker-1", false)), act(400, |live, _| live.power("worker-1", true))],
    },
    Flow {
        name: "cut a worker off for long",
        start: with_farm,
        acts: &[
            act(0, |live, _| live.world(|world| world.host("worker-1").linked = false)),
            act(400, |live, _| live.world(|world| world.host("worker-1").linked = true)),
        ],
    },
    Flow {
        name: "fence a service host, take it back",
        start: with_services,
        acts: &[
            act(0, |live, _| live.power("service-1", false)),
            act(60, |live, _| live.fence("service-1", Some("true"))),
            act(60, |live, _| live.power("service-1", true)),
            act(30, |live, _| live.fence("service-1", None)),
        ],
    },
    Flow {
        name: "delete the farm of a lost host",
        start: with_farm,
        acts: &[
            act(0, |live, _| live.power("worker-1", false)),
            act(10, |live, _| live.delete("virtualfarms", "tenant", "farm")),
            act(1000, |live, _| live.power("worker-1", true)),
        ],
    },
    Flow {
        name: "delete the farm of a service host that is cut off",
        start: with_services,
        acts: &[
            act(0, |live, _| live.world(|world| world.host("service-2").linked = false)),
            act(10, |live, _| live.delete("virtualfarms", "tenant", "farm")),
            // Long enough for the other host of the pool to find disks of machines that are gone.
            act(300, |live, _| live.world(|world| world.host("service-2").linked = true)),
        ],
    },
    Flow { name: "create a farm with a router", start: empty, acts: &[act(0, |live, _| live.create_routed_farm())] },
    Flow {
        name: "open and close ways into a farm",
        start: with_router,
        acts: &[
            act(0, |live, _| live.patch_farm(&json!({"elasticIP": {"target": "farm-nodes-0"}}))),
            act(10, |live, _| {
                live.patch_farm(&json!({"elasticIP": {"target": "farm-nodes-1"}, "router": {"forwards": []}}))
            }),
            act(10, |live, _| live.patch_farm(&json!({"elasticIP": null}))),
        ],
    },
    Flow {
        name: "give a router another public address",
        start: with_router,
        acts: &[act(0, |live, _| live.patch_farm(&json!({"publicIP": "198.51.100.25"})))],
    },
    Flow {
        name: "kill a router, then take it away",
        start: with_router,
        acts: &[
            act(0, |live, _| live.crash("tenant/farm-router-0")),
            act(120, |live, _| live.patch_farm(&json!({"router": null}))),
        ],
    },
    Flow {
        name: "join two farms and part them",
        start: with_router,
        acts: &[
            act(0, |live, _| live.join("farm", "other")),
            act(0, |live, _| {
                live.create("virtualfarms", "tenant", "other", json!({"router": {}}));
                live.join("other", "farm");
            }),
            act(20, |live, _| live.patch_farm(&json!({"router": {"vpn": {"keyGeneration": 2}}}))),
            act(20, |live, _| live.patch_farm(&json!({"router": {"vpn": null}}))),
        ],
    },
    Flow {
        name: "delete a farm with a router",
        start: with_router,
        acts: &[act(0, |live, _| live.delete("virtualfarms", "tenant", "farm"))],
    },
    Flow {
        name: "lose and fence a router's host",
        start: with_router,
        acts: &[
            act(0, |live, _| live.power("service-1", false)),
            act(60, |live, _| live.fence("service-1", Some("true"))),
            act(60, |live, _| live.power("service-1", true)),
            act(30, |live, _| live.fence("service-1", None)),
        ],
    },
    Flow {
        name: "give a farm two routers, then one",
        start: with_router,
        acts: &[
            act(0, |live, _| live.patch_farm(&json!({"router": {"replicas": 2}}))),
            act(120, |live, _| live.patch_farm(&json!({"router": {"replicas": 1}}))),
        ],
    },
    Flow {
        name: "kill one of two routers and move the other's address",
        start: with_two_routers,
        acts: &[
            act(0, |live, _| live.crash("tenant/farm-router-0")),
            act(0, |live, _| live.patch_farm(&json!({"publicIP": "198.51.100.25"}))),
        ],
    },
    Flow {
        name: "lose the host of one of two routers",
        start: with_two_routers,
        acts: &[
            act(0, |live, _| live.power("service-1", false)),
            act(60, |live, _| live.fence("service-1", Some("true"))),
            act(60, |live, _| live.power("service-1", true)),
            act(30, |live, _| live.fence("service-1", None)),
        ],
    },
    Flow {
        name: "delete a farm with two routers",
        start: with_two_routers,
        acts: &[act(0, |live, _| live.delete("virtualfarms", "tenant", "farm"))],
    },
    Flow {
        name: "change an image",
        start: with_farm,
        acts: &[act(0, |live, _| {
            live.patch("images", "", "one", &json!({"spec": crate::images::images().spec("two")}));
        })],
    },
];

/// A site with a farm of two machines and a router, at rest.
pub fn with_router() -> &'static Datacentre {
    static SITE: OnceLock<Datacentre> = OnceLock::new();
    SITE.get_or_init(|| settled(empty(), &[act(0, |live, _| live.create_routed_farm())]))
}

/// The same with two routers, at rest.
pub fn with_two_routers() -> &'static Datacentre {
    static SITE: OnceLock<Datacentre> = OnceLock::new();
    SITE.get_or_init(|| {
        settled(with_router(), &[act(0, |live, _| live.patch_farm(&json!({"router": {"replicas": 2}})))])
    })
}

/// A site without farms, at rest.
pub fn empty() -> &'static Datacentre {
    static SITE: OnceLock<Datacentre> = OnceLock::new();
    SITE.get_or_init(|| settled(&Datacentre::new(), &[]))
}

/// A site with a farm of three machines, at rest.
pub fn with_farm() -> &'static Datacentre {
    static SITE: OnceLock<Datacentre> = OnceLock::new();
    SITE.get_or_init(|| settled(empty(), &[act(0, |live, _| live.create_farm(3))]))
}

/// A site with a farm of three machines on the hosts that share a pool, at rest.
pub fn with_services() -> &'static Datacentre {
    static SITE: OnceLock<Datacentre> = OnceLock::new();
    SITE.get_or_init(|| {
        let farm = act(0, |live, _| {
            let group = json!({"name": "nodes", "replicas": 3, "flavour": "small", "image": "one", "class": "Service"});
            live.create("virtualfarms", "tenant", "farm", json!({"groups": [group]}));
        });
        settled(empty(), &[farm])
    })
}

fn settled(start: &Datacentre, acts: &[Act]) -> Datacentre {
    let site = drive(start, acts, None).site;
    assert_eq!(faults_of(&site), Vec::<String>::new());
    site
}

impl Live {
    /// A farm with one group of so many machines.
    pub fn create_farm(&self, replicas: i32) {
        self.create(
            "virtualfarms",
            "tenant",
            "farm",
            json!({
                "groups": [{"name": "nodes", "replicas": replicas, "flavour": "small", "image": "one"}],
                "users": [{"kind": "User", "name": "ada"}],
            }),
        );
    }

    /// Makes a farm with two machines and a router.
    pub fn create_routed_farm(&self) {
        let forwards = json!([{"port": 80, "targetRef": {"name": "farm-nodes-0"}}]);
        let groups = json!([{"name": "nodes", "replicas": 2, "flavour": "small", "image": "one"}]);
        self.create("virtualfarms", "tenant", "farm", json!({"groups": groups, "router": {"forwards": forwards}}));
    }

    /// Lets a farm name another as the other end of a tunnel.
    pub fn join(&self, one: &str, other: &str) {
        let peer = json!({"name": "peer", "peerRef": {"namespace": "tenant", "name": other}});
        self.patch("virtualfarms", "tenant", one, &json!({"spec": {"router": {"vpn": {"peers": [peer]}}}}));
    }

    /// Changes the farm's spec.
    pub fn patch_farm(&self, spec: &Value) {
        self.patch("virtualfarms", "tenant", "farm", &json!({"spec": spec}));
    }

    /// Makes a machine of the farm that runs by this strategy.
    pub fn create_machine(&self, name: &str, run_strategy: &str) {
        let spec = json!({"farm": "farm", "flavour": "small", "image": "one", "runStrategy": run_strategy});
        self.create("virtualmachines", "tenant", name, spec);
    }

    /// Lets a guest crash.
    pub fn crash(&self, title: &str) {
        self.end(title, StopReason::Crashed);
    }

    /// Lets a guest shut itself down.
    pub fn shut_down(&self, title: &str) {
        self.end(title, StopReason::Shutdown);
    }

    fn end(&self, title: &str, how: StopReason) {
        let now = self.clock.now();
        self.world(|world| {
            world.last_change = now;
            let domains = world.hosts.values_mut().flat_map(|host| host.domains.values_mut());
            domains.filter(|domain| domain.spec.title == title).for_each(|domain| domain.run = DomainRun::Off(how));
        });
    }

    /// Makes an object of ours.
    pub fn create(&self, plural: &str, namespace: &str, name: &str, spec: Value) {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.api.with(|store, now| store.create(&ours(plural), namespace, object, "somebody", now)).unwrap();
    }

    /// Changes an object of ours.
    pub fn patch(&self, plural: &str, namespace: &str, name: &str, patch: &Value) {
        self.api.with(|store, now| {
            let write = Write { manager: "somebody", status: false, now };
            store.merge(&ours(plural), namespace, name, patch, &write).unwrap();
        });
    }

    /// Deletes an object of ours.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.api.with(|store, now| store.delete(&ours(plural), namespace, name, &json!({}), now)).unwrap();
    }

    /// Changes a field of the farm's group.
    pub fn edit_group(&self, field: &str, value: &Value) {
        let farm = self.api.with(|store, _| store.get(&ours("virtualfarms"), "tenant", "farm")).unwrap();
        let mut groups = farm["spec"]["groups"].clone();
        groups[0][field] = value.clone();
        self.patch("virtualfarms", "tenant", "farm", &json!({"spec": {"groups": groups}}));
    }

    /// Says that a host is off, or takes that back.
    pub fn fence(&self, name: &str, value: Option<&str>) {
        self.patch("hypervisors", "", name, &json!({"metadata": {"annotations": {"cascina.dev/fenced": value}}}));
    }

    /// Switches a host off or on.
    pub fn power(&self, name: &str, on: bool) {
        let now = self.clock.now();
        self.world(|world| if on { world.host(name).powered = true } else { world.cut_power(name, now) });
    }
}
