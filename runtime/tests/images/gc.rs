//! Garbage collection by disk use, with a disk that a test makes up.

use std::cell::Cell;
use std::fs;
use std::time::{Duration, SystemTime};

use carrack_runtime::image::{Digest, DiskUse, GcPolicy, Image};

use crate::fixture::{
    Layer, MANIFEST_TYPE, Store, blob_file, descriptor, files_archive, index, names, single,
};
use crate::pull::{content_of, pull};
use crate::server::Server;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("gc::the_least_recently_used_go_until_there_is_space", least_recently_used_go),
    ("gc::what_is_in_use_or_loaded_by_hand_stays", what_is_in_use_stays),
    ("gc::what_was_loaded_and_pulled_stays_whichever_came_first", loaded_and_pulled_stays),
];

const POLICY: GcPolicy = GcPolicy { high_percent: 80, low_percent: 70, min_age: Duration::from_secs(300) };

/// Pulls images of one shared layer and one of their own.
fn pulled(store: &Store, names: &[&str]) -> Vec<Image> {
    let image = |name: &&str| {
        let content = content_of(name.as_bytes());
        let server = Server::start(move |_, request| content.answer(request));
        pull(store, &format!("{}/{name}:1", server.address), None).unwrap()
    };
    names.iter().map(image).collect()
}

/// A disk of 100 bytes on which each image of the store takes five, beside `other` bytes.
fn disk(store: &Store, other: u64) -> impl Fn(&std::path::Path) -> std::io::Result<DiskUse> {
    move |_| {
        let used = other + 5 * store.store.list().unwrap().len() as u64;
        Ok(DiskUse { used, available: 100 - used })
    }
}

fn later(hours: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(hours * 3600)
}

fn least_recently_used_go() {
    let store = Store::new();
    let images = pulled(&store, &["a", "b", "c", "d"]);
    store.store.mark_used([&images[0].manifest].into_iter(), later(3)).unwrap();
    store.store.mark_used([&images[2].manifest].into_iter(), later(2)).unwrap();
    store.store.mark_used([&images[3].manifest].into_iter(), later(1)).unwrap();
    let partial = store.path("partial").join(Digest::of(b"x").hex());
    fs::write(&partial, "half a blob").unwrap();

    let below = store.store.collect_garbage(&POLICY, later(4), &|_| false, &disk(&store, 59)).unwrap();
    assert!(below.removed.images.is_empty() && partial.exists(), "79 % is not too full");
    let done = store.store.collect_garbage(&POLICY, later(4), &|_| false, &disk(&store, 60)).unwrap();
    assert_eq!(done.removed.images, [images[1].manifest.clone(), images[3].manifest.clone()]);
    assert_eq!((done.before.percent(), done.after.percent(), done.short), (80, 70, false));
    assert_eq!((done.removed.names.len(), done.removed.layers.len()), (2, 2), "the shared layer stays");
    assert!(done.removed.freed_bytes > 11 && !partial.exists());
    assert_eq!(names(&store.path("layers")).len(), 3);

    // The order survives a restart.
    let path = store.path("");
    drop(store.store);
    let reopened = carrack_runtime::image::ImageStore::open(&path, Default::default()).unwrap();
    let left = Cell::new(100);
    let full = |_: &std::path::Path| {
        left.set(left.get() - 20);
        Ok(DiskUse { used: left.get(), available: 100 - left.get() })
    };
    let done = reopened.collect_garbage(&POLICY, later(4), &|_| false, &full).unwrap();
    assert_eq!(done.removed.images, Vec::<Digest>::new(), "what fell away by itself is enough");
    left.set(110);
    let done = reopened.collect_garbage(&POLICY, later(4), &|_| false, &full).unwrap();
    assert_eq!(done.removed.images, Vec::<Digest>::new());
    left.set(115);
    let done = reopened.collect_garbage(&POLICY, later(4), &|_| false, &full).unwrap();
    assert_eq!(done.removed.images, [images[2].manifest.clone()]);
}

fn what_is_in_use_stays() {
    let store = Store::new();
    let images = pulled(&store, &["used", "fresh"]);
    store.load(&single(Layer::new().file("x", b"x"))).unwrap();
    store.store.mark_used([&images[1].manifest].into_iter(), later(4)).unwrap();
    let in_use = |manifest: &Digest| *manifest == images[0].manifest;
    let done = store.store.collect_garbage(&POLICY, later(4), &in_use, &disk(&store, 80)).unwrap();
    assert_eq!(done.removed.images, Vec::<Digest>::new());
    assert!(done.short && store.store.list().unwrap().len() == 3);
    let done = store.store.collect_garbage(&POLICY, later(5), &|_| false, &disk(&store, 80)).unwrap();
    assert_eq!(done.removed.images.len(), 2);
    assert!(store.get("test").is_some(), "nobody could bring it again");
}

fn loaded_and_pulled_stays() {
    for load_first in [true, false] {
        let store = Store::new();
        let content = content_of(b"both");
        let mut files = vec![
            ("index.json".to_owned(), index(&[descriptor(MANIFEST_TYPE, &content.manifest, "")])),
            blob_file(&content.manifest),
        ];
        files.extend(content.blobs.values().map(|blob| blob_file(blob)));
        let archive = files_archive(&files);
        let server = Server::start(move |_, request| content.answer(request));
        let name = format!("{}/x:1", server.address);
        if load_first {
            store.load(&archive).unwrap();
        }
        pull(&store, &name, None).unwrap();
        if !load_first {
            store.load(&archive).unwrap();
        }
        assert_eq!(store.store.list().unwrap().len(), 1, "it is one image");
        let done = store.store.collect_garbage(&POLICY, later(5), &|_| false, &disk(&store, 80)).unwrap();
        assert_eq!(done.removed.images, Vec::<Digest>::new(), "load first: {load_first}");
    }
}
