//! TLS and name resolution: a registry outside loopback, straight and through a proxy, in a network
//! namespace of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use carrack_runtime::image::{ImageReference, ImageStore, ProgressSink, RegistryConfig, StoreOptions};

use crate::pull::{block_on, busybox};

pub(crate) const TESTS: &[(&str, fn())] = &[(
    "tls::a_registry_by_name_with_the_hosts_certificates",
    a_registry_by_name_with_the_hosts_certificates,
)];

/// The argument that makes this binary pull one image and print its name or the error.
const PULL_CHILD: &str = "__tls-test-pull";

/// Runs the pull child if that is what this process is.
#[expect(clippy::print_stdout, reason = "its output is its answer")]
pub(crate) fn dispatch_pull_child() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).map(String::as_str) == Some(PULL_CHILD) {
        let registries = match arguments.get(4) {
            Some(login) => RegistryConfig {
                https_proxy: Some(format!("http://{login}{}", proxy())),
                no_proxy: "192.0.2.0/24".into(),
                ..Default::default()
            },
            None => RegistryConfig::default(),
        };
        let options = StoreOptions { registries, ..StoreOptions::default() };
        let store = ImageStore::open(Path::new(&arguments[2]), options).unwrap();
        let reference = ImageReference::parse(&arguments[3]).unwrap();
        match block_on(store.pull(&reference, None, ProgressSink::ignore())) {
            Ok(image) => println!("pulled {}", image.names[0]),
            Err(error) => println!("failed {error}"),
        }
        std::process::exit(0);
    }
}

/// A proxy for ann with the password p@ss that leads every wish to the registry; returns its address.
fn proxy() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            std::thread::spawn(move || serve_proxy(client));
        }
    });
    address
}

fn serve_proxy(mut client: TcpStream) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "the wish ends early: {head}");
    }
    assert!(head.starts_with("CONNECT hidden.test:443 HTTP/1.1\r\n"), "{head}");
    if !head.contains("Proxy-Authorization: Basic YW5uOnBAc3M=\r\n") {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").unwrap();
        return;
    }
    let mut server = TcpStream::connect("192.0.2.1:443").unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\nX-A: b\r\n\r\n").unwrap();
    let (mut up, mut down) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut up, &mut down));
    // Either side may hang up, which is its right.
    let _ = std::io::copy(&mut reader, &mut server);
}

/// Runs in namespaces that end with it: its own network, and its own `/etc/hosts`.
const SCRIPT: &str = r#"
set -e
cd "$1"
ip link set lo up
ip addr add 192.0.2.1/32 dev lo
mount --bind hosts /etc/hosts
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN=registry.test -keyout key.pem -out req.pem 2>/dev/null
printf 'subjectAltName=DNS:registry.test,DNS:hidden.test\nbasicConstraints=CA:FALSE\n' > ext
openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem 2>/dev/null
docker-registry serve registry.yml >/dev/null 2>&1 &
registry=$!
trap 'kill $registry' EXIT
tries=0
until curl -s --cacert ca.pem https://registry.test/v2/ >/dev/null; do
    tries=$((tries + 1)); [ $tries -lt 1200 ] || { echo "the registry does not answer"; exit 1; }
    sleep 0.1
done
SSL_CERT_FILE=$PWD/ca.pem skopeo copy -q --insecure-policy "oci:$2" docker://registry.test/bb:1
SSL_CERT_FILE=$PWD/ca.pem "$3" __tls-test-pull "$PWD/trusted" registry.test/bb:1
"$3" __tls-test-pull "$PWD/untrusted" registry.test/bb:1
SSL_CERT_FILE=$PWD/ca.pem "$3" __tls-test-pull "$PWD/wrong-name" 192.0.2.1/bb:1
SSL_CERT_FILE=$PWD/ca.pem "$3" __tls-test-pull "$PWD/unknown" nowhere.test/bb:1
SSL_CERT_FILE=$PWD/ca.pem "$3" __tls-test-pull "$PWD/proxied" hidden.test/bb:1 ann:p%40ss@
SSL_CERT_FILE=$PWD/ca.pem "$3" __tls-test-pull "$PWD/no-login" hidden.test/bb:1 ''
"#;

fn a_registry_by_name_with_the_hosts_certificates() {
    let work = tempfile::tempdir().unwrap();
    let image = busybox(work.path());
    fs::write(work.path().join("hosts"), "127.0.0.1 localhost\n192.0.2.1 registry.test\n").unwrap();
    fs::write(
        work.path().join("registry.yml"),
        "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: data}}\n\
         http: {addr: '192.0.2.1:443', tls: {certificate: cert.pem, key: key.pem}}\n",
    )
    .unwrap();
    let mut command = Command::new("unshare");
    // A proxy of whoever runs the tests knows nothing of this namespace.
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    let output = command
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"])
        .arg(work.path())
        .arg(&image)
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let context = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{context}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{context}");
    assert_eq!(lines[0], "pulled registry.test/bb:1", "{context}");
    assert!(lines[1].contains("UnknownIssuer"), "an unknown authority is refused: {context}");
    assert!(lines[2].contains("not valid for name"), "another name is refused: {context}");
    assert!(lines[3].contains("cannot resolve nowhere.test"), "{context}");
    assert_eq!(lines[4], "pulled hidden.test/bb:1", "a name that only the proxy knows: {context}");
    assert!(lines[5].contains("asks for a user and password"), "{context}");
}
