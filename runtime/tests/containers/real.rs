//! Programs of distributions, from real image archives through our store: nginx as root that drops privileges, redis as a
//! user of its own with a volume.

use std::path::{Path, PathBuf};
use std::process::Command;

use carrack_runtime::image::{ImageStore, LoadOptions, ProgressSink, StoreOptions};
use carrack_runtime::{ExecRequest, Network, RunId, StartRequest};

use crate::support::{DEADLINE, Host, eventually};

crate::trials!(nginx_serves_and_stops_on_its_signal, redis_runs_as_its_user_and_writes_its_volume);

/// The archive of an image; built from Debian packages when `IMAGES` does not hold it.
fn archive(name: &str) -> PathBuf {
    let dir = std::env::var_os("IMAGES")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("images-{name}")), PathBuf::from);
    let path = dir.join(format!("{name}.tar"));
    if !path.exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../integration/images/build.sh");
        let status =
            Command::new(script).arg(&dir).arg(name).stdout(std::process::Stdio::null()).status().unwrap();
        assert!(status.success(), "cannot build the image {name}");
    }
    path
}

/// A request as the image wants it, with nothing of ours.
fn request(host: &Host, name: &str) -> StartRequest {
    let store = ImageStore::open(&host.dir.path().join("images"), StoreOptions::default()).unwrap();
    let loaded = store.load_path(&archive(name), &LoadOptions::default(), &ProgressSink::ignore()).unwrap();
    let image = store.get(&loaded[0].names[0]).unwrap().unwrap();
    StartRequest {
        lowerdirs: store.layers(&image),
        image: image.config,
        spec: Default::default(),
        id: RunId::new(name, 1),
        network: Network::None,
        ..host.request(name, &[])
    }
}

/// Output of a command in the container once it succeeds.
fn until(host: &Host, id: &RunId, script: &str) -> String {
    eventually(script, || {
        let order = ExecRequest { argv: vec!["sh".into(), "-c".into(), script.into()], ..Default::default() };
        let mut session = host.runtime().exec(id, &order).unwrap_or_else(|error| panic!("{error}"));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(session.stdout.take().unwrap()), &mut text)
            .unwrap();
        (session.wait_timeout(*DEADLINE).unwrap() == Some(0)).then_some(text)
    })
}

fn nginx_serves_and_stops_on_its_signal() {
    let host = Host::new();
    let request = request(&host, "nginx");
    let started = host.runtime().start(&request).unwrap();
    assert_eq!(started.warnings, Vec::<String>::new());
    assert_eq!(started.stop_signal, 3, "SIGQUIT, as the image says");
    assert!(until(&host, &request.id, "wget -q -O - http://127.0.0.1/").contains("it works"));
    let users = until(&host, &request.id, "ps -o user,args | grep '[n]ginx: worker'");
    assert!(!users.contains("root"), "the workers gave their privileges up: {users}");
    host.runtime().signal(&request.id, started.stop_signal).unwrap();
    assert_eq!(host.wait(&request.id).code, 0);
}

fn redis_runs_as_its_user_and_writes_its_volume() {
    let host = Host::new();
    let request = request(&host, "redis");
    host.runtime().start(&request).unwrap();
    let ask = |words: &str| {
        until(&host, &request.id, &format!("(printf '{words}\\r\\n'; sleep 0.2) | nc 127.0.0.1 6379"))
    };
    assert!(ask("SET key value").contains("+OK"));
    assert!(ask("SAVE").contains("+OK"));
    assert!(until(&host, &request.id, "stat -c %U /data/dump.rdb").contains("redis"));
    host.runtime().signal(&request.id, 15).unwrap();
    assert_eq!(host.wait(&request.id).code, 0);
}
