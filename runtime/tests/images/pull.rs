//! Pulling from a real registry with images made by umoci, and from one that misbehaves.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use carrack_runtime::image::{Credentials, Digest, Error, Image, ImageReference, LoadOptions, ProgressSink};

use crate::fixture::{Layer, Store, config, gzip, manifest, names};
use crate::registry::Registry;
use crate::server::{Answer, Request, Server};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("pull::a_real_image_from_a_real_registry", a_real_image_from_a_real_registry),
    ("pull::parallel_pulls_fetch_each_blob_once", parallel_pulls_fetch_each_blob_once),
    ("pull::tokens_are_fetched_and_secrets_stay_with_their_host", tokens_are_fetched),
    ("pull::wrong_content_leaves_nothing_visible", wrong_content_leaves_nothing_visible),
    ("pull::redirects_away_from_loopback_need_tls", redirects_need_tls),
    ("pull::errors_name_the_image_and_the_registry", errors_name_the_image_and_the_registry),
    ("pull::a_pinned_image_in_the_store_needs_no_registry", a_pinned_image_needs_no_registry),
];

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

pub(crate) fn pull(store: &Store, name: &str, credentials: Option<&Credentials>) -> Result<Image, Error> {
    let reference = ImageReference::parse(name).unwrap();
    block_on(store.store.pull(&reference, credentials, ProgressSink::ignore()))
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An OCI layout with a busybox image made by umoci; returns its name within the layout.
pub(crate) fn busybox(dir: &Path) -> String {
    let root = dir.join("root");
    for part in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(part)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:12:34::/srv:/bin/sh\n").unwrap();
    let (layer, layout) = (dir.join("layer.tar"), dir.join("oci"));
    let (layer, layout) = (layer.to_str().unwrap(), layout.to_str().unwrap());
    run("tar", &["--format=posix", "--numeric-owner", "-C", root.to_str().unwrap(), "-cf", layer, "."]);
    let image = format!("{layout}:bb");
    run("umoci", &["init", "--layout", layout]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["raw", "add-layer", "--image", &image, layer]);
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.cmd",
            "/bin/sh",
            "--config.user",
            "web",
            "--config.stopsignal",
            "SIGQUIT",
        ],
    );
    image
}

fn a_real_image_from_a_real_registry() {
    let work = tempfile::tempdir().unwrap();
    let registry = Registry::plain();
    let image = busybox(work.path());
    let name = format!("localhost:{}/team/bb:1", registry.port);
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            &format!("oci:{image}"),
            &format!("docker://{name}"),
        ],
    );

    let store = Store::new();
    let pulled = pull(&store, &name, None).unwrap();
    assert_eq!(pulled.config.cmd, ["/bin/sh"]);
    assert_eq!((pulled.config.user.as_str(), pulled.config.stop_signal.as_deref()), ("web", Some("SIGQUIT")));
    assert_eq!(pulled.names[0].to_string(), name);
    let root = store.layer(&name);
    assert_eq!(fs::read(root.join("bin/busybox")).unwrap(), fs::read("/bin/busybox").unwrap());

    let reference = ImageReference::parse(&name).unwrap();
    assert_eq!(block_on(store.store.resolve(&reference, None)).unwrap(), pulled.digest);
    let error = pull(&store, &format!("localhost:{}/team/none:1", registry.port), None).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");

    // The same image by the other ways in, differently compressed or archived, is the same layers.
    let docker = work.path().join("docker.tar");
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            &format!("oci:{image}"),
            &format!("docker-archive:{}:saved:1", docker.display()),
        ],
    );
    let oci = work.path().join("oci.tar");
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            &format!("oci:{image}"),
            &format!("oci-archive:{}:archived:1", oci.display()),
        ],
    );
    let other = Store::new();
    for path in [&work.path().join("oci"), &docker, &oci] {
        other.store.load_path(path, &LoadOptions::default(), &ProgressSink::ignore()).unwrap();
    }
    for name in ["bb", "saved:1", "archived:1"] {
        assert_eq!(other.get(name).unwrap().layers[0].diff_id, pulled.layers[0].diff_id, "{name}");
    }
    assert_eq!(names(&other.path("layers")).len(), 1);
    assert_eq!(other.get("bb").unwrap().digest, pulled.digest, "a layout keeps its digests");
}

/// What a registry holds: one image of two layers under the tag `1`.
pub(crate) struct Content {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) layers: Vec<Digest>,
}

pub(crate) fn content() -> Content {
    content_of(b"b")
}

/// The same with something of its own in the second layer.
pub(crate) fn content_of(own: &[u8]) -> Content {
    let layers = [Layer::new().file("a", &[1; 50_000]).build(), Layer::new().file("b", own).build()];
    let packed: Vec<_> = layers.iter().map(|layer| gzip(layer)).collect();
    let config = config(&layers);
    let manifest = manifest(&config, &packed);
    let digests = packed.iter().map(|blob| Digest::of(blob)).collect();
    let blobs =
        packed.into_iter().chain([config]).map(|blob| (Digest::of(&blob).to_string(), blob)).collect();
    Content { manifest, blobs, layers: digests }
}

impl Content {
    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let (_, last) = request.path.rsplit_once('/').unwrap();
        if request.path.contains("/manifests/") {
            let known = last == "1" || last == Digest::of(&self.manifest).to_string();
            return if known { Answer::ok(&self.manifest) } else { Answer::status(404) };
        }
        self.blobs.get(last).map_or(Answer::status(404), |blob| Answer::ok(blob))
    }
}

fn parallel_pulls_fetch_each_blob_once() {
    let content = content();
    let layers = content.layers.clone();
    let server = Server::start(move |_, request| content.answer(request));
    let store = Store::new();
    let reference = ImageReference::parse(&format!("{}/x:1", server.address)).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    block_on(async {
        let mut pulls = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (store, reference, seen) = (store.store.clone(), reference.clone(), Arc::clone(&seen));
            pulls.spawn(async move {
                let sink = ProgressSink::new(move |progress| seen.lock().unwrap().push(progress));
                store.pull(&reference, None, sink).await.unwrap()
            });
        }
        while let Some(image) = pulls.join_next().await {
            assert_eq!(image.unwrap().layers.len(), 2);
        }
    });
    for layer in layers {
        assert_eq!(server.count(&format!("blobs/{layer}")), 1);
    }
    assert_eq!(names(&store.path("layers")).len(), 2);
    assert_eq!(names(&store.path("tmp")), Vec::<String>::new());
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter().any(
            |progress| Some(progress.received_bytes) == progress.total_bytes && progress.layers_done == 2
        )
    );
}

fn tokens_are_fetched() {
    let content = content();
    let blobs = Server::start(move |_, request| content.answer(request));
    let cdn = blobs.address;
    let served = self::content();
    let registry = Server::start(move |address, request| {
        let authorization = request.authorization.as_deref();
        if request.path.starts_with("/token") {
            assert!(request.path.contains("scope=repository:x:pull") && request.path.contains("service=reg"));
            return match authorization {
                Some("Basic dTpwdw==") => Answer::ok(br#"{"token":"t0k3n"}"#),
                _ => Answer::status(401),
            };
        }
        if authorization != Some("Bearer t0k3n") {
            let challenge =
                format!(r#"Bearer realm="http://{address}/token",service="reg",scope="repository:x:pull""#);
            return Answer::status(401).header("WWW-Authenticate", challenge);
        }
        if request.path.contains("/blobs/") {
            return Answer::status(307).header("Location", format!("http://{cdn}{}", request.path));
        }
        served.answer(request)
    });
    let name = format!("{}/x:1", registry.address);
    let store = Store::new();
    let credentials = Credentials::Basic { username: "u".into(), password: "pw".into() };
    pull(&store, &name, Some(&credentials)).unwrap();
    assert_eq!(registry.count("/token"), 1, "one token serves the whole pull");
    assert!(blobs.requests.lock().unwrap().iter().all(|request| request.authorization.is_none()));

    let store = Store::new();
    let wrong = Credentials::Basic { username: "u".into(), password: "wrong-secret".into() };
    for credentials in [None, Some(&wrong)] {
        let error = pull(&store, &name, credentials).unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("wrong-secret"), "{text}");
        assert!(text.contains("credentials") || text.contains("log in"), "{text}");
    }
    store.assert_empty("unauthorized");
}

fn wrong_content_leaves_nothing_visible() {
    let flipped = |content: &Content, request: &Request| {
        let mut answer = content.answer(request);
        if content.layers.iter().any(|layer| request.path.ends_with(&layer.to_string())) {
            answer.body[20] ^= 1;
        }
        answer
    };
    let longer = |content: &Content, request: &Request| {
        let mut answer = content.answer(request);
        if request.path.contains("/blobs/") {
            answer.body.push(0);
        }
        answer
    };
    let shorter = |content: &Content, request: &Request| {
        let mut answer = content.answer(request);
        if request.path.contains("/blobs/") {
            answer.body.pop();
        }
        answer
    };
    let manifest = |content: &Content, request: &Request| {
        content.answer(request).header("Docker-Content-Digest", Digest::of(b"other").to_string())
    };
    type Misbehave = fn(&Content, &Request) -> Answer;
    let cases: [(&str, Misbehave); 4] =
        [("flipped", flipped), ("longer", longer), ("shorter", shorter), ("manifest", manifest)];
    for (what, misbehave) in cases {
        let content = content();
        let server = Server::start(move |_, request| misbehave(&content, request));
        let store = Store::new();
        let error = pull(&store, &format!("{}/x:1", server.address), None).unwrap_err();
        assert!(
            matches!(error, Error::DigestMismatch { .. } | Error::SizeMismatch { .. }),
            "{what}: {error}"
        );
        assert!(store.store.list().unwrap().is_empty(), "{what}");
        assert_eq!(names(&store.path("tmp")), Vec::<String>::new(), "{what}");
    }
}

fn redirects_need_tls() {
    for location in
        ["http://10.255.255.1/blob", "http://registry.invalid/x", "file:///etc/passwd", "nonsense", ""]
    {
        let server = Server::start(move |_, _| Answer::status(302).header("Location", location));
        let store = Store::new();
        let error = pull(&store, &format!("{}/x:1", server.address), None).unwrap_err();
        assert!(matches!(error, Error::Transport { .. }), "{location}: {error}");
    }
    let server = Server::start(|address, request| {
        Answer::status(302).header("Location", format!("http://{address}{}", request.path))
    });
    let error = pull(&Store::new(), &format!("{}/x:1", server.address), None).unwrap_err().to_string();
    assert!(error.contains("redirects more than"), "{error}");
}

/// A port that is refused and that nobody else gets meanwhile: bound by a socket that does not listen.
fn closed_port() -> (u16, OwnedFd) {
    use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, getsockname, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = SocketAddrV4::try_from(getsockname(&socket).unwrap()).unwrap();
    (address.port(), socket)
}

fn errors_name_the_image_and_the_registry() {
    let store = Store::new();
    let (port, _held) = closed_port();
    let error = pull(&store, &format!("127.0.0.1:{port}/x:1"), None).unwrap_err().to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("refused"), "{error}");

    let error = pull(&store, "registry.invalid/x:1", None).unwrap_err();
    assert!(
        matches!(error, Error::Transport { .. }) && error.to_string().contains("registry.invalid"),
        "{error}"
    );

    let server = Server::start(|_, request| match request.path.rsplit_once('/').unwrap().1 {
        "gone" => Answer::status(404),
        "index" => Answer::ok(br#"{"schemaVersion":2,"manifests":[]}"#),
        "rubbish" => Answer::ok(b"<html>"),
        _ => Answer {
            status: 500,
            headers: vec![("Content-Type", "application/json".into())],
            body: br#"{"errors":[{"message":"disk full"}]}"#.to_vec(),
            ..Answer::default()
        },
    });
    let failure =
        |tag: &str| pull(&store, &format!("{}/x:{tag}", server.address), None).unwrap_err().to_string();
    let gone = failure("gone");
    assert!(gone.contains("x:gone") && gone.contains("was not found on its registry"), "{gone}");
    assert!(failure("index").contains("has no variant for linux/"));
    assert!(failure("rubbish").contains("invalid"));
    assert!(failure("broken").contains("500") && failure("broken").contains("disk full"));
}

fn a_pinned_image_needs_no_registry() {
    let store = Store::new();
    let content = content();
    let digest = Digest::of(&content.manifest);
    let server = Server::start(move |_, request| content.answer(request));
    let name = format!("{}/x:1", server.address);
    pull(&store, &name, None).unwrap();
    let repository = name.strip_suffix(":1").unwrap();
    let before = server.requests.lock().unwrap().len();
    pull(&store, &format!("{repository}@{digest}"), None).unwrap();
    pull(&store, &format!("{repository}:2@{digest}"), None).unwrap();
    assert_eq!(server.requests.lock().unwrap().len(), before);
    assert!(store.get(&format!("{repository}:2")).is_some());
    pull(&store, &name, None).unwrap();
    assert_eq!(server.count("/blobs/"), 3, "a second pull asks for the manifest alone");
}
