//! Real registries of the kinds that people run: plain, with a CA of their own, with basic
//! authentication, with a token service; and as mirrors of each other. All serve the same data.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use carrack_runtime::image::{Credentials, Error, HostConfig, ImageReference, RegistryConfig, StoreOptions};

use crate::fixture::Store;
use crate::pull::{block_on, busybox, pull, run};
use crate::registry::{Certificates, Registry};
use crate::server::{Answer, Request, Server};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("real::registries_with_an_own_ca_with_basic_and_with_token_auth", registries_of_all_kinds),
    ("real::mirrors_are_asked_in_order_and_then_the_registry", mirrors_are_asked_in_order),
];

/// User and password in the htpasswd file: bcrypt, cost 4.
const HTPASSWD: &str = "ann:$2y$04$abcdefghijklmnopqrstuuFuhxWRTXIsURoluSTZ1N4tYaWGn9oOi\n";

/// A directory with `team/bb:1` as a registry keeps it.
fn data() -> tempfile::TempDir {
    let work = tempfile::tempdir().unwrap();
    let image = busybox(work.path());
    let registry = Registry::over(&work.path().join("data"), "", "");
    let target = format!("docker://{}/team/bb:1", registry.host());
    run(
        "skopeo",
        &["copy", "--insecure-policy", "--dest-tls-verify=false", &format!("oci:{image}"), &target],
    );
    work
}

fn store(config: RegistryConfig) -> Store {
    Store::with(StoreOptions { registries: config, ..StoreOptions::default() })
}

fn ann(password: &str) -> Credentials {
    Credentials::Basic { username: "ann".into(), password: password.into() }
}

fn registries_of_all_kinds() {
    let work = data();
    let data = work.path().join("data");
    let certificates = Certificates::make();
    own_ca(&data, &certificates);
    basic(&data, &certificates);
    token(&data, &certificates);
}

fn own_ca(data: &Path, certificates: &Certificates) {
    let registry = Registry::over(data, &certificates.section(), "");
    let (host, name) = (registry.host(), format!("{}/team/bb:1", registry.host()));
    let trusted = |file: &str| HostConfig { ca_files: vec![certificates.path(file)], ..Default::default() };
    let config =
        |file: &str| RegistryConfig { hosts: [(host.clone(), trusted(file))].into(), ..Default::default() };
    let image = pull(&store(config("ca.pem")), &name, None).unwrap();
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    let foreign = pull(&store(config("token.pem")), &name, None).unwrap_err().to_string();
    assert!(foreign.contains("UnknownIssuer") && foreign.contains(&name), "{foreign}");
    let absent = pull(&store(config("absent.pem")), &name, None).unwrap_err().to_string();
    assert!(absent.contains("absent.pem"), "{absent}");
    let plain = pull(&Store::new(), &name, None).unwrap_err();
    assert!(matches!(plain, Error::Registry { status: 400, .. } | Error::Transport { .. }), "{plain}");
}

fn basic(data: &Path, certificates: &Certificates) {
    let passwords = certificates.path("htpasswd");
    fs::write(&passwords, HTPASSWD).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display());
    let registry = Registry::over(data, "", &auth);
    let name = format!("{}/team/bb:1", registry.host());
    let store = Store::new();
    pull(&store, &name, Some(&ann("opensesame"))).unwrap();
    refused(&name, None);
    refused(&name, Some(&ann("wrong-secret")));
    block_on(store.store.login(&registry.host(), &ann("opensesame"))).unwrap();
    let error = block_on(store.store.login(&registry.host(), &ann("wrong-secret"))).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

fn refused(name: &str, credentials: Option<&Credentials>) {
    let store = Store::new();
    let error = pull(&store, name, credentials).unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.contains(name) && !text.contains("wrong-secret"), "{text}");
    assert_eq!(error.to_string().matches("127.0.0.1").count(), 1, "named once: {error}");
    store.assert_empty("refused");
}

fn token(data: &Path, certificates: &Certificates) {
    let service = TokenService {
        key: certificates.path("token.key"),
        certificate: base64(&fs::read(certificates.path("token.der")).unwrap(), false),
    };
    let server = Server::start(move |_, request| service.answer(request));
    let auth = format!(
        "auth: {{token: {{realm: 'http://{}/token', service: reg, issuer: test, rootcertbundle: {}}}}}\n",
        server.address,
        certificates.path("token.pem").display()
    );
    let registry = Registry::over(data, "", &auth);
    let name = format!("{}/team/bb:1", registry.host());
    let store = Store::new();
    pull(&store, &name, Some(&ann("opensesame"))).unwrap();
    assert_eq!(server.count("/token"), 1, "one token serves the whole pull");
    assert_eq!(server.count("scope=repository:team/bb:pull"), 1);
    let reference = ImageReference::parse(&name).unwrap();
    block_on(store.store.resolve(&reference, Some(&ann("opensesame")))).unwrap();
    refused(&name, None);
    refused(&name, Some(&ann("wrong-secret")));
    block_on(store.store.login(&registry.host(), &ann("opensesame"))).unwrap();
    assert!(block_on(store.store.login(&registry.host(), &ann("wrong-secret"))).is_err());
}

/// Signs tokens for whoever knows the password.
struct TokenService {
    key: PathBuf,
    certificate: String,
}

impl TokenService {
    fn answer(&self, request: &Request) -> Answer {
        if request.authorization != Some(format!("Basic {}", base64(b"ann:opensesame", false))) {
            return Answer::status(401);
        }
        let scope = request.path.split_once("scope=").map(|(_, rest)| rest.split('&').next().unwrap());
        let access = match scope.and_then(|scope| scope.strip_prefix("repository:")?.split_once(':')) {
            Some((repository, _)) => {
                format!(r#"[{{"type":"repository","name":"{repository}","actions":["pull"]}}]"#)
            }
            None => "[]".to_owned(),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{}"]}}"#, self.certificate);
        let claims = format!(
            r#"{{"iss":"test","sub":"ann","aud":"reg","exp":{},"nbf":{},"iat":{now},"jti":"1","access":{access}}}"#,
            now + 600,
            now - 60
        );
        let signed = format!("{}.{}", base64(header.as_bytes(), true), base64(claims.as_bytes(), true));
        let signature = base64(&self.sign(signed.as_bytes()), true);
        Answer::ok(format!(r#"{{"token":"{signed}.{signature}"}}"#).as_bytes())
    }

    fn sign(&self, text: &[u8]) -> Vec<u8> {
        let mut child = Command::new("openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(&self.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        output.stdout
    }
}

fn base64(data: &[u8], url: bool) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let digit = |index: u32| match index {
        62 => {
            if url {
                '-'
            } else {
                '+'
            }
        }
        63 => {
            if url {
                '_'
            } else {
                '/'
            }
        }
        index => char::from(alphabet[index as usize]),
    };
    let mut text = String::new();
    for chunk in data.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        text.extend((0..=chunk.len()).map(|position| digit((bits >> (18 - 6 * position)) & 63)));
        if !url {
            text.extend((chunk.len()..3).map(|_| '='));
        }
    }
    text
}

fn mirrors_are_asked_in_order() {
    let work = data();
    let data = work.path().join("data");
    let certificates = Certificates::make();
    let mirror = Registry::over(&data, &certificates.section(), "");
    // A mirror whose content was damaged: every blob of a layer has one wrong byte.
    let damaged = work.path().join("damaged");
    run("cp", &["-r", data.to_str().unwrap(), damaged.to_str().unwrap()]);
    damage(&damaged);
    let damaged = Registry::over(&damaged, &certificates.section(), "");
    let gone = {
        let registry = Registry::over(&data, &certificates.section(), "");
        registry.host()
    };
    let origin = Arc::new(Registry::over(&data, "", ""));
    let config = |host: &str, mirrors: &[&str]| RegistryConfig {
        hosts: [(
            host.to_owned(),
            HostConfig {
                mirrors: mirrors.iter().map(|&mirror| mirror.to_owned()).collect(),
                ..Default::default()
            },
        )]
        .into(),
        ca_files: vec![certificates.path("ca.pem")],
        ..Default::default()
    };

    // The registry itself cannot be reached at all, and the first mirror is down.
    let only = store(config("registry.invalid", &[&gone, &mirror.host()]));
    pull(&only, "registry.invalid/team/bb:1", Some(&ann("secret"))).unwrap();
    assert!(only.get("registry.invalid/team/bb:1").is_some(), "named as it was asked for");

    // What a mirror lacks, or holds damaged, comes from the next and at last from the registry.
    for mirrors in [&[damaged.host()][..], &[gone.clone(), damaged.host()]] {
        let mirrors: Vec<&str> = mirrors.iter().map(String::as_str).collect();
        let host = origin.host();
        let through = store(config(&host, &mirrors));
        let image = pull(&through, &format!("{host}/team/bb:1"), None).unwrap();
        assert_eq!(image.layers.len(), 1);
    }
    let host = origin.host();
    let error =
        pull(&store(config(&host, &[&mirror.host()])), &format!("{host}/team/none:1"), None).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

/// Flips one byte of every large blob below a registry's directory.
fn damage(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path);
        } else if path.ends_with("data") && path.metadata().unwrap().len() > 100_000 {
            let mut content = fs::read(&path).unwrap();
            content[50_000] ^= 1;
            fs::write(&path, content).unwrap();
        }
    }
}
