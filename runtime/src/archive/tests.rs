use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::ResolveFlags;

use super::*;

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const NO_LINKS: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

fn packed(root: &Path, path: &str, follow: bool) -> Result<(Vec<u8>, Source), CopyError> {
    let dir = fs::File::open(root).unwrap();
    let source = Source::open(dir.as_fd(), path, IN_ROOT, follow)?;
    let mut archive = Vec::new();
    pack(&source, &source.file.name, &mut archive)?;
    Ok((archive, source))
}

fn placed(
    root: &Path,
    resolve: ResolveFlags,
    path: &str,
    layout: Layout,
    archive: &[u8],
) -> Result<carrack_api::Copied, CopyError> {
    let dir = fs::File::open(root).unwrap();
    let at = Place { root: dir.as_fd(), resolve, path: path.into(), layout, keep_owner: false };
    place(&at, archive)
}

fn below() -> Layout {
    Layout::Below { strip: false }
}

/// An archive with one entry more or less as a hostile program writes it.
fn entry(name: &str, kind: tar::EntryType, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut all = entries.concat();
    all.extend([0; 1024]);
    all
}

#[test]
fn a_tree_goes_out_and_in_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let long = "x".repeat(120);
    let deep = from.path().join("tree").join(&long).join(&long);
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), vec![7; 200_000]).unwrap();
    fs::write(from.path().join("tree/run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(from.path().join("tree/run.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink(format!("/elsewhere/{long}"), from.path().join("tree/link")).unwrap();
    fs::create_dir(from.path().join("tree/closed")).unwrap();
    fs::set_permissions(from.path().join("tree/closed"), fs::Permissions::from_mode(0o555)).unwrap();
    let (archive, source) = packed(from.path(), "tree", false).unwrap();
    assert_eq!((source.file.name.as_str(), source.file.kind), ("tree", CopiedKind::Directory));
    // Other programs read it, too.
    let names: Vec<String> = tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect();
    assert!(names.contains(&format!("tree/{long}/{long}/file")), "{names:?}");
    placed(to.path(), NO_LINKS, "", Layout::Below { strip: false }, &archive).unwrap();
    let tree = to.path().join("tree");
    assert_eq!(fs::read(tree.join(&long).join(&long).join("file")).unwrap(), vec![7; 200_000]);
    assert_eq!(fs::read_link(tree.join("link")).unwrap().to_str().unwrap(), format!("/elsewhere/{long}"));
    let mode = |name: &str| fs::metadata(tree.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("run.sh"), 0o755, "a program that runs as its owner does not become one that runs as us");
    assert_eq!(mode("closed"), 0o555);
    placed(to.path(), NO_LINKS, "renamed", Layout::Below { strip: true }, &archive).unwrap();
    assert!(to.path().join("renamed/run.sh").exists(), "the first part becomes the place itself");
}

#[test]
fn a_cut_archive_is_an_error_and_leaves_no_half_file() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("file"), vec![1; 100_000]).unwrap();
    let (archive, _) = packed(from.path(), "file", false).unwrap();
    for length in [archive.len() - 1024, archive.len() - 513, 50_000, 512, 300, 0] {
        let error = placed(to.path(), NO_LINKS, "", below(), &archive[..length]).unwrap_err();
        assert!(matches!(error, CopyError::Archive { .. }), "{length}: {error}");
        let left: Vec<_> = fs::read_dir(to.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "file"), "{length}: {left:?}");
        if let Ok(found) = fs::metadata(to.path().join("file")) {
            assert_eq!(found.len(), 100_000, "{length}");
        }
    }
}

#[test]
fn nothing_leads_out_of_the_root() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(outer.path().join("secret"), "host").unwrap();
    for name in ["../secret", "a/../../secret", "/../secret"] {
        let hostile = archive(&[entry(name, tar::EntryType::Regular, "", b"mine")]);
        assert!(
            placed(&root, IN_ROOT, "", below(), &hostile).unwrap_err().to_string().contains("upwards"),
            "{name}"
        );
    }
    // A symlink of the archive itself: within the root where it is a container's, refused where the files are the user's.
    for (resolve, ok) in [(IN_ROOT, false), (NO_LINKS, false)] {
        let hostile = archive(&[
            entry("out", tar::EntryType::Symlink, "../..", b""),
            entry("out/secret", tar::EntryType::Regular, "", b"mine"),
        ]);
        let result = placed(&root, resolve, "", below(), &hostile);
        assert_eq!(result.is_ok(), ok || resolve == IN_ROOT, "{result:?}");
        assert_eq!(fs::read_to_string(outer.path().join("secret")).unwrap(), "host");
        fs::remove_file(root.join("out")).unwrap();
    }
    // A hard link to a file outside.
    let hostile = archive(&[entry("mine", tar::EntryType::Link, "../secret", b"")]);
    assert!(placed(&root, IN_ROOT, "", below(), &hostile).is_err());
    symlink(outer.path().join("secret"), root.join("link")).unwrap();
    assert!(matches!(packed(&root, "link", true), Err(CopyError::Missing { .. })));
    assert_eq!(packed(&root, "link", false).unwrap().1.file.kind, CopiedKind::Symlink);
    // What replaces a link replaces the link, not what it points to.
    placed(
        &root,
        IN_ROOT,
        "",
        Layout::Only("link".into()),
        &archive(&[entry("x", tar::EntryType::Regular, "", b"new")]),
    )
    .unwrap();
    assert_eq!(fs::read_to_string(root.join("link")).unwrap(), "new");
    assert_eq!(fs::read_to_string(outer.path().join("secret")).unwrap(), "host");
}

#[test]
fn what_is_in_the_way_is_named() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("dir")).unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    let file = archive(&[entry("dir", tar::EntryType::Regular, "", b"x")]);
    assert!(matches!(placed(root.path(), IN_ROOT, "", below(), &file), Err(CopyError::InTheWay { .. })));
    let dir = archive(&[entry("file/", tar::EntryType::Directory, "", b"")]);
    assert!(matches!(placed(root.path(), IN_ROOT, "", below(), &dir), Err(CopyError::InTheWay { .. })));
    let lost = placed(
        root.path(),
        IN_ROOT,
        "no/where",
        below(),
        &archive(&[entry("./", tar::EntryType::Directory, "", b"")]),
    );
    assert!(matches!(lost, Err(CopyError::Missing { .. })), "{lost:?}");
    let device = archive(&[entry("null", tar::EntryType::Char, "", b"")]);
    assert_eq!(placed(root.path(), IN_ROOT, "", below(), &device).unwrap().skipped, 1);
    rustix::fs::mknodat(rustix::fs::CWD, root.path().join("pipe"), FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(packed(root.path(), "pipe", true), Err(CopyError::Unsupported { .. })));
    assert_eq!(packed(root.path(), ".", false).unwrap().1.file.name, ".");
}
