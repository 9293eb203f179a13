//! Registries that fail in the middle: cut, slow, overloaded, restarted; and pulls that are killed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use carrack_runtime::image::{
    Digest, Error, ImageReference, ImageStore, Progress, ProgressSink, StoreOptions,
};

use crate::fixture::{Layer, Store, config, manifest, names};
use crate::pull::{Content, block_on, content, pull};
use crate::registry::DEADLINE;
use crate::server::{Answer, Request, Server};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("faults::a_cut_blob_is_gone_on_with", a_cut_blob_is_gone_on_with),
    ("faults::a_killed_pull_is_gone_on_with", a_killed_pull_is_gone_on_with),
    ("faults::what_was_kept_is_not_believed", what_was_kept_is_not_believed),
    ("faults::a_registry_that_goes_down_is_tried_again_and_then_named", a_registry_that_goes_down),
    ("faults::a_busy_registry_is_waited_for_within_bounds", a_busy_registry_is_waited_for),
    ("faults::a_token_that_runs_out_is_renewed", a_token_that_runs_out_is_renewed),
    ("faults::a_slow_registry_is_slow_and_nothing_else", a_slow_registry),
];

/// The argument that makes this binary pull one image, to be killed meanwhile.
const PULL_CHILD: &str = "__fault-test-pull";

/// Runs the pull child if that is what this process is.
pub(crate) fn dispatch_pull_child() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some(PULL_CHILD) {
        let store = ImageStore::open(Path::new(&arguments[2]), StoreOptions::default()).unwrap();
        let reference = ImageReference::parse(&arguments[3]).unwrap();
        let pulled = block_on(store.pull(&reference, None, ProgressSink::ignore()));
        std::process::exit(i32::from(pulled.is_err()));
    }
}

/// One image with one large layer that does not compress.
fn large() -> (Content, Digest, usize) {
    let noise: Vec<u8> =
        (0..500_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = Layer::new().file("noise", &noise).build();
    let config = config(std::slice::from_ref(&layer));
    let manifest = manifest(&config, std::slice::from_ref(&layer));
    let (digest, size) = (Digest::of(&layer), layer.len());
    let blobs = [config, layer].map(|blob| (Digest::of(&blob).to_string(), blob)).into();
    (Content { manifest, blobs, layers: vec![digest.clone()] }, digest, size)
}

fn ranges(server: &Server, digest: &Digest) -> Vec<Option<usize>> {
    let requests = server.requests.lock().unwrap();
    let asked = requests.iter().filter(|request| request.path.ends_with(&digest.to_string()));
    asked.map(|request| request.range).collect()
}

fn a_cut_blob_is_gone_on_with() {
    for ranges_work in [true, false] {
        let (content, layer, size) = large();
        let served = AtomicUsize::new(0);
        let server = Server::start(move |_, request| {
            let mut answer = content.answer(request);
            if request.path.ends_with(&content.layers[0].to_string()) {
                if ranges_work {
                    answer = Answer::range(request, &answer.body);
                }
                // Three connections break, each further on than the one before.
                let count = served.fetch_add(1, Ordering::SeqCst);
                if count < 3 {
                    answer.cut = Some(300_000 + 100_000 * count);
                }
            }
            answer
        });
        let store = Store::new();
        let seen = Arc::new(Mutex::new(Vec::<Progress>::new()));
        let sink = Arc::clone(&seen);
        let reference = ImageReference::parse(&format!("{}/x:1", server.address)).unwrap();
        let progress = ProgressSink::new(move |now| sink.lock().unwrap().push(now));
        block_on(store.store.pull(&reference, None, progress)).unwrap();
        let ranges = ranges(&server, &layer);
        assert_eq!(ranges.len(), 4);
        assert!(ranges[0].is_none() && ranges[1..].iter().all(Option::is_some), "{ranges:?}");
        if ranges_work {
            let starts: Vec<_> = ranges.iter().flatten().collect();
            assert!(starts.is_sorted() && *starts[2] > 500_000 && *starts[2] < size, "{starts:?}");
        }
        let seen = seen.lock().unwrap();
        assert!(seen.iter().all(|now| now.received_bytes <= now.total_bytes.unwrap_or(u64::MAX)));
        let last = seen.last().unwrap();
        assert_eq!(Some(last.received_bytes), last.total_bytes, "what was fetched twice counts once");
        assert_eq!(names(&store.path("partial")), Vec::<String>::new());
    }
}

fn a_killed_pull_is_gone_on_with() {
    let (content, layer, size) = large();
    let alive = Arc::new(AtomicBool::new(false));
    let server = {
        let alive = Arc::clone(&alive);
        Server::start(move |_, request| {
            let mut answer = content.answer(request);
            if request.path.ends_with(&content.layers[0].to_string()) {
                answer = Answer::range(request, &answer.body);
                if !alive.load(Ordering::SeqCst) {
                    (answer.cut, answer.stall) = (Some(700_000), true);
                }
            }
            answer
        })
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, name) = (dir.path().join("images"), format!("{}/x:1", server.address));
    let mut child = Command::new("/proc/self/exe")
        .args([PULL_CHILD.as_ref(), path.as_os_str(), name.as_ref()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let partial = path.join("partial").join(layer.hex());
    let started = Instant::now();
    while fs::metadata(&partial).map_or(0, |metadata| metadata.len()) < 700_000 {
        let late = started.elapsed() > *DEADLINE;
        if late || child.try_wait().unwrap().is_some() {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the blob did not come so far");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    alive.store(true, Ordering::SeqCst);

    let store = ImageStore::open(&path, StoreOptions::default()).unwrap();
    assert!(store.list().unwrap().is_empty() && names(&path.join("blobs")).is_empty(), "nothing is visible");
    assert_eq!(names(&path.join("partial")).len(), 3, "the layer's start, the config, the manifest");
    let reference = ImageReference::parse(&name).unwrap();
    block_on(store.pull(&reference, None, ProgressSink::ignore())).unwrap();
    let ranges = ranges(&server, &layer);
    assert_eq!(ranges, [None, Some(700_000)], "of {size} bytes");
    assert_eq!(server.count("/blobs/"), 3, "the config was not fetched again");
}

fn what_was_kept_is_not_believed() {
    let (content, layer, size) = large();
    let server = Server::start(move |_, request| match content.answer(request) {
        answer if request.range.is_some() => Answer::range(request, &answer.body),
        answer => answer,
    });
    for kept in [vec![b'x'; 1000], vec![b'x'; size], vec![b'x'; size + 1]] {
        let store = Store::new();
        fs::write(store.path("partial").join(layer.hex()), &kept).unwrap();
        pull(&store, &format!("{}/x:1", server.address), None).unwrap();
        assert_eq!(names(&store.path("partial")), Vec::<String>::new(), "{}", kept.len());
    }
}

fn a_registry_that_goes_down() {
    let failing = |times: usize, how: fn() -> Answer| {
        let content = content();
        let asked = AtomicUsize::new(0);
        Server::start(move |_, request| {
            let blob = request.path.contains("/blobs/");
            if blob && asked.fetch_add(1, Ordering::SeqCst) < times { how() } else { content.answer(request) }
        })
    };
    for how in [Answer::hang_up, || Answer::status(503)] {
        let server = failing(2, how);
        pull(&Store::new(), &format!("{}/x:1", server.address), None).unwrap();

        let server = failing(usize::MAX, how);
        let store = Store::new();
        let name = format!("{}/x:1", server.address);
        let error = pull(&store, &name, None).unwrap_err();
        assert!(matches!(error, Error::Transport { .. } | Error::Registry { status: 503, .. }), "{error}");
        let text = error.to_string();
        assert_eq!(text.matches(&name).count(), 1, "{text}");
        assert_eq!(text.matches("127.0.0.1").count(), 1, "named once: {text}");
        assert!(store.store.list().unwrap().is_empty());
        assert_eq!(names(&store.path("tmp")), Vec::<String>::new());
        assert_eq!(server.count("/blobs/"), 5, "it is not asked for ever");
    }
}

fn a_busy_registry_is_waited_for() {
    let busy = |wait: &'static str| {
        let content = content();
        let asked = AtomicUsize::new(0);
        Server::start(move |_, request| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::status(429).header("Retry-After", wait),
            _ => content.answer(request),
        })
    };
    let server = busy("1");
    let store = Store::new();
    let seen = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let sink = Arc::clone(&seen);
    let reference = ImageReference::parse(&format!("{}/x:1", server.address)).unwrap();
    let progress = ProgressSink::new(move |now| sink.lock().unwrap().push(now));
    block_on(store.store.pull(&reference, None, progress)).unwrap();
    let waits: Vec<u32> = seen.lock().unwrap().iter().map(|now| now.waiting_seconds).collect();
    assert!(waits.iter().any(|wait| (1..=3).contains(wait)) && waits.last() == Some(&0), "{waits:?}");

    let server = busy("7200");
    let error = pull(&Store::new(), &format!("{}/x:1", server.address), None).unwrap_err();
    assert!(matches!(error, Error::Throttled { .. }), "{error}");
    assert!(error.to_string().contains("7200 s") && error.to_string().contains("log in"), "{error}");
    assert_eq!(server.count("/"), 1);
}

fn a_token_that_runs_out_is_renewed() {
    let content = content();
    let (issued, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let server = Server::start(move |address, request: &Request| {
        if request.path.starts_with("/token") {
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            return Answer::ok(format!(r#"{{"access_token":"t{number}"}}"#).as_bytes());
        }
        // Each token is good for two answers.
        let valid = issued.load(Ordering::SeqCst);
        let fresh = served.load(Ordering::SeqCst) < 2 * valid;
        if request.authorization == Some(format!("Bearer t{valid}")) && fresh {
            served.fetch_add(1, Ordering::SeqCst);
            return content.answer(request);
        }
        let challenge = format!(r#"Bearer realm="http://{address}/token",service="reg""#);
        Answer::status(401).header("WWW-Authenticate", challenge)
    });
    pull(&Store::new(), &format!("{}/x:1", server.address), None).unwrap();
    assert_eq!(server.count("/token"), 2, "four answers, two a token");
}

fn a_slow_registry() {
    let content = content();
    let server = Server::start(move |_, request| Answer { piece: Some(64), ..content.answer(request) });
    pull(&Store::new(), &format!("{}/x:1", server.address), None).unwrap();
}
