//! Farms and machines for tests, written down in a line each.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::json;

use super::groups::make;
use super::network::Verdict;
use super::observe::View;
use super::plan::{Plan, Step, plan};
use super::room::Parts;
use crate::api::conditions::{READY, State, stamp};
use crate::api::{MachineGroup, Phase, RouterRole, VRouter, VirtualFarm, VirtualMachine, VirtualMachineStatus};
use crate::controllers::placement::plan::{Amount, Budget};
use crate::controllers::placement::testing as site;
use crate::network::{MacAddress, RouterSeat};

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn meta(name: &str, age_rank: i64) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some("tenant".into()),
        uid: Some(format!("uid-{name}")),
        generation: Some(1),
        resource_version: Some("1".into()),
        creation_timestamp: Some(Time(at(age_rank))),
        ..ObjectMeta::default()
    }
}

/// An empty farm `farm-a`.
pub fn farm() -> VirtualFarm {
    let mut farm: VirtualFarm = serde_json::from_value(json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualFarm", "metadata": {}, "spec": {},
    }))
    .unwrap();
    farm.metadata = meta("farm-a", 0);
    farm
}

pub fn group(name: &str, replicas: i32) -> MachineGroup {
    serde_json::from_value(json!({
        "name": name, "replicas": replicas, "flavour": "m1.tiny", "image": "appliance",
    }))
    .unwrap()
}

pub fn with_group(mut farm: VirtualFarm, group: MachineGroup) -> VirtualFarm {
    farm.spec.groups.push(group);
    farm
}

/// A machine that somebody made, without an address.
pub fn bare(name: &str, age_rank: i64) -> VirtualMachine {
    let mut machine: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": "cascina.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {},
        "spec": {"farm": "farm-a", "flavour": "m1.tiny", "image": "appliance"},
    }))
    .unwrap();
    machine.metadata = meta(name, age_rank);
    machine
}

/// A machine that the farm made, without an address.
pub fn member(name: &str, index: i32) -> VirtualMachine {
    let mut machine = make(&farm(), &group(name, 1), index);
    let born = meta(&machine.name_any(), i64::from(index) + 1);
    machine.metadata.uid = born.uid;
    machine.metadata.creation_timestamp = born.creation_timestamp;
    machine.metadata.resource_version = born.resource_version;
    machine
}

pub fn addressed(mut machine: VirtualMachine, address: &str) -> VirtualMachine {
    let status = machine.status.get_or_insert_default();
    status.address = Some(address.into());
    status.farm_uid = Some("uid-farm-a".into());
    status.mac = address.parse().ok().map(|address| MacAddress::of(address).to_string());
    machine
}

/// A machine that the farm made, with an address and Ready.
pub fn running(name: &str, index: i32) -> VirtualMachine {
    let mut machine = addressed(member(name, index), &format!("172.16.1.{}", 2 + index));
    let status: &mut VirtualMachineStatus = machine.status.as_mut().unwrap();
    status.phase = Some(Phase::Running);
    status.conditions = stamp(vec![State::yes(READY, "AgentAnswers", "")], &[], None, at(0));
    machine
}

pub fn leaving(mut machine: VirtualMachine) -> VirtualMachine {
    machine.metadata.deletion_timestamp = Some(Time(at(100)));
    machine
}

/// The machine that is the farm's router.
pub fn appointed(machine: VirtualMachine) -> VirtualMachine {
    seated(machine, RouterSeat::Only)
}

/// A machine that is one of the farm's routers.
pub fn seated(mut machine: VirtualMachine, seat: RouterSeat) -> VirtualMachine {
    machine.status.get_or_insert_default().router = Some(RouterRole { seat, ..RouterRole::default() });
    machine
}

/// The flavours `m1.tiny` and `m1.large` and the image `appliance`, which has no disk.
fn parts() -> Parts {
    let site = site::world(vec![], vec![]);
    Parts { flavours: site.flavours, images: site.images }
}

/// What a farm knows, to plan from.
pub struct Given(pub View);

pub fn given(farm: VirtualFarm) -> Given {
    let budget = Budget {
        farm: ("tenant".into(), farm.name_any()),
        quota: farm.spec.quota.unwrap_or_default(),
        instances: 0,
        used: Amount::default(),
    };
    Given(View {
        farm: Arc::new(farm),
        machines: Vec::new(),
        network: Ok("172.16.1.0/24".parse().unwrap()),
        promised: Default::default(),
        left_behind: Default::default(),
        hosts_are_unread: false,
        budget,
        parts: parts(),
        router: None,
    })
}

impl Given {
    pub fn with(mut self, machine: VirtualMachine) -> Self {
        self.0.machines.push(Arc::new(machine));
        self
    }

    pub fn routed_by(mut self, router: VRouter) -> Self {
        self.0.router = Some(Arc::new(router));
        self
    }

    pub fn network(mut self, network: Verdict) -> Self {
        self.0.network = network;
        self
    }

    pub fn plan(&self) -> Plan {
        plan(&self.0)
    }

    #[track_caller]
    pub fn plans<const N: usize>(&self, steps: [&str; N]) {
        assert_eq!(words(&self.plan()), steps);
    }
}

pub fn words(plan: &Plan) -> Vec<String> {
    let word = |step: &Step| match step {
        Step::GiveAddress(machine, address) => format!("{} gets {address}", machine.name_any()),
        Step::Create(machine) => format!("create {}", machine.name_any()),
        Step::Update(machine) => format!("update {}", machine.name_any()),
        Step::Delete(machine) => format!("delete {}", machine.name_any()),
        Step::MakeRouter(router) => format!("make router {}", router.name_any()),
        Step::ChangeRouter(router) => format!("change router {}", router.name_any()),
        Step::DeleteRouter(router) => format!("delete router {}", router.name_any()),
    };
    plan.steps.iter().map(word).collect()
}
