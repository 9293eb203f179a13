//! Each Compose key that counts as exact, seen at work: in containers, and in the kernel of the node. What is looked for is in
//! `observed.rs`; the files that are deployed are in `keys/`.

mod keys;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use carrack_api::{Health, Rollout, StackStatus, TaskState, TaskStatus};
use carrack_integration::lab::{HOST_ADDRESS, Lab, SOON};
use carrack_integration::observed::{ENDS, MAIN, Notes, Prints, Seen, observed};
use carrack_integration::wait::until;

use keys::{NameServer, cgroup_files, deploy, disk, find, is_v2, pids, place};

/// What the observation of a service's commands is divided by.
const MARK: &str = "==next==";

/// Runs the commands of all observations, those of one service in one go.
fn look_inside(lab: &Lab) -> Vec<String> {
    let mut services: Vec<&str> = Vec::new();
    let mut looks: BTreeMap<&str, Vec<(&str, &str, Prints)>> = BTreeMap::new();
    for observation in observed() {
        if let Seen::Inside { service, command, prints } = observation.seen {
            if !services.contains(&service) {
                services.push(service);
            }
            looks.entry(service).or_default().push((observation.key, command, prints));
        }
    }
    let mut wrong = Vec::new();
    for service in services {
        let looks = &looks[service];
        let script: String =
            looks.iter().map(|(_, command, _)| format!("{command}\necho {MARK}\n")).collect();
        let ran = lab.carrack(&["exec", &format!("keys/{service}"), "sh", "-c", &script]);
        let printed: Vec<&str> = ran.out.split(MARK).map(str::trim).collect();
        if printed.len() != looks.len() + 1 {
            wrong.push(format!("{service}: {ran:?}"));
            continue;
        }
        for ((key, command, prints), printed) in looks.iter().zip(printed) {
            if !prints.fits(printed) {
                wrong.push(format!("{key}: `{command}` in {service} printed {printed:?}, not {prints:?}"));
            }
        }
    }
    wrong
}

fn main_stack(lab: &Lab) -> PathBuf {
    place(lab, "keys/.env", &format!("LAB={}\nHUE=by-env\n", lab.path("").display()));
    place(lab, "keys/a.env", "FROM_FILE=${COLOUR} one\n");
    place(lab, "keys/raw.env", "RAW=${COLOUR}x\n");
    place(lab, "keys/inner.env", "INNER=from its own env file\n");
    place(lab, "keys/labels.env", "filed=by-a-file\n");
    place(lab, "keys/sub/beside.env", "BESIDE=in sub\n");
    place(lab, "keys/beside.env", "BESIDE=not here\n");
    place(lab, "keys/word.txt", "hush");
    place(lab, "keys/inner.yaml", include_str!("keys/inner.yaml"));
    place(lab, "keys/parent.yaml", include_str!("keys/parent.yaml"));
    let others = lab.write("others", "of others");
    lab.ok(&["secret", "create", "word-of-others", &others]);
    lab.ok(&["config", "create", "out_settings", &others]);
    place(lab, "keys/compose.yaml", include_str!("keys/compose.yaml"))
}

/// Mounts a file system at a path of the lab, as the daemon sees it; it goes with the daemon.
fn mount_at_node(lab: &Lab, [place, propagation]: &[&str; 2]) {
    let (pid, place) = (lab.daemon_pid().to_string(), lab.path(place));
    let script = "mkdir -p \"$0\" && mount -t tmpfs lab \"$0\" && mount \"$1\" \"$0\"";
    let mut command = Command::new("nsenter");
    command.args(["-m", "-t", &pid, "sh", "-c", script]).arg(place).arg(propagation);
    assert!(command.status().expect("run nsenter").success(), "{command:?}");
}

#[test]
fn keys_do_what_they_say_inside_containers() {
    let lab = Lab::started();
    let _answers = NameServer::outside(&lab);
    lab.load_images(&["busybox", "nginx"]);
    let file = main_stack(&lab);
    mount_at_node(&lab, &["rooms", "--make-shared"]);
    deploy(&lab, &file, &[]);
    mount_at_node(&lab, &["rooms/late", "--make-private"]);
    let mut look = Look { lab: &lab, notes: Notes::of(MAIN), wrong: look_inside(&lab) };
    look.tasks();
    look.namespaces();
    look.ports();
    look.volumes();
    look.words();
    look.disks_and_swap();
    look.room();
    let Look { notes, wrong, .. } = look;
    assert!(wrong.is_empty(), "{} observations:\n{}", wrong.len(), wrong.join("\n"));
    notes.finish();
    lab.finish();
}

/// What is seen from outside of the containers.
struct Look<'a> {
    lab: &'a Lab,
    notes: Notes,
    wrong: Vec<String>,
}

impl Look<'_> {
    fn expect(&mut self, keys: &[&'static str], right: bool, seen: impl std::fmt::Debug) {
        self.notes.saw(keys);
        if !right {
            self.wrong.push(format!("{keys:?}: {seen:?}"));
        }
    }

    fn tasks(&mut self) {
        let tasks = self.lab.tasks("keys");
        let mut running: BTreeMap<String, usize> = BTreeMap::new();
        for task in tasks.iter().filter(|task| task.pid.is_some()) {
            *running.entry(task.service.service.to_string()).or_default() += 1;
        }
        let count = |service: &str| running.get(service).copied().unwrap_or_default();
        self.expect(&["services", "name"], running.len() == 17, &running);
        self.expect(&["services.scale"], count("twice") == 2, &running);
        self.expect(&["services.deploy.replicas"], count("pair") == 2, &running);
        self.expect(&["services.deploy.mode"], count("each") == 1, &running);
        self.expect(&["services.profiles"], count("hidden") == 0, &running);
    }

    fn namespaces(&mut self) {
        let (shared, own) = (pids(self.lab, "keys/shared")[0], pids(self.lab, "keys/box")[0]);
        let daemon = self.lab.daemon_pid().unsigned_abs();
        let namespace =
            |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap_or_default();
        for (name, key) in [
            ("ipc", "services.ipc (host)"),
            ("pid", "services.pid (host)"),
            ("uts", "services.uts (host)"),
            ("cgroup", "services.cgroup (host)"),
            ("user", "services.userns_mode (host)"),
            ("net", "services.network_mode (host)"),
        ] {
            let (host, task) = (namespace(daemon, name), namespace(shared, name));
            // Nobody has users of his own.
            let private = namespace(own, name) != host || name == "user";
            self.expect(&[key], host == task && private, (host, task, private));
            match name {
                "ipc" => self.expect(&["services.ipc (private)"], private, namespace(own, name)),
                "cgroup" => self.expect(&["services.cgroup (private)"], private, namespace(own, name)),
                _ => {}
            }
        }
    }

    fn ports(&mut self) {
        let lab = self.lab;
        let answers = |port: u16| {
            lab.get(&format!("127.0.0.1:{port}"), "/").map(|text| text.contains("it works")).unwrap_or(false)
        };
        let outside =
            |port: u16| lab.get_from(&lab.outside(), &format!("{HOST_ADDRESS}:{port}"), "/").is_ok();
        let both = ["services.ports.target", "services.ports.published"];
        self.expect(&both, answers(8080) && outside(8080), "no answer on 8080");
        let loopback = (answers(8081), outside(8081));
        self.expect(&["services.ports.host_ip"], loopback == (true, false), loopback);
        self.expect(&["services.ports.mode", "services.ports.name"], outside(8090), "no answer on 8090");
        // 8080 and 8081 have others.
        let range = [8082, 8083].map(outside);
        self.expect(&["services.ports.published (a range for one target)"], range == [true, false], range);
        let udp = lab.host_command("cat", &["/proc/net/udp"]).output().expect("read the UDP sockets");
        let udp = String::from_utf8_lossy(&udp.stdout).into_owned();
        self.expect(&["services.ports.protocol"], udp.contains(&format!(":{:04X} ", 8053)), udp);

        let services = lab.json::<Vec<StackStatus>>(&["ls", "keys"]).remove(0).services;
        let web = services.into_iter().find(|s| s.service.service.as_str() == "web").expect("web is listed");
        let looked = lab.ok(&["exec", "keys/linked", "nslookup", "web"]);
        let vip = web.vips.first().map(ToString::to_string).unwrap_or_default();
        let leads = !vip.is_empty() && looked.contains(&vip);
        self.expect(&["services.deploy.endpoint_mode (vip)"], leads, looked);
    }

    fn volumes(&mut self) {
        let volume = self.lab.state().join("volumes/keys-of-all");
        let kept = find(&volume, "mark");
        self.expect(&["volumes.name", "volumes.driver (local)"], kept.is_some(), volume);
        let made = self.lab.path("made");
        self.expect(&["services.volumes.bind.create_host_path"], made.is_dir(), made);
    }

    /// What is for people and programs that ask.
    fn words(&mut self) {
        let told = self.lab.ok(&["inspect", "keys"]);
        for (key, word) in [
            ("services.labels", "by-a-label"),
            ("services.label_file", "by-a-file"),
            ("services.deploy.labels", "by-a-deploy"),
            ("volumes.labels", "by-a-volume"),
        ] {
            self.expect(&[key], told.contains(word), &told);
        }
        let secret = self.lab.ok(&["secret", "inspect", "keys_word"]);
        self.expect(&["secrets.labels"], secret.contains("by-a-secret"), secret);
        let config = self.lab.ok(&["config", "inspect", "keys-settings"]);
        let right = config.contains("by-a-config") && config.contains("blue=1");
        self.expect(&["configs.labels", "configs.name"], right, config);
    }

    /// What the host must be able to do, in stacks of their own.
    fn disks_and_swap(&mut self) {
        let (disk, numbers) = disk().expect("a block device to limit");
        let rates = [
            ("device_read_bps", "1m"),
            ("device_write_bps", "2m"),
            ("device_read_iops", "300"),
            ("device_write_iops", "400"),
        ];
        let blkio = rates.map(|(key, rate)| format!("{key}: [{{path: {disk}, rate: {rate}}}]")).join(", ");
        let swappiness = if is_v2() { "" } else { "mem_swappiness: 7" };
        let text = format!(
            "services: {{io: {{image: 'busybox:1', command: sleep 1000, blkio_config: {{{blkio}}}, {swappiness}}}}}"
        );
        let file = place(self.lab, "disks/compose.yaml", &text);
        deploy(self.lab, &file, &["-p", "disks"]);
        let pid = pids(self.lab, "disks/io")[0];
        let found = match is_v2() {
            true => cgroup_files(pid, "io.max"),
            false => ["read_bps", "write_bps", "read_iops", "write_iops"]
                .map(|what| cgroup_files(pid, &format!("blkio.throttle.{what}_device")))
                .concat(),
        };
        let wanted: BTreeSet<String> = match is_v2() {
            true => [format!("{numbers} rbps=1048576 wbps=2097152 riops=300 wiops=400")].into(),
            false => ["1048576", "2097152", "300", "400"].map(|rate| format!("{numbers} {rate}")).into(),
        };
        let seen: BTreeSet<String> = found.lines().map(|line| line.trim().to_owned()).collect();
        let keys = [
            "services.blkio_config.device_read_bps.path",
            "services.blkio_config.device_read_bps.rate",
            "services.blkio_config.device_write_bps.path",
            "services.blkio_config.device_write_bps.rate",
            "services.blkio_config.device_read_iops.path",
            "services.blkio_config.device_read_iops.rate",
            "services.blkio_config.device_write_iops.path",
            "services.blkio_config.device_write_iops.rate",
        ];
        self.expect(&keys, seen == wanted, (disk, seen));
        let (right, seen) = if is_v2() {
            let text = "services: {one: {image: 'busybox:1', mem_swappiness: 7}}";
            let file = place(self.lab, "swap/compose.yaml", text);
            let file = file.to_str().expect("a path in UTF-8");
            let ran = self.lab.carrack(&["deploy", "-p", "swap", "-f", file]);
            (ran.code != 0 && ran.err.contains("swappiness"), ran.err)
        } else {
            let found = cgroup_files(pid, "memory.swappiness");
            // Next to that of the node, where a controller's cgroup is the root.
            (found.lines().any(|line| line == "7"), found)
        };
        self.expect(&["services.mem_swappiness"], right, seen);
    }

    /// No node has so many CPUs.
    fn room(&mut self) {
        let text =
            "services: {one: {image: 'busybox:1', deploy: {resources: {reservations: {cpus: '4000'}}}}}";
        let file = place(self.lab, "room/compose.yaml", text);
        let file = file.to_str().expect("a path in UTF-8");
        let ran = self.lab.carrack(&["deploy", "-p", "room", "-f", file]);
        let key = "services.deploy.resources.reservations.cpus";
        self.expect(&[key], ran.code == 1 && ran.err.contains("4000"), ran);
    }
}

#[test]
fn tasks_end_and_come_back_as_written() {
    let lab = Lab::started();
    lab.load_images(&["busybox"]);
    let file = place(&lab, "ends/compose.yaml", include_str!("keys/ends.yaml"));
    deploy(&lab, &file, &["-d"]);
    let notes =
        || find(&lab.state().join("volumes"), "signal-up").and_then(|p| p.parent().map(Path::to_owned));
    let dir = until("the first notes are written", SOON, || notes().ok_or("nothing yet"));
    let mut ends = Ends { lab: &lab, dir, notes: Notes::of(ENDS) };
    ends.failing_probes();
    ends.replacements();
    ends.rollback();
    ends.runs();
    ends.stops();
    ends.notes.finish();
    lab.finish();
}

/// What tasks wrote to their volume.
struct Ends<'a> {
    lab: &'a Lab,
    dir: PathBuf,
    notes: Notes,
}

impl Ends<'_> {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    fn lines(&self, name: &str) -> usize {
        self.read(name).lines().count()
    }

    /// Waits until a service's notes are these.
    #[track_caller]
    fn wait(&self, name: &str, wanted: &str) {
        until(&format!("{name} has come so far"), SOON, || match self.read(name) {
            text if text == wanted => Ok(()),
            text => Err(format!("{text}\n{}", self.lab.ok(&["ps", "-a"]))),
        });
    }

    /// How often what ends runs, and how often what is healthy is asked.
    fn runs(&mut self) {
        let tasks = |stack: &str| self.lab.ok(&["ps", stack, "-a"]);
        until("all have run and were asked as often as is written", SOON, || {
            let once = ["never", "condition", "delay", "crowded", "optional", "rare"];
            let right = once.iter().all(|name| self.lines(name) == 1)
                && (self.lines("thrice"), self.lines("attempts")) == (3, 2)
                && self.lines("always") > 3
                && self.lines("often") > 5
                && self.lines("early") > 5;
            if right { Ok(()) } else { Err(tasks("ends")) }
        });
        // Enough time has passed for all of them: others have done far more.
        let names = ["never", "thrice", "condition", "attempts", "delay", "rare", "crowded", "off"];
        assert_eq!(names.map(|name| self.lines(name)), [1, 3, 1, 2, 1, 1, 1, 0], "{}", tasks("ends"));
        self.notes.saw(&[
            "services.restart",
            "services.deploy.restart_policy.condition",
            "services.deploy.restart_policy.max_attempts",
            "services.deploy.restart_policy.delay",
            "services.deploy.placement.max_replicas_per_node",
            "services.depends_on.required",
            "services.healthcheck.test",
            "services.healthcheck.interval",
            "services.healthcheck.disable",
            "services.healthcheck.start_interval",
        ]);
        let all = self.lab.json::<Vec<TaskStatus>>(&["ps", "ends", "-a"]);
        let early: Vec<_> = all.iter().filter(|t| t.service.service.as_str() == "early").collect();
        assert!(early.len() == 1 && early[0].run == 1 && early[0].health != Health::Failing, "{early:?}");
        self.notes.saw(&["services.healthcheck.start_period"]);
        assert!(!self.dir.join("nowhere").exists() && pids(self.lab, "ends/nowhere").is_empty());
        self.notes.saw(&["services.deploy.placement.constraints"]);
    }

    /// Probes that fail, and a platform that no node has.
    fn failing_probes(&mut self) {
        let lab = self.lab;
        let file = place(lab, "probes/compose.yaml", include_str!("keys/probes.yaml"));
        deploy(lab, &file, &["-d"]);
        let failing = |name: &str| {
            let tasks = lab.json::<Vec<TaskStatus>>(&["ps", "probes", "-a"]);
            let mut of = tasks.iter().filter(|t| t.service.service.as_str() == name);
            of.any(|t| t.probe.as_ref().is_some_and(|p| !p.passed))
        };
        until("the probes fail", SOON, || {
            if failing("fails") && failing("hangs") { Ok(()) } else { Err(lab.ok(&["ps", "probes", "-a"])) }
        });
        assert!(pids(lab, "probes/alien").is_empty(), "no node has that platform");
        lab.ok(&["rm", "probes"]);
        self.notes.saw(&[
            "services.healthcheck.timeout",
            "services.healthcheck.retries",
            "services.platform",
        ]);
    }

    /// How tasks of the first version are replaced by those of the second.
    fn replacements(&mut self) {
        for version in ["1", "2"] {
            let text = include_str!("keys/order.yaml").replace("VERSION", version);
            let file = place(self.lab, "order/compose.yaml", &text);
            // Some of the second are on their way for hours.
            deploy(self.lab, &file, if version == "1" { &[] } else { &["-d"] });
        }
        self.wait("over", "start 1\nstart 2\nstop 1\n");
        self.wait("under", "start 1\nstop 1\nstart 2\n");
        self.notes.saw(&["services.deploy.update_config.order", "volumes.external", "volumes.external.name"]);
        until("as many are replaced as may be", SOON, || match self.new_of("slow") {
            2 => Ok(()),
            other => Err(format!("{other}\n{}", self.lab.ok(&["ps", "order", "-a"]))),
        });
        self.notes.saw(&["services.deploy.update_config.parallelism"]);
    }

    /// How many of a service's notes are of its second version.
    fn new_of(&self, name: &str) -> usize {
        self.read(name).lines().filter(|line| *line == "start 2").count()
    }

    /// Second versions that fail, in stacks of their own: a rollback takes the whole stack back.
    fn rollback(&mut self) {
        let stacks = [("watched", "1h"), ("unwatched", "0s")];
        let deploys = |version: &str, more: &[&str]| {
            for (stack, monitor) in stacks {
                let text = include_str!("keys/back.yaml").replace("VERSION", version);
                let text = text.replace("STACK", stack).replace("MONITOR", monitor);
                deploy(self.lab, &place(self.lab, &format!("{stack}.yaml"), &text), more);
            }
        };
        deploys("1", &[]);
        // Only what follows a version that is done is watched.
        until("the first versions are done", SOON, || {
            let done = |name: &str| self.lab.ok(&["events", name]).contains("rollout.done");
            if stacks.iter().all(|(name, _)| done(name)) { Ok(()) } else { Err("they are not") }
        });
        deploys("2", &["-d"]);
        let of = |stack: &str| self.lab.json::<Vec<StackStatus>>(&["ls", stack]).remove(0).services.remove(0);
        until("the second versions pass", SOON, || match (of("watched"), of("unwatched")) {
            (watched, unwatched)
                if matches!(&watched.rollout, Rollout::Progressing { reason } if reason.contains("is watched"))
                    && unwatched.rollout == Rollout::Converged =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        });
        fs::write(self.dir.join("fail"), "").expect("tell them to fail");
        self.wait("watched", "start 1\nstart 2\nstart 1\n");
        until("the other has failed, too", SOON, || {
            let tasks = self.lab.json::<Vec<TaskStatus>>(&["ps", "unwatched", "-a"]);
            if tasks.iter().any(|t| t.state == TaskState::Failed) {
                Ok(())
            } else {
                Err(format!("{tasks:?}"))
            }
        });
        assert_eq!(self.read("unwatched"), "start 1\nstart 2\n");
        self.notes.saw(&[
            "services.deploy.update_config.monitor",
            "services.deploy.update_config.failure_action (rollback)",
            "services.deploy.update_config.max_failure_ratio (0)",
        ]);
    }

    /// How tasks end.
    fn stops(&mut self) {
        // By now, what waits for an hour would have been replaced.
        assert_eq!(self.new_of("slow"), 2, "{}", self.lab.ok(&["ps", "order", "-a"]));
        self.notes.saw(&["services.deploy.update_config.delay"]);
        until("what traps is up", SOON, || match self.dir.join("stubborn-up").exists() {
            true => Ok(()),
            false => Err("it is not"),
        });
        self.lab.ok(&["stop", "ends/signal", "ends/stubborn"]);
        assert_eq!(self.lines("signal"), 1, "SIGINT was trapped");
        assert_eq!(self.lines("stubborn"), 1, "it was asked once, ignored it, and was killed");
        self.notes.saw(&["services.stop_signal", "services.stop_grace_period"]);
        let told = self.read("pre-stop");
        assert!(told == "yellow 33 /srv\n" && self.read("pre-stop-first") == "0\n", "{told}");
        self.notes.saw(&[
            "services.pre_stop.command",
            "services.pre_stop.user",
            "services.pre_stop.working_dir",
            "services.pre_stop.environment",
        ]);
        let power = u64::from_str_radix(self.read("pre-stop-power").trim(), 16).expect("capabilities");
        assert_eq!(power >> 21 & 1, 1, "SYS_ADMIN is among {power:x}");
        self.notes.saw(&["services.pre_stop.privileged"]);
    }
}
