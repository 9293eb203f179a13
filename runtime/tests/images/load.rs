//! What loads, and what it looks like on disk.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex};

use carrack_runtime::image::{
    Digest, Error, ImageReference, LoadOptions, ProgressSink, RootTree, resolve_user,
};
use tar::EntryType;

use crate::fixture::{
    Layer, MANIFEST_TYPE, Store, archive, blob_file, config, descriptor, files_archive, gzip, index,
    manifest, mode, single, zstd,
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("load::files_keep_owner_mode_time_and_attributes", files_keep_owner_mode_time_and_attributes),
    ("load::whiteouts_take_the_form_that_overlayfs_reads", whiteouts_take_the_form_that_overlayfs_reads),
    ("load::every_compression_gives_the_same_layer", every_compression_gives_the_same_layer),
    ("load::a_later_entry_replaces_an_earlier_one", a_later_entry_replaces_an_earlier_one),
    ("load::docker_save_archives_get_the_same_digest_each_time", docker_save),
    ("load::the_index_decides_by_platform", the_index_decides_by_platform),
    ("load::names_come_from_annotations_and_options", names_come_from_annotations_and_options),
    ("load::users_are_resolved_across_layers", users_are_resolved_across_layers),
    ("load::progress_only_rises_and_ends_complete", progress_only_rises_and_ends_complete),
    ("load::sparse_files_keep_their_content", sparse_files_keep_their_content),
];

fn files_keep_owner_mode_time_and_attributes() {
    let store = Store::new();
    let mut setuid = Layer::header(EntryType::Regular, "bin/su");
    setuid.set_mode(0o4755);
    setuid.set_uid(7);
    setuid.set_gid(9);
    setuid.set_size(2);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut shared = Layer::header(EntryType::Directory, "tmp/");
    shared.set_mode(0o1777);
    let layer = Layer::new()
        .dir("./")
        .raw(setuid, b"su")
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"hi"),
            ("mtime", b"1600000000.5"),
        ])
        .file("bin/ping", b"ping")
        .hard_link("bin/ping6", "bin/ping")
        .symlink("bin/sh", "/nowhere/../x")
        .raw(shared, b"")
        .file("tmp/later", b"")
        .device(EntryType::Fifo, "fifo");
    store.load(&single(layer)).unwrap();
    let root = store.layer("test");

    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.uid(), su.gid(), mode(&root.join("bin/su")), su.mtime()), (7, 9, 0o4755, 1_700_000_000));
    let ping = fs::metadata(root.join("bin/ping")).unwrap();
    assert_eq!((ping.mtime(), ping.mtime_nsec(), ping.nlink()), (1_600_000_000, 500_000_000, 2));
    assert_eq!(ping.ino(), fs::metadata(root.join("bin/ping6")).unwrap().ino());
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(root.join("bin/ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..length], capability);
    let length = rustix::fs::lgetxattr(root.join("bin/ping"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"hi");
    assert_eq!(fs::read_link(root.join("bin/sh")).unwrap().to_str(), Some("/nowhere/../x"));
    assert_eq!(mode(&root.join("tmp")), 0o1777);
    assert_eq!(
        fs::metadata(root.join("tmp")).unwrap().mtime(),
        1_700_000_000,
        "set after its content was made"
    );
    assert_eq!((mode(&root), mode(&root.join("bin"))), (0o755, 0o755));
    assert_eq!(fs::metadata(root.join("bin")).unwrap().uid(), 0, "an implied parent belongs to root");
    assert!(fs::metadata(root.join("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(mode(&store.path("")), 0o700, "setuid programs of images are out of reach for other users");
}

fn opaque(path: &std::path::Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..])
        .is_ok_and(|length| &value[..length] == b"y")
}

fn whiteouts_take_the_form_that_overlayfs_reads() {
    let store = Store::new();
    let layer = Layer::new()
        .file("d/.wh.gone", b"")
        .dir("o/")
        .file("o/.wh..wh..opq", b"")
        .file("o/new", b"new")
        .file(".wh.replaced", b"")
        .dir("replaced/")
        .dir("first/")
        .file(".wh.first", b"")
        .file(".wh.filed", b"")
        .file("filed", b"x")
        .file(".wh..wh.plnk/1", b"");
    store.load(&single(layer)).unwrap();
    let root = store.layer("test");
    let gone = fs::symlink_metadata(root.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(opaque(&root.join("o")) && !opaque(&root.join("d")));
    assert!(opaque(&root.join("replaced")), "a directory made anew after its whiteout hides the old one");
    assert!(opaque(&root.join("first")), "the order of whiteout and directory does not matter");
    assert!(fs::symlink_metadata(root.join("filed")).unwrap().is_file());
    assert_eq!(crate::fixture::names(&root), ["d", "filed", "first", "o", "replaced"]);
}

fn every_compression_gives_the_same_layer() {
    let layer = || Layer::new().file("data", &vec![42; 300_000]).build();
    let mut digests = Vec::new();
    type Packer = fn(&[u8]) -> Vec<u8>;
    let packers: [Packer; 3] = [<[u8]>::to_vec, gzip, zstd];
    for pack in packers {
        for outer in packers {
            let store = Store::new();
            store.load(&outer(&archive("test", &[layer()], pack))).unwrap();
            let image = store.get("test").unwrap();
            assert_eq!(fs::read(store.layer("test").join("data")).unwrap().len(), 300_000);
            assert_eq!(image.layers[0].unpacked_bytes, 300_000);
            assert_eq!(image.config.user, "web");
            digests.push(image.layers[0].diff_id.clone());
        }
    }
    digests.dedup();
    assert_eq!(digests, [Digest::of(&layer())]);
}

fn a_later_entry_replaces_an_earlier_one() {
    let store = Store::new();
    let layer = Layer::new()
        .file("a", b"one")
        .file("a", b"two")
        .dir("b/")
        .file("b/c/d", b"deep")
        .file("b", b"now a file")
        .symlink("l", "/etc")
        .dir("l/")
        .file("l/inside", b"x")
        .dir("a2/")
        .file("a2/kept", b"k")
        .dir("a2/");
    store.load(&single(layer)).unwrap();
    let root = store.layer("test");
    assert_eq!(fs::read(root.join("a")).unwrap(), b"two");
    assert_eq!(fs::read(root.join("b")).unwrap(), b"now a file");
    assert!(fs::symlink_metadata(root.join("l")).unwrap().is_dir());
    assert_eq!(fs::read(root.join("a2/kept")).unwrap(), b"k");
}

fn docker_save() {
    let layers = [Layer::new().file("one", b"1").build(), Layer::new().file("two", b"2").build()];
    let config = config(&layers);
    let saved = |reverse: bool| {
        let text = br#"[{"Config":"abc.json","RepoTags":["web:1","localhost:5000/web:2"],"Layers":["x/layer.tar","y/layer.tar","z.tar"]}]"#;
        let text = String::from_utf8(text.to_vec()).unwrap().replace(r#","z.tar""#, "");
        let mut files = [
            ("manifest.json".to_owned(), text.into_bytes()),
            ("abc.json".to_owned(), config.clone()),
            ("x/layer.tar".to_owned(), layers[0].clone()),
            ("real.tar".to_owned(), layers[1].clone()),
        ];
        if reverse {
            files.reverse();
        }
        let archive = files.iter().fold(Layer::new(), |archive, (name, data)| archive.file(name, data));
        archive.symlink("y/layer.tar", "../real.tar").build()
    };
    let (first, second) = (Store::new(), Store::new());
    let loaded = first.load(&saved(false)).unwrap();
    assert_eq!(loaded, second.load(&saved(true)).unwrap());
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].digest, loaded[0].manifest);
    let image = first.get("localhost:5000/web:2").unwrap();
    assert_eq!(image.names.len(), 2);
    let layers = first.store.layers(&image);
    assert!(layers[0].join("two").exists() && layers[1].join("one").exists(), "top layer first");
}

fn the_index_decides_by_platform() {
    let ours = Layer::new().file("ours", b"").build();
    let config = config(std::slice::from_ref(&ours));
    let good = manifest(&config, std::slice::from_ref(&ours));
    let architecture = crate::fixture::architecture();
    let platform = |name: &str| format!(r#","platform":{{"os":"linux","architecture":"{name}"}}"#);
    let foreign = Digest::of(b"not in the archive");
    let other = format!(r#"{{"digest":"{foreign}","size":9{}}}"#, platform("s390x"));
    let inner = index(&[other.clone(), descriptor(MANIFEST_TYPE, &good, &platform(&architecture))]);
    let build = |inner: &[u8]| {
        let annotation = r#","annotations":{"io.containerd.image.name":"docker.io/library/multi:1"}"#;
        let outer = index(&[descriptor("application/vnd.oci.image.index.v1+json", inner, annotation)]);
        files_archive(&[
            ("index.json".to_owned(), outer),
            blob_file(inner),
            blob_file(&good),
            blob_file(&config),
            blob_file(&ours),
        ])
    };
    let store = Store::new();
    store.load(&build(&inner)).unwrap();
    let image = store.get("multi:1").unwrap();
    assert_eq!((image.digest.clone(), image.manifest.clone()), (Digest::of(&inner), Digest::of(&good)));
    for pinned in [&image.digest, &image.manifest] {
        assert!(store.get(&format!("multi@{pinned}")).is_some(), "both digests mean the image");
    }

    let store = Store::new();
    let error = store.load(&build(&index(&[other]))).unwrap_err();
    assert!(
        matches!(&error, Error::NoMatchingPlatform { available, .. } if available == &["linux/s390x"]),
        "{error}"
    );
    assert!(error.to_string().contains("linux/s390x"));
    store.assert_empty("no platform");
}

fn names_come_from_annotations_and_options() {
    let store = Store::new();
    let layer = || Layer::new().file("x", b"").build();
    let options = LoadOptions { name: Some(ImageReference::parse("localhost:5000/team/app").unwrap()) };
    let load = |name: &str, options: &LoadOptions| {
        let loaded = store.store.load(&archive(name, &[layer()], gzip)[..], options, &ProgressSink::ignore());
        loaded.unwrap()[0].names[0].to_string()
    };
    assert_eq!(load("v2", &options), "localhost:5000/team/app:v2");
    assert_eq!(load("hello", &LoadOptions::default()), "docker.io/library/hello:latest");
    assert_eq!(load("ghcr.io/a/b:c", &options), "ghcr.io/a/b:c");
    assert!(
        store.store.load(&archive("../x", &[layer()], gzip)[..], &options, &ProgressSink::ignore()).is_err()
    );
    assert_eq!(store.store.list().unwrap().len(), 1, "one image, three names");
}

fn users_are_resolved_across_layers() {
    let store = Store::new();
    let base = Layer::new().file("etc/passwd", b"root:x:0:0::/root:\nweb:x:5:6::/w:\n").build();
    let top = Layer::new().file("etc/group", b"extra:x:77:web\n").symlink("etc/link", "/etc/passwd").build();
    let hidden = Layer::new().file("etc/.wh.passwd", b"").build();
    store.load(&archive("users", &[base.clone(), top.clone()], gzip)).unwrap();
    store.load(&archive("hidden", &[base, top, hidden], gzip)).unwrap();
    let tree = |name: &str| RootTree::Layers(store.store.layers(&store.get(name).unwrap()));
    let user = resolve_user(&tree("users"), "web").unwrap();
    assert_eq!((user.uid, user.gid, user.additional_gids, user.home.as_str()), (5, 6, vec![77], "/w"));
    assert!(tree("users").read_file("/etc/link", 1000).unwrap().is_some());
    let error = resolve_user(&tree("hidden"), "web").unwrap_err();
    assert_eq!(error.to_string(), "user 'web' does not exist in the image");
}

fn progress_only_rises_and_ends_complete() {
    let store = Store::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let seen = Arc::clone(&seen);
        ProgressSink::new(move |progress| seen.lock().unwrap().push(progress))
    };
    let data = archive(
        "test",
        &[Layer::new().file("a", &[7; 400_000]).build(), Layer::new().file("b", b"").build()],
        <[u8]>::to_vec,
    );
    store.store.load(&data[..], &LoadOptions::default(), &sink).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.received_bytes));
    let last = seen.last().unwrap();
    assert_eq!((last.received_bytes, last.layers_done, last.layers_total), (data.len() as u64, 2, 2));
}

fn sparse_files_keep_their_content() {
    let store = Store::new();
    let mut data = vec![0; 1 << 20];
    data[700_000] = 9;
    store.load(&single(Layer::new().file("holes", &data).file("zeros", &vec![0; 500_000]))).unwrap();
    let root = store.layer("test");
    assert_eq!(fs::read(root.join("holes")).unwrap(), data);
    assert_eq!(fs::metadata(root.join("zeros")).unwrap().len(), 500_000);
    assert!(fs::metadata(root.join("zeros")).unwrap().blocks() < 100, "zeros take no space");
}
