//! The data-plane process, live: in a network namespace of this process, with real sockets, kills and replacements.
//!
//! The binary has a main of its own because it plays three parts: the tests, the product binary (`dataplane`, the hidden
//! subcommand) and a daemon to be killed (`daemon DIR`).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test with its own main")]

mod dns_common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use carrack_net::dataplane::{DataPlane, DataPlaneConfig, DataPlaneError, Published, SUBCOMMAND, run};
use carrack_net::dns::DnsSnapshot;
use dns_common::*;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DNS: &str = "169.254.1.53:53";
const CLIENT: &str = "10.192.0.21";
/// Longest wait for anything that must happen.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(60) * slow());
/// How long a client waits for a reply, as the C library does by default.
static REPLY: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(5) * slow());

/// By what factor this machine is slower than others: an emulated one says so.
fn slow() -> u32 {
    std::env::var("CARRACK_TEST_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == SUBCOMMAND => {
            if let Err(error) = run(args) {
                let _ = writeln!(std::io::stderr(), "{error}");
                std::process::exit(1);
            }
        }
        Some(first) if first == "daemon" => daemon(Path::new(&args.next().unwrap())),
        Some(first) if first == "--list" => {}
        _ => tests(),
    }
}

/// A daemon that publishes once and then only lives.
fn daemon(dir: &Path) {
    runtime().block_on(async {
        let plane = DataPlane::ensure(config(dir)).await.unwrap();
        plane.publish(&world()).await.unwrap();
        println!("ready");
        std::future::pending::<()>().await;
    });
}

/// A test and its name.
type Test = (&'static str, fn(&Lab));

fn tests() {
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    ip_command(&["link", "set", "lo", "up"]);
    ip_command(&["address", "add", "169.254.1.53/32", "dev", "lo"]);
    ip_command(&["address", "add", "10.192.0.0/10", "dev", "lo"]);
    let tests: &[Test] = &[
        ("answers_by_udp_and_tcp_and_leaves_nothing", answers_by_udp_and_tcp_and_leaves_nothing),
        ("what_was_published_is_answered_when_publish_returns", what_was_published_is_answered),
        ("outlives_its_daemon_and_is_adopted", outlives_its_daemon_and_is_adopted),
        ("a_killed_process_is_back_within_a_second", a_killed_process_is_back_within_a_second),
        ("a_hung_process_is_replaced", a_hung_process_is_replaced),
        ("a_process_whose_files_are_gone_is_replaced", a_process_without_files_is_replaced),
        ("another_build_takes_over_without_losing_a_query", another_build_takes_over),
        ("started_alone_it_finds_its_snapshot", started_alone_it_finds_its_snapshot),
        ("a_broken_snapshot_file_is_survived_and_replaced", a_broken_snapshot_file_is_survived),
        ("an_address_in_use_is_an_error_that_says_so", an_address_in_use_is_an_error),
        ("forwards_by_the_hosts_file_as_it_changes", forwards_by_the_hosts_file),
    ];
    let filter: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let chosen: Vec<_> = tests
        .iter()
        .filter(|(name, _)| filter.is_empty() || filter.iter().any(|f| name.contains(f)))
        .collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (name, test) in &chosen {
        let lab = Lab::new();
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&lab))).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            println!("{}", std::fs::read_to_string(lab.path("dataplane.log")).unwrap_or_default());
            failed += 1;
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let passed = chosen.len() - failed;
    let filtered = tests.len() - chosen.len();
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out"
    );
    std::process::exit(i32::from(failed > 0));
}

fn ip_command(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().expect("needs iproute2").success(), "ip {args:?}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn config(dir: &Path) -> DataPlaneConfig {
    let config = DataPlaneConfig::new("/proc/self/exe", dir, ip("169.254.1.53"));
    DataPlaneConfig { resolv_conf: dir.with_extension("resolv.conf"), ..config }
}

/// One test's runtime directory; whatever happens, its process is gone afterwards.
struct Lab {
    root: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab { root: tempfile::tempdir().unwrap() }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("dp")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn config(&self) -> DataPlaneConfig {
        config(&self.dir())
    }

    /// Processes that serve from this directory.
    fn pids(&self) -> Vec<i32> {
        let dir = self.dir().to_string_lossy().into_owned();
        let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        });
        let ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("\0dataplane\0") && line.contains(&dir)
        };
        numbers.filter(ours).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < *PATIENCE, "not in {:?}: {what}", *PATIENCE);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn udp(from: &str, packet: &[u8]) -> std::io::Result<Message> {
    let socket = UdpSocket::bind((ip(from), 0))?;
    socket.set_read_timeout(Some(*REPLY))?;
    // Not connected, as a resolver that hears refusals would be: an unanswered query is a lost one.
    socket.send_to(packet, DNS)?;
    let mut buffer = [0; 4096];
    let (length, server) = socket.recv_from(&mut buffer)?;
    assert_eq!(server, DNS.parse::<SocketAddr>().unwrap());
    Message::from_vec(&buffer[..length]).map_err(std::io::Error::other)
}

fn tcp(packet: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(DNS)?;
    stream.set_read_timeout(Some(*REPLY))?;
    stream.write_all(&[&(packet.len() as u16).to_be_bytes()[..], packet].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    Message::from_vec(&reply).map_err(std::io::Error::other)
}

fn web_of(snapshot_vip: &str) -> DnsSnapshot {
    let mut world = world();
    world.services[0].vips = vec![ip(snapshot_vip)];
    world
}

fn answers_by_udp_and_tcp_and_leaves_nothing(lab: &Lab) {
    runtime().block_on(async {
        let plane = DataPlane::ensure(lab.config()).await.unwrap();
        let empty = udp(CLIENT, &query("web", RecordType::A)).unwrap();
        assert_eq!(empty.metadata.response_code, ResponseCode::Refused, "nothing is known yet");
        plane.publish(&world()).await.unwrap();
        assert_eq!(records(&udp(CLIENT, &query("web", RecordType::A)).unwrap()), ["10.252.0.1"]);
        let other = udp("10.192.1.21", &query("web", RecordType::A)).unwrap();
        assert_eq!(records(&other), ["10.252.0.4"], "the source address decides the view");
        let host = tcp(&query("tasks.cart.shop", RecordType::A)).unwrap();
        assert_eq!(records(&host), ["10.192.1.21", "10.192.1.22"]);
        let status = plane.status().await.unwrap();
        assert_eq!(lab.pids(), [status.pid]);
        assert_eq!((status.generation, status.stats.queries), (1, 4));
        // A silent connection holds up nothing and nobody.
        let idle = TcpStream::connect(DNS).unwrap();
        plane.stop().await.unwrap();
        drop(idle);
    });
    assert_eq!(lab.pids(), Vec::<i32>::new());
    let left: Vec<_> =
        std::fs::read_dir(lab.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["dataplane.log"]);
}

fn what_was_published_is_answered(lab: &Lab) {
    runtime().block_on(async {
        let plane = DataPlane::ensure(lab.config()).await.unwrap();
        for number in 1..=100 {
            let vip = format!("10.252.1.{number}");
            assert_eq!(plane.publish(&web_of(&vip)).await.unwrap(), Published::Acknowledged(number));
            assert_eq!(plane.publish(&web_of(&vip)).await.unwrap(), Published::Unchanged);
            assert_eq!(records(&udp(CLIENT, &query("web", RecordType::A)).unwrap()), [vip]);
        }
        plane.stop().await.unwrap();
    });
}

fn start_daemon(lab: &Lab) -> Child {
    let mut daemon =
        Command::new("/proc/self/exe").arg("daemon").arg(lab.dir()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    daemon
}

fn outlives_its_daemon_and_is_adopted(lab: &Lab) {
    let mut daemon = start_daemon(lab);
    let load = Load::start();
    let pids = lab.pids();
    assert_eq!(pids.len(), 1);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(records(&udp(CLIENT, &query("web", RecordType::A)).unwrap()), ["10.252.0.1"]);
    runtime().block_on(async {
        let plane = DataPlane::ensure(lab.config()).await.unwrap();
        assert_eq!(plane.status().await.unwrap().pid, pids[0], "adopted, not replaced");
        assert_eq!(plane.publish(&world()).await.unwrap(), Published::Unchanged);
        assert_eq!(plane.publish(&web_of("10.252.0.1")).await.unwrap(), Published::Unchanged);
        assert_eq!(plane.publish(&web_of("10.252.9.9")).await.unwrap(), Published::Acknowledged(2));
        assert_eq!(load.stop(), (0, String::new()));
        plane.stop().await.unwrap();
    });
}

fn a_killed_process_is_back_within_a_second(lab: &Lab) {
    let runtime = runtime();
    let plane = runtime.block_on(DataPlane::ensure(lab.config())).unwrap();
    runtime.block_on(plane.publish(&world())).unwrap();
    let load = Load::start();
    for _ in 0..3 {
        let pid = runtime.block_on(plane.status()).unwrap().pid;
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        until("another process serves", || {
            runtime.block_on(plane.status()).is_ok_and(|status| status.pid != pid && status.generation == 1)
        });
    }
    let most = 3 * load.threads.len();
    let (failed, errors) = load.stop();
    assert!(failed <= most, "at most what each client had in the killed process's hands: {failed} {errors}");
    until("the dead are reaped", || lab.pids().len() == 1);
    runtime.block_on(plane.stop()).unwrap();
}

fn a_hung_process_is_replaced(lab: &Lab) {
    let runtime = runtime();
    let plane = runtime.block_on(DataPlane::ensure(lab.config())).unwrap();
    runtime.block_on(plane.publish(&world())).unwrap();
    let pid = lab.pids()[0];
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    until("another process serves", || {
        let pids = lab.pids();
        pids.len() == 1 && pids[0] != pid
    });
    assert_eq!(records(&udp(CLIENT, &query("web", RecordType::A)).unwrap()), ["10.252.0.1"]);
    runtime.block_on(plane.stop()).unwrap();
}

fn a_process_without_files_is_replaced(lab: &Lab) {
    let mut daemon = start_daemon(lab);
    let pids = lab.pids();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    for name in ["control.sock", "pid", "lock", "dns.json"] {
        std::fs::remove_file(lab.path(name)).unwrap();
    }
    let runtime = runtime();
    let plane = runtime.block_on(DataPlane::ensure(lab.config())).unwrap();
    runtime.block_on(plane.publish(&world())).unwrap();
    assert_ne!(runtime.block_on(plane.status()).unwrap().pid, pids[0]);
    assert_eq!(lab.pids().len(), 1);
    assert_eq!(records(&udp(CLIENT, &query("web", RecordType::A)).unwrap()), ["10.252.0.1"]);
    runtime.block_on(plane.stop()).unwrap();
}

fn another_build_takes_over(lab: &Lab) {
    let slow = Upstream::start("127.0.0.2", "192.0.2.2", Duration::from_millis(50));
    std::fs::write(lab.config().resolv_conf, "nameserver 127.0.0.2\n").unwrap();
    let newer = lab.root.path().join("newer");
    std::fs::copy("/proc/self/exe", &newer).unwrap();
    let runtime = runtime();
    let plane = runtime.block_on(DataPlane::ensure(lab.config())).unwrap();
    runtime.block_on(plane.publish(&world())).unwrap();
    drop(plane);
    let load = Load::start();
    let mut pids = lab.pids();
    for exe in [newer, PathBuf::from("/proc/self/exe")] {
        let config = DataPlaneConfig { exe, ..lab.config() };
        let plane = runtime.block_on(DataPlane::ensure(config)).unwrap();
        let status = runtime.block_on(plane.status()).unwrap();
        assert!(!pids.contains(&status.pid) && status.generation == 1, "{status:?}");
        assert_eq!(runtime.block_on(plane.publish(&world())).unwrap(), Published::Unchanged);
        until("only one process is left", || lab.pids() == [status.pid]);
        pids.push(status.pid);
        drop(plane);
    }
    assert_eq!(load.stop(), (0, String::new()));
    drop(slow);
}

fn started_alone_it_finds_its_snapshot(lab: &Lab) {
    let mut daemon = start_daemon(lab);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let old = lab.pids();
    let start = || {
        let mut command = Command::new("/proc/self/exe");
        command.arg(SUBCOMMAND).arg("--runtime-dir").arg(lab.dir()).args(["--listen", "169.254.1.53"]);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    // Beside a running one it takes over; after a dead one it binds.
    let mut second = start();
    until("the second took over", || {
        lab.pids() == [second.id() as i32] && !old.contains(&(second.id() as i32))
    });
    assert_eq!(records(&udp(CLIENT, &query("web", RecordType::A)).unwrap()), ["10.252.0.1"]);
    second.kill().unwrap();
    second.wait().unwrap();
    let mut third = start();
    until("the third serves", || {
        let named = std::fs::read(lab.path("pid")).unwrap_or_default();
        let named: Option<serde_json::Value> = serde_json::from_slice(&named).ok();
        named.is_some_and(|named| named["pid"] == third.id())
    });
    assert_eq!(records(&udp(CLIENT, &query("web", RecordType::A)).unwrap()), ["10.252.0.1"]);
    kill(Pid::from_raw(third.id() as i32), Signal::SIGTERM).unwrap();
    assert!(third.wait().unwrap().success());
}

fn a_broken_snapshot_file_is_survived(lab: &Lab) {
    std::fs::create_dir(lab.dir()).unwrap();
    for (number, broken) in ["{", "", r#"{"generation":5,"snapshot":{"version":99}}"#].into_iter().enumerate()
    {
        std::fs::write(lab.path("dns.json"), broken).unwrap();
        runtime().block_on(async {
            let plane = DataPlane::ensure(lab.config()).await.unwrap();
            assert!(matches!(plane.publish(&world()).await.unwrap(), Published::Acknowledged(_)), "{number}");
            assert_eq!(records(&udp(CLIENT, &query("web", RecordType::A)).unwrap()), ["10.252.0.1"]);
            plane.stop().await.unwrap();
        });
    }
}

fn an_address_in_use_is_an_error(lab: &Lab) {
    let _holder = UdpSocket::bind(DNS).unwrap();
    let error = runtime().block_on(DataPlane::ensure(lab.config())).unwrap_err();
    let DataPlaneError::Exited { log, .. } = error else { panic!("{error}") };
    assert!(log.contains("cannot serve dns on 169.254.1.53:53") && log.contains("in use"), "{log}");
}

fn forwards_by_the_hosts_file(lab: &Lab) {
    let _first = Upstream::start("127.0.0.2", "192.0.2.2", Duration::ZERO);
    let _second = Upstream::start("127.0.0.3", "192.0.2.3", Duration::ZERO);
    let resolv_conf = lab.config().resolv_conf;
    std::fs::write(&resolv_conf, "nameserver 169.254.1.53\nnameserver 127.0.0.2\n").unwrap();
    let runtime = runtime();
    let plane = runtime.block_on(DataPlane::ensure(lab.config())).unwrap();
    runtime.block_on(plane.publish(&world())).unwrap();
    let answer =
        |number: usize| records(&udp(CLIENT, &query(&format!("n{number}.example"), RecordType::A)).unwrap());
    assert_eq!(answer(0), ["192.0.2.2"]);
    std::fs::write(&resolv_conf, "nameserver 127.0.0.3\n").unwrap();
    let mut number = 0;
    until("the other resolver is asked", || {
        number += 1;
        answer(number) == ["192.0.2.3"]
    });
    assert_eq!(answer(0), ["192.0.2.2"], "what is kept is kept");
    assert_eq!(records(&tcp(&query("t.example", RecordType::A)).unwrap()), ["192.0.2.3"]);
    runtime.block_on(plane.stop()).unwrap();
}

/// A resolver that says the same to everything.
struct Upstream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    fn start(address: &str, answer: &str, delay: Duration) -> Upstream {
        let socket = UdpSocket::bind((ip(address), 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, answer) = (stop.clone(), answer.parse().unwrap());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                std::thread::sleep(delay);
                let mut message = Message::from_vec(&buffer[..length]).unwrap();
                message.metadata.message_type = MessageType::Response;
                let name = message.queries[0].name().clone();
                message.add_answer(Record::from_rdata(name, 60, RData::A(A(answer))));
                socket.send_to(&message.to_vec().unwrap(), from).unwrap();
            }
        });
        Upstream { stop, thread: Some(thread) }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Clients that ask without pause by UDP and TCP, for our names and (if an upstream runs) for others.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(usize, usize, String)>>,
}

impl Load {
    fn start() -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let forward = UdpSocket::bind("127.0.0.2:53").is_err();
        let kinds = ["udp", "tcp", "forward"].into_iter().filter(|kind| *kind != "forward" || forward);
        let client = |kind: &'static str| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (mut sent, mut failed, mut errors) = (0, 0, String::new());
                while !stop.load(Ordering::Relaxed) {
                    sent += 1;
                    let result = match kind {
                        "udp" => udp(CLIENT, &query("web", RecordType::A)),
                        "tcp" => tcp(&query("web.hello", RecordType::A)),
                        _ => udp(CLIENT, &query(&format!("f{sent}.example"), RecordType::A)),
                    };
                    match result {
                        Ok(reply) if reply.answers.len() == 1 => {}
                        Ok(reply) => {
                            failed += 1;
                            errors = format!("{kind}: {:?}", reply.metadata.response_code);
                        }
                        Err(error) => {
                            failed += 1;
                            errors = format!("{kind}: {error}");
                        }
                    }
                }
                (sent, failed, errors)
            })
        };
        let threads = kinds.map(client).collect();
        Load { stop, threads }
    }

    /// How many queries failed, and how the last one did.
    fn stop(self) -> (usize, String) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut all_failed, mut all_errors) = (0, String::new());
        for thread in self.threads {
            let (sent, failed, errors) = thread.join().unwrap();
            assert!(sent > 0);
            all_failed += failed;
            all_errors.push_str(&errors);
        }
        (all_failed, all_errors)
    }
}
