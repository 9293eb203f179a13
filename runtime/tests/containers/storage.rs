//! Volumes, binds, injected files, the writable layer.

use std::fs;
use std::os::unix::fs::symlink;

use carrack_api::{Mount, MountSource, VolumeName};
use carrack_runtime::{InjectedFile, RunId};

use crate::support::Host;

crate::trials!(
    a_named_volume_starts_with_the_images_content_and_stays,
    anonymous_volumes_live_as_long_as_the_task,
    binds_are_made_refused_and_read_only,
    symlinks_of_the_image_are_followed_inside_and_never_to_the_kernels_files,
    injected_files_have_owner_and_mode,
    each_run_has_a_fresh_layer,
);

fn volume(name: &str, target: &str) -> Mount {
    let source = MountSource::Volume { name: VolumeName::new(name).unwrap(), nocopy: false, subpath: None };
    Mount { target: target.into(), source, read_only: false }
}

fn bind(path: &str, target: &str, create: bool) -> Mount {
    let source = MountSource::Bind { path: path.into(), create, propagation: String::new() };
    Mount { target: target.into(), source, read_only: false }
}

fn a_named_volume_starts_with_the_images_content_and_stays() {
    let host = Host::new();
    let mut first = host
        .shell("one", "cat /data/file; stat -c %u:%g /data; echo mine > /data/file; echo x > /data/sub/x");
    first.spec.mounts = vec![volume("shop_data", "/data")];
    assert_eq!(host.output(&first), ["from the image", "1000:1001"]);
    let mut second = host.shell("two", "cat /data/file");
    second.spec.mounts = vec![volume("shop_data", "/data")];
    assert_eq!(host.output(&second), ["mine"]);
    let mut sub = host.shell("three", "cat /s/x");
    sub.spec.mounts = vec![Mount {
        target: "/s".into(),
        source: MountSource::Volume {
            name: VolumeName::new("shop_data").unwrap(),
            nocopy: false,
            subpath: Some("sub".into()),
        },
        read_only: true,
    }];
    assert_eq!(host.output(&sub), ["x"]);
    let mut empty = host.shell("four", "ls /data");
    empty.spec.mounts = vec![Mount {
        target: "/data".into(),
        source: MountSource::Volume { name: VolumeName::new("other").unwrap(), nocopy: true, subpath: None },
        read_only: false,
    }];
    assert_eq!(host.output(&empty), Vec::<String>::new());
    let names: Vec<_> =
        host.runtime().volumes().list().unwrap().into_iter().map(|info| info.name.to_string()).collect();
    assert_eq!(names, ["other", "shop_data"]);
}

fn anonymous_volumes_live_as_long_as_the_task() {
    let host = Host::new();
    let mut request =
        host.shell("task", "cat /data/file; echo second > /data/file; echo own > /cache/x; ls /cache");
    request.image.volumes = vec!["/data".into()];
    request.spec.mounts =
        vec![Mount { target: "/cache".into(), source: MountSource::Anonymous, read_only: false }];
    assert_eq!(host.output(&request), ["from the image", "x"]);
    host.runtime().remove_run(&request.id).unwrap();
    request.id.run = 2;
    host.output(&request);
    assert_eq!(host.lines("task")[2], "second");
    host.runtime().remove_task("task", true).unwrap();
    assert!(!host.dir.path().join("state/tasks/task").exists());
}

fn binds_are_made_refused_and_read_only() {
    let host = Host::new();
    let made = host.dir.path().join("made/here");
    let file = host.dir.path().join("one-file");
    fs::write(&file, "content\n").unwrap();
    let mut request =
        host.shell("bind", "echo hi > /made/hi; cat /file; (echo x > /file) 2>/dev/null || echo refused");
    request.spec.mounts = vec![
        bind(made.to_str().unwrap(), "/made", true),
        Mount { read_only: true, ..bind(file.to_str().unwrap(), "/file", false) },
    ];
    assert_eq!(host.output(&request), ["content", "refused"]);
    assert_eq!(fs::read_to_string(made.join("hi")).unwrap(), "hi\n");
    for (path, want) in [
        ("/nonexistent/dir".to_owned(), "No such file"),
        (host.dir.path().join("run").display().to_string(), "belongs to Carrack"),
        (host.dir.path().join("state/tasks").display().to_string(), "belongs to Carrack"),
    ] {
        let mut request = host.shell("bad", "true");
        request.spec.mounts = vec![bind(&path, "/x", false)];
        let error = host.runtime().start(&request).unwrap_err().to_string();
        assert!(error.contains("\"/x\"") && error.contains(want), "{error}");
    }
}

fn symlinks_of_the_image_are_followed_inside_and_never_to_the_kernels_files() {
    let host = Host::new();
    let mut request = host.shell("links", "cat /etc/resolv.conf; echo x > /out/x; cat /tmp/escape/x");
    let layer = host.busybox();
    symlink("../run/systemd/stub-resolv.conf", layer.join("etc/resolv.conf")).unwrap();
    symlink("../../../../tmp/escape", layer.join("out")).unwrap();
    symlink("/proc/self", layer.join("kernel")).unwrap();
    request.spec.mounts = vec![volume("v", "/out")];
    assert_eq!(host.output(&request), ["nameserver 169.254.1.1", "x"]);
    for target in ["/proc", "/proc/sys/kernel", "/kernel/fd", "/tmp/.."] {
        let mut request = host.shell("bad", "true");
        request.spec.mounts = vec![Mount { target: target.into(), ..volume("v", "/") }];
        let error = host.runtime().start(&request).unwrap_err().to_string();
        assert!(error.contains(target), "{error}");
    }
    fs::remove_dir(layer.join("sys")).unwrap();
    symlink("/tmp", layer.join("sys")).unwrap();
    let error = host.runtime().start(&host.shell("sys", "true")).unwrap_err().to_string();
    assert!(error.contains("/sys is not a directory"), "{error}");
}

fn injected_files_have_owner_and_mode() {
    let host = Host::new();
    let mut request = host.shell("files", "cat /run/secrets/key; stat -c %a:%u:%g /run/secrets/key; (echo x > /run/secrets/key) 2>/dev/null || echo refused");
    request.files = vec![InjectedFile {
        target: "/run/secrets/key".into(),
        content: b"s3cret\n".to_vec(),
        mode: 0o440,
        uid: 0,
        gid: 29,
    }];
    assert_eq!(host.output(&request), ["s3cret", "440:0:29", "refused"]);
}

fn each_run_has_a_fresh_layer() {
    let host = Host::new();
    let mut request = host.shell("fresh", "ls /mark 2>/dev/null; touch /mark; stat -c %a /");
    assert_eq!(host.output(&request), ["755"]);
    host.runtime().remove_run(&request.id).unwrap();
    request.id = RunId::new("fresh", 2);
    host.output(&request);
    assert_eq!(host.lines("fresh"), ["755", "755"]);
}
