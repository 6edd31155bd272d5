//! Network namespaces that play guests, routers and people outside.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `ip` with these words, however it ends.
pub fn try_ip(line: &str) -> Output {
    Command::new("ip").args(line.split_whitespace()).output().unwrap()
}

/// The same; it must succeed.
#[track_caller]
pub fn ip(line: &str) -> String {
    let output = try_ip(line);
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    assert!(output.status.success(), "ip {line}: {said}");
    said
}

/// Makes a namespace that speaks IPv4 only.
#[track_caller]
pub fn add(name: &str) {
    ip(&format!("netns add {name}"));
    ip(&format!("netns exec {name} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"));
}

/// Runs something on a thread of its own that lives in a namespace.
pub fn in_namespace<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{name}")).expect("the namespace is there");
    thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("needs root");
        work()
    })
}
