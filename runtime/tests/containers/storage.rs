//! Volumes, binds, injected files, the writable layer.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use carrack_api::{Mount, MountSource, VolumeName};
use carrack_runtime::{InjectedFile, RunId, StartRequest};

use crate::support::Host;

crate::trials!(
    a_named_volume_starts_with_the_images_content_and_stays,
    anonymous_volumes_live_as_long_as_the_task,
    binds_are_made_refused_and_read_only,
    symlinks_of_the_image_are_followed_inside_and_never_to_the_kernels_files,
    injected_files_have_owner_and_mode,
    injected_files_are_in_memory_alone_and_come_again_with_the_next_run,
    injected_files_land_inside_whatever_the_image_and_its_volumes_say,
    injected_files_replace_nothing_of_the_kernel,
    injected_files_hide_no_mount_and_are_not_hidden,
    each_run_has_a_fresh_layer,
);

fn volume(name: &str, target: &str) -> Mount {
    let source = MountSource::Volume { name: VolumeName::new(name).unwrap(), nocopy: false, subpath: None };
    Mount { target: target.into(), source, read_only: false }
}

fn bind(path: &str, target: &str, create: bool) -> Mount {
    let source = MountSource::Bind { path: path.into(), create, propagation: String::new(), alone: false };
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
        content: carrack_api::Content::new(b"s3cret\n".to_vec()),
        mode: 0o440,
        uid: 0,
        gid: 29,
    }];
    assert_eq!(host.output(&request), ["s3cret", "440:0:29", "refused"]);
}

fn file(target: &str, content: &[u8], mode: u32, uid: u32) -> InjectedFile {
    let content = carrack_api::Content::new(content.to_vec());
    InjectedFile { target: target.into(), content, mode, uid, gid: 0 }
}

/// An empty layer on top of those of the request.
fn layer_on(host: &Host, request: &mut StartRequest) -> PathBuf {
    let layer = host.dir.path().join(format!("layer-{}", request.id.task));
    fs::create_dir(&layer).unwrap();
    request.lowerdirs.insert(0, layer.clone());
    layer
}

fn injected_files_land_inside_whatever_the_image_and_its_volumes_say() {
    let host = Host::new();
    // What the symlinks would hit if they led out.
    let outside = host.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let out = outside.to_str().unwrap();
    let up = format!("../../../../../../../..{out}");
    // The image: absolute, upwards, in the middle of the path and as its end, to what is missing.
    for (id, link, to) in
        [("abs", "run/secrets", out), ("up", "run/secrets", &up), ("end", "run/secrets/key", &up)]
    {
        let mut request = host.shell(id, "cat /run/secrets/key");
        let layer = layer_on(&host, &mut request);
        fs::create_dir_all(layer.join("run")).unwrap();
        if link.ends_with("key") {
            fs::create_dir_all(layer.join("run/secrets")).unwrap();
        }
        symlink(to, layer.join(link)).unwrap();
        request.files = vec![file("/run/secrets/key", CANARY, 0o444, 0)];
        assert_eq!(host.output(&request), ["canary-of-runtime"], "{id}");
    }
    // A volume that another container has filled, over the directory of the secrets and above it.
    for (id, target, inside) in [("over", "/run", "secrets"), ("above", "/run/secrets", "below")] {
        let name = format!("trap_{id}");
        let mut trap = host.shell(&format!("{id}-trap"), &format!("busybox ln -s {up} /v/{inside}"));
        trap.spec.mounts = vec![volume(&name, "/v")];
        host.output(&trap);
        let path = if id == "over" { "/run/secrets/key" } else { "/run/secrets/below/key" };
        let mut request = host.shell(id, &format!("cat {path}"));
        request.spec.mounts = vec![volume(&name, target)];
        request.files = vec![file(path, CANARY, 0o444, 0)];
        match host.runtime().start(&request) {
            Ok(_) => {
                host.wait(&request.id);
                assert_eq!(host.lines(id), ["canary-of-runtime"], "{id}");
            }
            // To refuse it is as good.
            Err(error) => assert!(error.to_string().contains(path), "{id}: {error}"),
        }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
}

fn injected_files_replace_nothing_of_the_kernel() {
    let host = Host::new();
    for (id, to, why) in [
        ("proc", "/proc/sys/kernel", "nothing can be mounted over /proc/sys/kernel/key"),
        ("self", "../../proc/self", "nothing can be mounted over /proc/self/key"),
        ("sys", "/sys/kernel", "it is /sys/kernel/key in this image"),
        ("pts", "/dev/pts/../null", "/dev/null is a device of every container"),
    ] {
        let mut request = host.shell(id, "true");
        let layer = layer_on(&host, &mut request);
        fs::create_dir(layer.join("etc")).unwrap();
        symlink(to, layer.join("etc/conf")).unwrap();
        request.files = vec![file("/etc/conf/key", CANARY, 0o444, 0)];
        let error = host.runtime().start(&request).unwrap_err().to_string();
        assert!(error.contains("/etc/conf/key") && error.contains(why), "{id}: {error}");
    }
    let mut request = host.shell("root", "true");
    let layer = layer_on(&host, &mut request);
    symlink("/tmp/..", layer.join("key")).unwrap();
    request.files = vec![file("/key", CANARY, 0o444, 0)];
    let error = host.runtime().start(&request).unwrap_err().to_string();
    assert!(error.contains("it is the root directory in this image"), "{error}");
}

fn injected_files_hide_no_mount_and_are_not_hidden() {
    let host = Host::new();
    let mut request = host.shell("hidden", "true");
    let layer = layer_on(&host, &mut request);
    fs::create_dir(layer.join("var")).unwrap();
    fs::create_dir(layer.join("run")).unwrap();
    symlink("/run", layer.join("var/run")).unwrap();
    request.files = vec![file("/var/run/secrets/key", CANARY, 0o444, 0)];
    request.spec.mounts = vec![volume("hides", "/run/secrets/key")];
    let error = host.runtime().start(&request).unwrap_err().to_string();
    assert!(error.contains("/run/secrets/key") && error.contains("same path in this image"), "{error}");
    // A volume that the image declares gives way, and so does our own file of /etc.
    let mut request = host.shell("way", "cat /data/key /etc/hostname; ls -A /new");
    request.image.volumes = vec!["/data/key".into(), "/new".into()];
    request.files = vec![file("/data/key", CANARY, 0o444, 0), file("/etc/hostname", CANARY, 0o444, 0)];
    assert_eq!(host.output(&request), ["canary-of-runtime", "canary-of-runtime"]);
}

fn injected_files_are_in_memory_alone_and_come_again_with_the_next_run() {
    let host = Host::new();
    let script = "cat /run/secrets/own; stat -f -c %T /run/secrets/own; cat /run/secrets/other 2>/dev/null || echo not for us; \
                  echo x 2>/dev/null > /run/secrets/own || echo read-only; stat -c %s /big; echo up; sleep 1000";
    let mut request = host.shell("memory", script);
    request.spec.user = Some("app".into());
    request.spec.read_only = true;
    request.spec.init = Some(false);
    let big = vec![b'x'; 500 << 10];
    request.files = vec![
        file("/run/secrets/own", CANARY, 0o400, 1000),
        file("/run/secrets/other", CANARY, 0o400, 0),
        file("/big", &big, 0o444, 0),
    ];
    let seen = ["canary-of-runtime", "tmpfs", "not for us", "read-only", "512000", "up"];
    let mut all = Vec::new();
    for run in [1, 2] {
        request.id = RunId::new("memory", run);
        host.runtime().start(&request).unwrap();
        all.extend(seen);
        crate::support::eventually("it has read its files", || {
            (host.lines("memory").iter().filter(|line| *line == "up").count() == run as usize).then_some(())
        });
        assert_eq!(host.lines("memory"), all);
        assert_no_canary(&host, run);
        host.runtime().kill(&request.id).unwrap();
        host.runtime().remove_run(&request.id).unwrap();
    }
}

/// What a test gives as content and finds only inside a container.
const CANARY: &[u8] = b"canary-of-runtime\n";

/// No file of the host but the log, into which the container itself writes, has the canary, and neither has the command line or
/// the environment of a process.
fn assert_no_canary(host: &Host, run: u32) {
    let has = |bytes: &[u8]| bytes.windows(CANARY.len() - 1).any(|part| part == &CANARY[..CANARY.len() - 1]);
    let mut found = Vec::new();
    let mut directories = vec![host.dir.path().to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                directories.extend((path.file_name() != Some("log".as_ref())).then_some(path));
            } else if kind.is_file() && fs::read(&path).is_ok_and(|bytes| has(&bytes)) {
                found.push(path);
            }
        }
    }
    assert!(found.is_empty(), "run {run}: {found:?}");
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        for name in ["cmdline", "environ"] {
            let held = fs::read(path.join(name)).is_ok_and(|bytes| has(&bytes));
            assert!(!held, "{} holds the canary", path.join(name).display());
        }
    }
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
