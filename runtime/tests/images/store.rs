//! The store over time: locks, crashes, removal, many layers.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use carrack_runtime::image::{Error, ImageReference, ImageStore, LoadOptions, ProgressSink, StoreOptions};

use crate::fixture::{Layer, Store, archive, gzip, names, single};
use crate::pull::run;
use crate::registry::DEADLINE;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("store::a_second_process_is_refused", a_second_process_is_refused),
    ("store::a_killed_load_leaves_no_visible_image", a_killed_load_leaves_no_visible_image),
    ("store::a_killed_unpack_child_leaves_nothing", a_killed_unpack_child_leaves_nothing),
    ("store::removal_frees_what_nothing_else_needs", removal_frees_what_nothing_else_needs),
    ("store::images_in_use_keep_their_files_until_pruned", images_in_use_keep_their_files),
    ("store::an_image_whose_layer_vanished_is_forgotten", an_image_whose_layer_vanished_is_forgotten),
    ("store::a_hundred_and_twenty_layers_mount", a_hundred_and_twenty_layers_mount),
];

/// The argument that makes this binary load from its standard input, to be killed meanwhile.
const CRASH_CHILD: &str = "__crash-test-load";

/// Runs the crash child if that is what this process is.
pub(crate) fn dispatch_crash_child() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some(CRASH_CHILD) {
        let store = ImageStore::open(Path::new(&arguments[2]), StoreOptions::default()).unwrap();
        let loaded = store.load(std::io::stdin().lock(), &LoadOptions::default(), &ProgressSink::ignore());
        std::process::exit(i32::from(loaded.is_err()));
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_second_process_is_refused() {
    let store = Store::new();
    let path = store.path("");
    assert!(matches!(ImageStore::open(&path, StoreOptions::default()), Err(Error::Locked { .. })));
    let dir = store.dir;
    drop(store.store);
    ImageStore::open(&path, StoreOptions::default()).unwrap();
    drop(dir);
}

fn a_killed_load_leaves_no_visible_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let noise: Vec<u8> =
        (0..400_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let data = archive(
        "test",
        &[Layer::new().file("a", &noise).build(), Layer::new().file("b", &noise).build()],
        gzip,
    );
    let child =
        Command::new("/proc/self/exe").arg(CRASH_CHILD).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
    let mut child = Killed(child);
    let mut stdin = child.0.stdin.take().unwrap();
    stdin.write_all(&data[..data.len() * 2 / 3]).unwrap();
    let started = Instant::now();
    while !path.join("tmp").is_dir() || names(&path.join("tmp")).is_empty() {
        assert!(started.elapsed() < *DEADLINE, "the load never began to write");
        std::thread::yield_now();
    }
    drop(child);
    assert!(!names(&path.join("tmp")).is_empty(), "it was killed in the middle of a blob");

    let store = ImageStore::open(&path, StoreOptions::default()).unwrap();
    assert!(store.list().unwrap().is_empty());
    for part in ["tmp", "blobs", "layers"] {
        assert_eq!(names(&path.join(part)), Vec::<String>::new(), "swept when the store opens");
    }
    store.load(&data[..], &LoadOptions::default(), &ProgressSink::ignore()).unwrap();
}

fn a_killed_unpack_child_leaves_nothing() {
    let scripts = tempfile::tempdir().unwrap();
    // Written by another process: a descriptor of ours could be in the hands of a child that another test starts just then, and
    // what somebody has open for writing cannot be executed.
    let script = |name: &str, body: &str| -> PathBuf {
        let path = scripts.path().join(name);
        let write = r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1""#;
        run("sh", &["-c", write, "sh", path.to_str().unwrap(), body]);
        path
    };
    for (helper, reason) in [
        (script("killed", "kill -9 $$"), "killed by signal 9"),
        (script("silent", "exit 3"), "no valid report"),
        (script("liar", "echo '{\"Done\":1}'"), "no valid report"),
        (scripts.path().join("absent"), "cannot start"),
    ] {
        let store = Store::with(StoreOptions { helper, ..StoreOptions::default() });
        let error = store.load(&single(Layer::new().file("x", b"x"))).unwrap_err().to_string();
        assert!(error.contains(reason), "expected '{reason}' in: {error}");
        store.assert_empty(reason);
    }
}

fn removal_frees_what_nothing_else_needs() {
    let store = Store::new();
    let base = Layer::new().file("base", b"base").build();
    let own = Layer::new().file("own", b"own").build();
    store.load(&archive("one", std::slice::from_ref(&base), gzip)).unwrap();
    store.load(&archive("two", &[base, own], gzip)).unwrap();
    assert_eq!(names(&store.path("layers")).len(), 2, "the base is shared");
    let two = ImageReference::parse("two").unwrap();
    let alias = ImageReference::parse("alias:1").unwrap();
    store.store.tag(&store.get("two").unwrap().digest, &alias).unwrap();

    let removed = store.store.remove(&two, &|_| false).unwrap();
    assert_eq!((removed.names.len(), removed.images.len()), (1, 0), "another name still means it");
    let removed = store.store.remove(&alias, &|_| false).unwrap();
    assert_eq!((removed.images.len(), removed.layers.len()), (1, 1));
    assert!(removed.freed_bytes > 0);
    assert!(store.layer("one").join("base").exists());
    assert!(matches!(store.store.remove(&two, &|_| false), Err(Error::NotStored { .. })));

    let pinned = ImageReference::parse(&format!("one@{}", store.get("one").unwrap().digest)).unwrap();
    store.store.remove(&pinned, &|_| false).unwrap();
    store.assert_empty("all removed");
    assert_eq!(names(&store.path("l")), Vec::<String>::new());
}

fn images_in_use_keep_their_files() {
    let store = Store::new();
    store.load(&single(Layer::new().file("x", b"x"))).unwrap();
    let image = store.get("test").unwrap();
    let layer = store.layer("test");
    let in_use = |digest: &carrack_runtime::image::Digest| *digest == image.manifest;
    store.store.remove(&image.names[0], &in_use).unwrap();
    assert!(store.get("test").is_none() && layer.join("x").exists());
    // The supervisor of a running container may outlive this daemon and the next one.
    let path = store.path("");
    drop(store.store);
    let reopened = ImageStore::open(&path, StoreOptions::default()).unwrap();
    assert!(reopened.get_by_digest(&image.digest).unwrap().is_some() && layer.join("x").exists());
    assert_eq!(reopened.prune(&in_use).unwrap().images.len(), 0);
    assert_eq!(reopened.prune(&|_| false).unwrap().images.len(), 1);
    assert!(!layer.exists());
}

fn an_image_whose_layer_vanished_is_forgotten() {
    let store = Store::new();
    let data = single(Layer::new().file("x", b"x"));
    store.load(&data).unwrap();
    fs::remove_dir_all(store.layer("test")).unwrap();
    let path = store.path("");
    let dir = store.dir;
    drop(store.store);
    let reopened = ImageStore::open(&path, StoreOptions::default()).unwrap();
    assert!(reopened.list().unwrap().is_empty());
    reopened.load(&data[..], &LoadOptions::default(), &ProgressSink::ignore()).unwrap();
    assert_eq!(reopened.list().unwrap().len(), 1);
    drop(dir);
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn a_hundred_and_twenty_layers_mount() {
    let store = Store::new();
    let mut layers: Vec<_> = (0..119)
        .map(|number| Layer::new().file(&format!("f{number}"), b"x").file("top", b"old").build())
        .collect();
    layers.push(Layer::new().file("top", b"new").file(".wh.f5", b"").build());
    store.load(&archive("test", &layers, gzip)).unwrap();
    let image = store.get("test").unwrap();
    let short = store.store.short_layers(&image).unwrap();
    assert_eq!(short, store.store.short_layers(&image).unwrap(), "the names are stable");
    let options = format!("lowerdir={}", short.names.join(":"));
    assert!(options.len() < 4096, "{} bytes with names relative to the directory", options.len());
    for (name, layer) in short.names.iter().zip(store.store.layers(&image)) {
        assert_eq!(short.dir.join(name).canonicalize().unwrap(), layer);
    }

    let merged = store.dir.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let status = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(&merged)
        .current_dir(&short.dir)
        .status()
        .unwrap();
    let _mounted = Mounted(merged.clone());
    assert!(status.success());
    assert_eq!(fs::read(merged.join("top")).unwrap(), b"new");
    assert!(merged.join("f0").exists() && merged.join("f118").exists() && !merged.join("f5").exists());
}
