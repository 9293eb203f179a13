//! A registry of a few lines that answers what a test tells it to, for what a real one does not do.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A request as received: method, path, the `Authorization` header and the first byte of a `Range`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<usize>,
}

#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Bytes of the body after which the connection is cut.
    pub(crate) cut: Option<usize>,
    /// The body comes in pieces of this many bytes, with a short wait between them.
    pub(crate) piece: Option<usize>,
    /// After the cut the connection stays open, silent, until the client hangs up.
    pub(crate) stall: bool,
}

impl Answer {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self { status: 200, body: body.to_vec(), ..Self::default() }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// The part of `body` that `request` asks for.
    pub(crate) fn range(request: &Request, body: &[u8]) -> Self {
        match request.range {
            Some(start) if start < body.len() => {
                let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
                Self { status: 206, body: body[start..].to_vec(), ..Self::default() }
                    .header("Content-Range", range)
            }
            Some(_) => Self::status(416),
            None => Self::ok(body),
        }
    }

    /// No answer: the connection is closed.
    pub(crate) fn hang_up() -> Self {
        Self::default()
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Wait between two pieces of a slow body.
const PIECE_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// Serves until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(SocketAddr, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, log) = (Arc::clone(&stop), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for stream in listener.incoming() {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let (answer, log) = (&answer, &log);
                    scope.spawn(move || serve(stream.unwrap(), address, answer, log));
                }
            });
        });
        Self { address, requests, stop, thread: Some(thread) }
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.path.contains(path)).count()
    }
}

fn serve(
    mut stream: std::net::TcpStream,
    address: SocketAddr,
    answer: &impl Fn(SocketAddr, &Request) -> Answer,
    log: &Mutex<Vec<Request>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let (mut authorization, mut range) = (None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        match header.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = Some(value.to_owned())
            }
            Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                let start = value.strip_prefix("bytes=").and_then(|value| value.strip_suffix('-'));
                range = start.and_then(|start| start.parse().ok());
            }
            Some(_) => {}
            None => break,
        }
    }
    let request = Request { method, path, authorization, range };
    log.lock().unwrap().push(request.clone());
    let answer = answer(address, &request);
    if answer.status == 0 {
        return;
    }
    let mut head = format!(
        "HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    // The client may hang up early, which is its right.
    let _ = stream.write_all(head.as_bytes());
    if request.method == "HEAD" {
        return;
    }
    let body = &answer.body[..answer.cut.unwrap_or(answer.body.len()).min(answer.body.len())];
    for piece in body.chunks(answer.piece.unwrap_or(body.len()).max(1)) {
        if stream.write_all(piece).is_err() {
            return;
        }
        if answer.piece.is_some() {
            std::thread::sleep(PIECE_PAUSE);
        }
    }
    if answer.stall {
        // Ends when the client closes its side.
        let _ = reader.read_line(&mut String::new());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
