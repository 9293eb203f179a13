//! A server with canned answers on a unix socket, and the binary run against it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use carrack_api::stream::Frame;
use serde::Serialize;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: &'static str,
    kind: &'static str,
    body: Vec<u8>,
}

/// A JSON answer.
pub fn json(value: &impl Serialize) -> Answer {
    Answer { status: "200 OK", kind: "application/json", body: serde_json::to_vec(value).unwrap() }
}

/// A problem.
pub fn problem(problem: &carrack_api::Problem) -> Answer {
    let status = match problem.status {
        404 => "404 Not Found",
        409 => "409 Conflict",
        412 => "412 Precondition Failed",
        _ => "500 Internal Server Error",
    };
    Answer { status, kind: "application/problem+json", body: serde_json::to_vec(problem).unwrap() }
}

/// Server-sent events.
pub fn events(values: &[impl Serialize]) -> Answer {
    let mut body = Vec::new();
    for value in values {
        write!(body, "event: stack\ndata: {}\n\n", serde_json::to_string(value).unwrap()).unwrap();
    }
    Answer { status: "200 OK", kind: "text/event-stream", body }
}

/// Frames.
pub fn frames(frames: &[Frame]) -> Answer {
    let body = frames.iter().flat_map(Frame::encode).collect();
    Answer { status: "200 OK", kind: "application/vnd.carrack.frames", body }
}

/// A connection that becomes a stream of frames.
pub fn upgrade(frames: &[Frame]) -> Answer {
    let body = frames.iter().flat_map(Frame::encode).collect();
    Answer { status: "101 Switching Protocols", kind: "", body }
}

type Routes = BTreeMap<String, VecDeque<Answer>>;

/// A server with canned answers: several for one route are given in turn, the last one for ever.
#[derive(Debug)]
pub struct Server {
    directory: tempfile::TempDir,
    routes: Arc<Mutex<Routes>>,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What a run of the binary did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Server {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let routes: Arc<Mutex<Routes>> = Arc::default();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (known, seen) = (routes.clone(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (known, seen) = (known.clone(), seen.clone());
                std::thread::spawn(move || answer(stream.unwrap(), &known, &seen));
            }
        });
        Self { directory, routes, requests }
    }

    /// Answers `GET /v1/stacks` so.
    pub fn on(&self, route: &str, answer: Answer) -> &Self {
        self.routes.lock().unwrap().entry(route.into()).or_default().push_back(answer);
        self
    }

    /// All requests so far: method, path, headers and body.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with_input(arguments, b"")
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_carrack"))
            .args(arguments)
            .env("CARRACK_HOST", self.directory.path().join("s"))
            .env("HOME", self.directory.path())
            .env_remove("DOCKER_CONFIG")
            .env(
                "PATH",
                format!("{}/bin:{}", self.directory.path().display(), std::env::var("PATH").unwrap()),
            )
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that has refused its arguments by now reads nothing.
        match child.stdin.take().unwrap().write_all(input) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => panic!("its input: {error}"),
            _ => {}
        }
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn answer(mut stream: UnixStream, routes: &Mutex<Routes>, requests: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 65536];
    let (head, body_start) = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break (String::from_utf8_lossy(&bytes[..end]).into_owned(), end + 4);
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    };
    let header = |name: &str| {
        head.lines()
            .filter_map(|l| l.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    };
    let length: usize = header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    let chunked = header("transfer-encoding").is_some();
    while (chunked && !bytes.ends_with(b"0\r\n\r\n")) || bytes.len() < body_start + length {
        let read = stream.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..read]);
    }
    let route = head.lines().next().unwrap().rsplit_once(' ').unwrap().0.to_owned();
    requests.lock().unwrap().push(String::from_utf8_lossy(&bytes).into_owned());
    let found = {
        let mut routes = routes.lock().unwrap();
        routes.get_mut(&route).and_then(|answers| match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        })
    };
    let found = found.unwrap_or_else(|| {
        problem(&carrack_api::Problem::not_found("no-route", format!("no canned answer for {route}")))
    });
    let Answer { status, kind, body } = found;
    if status.starts_with("101") {
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: carrack-stream\r\n\r\n",
            )
            .unwrap();
        stream.write_all(&body).unwrap();
        // The client ends the stream once it has seen the result.
        while stream.read(&mut chunk).is_ok_and(|read| read > 0) {}
        return;
    }
    write!(stream, "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n").unwrap();
    stream.write_all(&body).unwrap();
}
