//! A client population that counts what fails: a new connection for each request, its name resolved anew when there is one.
//!
//! A request has failed when it got anything but a whole `200` answer within [`REQUEST_TIMEOUT`], times [`slow`]. Nothing is retried.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::wait::slow;

/// Time for one request with its look-up and connection.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Errors kept with their text.
const ERRORS_KEPT: usize = 20;

/// Where requests go.
#[derive(Debug, Clone)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A name, asked of this server before each connection.
    Name {
        /// The name.
        name: String,
        /// The DNS server.
        server: SocketAddr,
        /// The port of the service.
        port: u16,
    },
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub target: Target,
    /// Path of the request.
    pub path: String,
    /// Clients at once, each one request after the other.
    pub clients: usize,
    /// Pause of a client between two requests.
    pub pause: Duration,
    /// The network namespace the clients live in, for example `/proc/PID/ns/net`.
    pub netns: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Of these, not answered as they should be.
    pub failed: u64,
    /// The first errors, as `ms since start: text`.
    pub errors: Vec<String>,
    /// Answers by their first line.
    pub answers: BTreeMap<String, u64>,
    /// Longest request, milliseconds.
    pub slowest_ms: u64,
}

/// Runs the load until `stop` is set; gives what came of it.
pub fn run(load: &Load, stop: &AtomicBool) -> io::Result<Report> {
    run_at_least(0, load, stop)
}

fn run_at_least(least: u64, load: &Load, stop: &AtomicBool) -> io::Result<Report> {
    let start = Instant::now();
    let (sent, failed, slowest) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let details = Mutex::new((Vec::new(), BTreeMap::new()));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients)
            .map(|_| {
                scope.spawn(|| -> io::Result<()> {
                    enter(load)?;
                    while !stop.load(Ordering::Relaxed) || sent.load(Ordering::Relaxed) < least {
                        let begin = Instant::now();
                        let outcome = request(load);
                        sent.fetch_add(1, Ordering::Relaxed);
                        slowest.fetch_max(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
                        let mut details =
                            details.lock().map_err(|_| io::Error::other("a client panicked"))?;
                        match outcome {
                            Ok(answer) => *details.1.entry(answer).or_insert(0) += 1,
                            Err(error) => {
                                failed.fetch_add(1, Ordering::Relaxed);
                                if details.0.len() < ERRORS_KEPT {
                                    details.0.push(format!("{} ms: {error}", start.elapsed().as_millis()));
                                }
                            }
                        }
                        drop(details);
                        std::thread::sleep(load.pause);
                    }
                    Ok(())
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().map_err(|_| io::Error::other("a client panicked"))?)
    })?;
    let (errors, answers) = details.into_inner().map_err(|_| io::Error::other("a client panicked"))?;
    Ok(Report {
        sent: sent.into_inner(),
        failed: failed.into_inner(),
        errors,
        answers,
        slowest_ms: slowest.into_inner(),
    })
}

/// Runs the load beside `work` and ends it when `work` is done, also when it panics.
pub fn beside<T>(load: &Load, work: impl FnOnce() -> T) -> io::Result<(Report, T)> {
    beside_at_least(0, load, work)
}

/// [`beside`], but so many requests are sent on a slow machine, too: the load goes on after the work until then.
pub fn beside_at_least<T>(least: u64, load: &Load, work: impl FnOnce() -> T) -> io::Result<(Report, T)> {
    struct StopAtEnd<'a>(&'a AtomicBool);
    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| run_at_least(least, load, &stop));
        let guard = StopAtEnd(&stop);
        let done = work();
        drop(guard);
        let report = clients.join().map_err(|_| io::Error::other("a client panicked"))??;
        Ok((report, done))
    })
}

/// One request from this thread's network namespace; the first line of the body.
pub fn request(load: &Load) -> io::Result<String> {
    let deadline = Instant::now() + REQUEST_TIMEOUT * slow();
    let left = || {
        deadline
            .checked_duration_since(Instant::now())
            .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
    };
    let address = match &load.target {
        Target::Address(address) => *address,
        Target::Name { name, server, port } => SocketAddr::new(resolve(name, *server, left()?)?, *port),
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_read_timeout(Some(left()?))?;
    stream.set_write_timeout(Some(left()?))?;
    write!(stream, "GET {} HTTP/1.0\r\nHost: carrack\r\n\r\n", load.path)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(format!("cut answer {answer:?}")))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.lines().next().unwrap_or_default().to_owned()),
        _ => Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned())),
    }
}

fn enter(load: &Load) -> io::Result<()> {
    match &load.netns {
        Some(path) => nix::sched::setns(File::open(path)?, nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from),
        None => Ok(()),
    }
}

/// Asks `server` for the first A record of `name`.
pub fn resolve(name: &str, server: SocketAddr, timeout: Duration) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(timeout.min(REQUEST_TIMEOUT * slow())))?;
    socket.connect(server)?;
    let id = std::process::id() as u16 ^ socket.local_addr()?.port();
    socket.send(&query(id, name))?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer)?;
    first_address(id, &buffer[..length])
        .ok_or_else(|| io::Error::other(format!("{name}: no address in the answer")))
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn first_address(id: u16, answer: &[u8]) -> Option<IpAddr> {
    let number = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    if number(0)? != id || answer.get(3)? & 0x0f != 0 {
        return None;
    }
    let mut at = skip_name(answer, 12)? + 4;
    for _ in 0..number(6)? {
        at = skip_name(answer, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        if kind == 1 && length == 4 {
            let octets: [u8; 4] = answer.get(at + 10..at + 14)?.try_into().ok()?;
            return Some(Ipv4Addr::from(octets).into());
        }
        at += 10 + length;
    }
    None
}

fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_behind_a_compressed_name_and_a_cname() {
        let mut answer = query(7, "web.hello");
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[7] = 2;
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 2, 0xc0, 12]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 1, 2, 3]);
        assert_eq!(first_address(7, &answer), Some("10.1.2.3".parse().unwrap()));
        assert_eq!(first_address(8, &answer), None);
        for cut in 0..answer.len() {
            let _ = first_address(7, &answer[..cut]);
        }
    }
}
