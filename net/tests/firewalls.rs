//! Firewalls beside us, as Docker, ufw, firewalld and administrators write them: our traffic passes, theirs stays.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod lab;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use carrack_api::fact::Verdict;
use carrack_net::doctor::examine;
use carrack_net::model::DNS_ADDRESS;
use carrack_net::watch::Change;
use carrack_net::{Netns, Network};
use lab::{HOST_ADDRESS, Lab, OUTSIDE_ADDRESS, Server, address, ask, is_lost, sh, tcp, vip, wait_for};

/// As `iptables-nft` stores them: xtables matches, counters, native comparisons of links.
const DOCKER: &str = "
    iptables-nft -P FORWARD DROP
    iptables-nft -N DOCKER; iptables-nft -N DOCKER-USER
    iptables-nft -N DOCKER-ISOLATION-STAGE-1; iptables-nft -N DOCKER-ISOLATION-STAGE-2
    iptables-nft -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
    iptables-nft -A DOCKER-ISOLATION-STAGE-1 -j RETURN
    iptables-nft -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
    iptables-nft -A DOCKER-ISOLATION-STAGE-2 -j RETURN
    iptables-nft -A DOCKER-USER -j RETURN
    iptables-nft -A FORWARD -j DOCKER-USER
    iptables-nft -A FORWARD -j DOCKER-ISOLATION-STAGE-1
    iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables-nft -A FORWARD -o docker0 -j DOCKER
    iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT";

/// The skeleton of ufw with a forward policy of reject.
const UFW: &str = "
    iptables-nft -P INPUT DROP; iptables-nft -P FORWARD DROP
    for c in before-input not-local after-input reject-input before-forward user-forward reject-forward; do iptables-nft -N ufw-$c; done
    iptables-nft -A ufw-before-input -i lo -j ACCEPT
    iptables-nft -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables-nft -A ufw-before-input -m conntrack --ctstate INVALID -j DROP
    iptables-nft -A ufw-before-input -j ufw-not-local
    iptables-nft -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
    iptables-nft -A ufw-not-local -j DROP
    iptables-nft -A ufw-reject-input -j REJECT
    iptables-nft -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    iptables-nft -A ufw-before-forward -j ufw-user-forward
    iptables-nft -A ufw-reject-forward -j REJECT
    for c in before-input after-input reject-input; do iptables-nft -A INPUT -j ufw-$c; done
    for c in before-forward reject-forward; do iptables-nft -A FORWARD -j ufw-$c; done";

/// The shape of firewalld 1.3: zones, the default one of which rejects.
const FIREWALLD: &str = "nft -f - <<'END'
    table inet firewalld {
        chain filter_INPUT {
            type filter hook input priority filter + 10; policy accept;
            ct state { established, related } accept
            iifname \"lo\" accept
            ct state invalid drop
            jump filter_INPUT_ZONES
            reject with icmpx type admin-prohibited
        }
        chain filter_FORWARD {
            type filter hook forward priority filter + 10; policy accept;
            ct state { established, related } accept
            iifname \"lo\" accept
            ct state invalid drop
            jump filter_FORWARD_ZONES
            reject with icmpx type admin-prohibited
        }
        chain filter_INPUT_ZONES { goto filter_IN_public; }
        chain filter_FORWARD_ZONES { iifname \"up0\" oifname \"docker0\" accept; goto filter_FWD_public; }
        chain filter_IN_public { tcp dport 22 accept; reject with icmpx type admin-prohibited; }
        chain filter_FWD_public { oifname \"up9\" accept; reject with icmpx type admin-prohibited; }
    }
END";

/// By hand, as in the examples of nftables.
const PLAIN: &str = "nft -f - <<'END'
    table inet filter {
        chain input {
            type filter hook input priority filter; policy drop;
            ct state vmap { invalid : drop, established : accept, related : accept }
            iifname lo accept
            meta nfproto ipv6 accept
            tcp dport 22 accept
        }
        chain forward {
            type filter hook forward priority filter; policy drop;
            ct state vmap { established : accept, related : accept }
        }
    }
END";

/// Two containers behind a VIP and a published port, somebody outside, DNS.
struct Served {
    lab: Lab,
    client: Netns,
    _servers: [Server; 2],
}

fn served() -> Served {
    let mut lab = Lab::new();
    lab.container(2, &["web"]);
    let client = lab.container(3, &["web"]);
    lab.service(1, &[2]);
    lab.publish(tcp(8080), &[2]);
    lab.apply();
    lab.on_host(Network::settle);
    let servers =
        [Server::tcp(&lab.outside, 80, "outside"), Server::tcp_at(&lab.host, DNS_ADDRESS, 53, "dns")];
    Served { lab, client, _servers: servers }
}

impl Served {
    fn run(&self, command: &str) -> String {
        self.lab.host.run(|| sh(command)).unwrap()
    }

    /// What an audit says it did.
    fn audit(&self) -> Vec<String> {
        let report = self.lab.on_host(|network| network.audit()).unwrap();
        report.steps.iter().map(ToString::to_string).collect()
    }

    fn assert_served(&self) {
        let reached = |from: &Netns, to, port, server: &str| {
            assert_eq!(ask(from, to, port).unwrap().server, server, "{to}:{port}");
        };
        reached(&self.client, vip(1), 80, &address(2).to_string());
        reached(&self.client, OUTSIDE_ADDRESS, 80, "outside");
        reached(&self.client, DNS_ADDRESS, 53, "dns");
        reached(&self.lab.outside, HOST_ADDRESS, 8080, &address(2).to_string());
        reached(&self.lab.host, vip(1), 80, &address(2).to_string());
    }

    fn quiet(&self) {
        let said = self.audit();
        assert!(said.is_empty(), "{said:?}");
    }
}

/// The rules of everybody else, without counters.
const THEIRS: &str = "nft -s list ruleset | sed '/^table ip carrack/,/^}/d' | sed -E 's/counter packets [0-9]+ bytes [0-9]+/counter/'";

/// A firewall starts beside us, is reloaded, and we leave.
fn beside(program: &str, firewall: &str, reload: &str, accepts: usize) {
    let mut served = served();
    served.run(firewall);
    let before = served.run(THEIRS);
    let said = served.audit();
    assert_eq!(said.len(), accepts, "{said:?}");
    served.quiet();
    served.assert_served();
    // Theirs is as it was, but for our rules.
    let ours = |line: &&str| line.contains("\"carrack test ");
    let now = served.run(THEIRS);
    assert_eq!(now.lines().filter(ours).count(), accepts, "{now}");
    let without: Vec<&str> = now.lines().filter(|line| !ours(line)).collect();
    assert_eq!(without, before.lines().collect::<Vec<_>>());
    let facts = served.lab.host.run(examine).unwrap();
    let fact = facts.iter().find(|fact| fact.name == "other firewalls").unwrap();
    assert_eq!(fact.verdict, Verdict::Note);
    assert!(fact.found.starts_with(program), "{}", fact.found);
    served.run(reload);
    served.run(firewall);
    let before = served.run(THEIRS);
    assert_eq!(served.audit().len(), accepts);
    served.quiet();
    served.assert_served();
    let network = served.lab.network.take().unwrap();
    served.lab.host.run(|| network.remove_all()).unwrap().unwrap();
    assert_eq!(served.run(THEIRS), before);
}

const FLUSH_IPTABLES: &str =
    "iptables-nft -F; iptables-nft -X; iptables-nft -P INPUT ACCEPT; iptables-nft -P FORWARD ACCEPT";

#[test]
fn docker() {
    beside("Docker; the daemon", DOCKER, FLUSH_IPTABLES, 2);
}

#[test]
fn ufw() {
    beside("ufw; the daemon", UFW, FLUSH_IPTABLES, 3);
}

#[test]
fn firewalld() {
    beside("firewalld; the daemon", FIREWALLD, "nft delete table inet firewalld", 3);
}

#[test]
fn a_plain_ruleset() {
    beside("the daemon has", PLAIN, "nft delete table inet filter", 3);
}

#[test]
fn iptables_reads_and_edits_chains_that_hold_our_rules() {
    let served = served();
    served.run(DOCKER);
    served.audit();
    let rules = served.run("iptables-nft -S FORWARD");
    assert!(rules.contains("-i ck+") && rules.contains("-o ck+"), "{rules}");
    // As Docker does at its start: its jumps go to the head again.
    served.run("iptables-nft -D FORWARD -j DOCKER-USER && iptables-nft -I FORWARD -j DOCKER-USER");
    served.run("iptables-nft-save | iptables-nft-restore");
    served.assert_served();
}

#[test]
fn what_an_administrator_drops_stays_dropped() {
    let served = served();
    served.run(DOCKER);
    served.run(&format!("iptables-nft -I DOCKER-USER -d {OUTSIDE_ADDRESS} -j REJECT"));
    assert_eq!(served.audit().len(), 2);
    assert!(ask(&served.client, OUTSIDE_ADDRESS, 80).is_err());
    assert_eq!(ask(&served.client, vip(1), 80).unwrap().server, address(2).to_string());
}

#[test]
fn an_accept_behind_a_refusal_is_moved_before_it() {
    let served = served();
    served.run(DOCKER);
    served.audit();
    served.run("iptables-nft -I FORWARD -j REJECT");
    let said = served.audit();
    assert_eq!(said.len(), 4, "{said:?}");
    served.quiet();
    served.assert_served();
}

#[test]
fn a_container_speaks_only_as_itself_however_lax_the_host_is() {
    let served = served();
    served.run("for c in all default cktask3; do sysctl -qw net.ipv4.conf.$c.rp_filter=2; done");
    served.quiet();
    served.assert_served();
    // The neighbour's address: the server would answer to the neighbour, and count its packet.
    let spoof = format!("ip addr add {}/32 dev lo", address(9));
    served.client.run(|| sh(&spoof)).unwrap();
    let counted = "nft list chain ip carrack raw";
    assert!(served.run(counted).contains("containers speak only as themselves"));
    let from = std::net::SocketAddrV4::new(address(9), 0);
    let socket = served.client.run(|| std::net::UdpSocket::bind(from)).unwrap().unwrap();
    let host = served.lab.host.run(|| std::net::UdpSocket::bind((HOST_ADDRESS, 9999))).unwrap().unwrap();
    host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send_to(b"forged", (HOST_ADDRESS, 9999)).unwrap();
    let honest = served.client.run(|| std::net::UdpSocket::bind((address(3), 0))).unwrap().unwrap();
    honest.send_to(b"honest", (HOST_ADDRESS, 9999)).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = host.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"honest");
}

/// A table that only this process may change.
struct Owned(Child);

impl Owned {
    fn new(lab: &Lab, ruleset: &str) -> Self {
        let stdin = Stdio::piped();
        let child = lab.host.run(|| Command::new("nft").arg("-i").stdin(stdin).stdout(Stdio::null()).spawn());
        let mut child = child.unwrap().unwrap();
        child.stdin.as_mut().unwrap().write_all(ruleset.as_bytes()).unwrap();
        Self(child)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_table_that_nobody_else_may_change_is_named_with_what_helps() {
    let served = served();
    let ruleset = "add table inet firewalld { flags owner; }\n\
        add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }\n\
        add rule inet firewalld filter_FORWARD reject\n";
    let owned = Owned::new(&served.lab, ruleset);
    wait_for("the rule of the other table", || {
        let rules = served.run("nft list ruleset");
        if rules.contains("filter_FORWARD") && rules.contains("reject\n") { Ok(()) } else { Err(rules) }
    });
    // It cannot be helped, and the rest is not held up by it.
    served.quiet();
    let facts = served.lab.host.run(examine).unwrap();
    let blocked: Vec<_> = facts.iter().filter(|fact| fact.name == "blocked traffic").collect();
    assert_eq!(blocked.len(), 2, "{facts:#?}");
    for fact in blocked {
        assert_eq!(fact.verdict, Verdict::Missing);
        assert!(fact.found.contains("of chain inet firewalld filter_FORWARD"), "{}", fact.found);
        assert!(fact.hint.starts_with("firewall-cmd --permanent"), "{}", fact.hint);
    }
    drop(owned);
}

#[test]
fn the_doctor_names_a_drop_before_us_and_its_command_helps() {
    let served = served();
    served.run(
        "nft add table inet fw; nft 'add chain inet fw early { type filter hook prerouting priority -310; }'; \
         nft add rule inet fw early iifname != \"up0\" iifname != \"lo\" counter drop",
    );
    assert!(is_lost(&served.client, vip(1), 80));
    let blocked = || {
        let facts = served.lab.host.run(examine).unwrap();
        facts.into_iter().find(|fact| fact.name == "blocked traffic")
    };
    let fact = blocked().unwrap();
    assert!(fact.found.contains("of chain inet fw early (prerouting, priority -310)"), "{}", fact.found);
    served.run(&fact.hint);
    assert_eq!(blocked(), None);
    served.assert_served();
}

#[test]
fn the_doctor_names_a_policy_of_iptables_legacy_and_its_command_helps() {
    let served = served();
    served.run("iptables-legacy -P FORWARD DROP");
    let blocked = || {
        let facts = served.lab.host.run(examine).unwrap();
        facts.into_iter().find(|fact| fact.name == "blocked traffic")
    };
    assert!(is_lost(&served.client, vip(1), 80));
    let fact = blocked().unwrap();
    assert!(fact.found.contains("FORWARD of iptables-legacy"), "{}", fact.found);
    let warnings = served.lab.on_host(|network| network.audit()).unwrap().warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("iptables-legacy -I FORWARD -i ck+")),
        "{warnings:?}"
    );
    served.run(&fact.hint);
    assert_eq!(blocked(), None);
    served.assert_served();
}

#[test]
fn changes_by_others_are_told_at_once_and_our_own_are_not() {
    let mut served = served();
    let network = served.lab.network.take().unwrap();
    // A runtime whose only thread is in the host's namespace.
    served
        .lab
        .host
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut watch = network.watch().unwrap();
                let mut wait = async || {
                    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap()
                };
                sh("nft flush ruleset");
                assert_eq!(wait().await, Change::Ruleset);
                let repaired = network.audit().unwrap();
                assert_eq!(repaired.steps.len(), 1);
                // Our own repair is passed over: the next that is told is of somebody else.
                sh("ip route del 10.252.0.0/14");
                assert_eq!(wait().await, Change::Routes);
                assert_eq!(network.audit().unwrap().steps.len(), 1);
                sh("ip addr del 10.192.7.1/32 dev lo");
                assert_eq!(wait().await, Change::Routes);
                network.audit().unwrap();
                sh("sysctl -qw net.ipv4.ip_forward=0");
                assert_eq!(wait().await, Change::Routes);
                assert_eq!(network.audit().unwrap().steps.len(), 1);
                sh("iptables-nft -P FORWARD DROP");
                assert_eq!(wait().await, Change::Ruleset);
                assert_eq!(network.audit().unwrap().steps.len(), 2);
            });
        })
        .unwrap();
    served.lab.network = Some(network);
    served.assert_served();
}
