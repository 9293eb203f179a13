//! Archives made to harm: each is refused by name, leaves nothing behind and touches nothing outside.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use carrack_runtime::image::unpack::Limits;
use carrack_runtime::image::{Digest, Error, StoreOptions};
use tar::EntryType;

use crate::fixture::{
    Layer, MANIFEST_TYPE, Store, archive, blob_file, config, descriptor, files_archive, gzip, index,
    manifest, single,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("hostile::entries_that_leave_the_root_are_refused_by_name", entries_that_leave_the_root_are_refused),
    ("hostile::devices_and_steering_attributes_are_left_out", devices_and_attributes_are_left_out),
    ("hostile::bombs_are_stopped", bombs_are_stopped),
    ("hostile::truncated_streams_leave_nothing", truncated_streams_leave_nothing),
    ("hostile::content_that_is_not_what_was_promised_is_refused", wrong_content_is_refused),
    ("hostile::malformed_archives_are_refused", malformed_archives_are_refused),
];

fn entries_that_leave_the_root_are_refused() {
    let victim = tempfile::tempdir().unwrap();
    let secret = victim.path().join("secret");
    fs::write(&secret, "untouched").unwrap();
    let outside = victim.path().to_str().unwrap();
    let mut owner = Layer::header(EntryType::Regular, "owner");
    owner.set_uid(u64::from(u32::MAX));
    let mut odd = Layer::header(EntryType::Regular, "odd");
    odd.set_entry_type(EntryType::new(b'?'));
    let long = format!("{}x", "d/".repeat(45));
    let deep = (0..10).fold(String::new(), |path, _| path + &long[..90]);
    let cases: Vec<(&str, Layer, &str)> = vec![
        ("../x", Layer::new().file("../x", b""), "leaves the root"),
        ("a/../../x", Layer::new().file("a/../../x", b""), "leaves the root"),
        ("/etc/x", Layer::new().file("/etc/x", b""), "absolute"),
        ("l/secret", Layer::new().symlink("l", outside).file("l/secret", b"owned"), "symlink"),
        ("l/d/x", Layer::new().symlink("l", outside).file("l/d/x", b"owned"), "symlink"),
        ("l/secret", Layer::new().symlink("l", ".").file("l/secret", b"owned"), "symlink"),
        ("h", Layer::new().hard_link("h", "../../../../etc/passwd"), "leaves the root"),
        ("h", Layer::new().hard_link("h", "/etc/passwd"), "not in the layer"),
        ("h", Layer::new().symlink("l", outside).hard_link("h", "l/secret"), "not in the layer"),
        ("h", Layer::new().dir("d/").hard_link("h", "d"), "not a file"),
        ("h", Layer::new().hard_link("h", "h"), "itself"),
        (".wh...", Layer::new().file(".wh...", b""), "whiteout of nothing"),
        (".wh..", Layer::new().file(".wh..", b""), "whiteout of nothing"),
        (".wh.", Layer::new().file(".wh.", b""), "whiteout of nothing"),
        (".wh.a/b", Layer::new().file(".wh.a/b", b""), "whiteout"),
        ("w/x", Layer::new().file(".wh.w", b"").file("w/x", b""), "whiteout"),
        (".wh..wh..opq", Layer::new().file(".wh..wh..opq", b""), "whole root"),
        (".", Layer::new().symlink(".", outside), "root is not a directory"),
        ("owner", Layer::new().raw(owner, b""), "out of range"),
        ("odd", Layer::new().raw(odd, b""), "not supported"),
        ("s", Layer::new().symlink("s", ""), "link target"),
        ("x", Layer::new().pax(&[("GNU.sparse.map", b"0,1")]).file("x", b""), "sparse"),
        ("d/", Layer::new().pax(&[("path", deep.as_bytes())]).file("x", b""), "deep"),
    ];
    for (entry, layer, reason) in cases {
        let store = Store::new();
        let error = store.load(&single(layer)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Entry { .. }), "{entry}: {text}");
        assert!(text.contains(entry) && text.contains(reason), "{entry}: expected '{reason}' in: {text}");
        store.assert_empty(entry);
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 1);
}

fn devices_and_attributes_are_left_out() {
    let store = Store::new();
    let layer = Layer::new()
        .device(EntryType::Char, "dev/null")
        .device(EntryType::Block, "dev/sda")
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ])
        .dir("dev/");
    store.load(&single(layer)).unwrap();
    let root = store.layer("test");
    assert_eq!(crate::fixture::names(&root.join("dev")), Vec::<String>::new());
    let mut list = [0; 256];
    assert_eq!(rustix::fs::llistxattr(root.join("dev"), &mut list[..]).unwrap_or(0), 0);
    assert!(!fs::symlink_metadata(&root).unwrap().file_type().is_char_device());
}

fn bombs_are_stopped() {
    let limits = Limits {
        entries: 50,
        bytes: 8 << 20,
        ratio: 20,
        ratio_floor: 1 << 20,
        xattr_bytes: 1000,
        ..Limits::default()
    };
    let options = StoreOptions { limits, ..StoreOptions::default() };
    let many = (0..60).fold(Layer::new(), |layer, number| layer.file(&format!("f{number}"), b""));
    let mut claim = Layer::header(EntryType::Regular, "claim");
    claim.set_size(1 << 40);
    let mut sparse = Layer::header(EntryType::GNUSparse, "sparse");
    {
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.realsize.copy_from_slice(b"77777777777\0");
        gnu.sparse[0].offset.copy_from_slice(b"77777777777\0");
        gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    }
    let cases: Vec<(&str, Layer, &str)> = vec![
        ("entries", many, "more than 50 entries"),
        ("ratio", Layer::new().file("zeros", &vec![0; 4 << 20]), "20-fold"),
        ("claim", Layer::new().raw(claim, b"short"), "exceed"),
        ("sparse", Layer::new().raw(sparse, b""), "exceed"),
        (
            "xattr",
            Layer::new().pax(&[("SCHILY.xattr.user.x", &[b'x'; 2000])]).file("x", b""),
            "attributes exceed",
        ),
    ];
    for (what, layer, reason) in cases {
        let store = Store::with(options.clone());
        let error = store.load(&archive("test", &[layer.build()], gzip)).unwrap_err().to_string();
        assert!(error.contains(reason), "{what}: expected '{reason}' in: {error}");
        store.assert_empty(what);
    }
    let noise: Vec<u8> =
        (0..9u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let store = Store::with(options);
    let error = store.load(&single(Layer::new().file("noise", &noise))).unwrap_err().to_string();
    assert!(error.contains("exceed") || error.contains("holds more"), "{error}");
    store.assert_empty("bytes");
}

fn truncated_streams_leave_nothing() {
    let layer = Layer::new().file("data", &(0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    let whole = archive("test", &[layer.build()], gzip);
    for packed in [whole.clone(), gzip(&whole)] {
        for cut in [0, 100, 600, packed.len() / 3, packed.len() / 2, packed.len() - 2000] {
            let store = Store::new();
            assert!(store.load(&packed[..cut]).is_err(), "{cut} of {} bytes were accepted", packed.len());
            store.assert_empty(&format!("cut at {cut}"));
        }
    }
}

fn wrong_content_is_refused() {
    let layer = Layer::new().file("x", b"x").build();
    let config = config(std::slice::from_ref(&layer));
    let manifest = manifest(&config, std::slice::from_ref(&layer));
    let top = index(&[descriptor(MANIFEST_TYPE, &manifest, "")]);
    let files = |layer_file: (String, Vec<u8>)| {
        files_archive(&[
            ("index.json".to_owned(), top.clone()),
            blob_file(&config),
            blob_file(&manifest),
            layer_file,
        ])
    };
    let mut damaged = blob_file(&layer);
    damaged.1[600] ^= 1;
    let store = Store::new();
    assert!(matches!(store.load(&files(damaged)), Err(Error::DigestMismatch { .. })));
    store.assert_empty("damaged blob");

    let store = Store::new();
    let missing = ("blobs/other".to_owned(), vec![]);
    assert!(
        matches!(store.load(&files(missing)), Err(Error::MissingBlob { digest, .. }) if digest == Digest::of(&layer))
    );
    store.assert_empty("missing blob");

    // The blob is as promised, but the config promises another content.
    let lying = String::from_utf8(crate::fixture::config(&[b"other".to_vec()])).unwrap().into_bytes();
    let manifest = crate::fixture::manifest(&lying, std::slice::from_ref(&layer));
    let top = index(&[descriptor(MANIFEST_TYPE, &manifest, "")]);
    let lying = files_archive(&[
        ("index.json".to_owned(), top),
        blob_file(&lying),
        blob_file(&manifest),
        blob_file(&layer),
    ]);
    let store = Store::new();
    assert!(matches!(store.load(&lying), Err(Error::DiffId { .. })));
    store.assert_empty("wrong diff id");
}

fn malformed_archives_are_refused() {
    for (what, data) in [
        ("no tar", vec![b'x'; 5000]),
        ("empty", vec![]),
        ("zeros", vec![0; 10_240]),
        ("no index", files_archive(&[("hello.txt".to_owned(), b"hi".to_vec())])),
        ("bad index", files_archive(&[("index.json".to_owned(), b"{".to_vec())])),
        ("empty index", files_archive(&[("index.json".to_owned(), index(&[]))])),
        ("traversal", files_archive(&[("../index.json".to_owned(), index(&[]))])),
        ("huge index", files_archive(&[("index.json".to_owned(), vec![b' '; 5 << 20])])),
        (
            "bad docker",
            files_archive(&[("manifest.json".to_owned(), br#"[{"Config":"a.json","Layers":[]}]"#.to_vec())]),
        ),
        ("bad name", archive("UPPER/x", &[Layer::new().build()], gzip)),
    ] {
        let store = Store::new();
        assert!(store.load(&data).is_err(), "{what} was accepted");
        store.assert_empty(what);
    }
}
