//! A machine from its definition to its removal.

use cascina::api::{Bandwidth, Bytes};
use cascina::libvirt::{DomainRun, Host, HostError, RuleSet, StopReason};

use crate::machine::{machine, make_volumes, remove};
use crate::the_box::{the_box, timed};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_machine_lives_and_dies() {
    let the_box = the_box().await;
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

/// What comes of it when a kernel polices as it is told here is tried in `isolation/bandwidth.rs`, with the same words.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_machine_with_a_limit_is_policed_or_does_not_start() {
    let the_box = the_box().await;
    let host = the_box.host("worker-1");
    let mut spec = machine("limited", 13);
    (spec.root, spec.data, spec.seed) = (None, None, None);
    let (outbound, burst) = (Some(Bytes::new(1_000_000)), Some(Bytes::new(244 * 1024)));
    spec.nics[0].bandwidth = Some(Bandwidth { outbound, inbound: None, burst });
    host.ensure_filter(RuleSet::Machine).await.unwrap();
    host.define(&spec).await.unwrap();
    let started = host.start(spec.uuid).await;
    let run = host.domain(spec.uuid).await.unwrap().unwrap().run;
    remove(&host, &spec).await;
    let Err(refused) = started else {
        assert_eq!(run, DomainRun::Running);
        return;
    };
    println!("this kernel polices nothing: {refused}");
    assert!(matches!(run, DomainRun::Off(_)), "{run:?}");
    let said = refused.to_string();
    assert!(said.contains("police rate 1000kbps burst 244kb mtu 64kb drop flowid :1"), "{said}");
}
