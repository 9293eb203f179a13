//! What `docs/security.md` says, looked at from inside: runs and commands, with and without a terminal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use carrack_api::Security;
use carrack_runtime::{ExecRequest, RunId, StartRequest};

use crate::probe;
use crate::support::{DEADLINE, Host};

crate::trials!(
    a_default_run_is_what_the_document_says,
    a_command_is_confined_as_the_document_says,
    a_user_without_powers_gains_none,
    set_user_id_programs_gain_nothing,
    our_binary_cannot_be_written_from_inside,
    a_command_in_the_making_shows_nothing_of_the_host,
    the_session_keyring_is_the_containers_own,
);

/// Facts of a probe by `KIND NAME`.
type Facts = BTreeMap<String, String>;

fn facts<'a>(lines: impl IntoIterator<Item = &'a str>) -> Facts {
    let facts: Facts = lines
        .into_iter()
        .filter_map(|line| line.trim_end().split_once(" = "))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(
        facts.get("end probe").map(String::as_str),
        Some("ok"),
        "the probe came to its end: {facts:#?}"
    );
    facts
}

/// The paths that the document promises something of: `KIND:PATH`.
fn documented_paths() -> Vec<String> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `/")).map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let path = format!("/{}", cells.next().unwrap().trim_end_matches('`')).replace("cpuN", "cpu0");
        format!("{}:{path}", cells.next().unwrap())
    });
    let paths: Vec<String> = rows.collect();
    assert!(paths.len() > 20, "{paths:?}");
    paths
}

fn argv() -> Vec<String> {
    [probe::PATH.to_owned(), probe::MODE.to_owned()].into_iter().chain(documented_paths()).collect()
}

fn with_probe(mut request: StartRequest) -> StartRequest {
    request.spec.mounts.extend(probe::mounts());
    request
}

/// All that must hold in every default container, whoever started the program.
fn assert_confined(facts: &Facts, terminal: bool, case: &str) {
    let get = |key: &str| facts.get(key).map_or("", String::as_str);
    // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(get(&format!("status {set}")), "00000000000405fb", "{case}: {set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(get(&format!("status {set}")), "0000000000000000", "{case}: {set}");
    }
    assert_eq!((get("status NoNewPrivs"), get("status Seccomp")), ("1", "2"), "{case}");
    assert_descriptors(facts, terminal, case);
    assert_devices(facts, terminal, case);
    for (key, value) in facts {
        let (kind, what) = key.split_once(' ').unwrap();
        let fine = match kind {
            "cgroup" => value == "/",
            "masked" => {
                ["ENOENT", "dir of 0, read-only"].contains(&value.as_str()) || value == "file of 0, 1:3"
            }
            "read-only" => ["ENOENT", "read-only"].contains(&value.as_str()),
            "write" => ["EACCES", "ENOENT", "EPERM", "EROFS", "ETXTBSY"].contains(&value.as_str()),
            // Of a process with our powers: no way up.
            "call" if what == "ptrace(1)" => true,
            "call" if what == "clone3" => value == "ENOSYS",
            "call" => value == "EPERM",
            "unknown" => false,
            _ => true,
        };
        assert!(fine, "{case}: {key} is {value}");
    }
}

fn assert_descriptors(facts: &Facts, terminal: bool, case: &str) {
    let open: Vec<(&str, &str)> =
        facts.iter().filter_map(|(key, value)| Some((key.strip_prefix("fd ")?, value.as_str()))).collect();
    let names: Vec<&str> = open.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["0", "1", "2"], "{case}: {open:?}");
    for (name, target) in open {
        let fine = match terminal {
            true => target == "/dev/pts/0" || target == "/dev/console" || target.starts_with("/dev/pts/"),
            false => target.starts_with("pipe:[") || target == "/dev/null",
        };
        assert!(fine, "{case}: {name} is {target}");
    }
}

fn assert_devices(facts: &Facts, terminal: bool, case: &str) {
    let mut want: BTreeMap<&str, &str> = BTreeMap::from([
        ("null", "c 1:3"),
        ("zero", "c 1:5"),
        ("full", "c 1:7"),
        ("random", "c 1:8"),
        ("urandom", "c 1:9"),
        ("tty", "c 5:0"),
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("pts", "dir"),
        ("shm", "dir"),
        ("mqueue", "dir"),
    ]);
    // Where the kernel has it; it is masked.
    for name in ["core", "kcore"] {
        want.extend(facts.get(&format!("dev {name}")).map(|_| (name, "/proc/kcore")));
    }
    let console = facts.get("dev console").map(String::as_str);
    if let Some(console) = console.filter(|_| terminal) {
        want.insert("console", console);
        assert!(console.starts_with("c 136:"), "{case}: {console}");
    }
    let found: BTreeMap<&str, &str> =
        facts.iter().filter_map(|(key, value)| Some((key.strip_prefix("dev ")?, value.as_str()))).collect();
    assert_eq!(found, want, "{case}");
}

fn a_default_run_is_what_the_document_says() {
    let host = Host::new();
    for (task, init, tty) in [
        ("reaped", true, false),
        ("bare", false, false),
        ("terminal", true, true),
        ("bare-terminal", false, true),
    ] {
        let mut request = with_probe(host.request(task, &[]));
        request.spec.command = Some(argv());
        (request.spec.init, request.spec.tty) = (Some(init), tty);
        let lines = host.output(&request);
        assert_confined(&facts(lines.iter().map(String::as_str)), tty, task);
    }
}

/// Runs a command in a container and gives what it printed.
fn command(host: &Host, id: &RunId, request: &ExecRequest) -> String {
    let mut session = host.runtime().exec(id, request).unwrap_or_else(|error| panic!("{error}"));
    let mut text = Vec::new();
    match session.pty.take() {
        // A terminal whose last user is gone is an error and not an end.
        Some(terminal) => drop(File::from(terminal).read_to_end(&mut text)),
        None => {
            File::from(session.stdout.take().unwrap()).read_to_end(&mut text).unwrap();
            File::from(session.stderr.take().unwrap()).read_to_end(&mut text).unwrap();
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(session.wait_timeout(*DEADLINE).unwrap(), Some(0), "{text}");
    text
}

fn a_command_is_confined_as_the_document_says() {
    let host = Host::new();
    let request = with_probe(host.request("web", &["sleep", "1000"]));
    host.runtime().start(&request).unwrap();
    for (tty, stdin) in [(None, false), (None, true), (Some((80, 24)), false)] {
        let order = ExecRequest { argv: argv(), tty, stdin, ..Default::default() };
        let text = command(&host, &request.id, &order);
        assert_confined(&facts(text.lines()), tty.is_some(), &format!("exec tty {tty:?} stdin {stdin}"));
    }
}

fn a_user_without_powers_gains_none() {
    let carrack = std::env::var_os("CARRACK").expect("CARRACK names the built binary: run it with make test");
    for exe in [None, Some(carrack.into())] {
        let product = exe.is_some();
        let host = Host::with_exe(exe);
        let mut request = with_probe(host.request("user", &[]));
        request.spec.command = Some(argv());
        request.spec.user = Some("app".into());
        let lines = host.output(&request);
        let facts = facts(lines.iter().map(String::as_str));
        for set in ["CapEff", "CapPrm", "CapAmb", "CapInh"] {
            assert_eq!(facts[&format!("status {set}")], "0000000000000000", "{set}");
        }
        assert_descriptors(&facts, false, "user");
        // Who takes PID 1 over has gained nothing: it has the same powers. One that was not executed (`init`) has more, and is
        // out of reach.
        let differs = ["Uid", "Gid", "CapEff", "CapPrm", "CapAmb", "CapInh", "NoNewPrivs", "Seccomp"]
            .iter()
            .find(|power| facts[&format!("init {power}")] != facts[&format!("status {power}")]);
        let out_of_reach = facts["call ptrace(1)"] == "EPERM" && !product;
        assert!(differs.is_none() || out_of_reach, "{differs:?} of PID 1: {facts:#?}");
    }
}

/// A set-user-id program and a file with capabilities, from the image and from a volume.
fn set_user_id_programs_gain_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let layer = host.busybox();
    for (name, program, mode) in
        [("suid", "/bin/cat", 0o4755), ("sgid", "/bin/cat", 0o2755), ("grep", "/bin/busybox", 0o755)]
    {
        let copy = layer.join(name);
        std::fs::copy(program, &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(layer.join(format!("{name}-only")), "read\n").unwrap();
    }
    let only = |name: &str, mode| {
        let path = layer.join(format!("{name}-only"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    only("suid", 0o600);
    only("sgid", 0o640);
    // VFS_CAP_REVISION_2, all capabilities permitted.
    let mut all = [0xff_u8; 20];
    all[..4].copy_from_slice(&0x0200_0000_u32.to_le_bytes());
    let program = layer.join("grep");
    rustix::fs::setxattr(program, "security.capability", &all, rustix::fs::XattrFlags::empty()).unwrap();
    let script = "for p in suid sgid; do /$p /$p-only 2>/dev/null || echo refused; done; \
        exec /grep CapPrm /proc/self/status";
    let with_powers = |task: &str, no_new_privileges| {
        let mut request = host.shell(task, script);
        request.spec.mounts = probe::libraries("/bin/cat");
        request.spec.user = Some("app".into());
        request.spec.security = Security { no_new_privileges, ..Default::default() };
        host.output(&request)
    };
    assert_eq!(with_powers("confined", None), ["refused", "refused", "CapPrm:\t0000000000000000"]);
    // The test would see a gain: this is one.
    let lines = with_powers("open", Some(false));
    assert_eq!(lines[..2], ["read", "read"]);
    assert!(!lines[2].ends_with("0000000000000000"), "{lines:?}");
}

/// CVE-2019-5736: through `/proc/PID/exe` of a process of ours, as PID 1, as a command and by running it anew. With this binary, and
/// with the one that users have, whose PID 1 is executed.
fn our_binary_cannot_be_written_from_inside() {
    let carrack = std::env::var_os("CARRACK").expect("CARRACK names the built binary: run it with make test");
    for exe in [None, Some(carrack.into())] {
        let host = Host::with_exe(exe.clone());
        let binary = exe.clone().unwrap_or_else(|| "/proc/self/exe".into());
        let before = checksum(&binary);
        let request = with_probe(host.request("web", &["sleep", "1000"]));
        host.runtime().start(&request).unwrap();
        let order = |first: &str| ExecRequest {
            argv: [first, probe::MODE, "hold-exe", "/proc/1/exe", "/proc/self/exe"]
                .map(str::to_owned)
                .to_vec(),
            ..Default::default()
        };
        // A process that may be looked at is seen through a read-only mount, others not at all.
        let text = command(&host, &request.id, &order(probe::PATH));
        let through: Vec<&str> = text.lines().filter(|line| line.starts_with("through ")).collect();
        assert_eq!(through.len(), 2, "{text}");
        for line in &through {
            let fine = line.ends_with(", read-only") && !line.contains("WORKED");
            assert!(fine || line.ends_with("/proc/1/exe = EACCES"), "{line}");
        }
        // `/proc/self/exe` as the program is our own binary, run once more inside.
        if exe.is_none() {
            let text = command(&host, &request.id, &order("/proc/self/exe"));
            assert!(text.contains("through /proc/self/exe = ETXTBSY, read-only"), "{text}");
        } else {
            assert!(through[0].ends_with(", read-only"), "PID 1 is our binary: {through:?}");
        }
        assert_eq!(checksum(&binary), before);
    }
}

fn checksum(path: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    std::fs::read(path).unwrap().hash(&mut hasher);
    hasher.finish()
}

/// A container watches all of its `/proc` while commands come in: before its `execve`, a command is a process of ours with
/// descriptors of the host (CVE-2016-9962, CVE-2024-21626).
fn a_command_in_the_making_shows_nothing_of_the_host() {
    let host = Host::new();
    let script = "echo watching; while [ ! -e /stop ]; do for p in /proc/[0-9]*; do \
        for f in $p/fd/* $p/cwd $p/root; do t=$(readlink $f 2>/dev/null) && echo \"$t\"; done; done; done | \
        while read t; do case \"$t\" in pipe:*|/dev/*|/proc/*|/|/bin/*|/stop|socket:*|'') ;; *) echo \"SEEN $t\";; esac; done; echo done";
    let request = host.shell("watcher", script);
    host.runtime().start(&request).unwrap();
    host.wait_line("watcher", "watching");
    let order = |argv: &[&str]| ExecRequest {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    };
    for _ in 0..15 {
        command(&host, &request.id, &order(&["true"]));
    }
    command(&host, &request.id, &order(&["touch", "/stop"]));
    assert_eq!(host.wait(&request.id).code, 0);
    let lines = host.lines("watcher");
    let seen: Vec<_> = lines.iter().filter(|line| line.starts_with("SEEN")).collect();
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!(lines.last().unwrap(), "done");
}

/// Only a container that may call `keyctl` can tell.
fn the_session_keyring_is_the_containers_own() {
    let host = Host::new();
    let own = session_keyring(true).map(|serial| serial.to_string());
    let mut request = with_probe(host.request("keys", &[probe::PATH, probe::MODE, "session-keyring"]));
    request.spec.security.seccomp_unconfined = true;
    let lines = host.output(&request);
    match own {
        Ok(own) => assert_ne!(lines, [own]),
        // A kernel without keyrings.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{error}"),
    }
}

/// The serial number of this thread's session keyring; a new one first when asked.
#[expect(unsafe_code, reason = "keyctl has no safe interface")]
pub(crate) fn session_keyring(new: bool) -> std::io::Result<i64> {
    const GET: i32 = 0;
    const JOIN: i32 = 1;
    const SESSION: i32 = -3;
    // SAFETY: no pointer but a null name.
    let serial = unsafe {
        if new && libc::syscall(libc::SYS_keyctl, JOIN, std::ptr::null::<libc::c_char>()) < 0 {
            return Err(std::io::Error::last_os_error());
        }
        libc::syscall(libc::SYS_keyctl, GET, SESSION, 0)
    };
    if serial < 0 { Err(std::io::Error::last_os_error()) } else { Ok(serial) }
}
