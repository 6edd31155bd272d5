//! The files of one router as they are, and laws that hold for those of any.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sha2::Digest;

use super::samples::{any_router, bare, full, net, number, port};
use super::*;
use crate::network::words::words;

/// The names of the documents that differ.
fn changed(before: &Router, after: &Router) -> Vec<&'static str> {
    let (before, after) = (before.documents(), after.documents());
    before.iter().filter(|(name, content)| after.content(*name) != *content).map(|(name, _)| name.file()).collect()
}

#[test]
fn documents_of_a_farm_with_everything() {
    for (name, content) in full().documents().iter() {
        insta::assert_snapshot!(name.file(), content);
    }
}

#[test]
fn a_farm_without_a_public_address_is_let_out_nowhere() {
    let documents = bare().documents();
    insta::assert_snapshot!("bare-nftables.conf", documents.content(DocumentName::Nftables));
    insta::assert_snapshot!("bare-interfaces.json", documents.content(DocumentName::Interfaces));
    assert_eq!(documents.content(DocumentName::Wireguard), "");
}

#[test]
fn two_routers_are_told_whose_turn_it_is_and_nothing_else_is_another() {
    let (alone, pair) = (full(), Router { paired: true, ..full() });
    assert_eq!(changed(&alone, &pair), ["interfaces.json", "nftables.conf", "keepalived.conf"]);
    assert_eq!(alone.documents().content(DocumentName::Keepalived), "");
    for name in [DocumentName::Keepalived, DocumentName::Interfaces] {
        insta::assert_snapshot!(format!("pair-{}", name.file()), pair.documents().content(name));
    }
    let wall = |router: &Router| router.documents().content(DocumentName::Nftables).to_owned();
    let more: Vec<_> = wall(&pair).lines().map(str::to_owned).filter(|line| !wall(&alone).contains(line)).collect();
    assert_eq!(
        more,
        ["\t\tiifname \"farm\" ip saddr { 172.16.7.253, 172.16.7.254 } ip protocol 112 accept"],
        "nobody else is believed to be a router"
    );
}

#[test]
fn what_is_denied_is_asked_of_packets_of_either_direction() {
    let mut router = full();
    router.egress = vec![EgressRule {
        to: net("203.0.113.0/24"),
        ports: Some((Transport::Udp, [port(53)].into())),
        action: EgressAction::Deny,
    }];
    let documents = router.documents();
    let rules = documents.content(DocumentName::Nftables);
    let place = |text: &str| rules.find(text).unwrap_or_else(|| panic!("{text}: {rules}"));
    let accepts = place("ct state established,related accept\n\t\tct state invalid drop\n\t\tiifname \"farm\" add");
    for judged in
        ["ip saddr 172.16.7.0/24 goto egress", "ip saddr 172.16.7.0/24 goto answers", "ct mark @limited_entrances"]
    {
        assert!(place(judged) < accepts, "{judged}");
    }
    place("ip daddr 203.0.113.0/24 udp dport { 53 } goto refused");
    place("ip saddr 203.0.113.0/24 udp sport { 53 } goto refused");
}

#[test]
fn a_machine_more_changes_the_two_files_about_machines() {
    let before = full();
    let mut after = before.clone();
    after.machines.insert(number(&after, 77), RouterMachine { name: "new".parse().ok(), group: None });
    assert_eq!(changed(&before, &after), ["dnsmasq.hosts", "dnsmasq.reservations"]);
}

#[test]
fn a_tunnel_carries_what_both_the_farm_and_the_network_outside_do() {
    for (mtu, expected) in [(576, 516), (1400, 1340), (1500, 1440), (9000, 1440)] {
        let documents = Router { mtu, ..full() }.documents();
        let cards: serde_json::Value = serde_json::from_str(documents.content(DocumentName::Interfaces)).unwrap();
        assert_eq!((&cards["vpn"]["mtu"], &cards["farm"]["mtu"]), (&expected.into(), &mtu.into()));
    }
}

#[test]
fn an_elastic_address_that_moves_changes_one_file_and_no_other_mark() {
    let before = full();
    let mut after = before.clone();
    *after.elastic.values_mut().next().unwrap() = number(&after, 2);
    assert_eq!(changed(&before, &after), ["nftables.conf"]);
    let lines = |router: &Router| -> BTreeSet<String> {
        router.documents().content(DocumentName::Nftables).lines().map(str::to_owned).collect()
    };
    let lost: Vec<_> = lines(&before).difference(&lines(&after)).cloned().collect();
    assert!(lost.iter().all(|line| !line.contains("dport")), "the forwards are as they were: {lost:?}");
}

#[test]
fn a_group_that_is_called_like_a_machine_leaves_it_its_name() {
    let mut router = bare();
    let machine = |name: &str, group: &str| RouterMachine { name: name.parse().ok(), group: group.parse().ok() };
    router.machines =
        [(number(&router, 2), machine("login", "web")), (number(&router, 3), machine("other", "login"))].into();
    let documents = router.documents();
    let hosts = documents.content(DocumentName::Hosts);
    assert!(hosts.contains("172.16.7.2 web.farm-a.example\n"), "{hosts}");
    assert!(!hosts.contains("172.16.7.3 login"), "{hosts}");
}

/// Whether a name outside may lead to an address.
fn is_answered(documents: &Documents, address: &str) -> bool {
    let address: Ipv4Addr = address.parse().unwrap();
    let refused =
        documents.content(DocumentName::Dnsmasq).lines().filter_map(|line| line.strip_prefix("bogus-nxdomain="));
    !refused.filter_map(|network| network.parse::<Ipv4Net>().ok()).any(|network| network.contains(&address))
}

#[test]
fn names_lead_where_the_farm_gets_by_number_and_nowhere_else_inside() {
    let documents = full().documents();
    for (address, what) in [("10.1.2.9", "admitted"), ("172.16.9.5", "behind the tunnel"), ("8.8.8.8", "outside")] {
        assert!(is_answered(&documents, address), "{address} is {what}");
    }
    for address in
        ["10.1.3.9", "10.9.8.7", "172.16.7.10", "172.16.8.1", "192.168.1.1", "127.0.0.1", "0.0.0.0", "169.254.169.254"]
    {
        assert!(!is_answered(&documents, address), "{address}");
    }
    let dnsmasq = documents.content(DocumentName::Dnsmasq);
    assert!(dnsmasq.contains("rev-server=10.1.2.0/24,192.0.2.53\n"), "{dnsmasq}");
}

/// Whatever is called whatever, only the files that are made for names tell of it.
#[test]
fn names_stand_where_there_are_no_words() {
    let plain = full();
    for (program, reader) in words() {
        for word in reader.words {
            let Ok(name) = word.parse::<ZoneName>() else { continue };
            let mut named = plain.clone();
            named.machines.insert(number(&named, 2), RouterMachine { name: Some(name.clone()), group: Some(name) });
            assert_eq!(changed(&plain, &named), ["dnsmasq.hosts"], "{program}: {word}");
            let hosts = named.documents().content(DocumentName::Hosts).to_owned();
            assert!(hosts.contains(&format!("172.16.7.2 {word}.farm-a.example {word}\n")), "{program}: {hosts}");
            let Ok(domain) = format!("{word}.example").parse() else { continue };
            let mut named = Router { domain, ..plain.clone() };
            named.machines.clear();
            let changed: Vec<_> = changed(&plain, &named);
            assert_eq!(changed, ["dnsmasq.conf", "dnsmasq.hosts", "dnsmasq.reservations"], "{program}: {word}");
        }
    }
}

/// nft reads without changing anything, in a network namespace of its own, whose rules one has to be root for.
#[test]
fn nft_takes_the_wall_of_any_router() {
    let mut runner = TestRunner::deterministic();
    let walls: Vec<_> = (0..32)
        .map(|_| any_router().new_tree(&mut runner).unwrap().current().documents())
        .map(|documents| documents.content(DocumentName::Nftables).to_owned())
        .collect();
    let mut nft = Command::new("unshare");
    nft.args(["--net", "nft", "--check", "--file", "/dev/stdin"]);
    let Ok(mut child) = nft.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        return eprintln!("skipped: needs unshare");
    };
    // It may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(walls.concat().as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare: ") {
        return eprintln!("skipped: needs root and nft");
    }
    assert!(output.status.success(), "{said}");
}

#[test]
fn nobody_reads_a_private_key_in_a_log() {
    let router = full();
    let said = format!("{router:?} {:?}", router.documents());
    assert!(!said.contains("AAECAwQF") && said.contains("wireguard.conf"), "{said}");
    assert_eq!("AAECAwQF".parse::<PrivateKey>().unwrap_err(), BadKey);
}

#[test]
fn the_hash_is_that_of_sha256sum() {
    let documents = full().documents();
    let digest =
        |content: &str| -> String { sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect() };
    let by_name: BTreeMap<_, _> = documents.iter().map(|(name, content)| (name.file(), content)).collect();
    let lines: String = by_name.iter().map(|(name, content)| format!("{}  {name}\n", digest(content))).collect();
    assert_eq!(documents.hash().to_string(), digest(&lines));
}

#[test]
fn a_router_is_handed_what_it_lacks() {
    let documents = full().documents();
    let hashes: BTreeMap<_, _> =
        documents.hashes().iter().map(|(name, hash)| (name.file().to_owned(), hash.to_string())).collect();
    let read = |known: &BTreeMap<String, String>| -> serde_json::Value {
        serde_json::from_str(&documents.bundle(known)).unwrap()
    };
    let all = read(&BTreeMap::new());
    assert_eq!(all["hash"], documents.hash().to_string());
    for (name, content) in documents.iter() {
        assert_eq!(all["documents"][name.file()]["content"], content);
        assert_eq!(all["documents"][name.file()]["hash"], hashes[name.file()]);
    }
    let mut known = hashes;
    known.insert(DocumentName::Hosts.file().to_owned(), "another".to_owned());
    let some = read(&known);
    let sent: Vec<_> =
        some["documents"].as_object().unwrap().iter().filter(|(_, it)| it.get("content").is_some()).collect();
    assert_eq!(sent.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["dnsmasq.hosts"]);
}

#[test]
fn pieces_are_the_whole() {
    let bundle = "x€".repeat(50_000);
    let mut whole = Vec::<u8>::new();
    for (place, piece) in pieces(&bundle) {
        assert_eq!(place, whole.len());
        assert!(!piece.is_empty() && piece.len() <= 96 << 10, "an agent takes it");
        whole.extend(piece);
    }
    assert_eq!(whole, bundle.as_bytes());
    assert_eq!(pieces("").count(), 0);
}

#[test]
fn a_large_farm_is_small() {
    let mut router = full();
    for last in 2..=254 {
        let (name, group) = (format!("farm-a-workers-{last}").parse().ok(), "workers".parse().ok());
        router.machines.insert(number(&router, last), RouterMachine { name, group });
    }
    for entrance in 1..=1000 {
        let forward = Forward { target: number(&router, 2), port: port(22), sources: [net("192.0.2.0/24")].into() };
        router.forwards.insert(PublicPort { transport: Transport::Tcp, port: port(entrance) }, forward);
    }
    let bytes: usize = router.documents().iter().map(|(_, content)| content.len()).sum();
    assert!(bytes < 400_000, "{bytes} bytes");
}

proptest! {
    #[test]
    fn the_same_router_gets_the_same_documents(router in any_router()) {
        let (one, other) = (router.documents(), router.clone().documents());
        prop_assert!(one == other);
        prop_assert_eq!(one.hash(), other.hash());
    }

    #[test]
    fn every_forward_has_a_mark_of_its_own(router in any_router()) {
        let documents = router.documents();
        let rules = documents.content(DocumentName::Nftables);
        let marks: Vec<_> = rules.lines().filter(|line| line.contains(" dnat ip to ")).map(|line| {
            line.split_once("ct mark set ").unwrap().1.split(' ').next().unwrap()
        }).collect();
        let expected = if router.public.is_some() { router.forwards.len() + router.elastic.len() } else { 0 };
        prop_assert_eq!(marks.len(), expected);
        prop_assert_eq!(marks.iter().collect::<BTreeSet<_>>().len(), expected);
    }

    #[test]
    fn what_leads_into_the_farm_leads_to_its_machines(router in any_router()) {
        let documents = router.documents();
        for line in documents.content(DocumentName::Nftables).lines() {
            if let Some((_, target)) = line.split_once("dnat ip to ") {
                let address: Ipv4Addr = target.split(':').next().unwrap().parse().unwrap();
                prop_assert!(router.farm.number_of(address).is_some(), "{}", line);
            }
        }
    }

    #[test]
    fn no_name_outside_leads_into_the_farm_or_the_router(router in any_router()) {
        let documents = router.documents();
        for address in ["172.16.7.1", "172.16.7.254", "127.0.0.1", "0.0.0.0", "169.254.169.254", "255.255.255.255"] {
            prop_assert!(!is_answered(&documents, address), "{}", address);
        }
    }

    #[test]
    fn what_is_forwarded_by_default_is_dropped(router in any_router()) {
        let documents = router.documents();
        let rules = documents.content(DocumentName::Nftables);
        prop_assert!(rules.contains("type filter hook forward priority filter; policy drop;"));
        prop_assert!(rules.contains("type filter hook input priority filter; policy drop;"));
        prop_assert_eq!(rules.matches("policy accept").count(), 3, "NAT, and what drops forged senders");
    }
}
