//! A guest that boots, and its agent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cascina::api::{Bytes, DiskFormat};
use cascina::libvirt::{
    DomainRun, Firmware, GuestCommand, Host, HostError, HostEvent, Kernel, LONGEST_GUEST_INPUT, Progress, RuleSet,
    StopReason,
};
use sha2::{Digest, Sha256};

use crate::emulated;
use crate::events::Listener;
use crate::machine::{machine, remove};
use crate::the_box::{the_box, timed};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a box"]
async fn a_guest_answers_by_its_agent_and_shuts_down() {
    let the_box = the_box().await;
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
    for (name, file) in names.iter().zip(emulated::files(&the_box.turn.state, "appliance")) {
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
