//! A host in a namespace of its own: an outside client on a real link, containers, servers that say who they are.
//!
//! Everything lives in namespaces that only descriptors hold, so nothing is left behind, whatever fails.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, missing_docs, reason = "helpers of tests, outside of test functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use carrack_net::{Config, EndpointKey, Netns, Network, PortKey, PortTarget, Protocol, Tables};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How long the kernel may take to connect.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(5) * slow());
/// How long one waits for an answer that must not come.
pub const SILENCE: Duration = Duration::from_millis(500);
/// How long a loaded machine may take to come to a state, or a server of ours to answer.
static STATE_PATIENCE: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(60) * slow());

/// By what factor this machine is slower than others: an emulated one says so.
pub fn slow() -> u32 {
    std::env::var("CARRACK_TEST_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

pub struct Lab {
    pub host: Netns,
    pub outside: Netns,
    pub network: Option<Network>,
    pub containers: BTreeMap<Ipv4Addr, Container>,
    pub tables: Tables,
}

pub struct Container {
    pub key: EndpointKey,
    pub netns: Netns,
    _servers: Vec<Server>,
}

pub fn config() -> Config {
    Config {
        instance: "test".to_owned(),
        cluster: "10.192.0.0/10".parse().unwrap(),
        blocks: vec!["10.192.7.0/24".parse().unwrap()],
        mtu: Some(1500),
    }
}

pub fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 192, 7, last)
}

pub fn vip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 252, 0, last)
}

pub fn tcp(port: u16) -> PortKey {
    PortKey { host_ip: None, protocol: Protocol::Tcp, port }
}

/// Runs `ip` (or another tool) in this thread's namespace.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self::without_network();
        let network = lab.host.run(|| Network::open(config())).unwrap().unwrap();
        Self { network: Some(network), ..lab }
    }

    /// Only the host and its link to the outside.
    pub fn without_network() -> Self {
        // A container takes seven descriptors; a shell's soft limit of 1,024 is for programs that call select(2).
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let (host, outside) = (Netns::create().unwrap(), Netns::create().unwrap());
        // IPv6 addresses and their routes come seconds after their link: two inventories would differ by them.
        let no_ipv6 = "d=/proc/sys/net/ipv6/conf; [ ! -d $d ] || for c in all default; do echo 1 > $d/$c/disable_ipv6; done";
        for side in [&host, &outside] {
            side.run(|| sh(no_ipv6)).unwrap();
        }
        host.run(|| {
            sh("ip link set lo up && ip link add up0 type veth peer name up1");
            // A namespace without a name is named by our descriptor.
            sh(&format!("ip link set up1 netns /proc/{}/fd/{}", std::process::id(), outside.as_raw_fd()));
            sh(&format!("ip addr add {HOST_ADDRESS}/24 dev up0 && ip link set up0 up"));
        })
        .unwrap();
        outside
            .run(|| {
                sh(&format!(
                    "ip link set lo up && ip addr add {OUTSIDE_ADDRESS}/24 dev up1 && ip link set up1 up"
                ))
            })
            .unwrap();
        // The kernel notes it a moment after the other end is up.
        wait_for("the link is up", || match host.run(|| sh("ip -o link show up0")).unwrap() {
            text if text.contains("state UP") => Ok(()),
            text => Err(text),
        });
        Self { host, outside, network: None, containers: BTreeMap::new(), tables: Tables::default() }
    }

    pub fn net(&self) -> &Network {
        self.network.as_ref().unwrap()
    }

    /// Does something with the network in the host's namespace.
    pub fn on_host<T: Send>(&self, work: impl FnOnce(&Network) -> T + Send) -> T {
        let network = self.net();
        self.host.run(|| work(network)).unwrap()
    }

    /// A container in a group, with TCP and UDP servers on port 80 that answer with their address.
    pub fn container(&mut self, last: u8, groups: &[&str]) -> Netns {
        let netns = Netns::create().unwrap();
        let key = EndpointKey::new(format!("task{last}")).unwrap();
        let handle = self.on_host(|network| network.ensure_endpoint(&key, address(last), &netns)).unwrap();
        assert!(handle.made);
        let servers = vec![
            Server::tcp(&netns, 80, &address(last).to_string()),
            Server::udp(&netns, 80, &address(last).to_string()),
        ];
        self.tables.members.insert(address(last), groups.iter().map(|g| (*g).to_owned()).collect());
        self.containers.insert(address(last), Container { key, netns: netns.clone(), _servers: servers });
        netns
    }

    pub fn service(&mut self, last_vip: u8, endpoints: &[u8]) {
        self.tables.services.insert(vip(last_vip), endpoints.iter().copied().map(address).collect());
    }

    pub fn publish(&mut self, key: PortKey, endpoints: &[u8]) {
        let endpoints = endpoints.iter().copied().map(address).collect::<BTreeSet<_>>();
        self.tables.ports.insert(key, PortTarget { endpoints, port: 80 });
    }

    pub fn apply(&self) -> carrack_net::Report {
        self.on_host(|network| network.set_tables(&self.tables)).unwrap()
    }

    /// What `ip` and `nft` show of the host, for comparing before and after.
    pub fn inventory(&self) -> String {
        self.host
            .run(|| sh("ip -o link | sed 's/^[0-9]*: //' ; ip -o addr | sed 's/^[0-9]*: //'; ip route show table all; ip neigh show nud permanent; nft list ruleset"))
            .unwrap()
    }
}

/// A server that says who it is and who asks, then echoes lines. Its threads sleep until a client or the end comes.
pub struct Server {
    /// The other end is with all its threads: shut, it wakes them.
    end: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn tcp(netns: &Netns, port: u16, name: &str) -> Self {
        Self::tcp_at(netns, Ipv4Addr::UNSPECIFIED, port, name)
    }

    pub fn tcp_at(netns: &Netns, at: Ipv4Addr, port: u16, name: &str) -> Self {
        let listener = netns.run(|| TcpListener::bind((at, port))).unwrap().unwrap();
        // A client that is gone before it is accepted.
        listener.set_nonblocking(true).unwrap();
        let name = name.to_owned();
        Self::spawn(move |end| {
            while comes(&listener, end) {
                if let Ok((stream, peer)) = listener.accept() {
                    let (name, end) = (name.clone(), end.clone());
                    thread::spawn(move || serve(stream, peer, &name, &end));
                }
            }
        })
    }

    pub fn udp(netns: &Netns, port: u16, name: &str) -> Self {
        Self::udp_at(netns, Ipv4Addr::UNSPECIFIED, port, name)
    }

    pub fn udp_at(netns: &Netns, at: Ipv4Addr, port: u16, name: &str) -> Self {
        let socket = netns.run(|| UdpSocket::bind((at, port))).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        let name = name.to_owned();
        Self::spawn(move |end| {
            let mut buffer = [0; 64];
            while comes(&socket, end) {
                if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
                }
            }
        })
    }

    fn spawn(work: impl FnOnce(&Arc<UnixStream>) + Send + 'static) -> Self {
        let (end, theirs) = UnixStream::pair().unwrap();
        Self { end, thread: Some(thread::spawn(move || work(&Arc::new(theirs)))) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sleeps until something comes on the socket; false once the server ends.
fn comes(socket: &impl AsFd, end: &UnixStream) -> bool {
    let mut fds = [socket.as_fd(), end.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => fds[1].any() == Some(false),
        Err(error) => error == Errno::EINTR,
    }
}

fn serve(mut stream: TcpStream, peer: SocketAddr, name: &str, end: &UnixStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.write_all(format!("{name} {}\n", peer.ip()).as_bytes());
    let mut buffer = [0; 64];
    while comes(&stream, end) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                let _ = stream.write_all(&buffer[..length]);
            }
        }
    }
}

/// Who answered, and as whom it saw us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub server: String,
    pub client: String,
}

fn answer(text: &str) -> Answer {
    let (server, client) = text.trim().split_once(' ').unwrap();
    Answer { server: server.to_owned(), client: client.to_owned() }
}

/// Connects from a namespace and reads who answered.
pub fn ask(from: &Netns, to: Ipv4Addr, port: u16) -> io::Result<Answer> {
    connect(from, to, port).map(|(answer, _)| answer)
}

/// Whether nothing is there for somebody: what is dropped on the way is waited for only so long.
pub fn is_lost(from: &Netns, to: Ipv4Addr, port: u16) -> bool {
    from.run(|| TcpStream::connect_timeout(&SocketAddrV4::new(to, port).into(), SILENCE)).unwrap().is_err()
}

/// The same, keeping the connection.
pub fn connect(from: &Netns, to: Ipv4Addr, port: u16) -> io::Result<(Answer, BufReader<TcpStream>)> {
    let stream =
        from.run(|| TcpStream::connect_timeout(&SocketAddrV4::new(to, port).into(), *PATIENCE)).unwrap()?;
    stream.set_read_timeout(Some(*STATE_PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((answer(&line), reader))
}

/// Sends a line over an open connection and reads it back.
pub fn echo(connection: &mut BufReader<TcpStream>) -> io::Result<()> {
    connection.get_mut().write_all(b"ping\n")?;
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    assert_eq!(line, "ping\n");
    Ok(())
}

/// A UDP socket in a namespace, with a peer.
pub fn udp(from: &Netns, to: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = from
        .run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect((to, port)).unwrap();
            socket
        })
        .unwrap();
    socket.set_read_timeout(Some(*STATE_PATIENCE)).unwrap();
    socket
}

pub fn ask_udp(socket: &UdpSocket) -> io::Result<Answer> {
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(answer(std::str::from_utf8(&buffer[..length]).unwrap()))
}

/// Waits for a predicate; panics with its last word.
pub fn wait_for(what: &str, mut done: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + *STATE_PATIENCE;
    loop {
        match done() {
            Ok(()) => return,
            Err(status) if Instant::now() >= deadline => panic!("{what}: {status}"),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
