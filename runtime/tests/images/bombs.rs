//! Content that is made to be too much: bombs, floods of entries, huge files and documents, a full
//! disk. Each is refused for what it is, soon, in bounded memory, and leaves a store that works.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use carrack_runtime::image::unpack::Limits;
use carrack_runtime::image::{
    Digest, Error, ImageReference, ImageStore, LoadOptions, ProgressSink, RootTree, StoreOptions,
    resolve_user,
};
use rustix::mount::{MountFlags, UnmountFlags};
use tar::EntryType;

use crate::fixture::{
    Layer, MANIFEST_TYPE, Store, blob_file, config, descriptor, files_archive, gzip, index, manifest, names,
    single, zstd,
};
use crate::pull::{block_on, content, pull};
use crate::registry::DEADLINE;
use crate::server::{Answer, Server};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("bombs::layers_that_grow_without_end_stay_within_memory", layers_that_grow),
    ("bombs::ten_million_entries_meet_a_bound", ten_million_entries),
    ("bombs::entries_that_come_twice_replace_each_other", entries_that_come_twice),
    ("bombs::whiteouts_hide_what_is_below_and_nothing_else", whiteouts_hide),
    ("bombs::a_gigabyte_of_passwd_is_not_read", a_gigabyte_of_passwd),
    ("bombs::huge_and_deep_documents_are_refused", huge_and_deep_documents),
    ("bombs::a_full_disk_is_told_and_left_as_it_was", a_full_disk),
];

/// The argument that makes this binary load an archive and print the error and its peak memory.
const LOAD_CHILD: &str = "__bomb-test-load";
/// Most memory of an unpack process or of the process that starts it, in KiB; the window of a zstd
/// stream alone may have 128 MiB.
const PEAK_KIB: u64 = 256 << 10;

/// Runs the load child if that is what this process is.
#[expect(clippy::print_stdout, reason = "its output is its answer")]
pub(crate) fn dispatch_load_child() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) != Some(LOAD_CHILD) {
        return;
    }
    // Smaller than a node's, since this build decompresses slowly; memory does not depend on them.
    let (bytes, ratio_floor) = (256 << 20, 32 << 20);
    let limits = Limits { entries: arguments[4].parse().unwrap(), bytes, ratio_floor, ..Limits::default() };
    let options = StoreOptions { limits, ..StoreOptions::default() };
    let store = ImageStore::open(Path::new(&arguments[2]), options).unwrap();
    let loaded = store.load_path(Path::new(&arguments[3]), &LoadOptions::default(), &ProgressSink::ignore());
    println!("{}", loaded.map(|_| "loaded".to_owned()).unwrap_or_else(|error| error.to_string()));
    println!("{} {}", own_peak_kib(), children_peak_kib());
    std::process::exit(0);
}

/// The most that this program ever held; what started it does not count.
fn own_peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}

#[expect(unsafe_code, reason = "rustix has no getrusage")]
fn children_peak_kib() -> u64 {
    // SAFETY: an all-zero rusage is a valid value of that C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writes of an rusage.
    let result = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) };
    assert_eq!(result, 0);
    usage.ru_maxrss.unsigned_abs()
}

/// Loads an image with `blob` as its layer in a process of its own; returns the error.
fn load_apart(dir: &Path, blob: &[u8], entries: u64) -> String {
    let layer = Layer::new().build();
    let config = config(&[layer]);
    let manifest = manifest(&config, &[blob.to_vec()]);
    let index = index(&[descriptor(MANIFEST_TYPE, &manifest, "")]);
    let files = [("index.json".to_owned(), index), blob_file(&config), blob_file(&manifest), blob_file(blob)];
    let archive = dir.join("archive.tar");
    fs::write(&archive, files_archive(&files)).unwrap();
    let store = dir.join("images");
    let output = Command::new("/proc/self/exe")
        .arg(LOAD_CHILD)
        .args([&store, &archive])
        .arg(entries.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (error, peaks) = text.trim_end().rsplit_once('\n').unwrap();
    for peak in peaks.split(' ') {
        assert!(peak.parse::<u64>().unwrap() < PEAK_KIB, "{error}: {peaks} KiB");
    }
    for part in ["blobs", "layers", "tmp"] {
        assert_eq!(names(&store.join(part)), Vec::<String>::new(), "{error}: left in {part}");
    }
    error.to_owned()
}

/// The header of a file that claims to hold 200 MiB.
fn endless_file() -> Vec<u8> {
    let mut header = Layer::header(EntryType::Regular, "etc/passwd");
    header.set_size(200 << 20);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// A zstd frame of `head` and then zeros: each block of them is four bytes for 128 KiB.
fn zstd_bomb(head: &[u8], blocks: usize, window: u8) -> Vec<u8> {
    // Magic, then a header with a window of 2^(10 + window) bytes and no content size.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window << 3];
    let block = |frame: &mut Vec<u8>, last: bool, kind: u32, size: u32| {
        frame.extend_from_slice(&(u32::from(last) | kind << 1 | size << 3).to_le_bytes()[..3]);
    };
    block(&mut frame, false, 0, u32::try_from(head.len()).unwrap());
    frame.extend_from_slice(head);
    for number in 1..=blocks {
        block(&mut frame, number == blocks, 1, 128 << 10);
        frame.push(0);
    }
    frame
}

fn gzip_best(data: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(data).unwrap();
    packer.finish().unwrap()
}

fn layers_that_grow() {
    let head = endless_file();
    let mut plain = head.clone();
    plain.resize(4 << 20, 0);
    // Members of a gzip stream are one content: the first has the header, the others zeros alone.
    let zeros = gzip_best(&vec![0; 4 << 20]);
    let mut gzipped = gzip(&plain);
    (0..30).for_each(|_| gzipped.extend_from_slice(&zeros));
    let window = 17;
    for (what, blob) in [
        ("gzip", gzipped),
        ("zstd", zstd_bomb(&head, 1000, window)),
        ("frames", [zstd(&plain), zstd_bomb(b"", 1000, window)].concat()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let error = load_apart(dir.path(), &blob, 1000);
        assert!(error.contains("200-fold"), "{what}: {error}");
    }
    // A window that no packer uses is refused before any memory is taken for it.
    let dir = tempfile::tempdir().unwrap();
    let error = load_apart(dir.path(), &zstd_bomb(&head, 10, 31), 1000);
    assert!(error.contains("cannot unpack layer"), "{error}");
}

fn ten_million_entries() {
    // A thousand members of ten thousand entries each; all alike, so that the blob is small.
    let entry = Layer::new().file("d", b"").build();
    let blob = gzip_best(&entry[..512].repeat(10_000)).repeat(1000);
    let dir = tempfile::tempdir().unwrap();
    let error = load_apart(dir.path(), &blob, 5_000);
    assert!(error.contains("more than 5000 entries"), "{error}");
    assert!(Limits::default().entries <= 1_000_000, "the bound that a real node has");
}

fn entries_that_come_twice() {
    let victim = tempfile::tempdir().unwrap();
    let secret = victim.path().join("secret");
    fs::write(&secret, "untouched").unwrap();
    let outside = secret.to_str().unwrap();
    let store = Store::new();
    let layer = Layer::new()
        .file("file", b"first")
        .file("file", b"second")
        .symlink("link", outside)
        .file("link", b"a file now")
        .dir("dir/")
        .file("dir/inside", b"x")
        .file("dir", b"a file too")
        .file("turned", b"x")
        .dir("turned/")
        .file("turned/inside", b"y")
        .file("one", b"shared")
        .hard_link("two", "one")
        .file("one", b"apart");
    store.load(&single(layer)).unwrap();
    let root = store.layer("test");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("file"), "second");
    assert_eq!(read("link"), "a file now");
    assert_eq!((read("dir"), read("turned/inside")), ("a file too".to_owned(), "y".to_owned()));
    assert_eq!((read("one"), read("two")), ("apart".to_owned(), "shared".to_owned()));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
}

fn whiteouts_hide() {
    let store = Store::new();
    let layer = Layer::new()
        .dir("opaque/")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/kept", b"x")
        .file(".wh.gone", b"not empty")
        .file("back", b"x")
        .file(".wh.back", b"")
        .file(".wh.again", b"")
        .file("again", b"y")
        .file(".wh..wh.plnk", b"ignored")
        .symlink("link", "/etc")
        .file(".wh.link", b"");
    store.load(&single(layer)).unwrap();
    let root = store.layer("test");
    let whiteout = |name: &str| {
        let metadata = fs::symlink_metadata(root.join(name)).unwrap();
        (metadata.mode() & libc::S_IFMT == libc::S_IFCHR) && metadata.rdev() == 0
    };
    assert!(whiteout("gone"));
    assert_eq!(fs::read(root.join("back")).unwrap(), b"x", "what the layer itself brings stays");
    assert_eq!(fs::read(root.join("again")).unwrap(), b"y");
    assert!(fs::symlink_metadata(root.join("link")).unwrap().is_symlink());
    assert!(!names(&root).iter().any(|name| name.starts_with(".wh.")), "{:?}", names(&root));
    assert_eq!(names(&root.join("opaque")), ["kept"]);
}

fn a_gigabyte_of_passwd() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    for (file, user) in [("etc/passwd", "web"), ("etc/group", "0:web")] {
        let path = root.path().join(file);
        fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let tree = RootTree::Dir(root.path().to_owned());
        let error = resolve_user(&tree, user).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains(file), "{error}");
        fs::write(&path, "").unwrap();
    }
    // Numbers beyond 32 bits and below zero are nobody, never root.
    let tree = RootTree::Dir(root.path().to_owned());
    for user in
        ["4294967296", "-1", "4294967295", "0:-1", "0:4294967296", "18446744073709551616", "+0", "0x0"]
    {
        let error = resolve_user(&tree, user).unwrap_err();
        let refused = matches!(error, Error::InvalidUser { .. } | Error::NoSuchUser { .. });
        assert!(refused && error.to_string().contains(user), "{user}: {error}");
    }
}

fn huge_and_deep_documents() {
    let many = |item: &str, count: usize| vec![item; count].join(",");
    let digest = Digest::of(b"");
    let blob = format!(r#"{{"digest":"{digest}","size":1}}"#);
    let platform = r#""platform":{"os":"x","architecture":"y"}"#;
    let entry = format!(r#"{{"digest":"{digest}","size":1,{platform}}}"#);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("100 MiB", vec![b' '; 100 << 20], "exceeds the limit"),
        ("deep", [b"[".repeat(1 << 20), b"]".repeat(1 << 20)].concat(), "invalid"),
        (
            "deep within",
            [br#"{"schemaVersion":2,"config":"#.to_vec(), b"[".repeat(1 << 20)].concat(),
            "invalid",
        ),
        (
            "layers",
            format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{}]}}"#, many(&blob, 20_000))
                .into_bytes(),
            "layers, more than",
        ),
        (
            "manifests",
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, many(&entry, 20_000)).into_bytes(),
            "manifests, more than",
        ),
        (
            "negative",
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":-1}},"layers":[]}}"#)
                .into_bytes(),
            "invalid",
        ),
        ("loop", format!(r#"{{"schemaVersion":2,"manifests":[{blob}]}}"#).into_bytes(), ""),
    ];
    for (what, document, reason) in cases {
        let server = Server::start(move |_, _| Answer::ok(&document));
        let store = Store::new();
        let error = pull(&store, &format!("{}/x:1", server.address), None).unwrap_err().to_string();
        assert!(error.contains(reason) && error.len() < 1000, "{what}: {error}");
        assert!(store.store.list().unwrap().is_empty(), "{what}");
    }
    let texts =
        |field: &str, count: usize| format!(r#"{{"config":{{"{field}":[{}]}}}}"#, many("\"A=b\"", count));
    for (what, config) in [
        ("env", texts("Env", 100_000)),
        ("cmd", texts("Cmd", 100_000)),
        ("text", format!(r#"{{"config":{{"User":"{}"}}}}"#, "x".repeat(1 << 20))),
        ("deep", format!(r#"{{"config":{{"Volumes":{}}}}}"#, "[".repeat(1 << 20))),
        ("label", format!(r#"{{"config":{{"Labels":{{"a":"{}"}}}}}}"#, "x".repeat(1 << 20))),
        ("size", " ".repeat(5 << 20)),
    ] {
        let manifest = manifest(config.as_bytes(), &[]);
        let server = Server::start(move |_, request| match request.path.contains("/manifests/") {
            true => Answer::ok(&manifest),
            false => Answer::ok(config.as_bytes()),
        });
        let store = Store::new();
        let error = pull(&store, &format!("{}/x:1", server.address), None).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. } | Error::TooLarge { .. }), "{what}: {error}");
        assert!(error.to_string().len() < 1000, "{what}");
    }
}

/// A small disk of its own.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("images")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

fn a_full_disk() {
    // Full while the blob arrives, and while the layer is unpacked beside its blob.
    for size in [1 << 20, 3 << 20] {
        let disk = Disk::new(size);
        let store = ImageStore::open(&disk.path(), StoreOptions::default()).unwrap();
        let noise: Vec<u8> =
            (0..500_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let layer = Layer::new().file("noise", &noise).build();
        let (config, blobs) = (config(std::slice::from_ref(&layer)), vec![layer]);
        let manifest = manifest(&config, &blobs);
        let server = Server::start(move |_, request| {
            let wanted = |blob: &&Vec<u8>| request.path.ends_with(&Digest::of(blob).to_string());
            match request.path.contains("/manifests/") {
                true => Answer::ok(&manifest),
                false => Answer::ok(blobs.iter().chain([&config]).find(wanted).unwrap()),
            }
        });
        let pull = |name: String| {
            let reference = ImageReference::parse(&name).unwrap();
            block_on(store.pull(&reference, None, ProgressSink::ignore()))
        };
        let error = pull(format!("{}/x:1", server.address)).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{size}: {error}");
        assert!(error.to_string().contains("no space is left"), "{error}");
        assert!(store.list().unwrap().is_empty());
        let started = Instant::now();
        let parts = ["blobs", "layers", "partial", "tmp"].map(|part| disk.path().join(part));
        while parts.iter().any(|part| !names(part).is_empty()) {
            let left: Vec<_> = parts.iter().map(|part| names(part)).collect();
            assert!(started.elapsed() < *DEADLINE, "{size}: left on the full disk: {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        // An image that fits still does.
        let content = content();
        let server = Server::start(move |_, request| content.answer(request));
        pull(format!("{}/x:1", server.address)).unwrap();
        drop(store);
    }
    let disk = Disk::new(1 << 20);
    let store = ImageStore::open(&disk.path(), StoreOptions::default()).unwrap();
    let mut filler = fs::File::create(disk.dir.path().join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    let archive = single(Layer::new().file("x", &[1; 100_000]));
    let error = store.load(&archive[..], &LoadOptions::default(), &ProgressSink::ignore()).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    drop(filler);
    fs::remove_file(disk.dir.path().join("filler")).unwrap();
    store.load(&archive[..], &LoadOptions::default(), &ProgressSink::ignore()).unwrap();
    drop(store);
}
