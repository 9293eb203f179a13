//! `build:` with a real builder (buildah, without a network): what was built is what runs, a change rolls, no change does nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use carrack_api::{HeldImage, StackStatus, TaskStatus};
use carrack_integration::lab::{Lab, Ran, SOON};
use carrack_integration::observed::{BUILT, BUILT_KEYS, Notes};
use carrack_integration::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DOCKERFILE: &str = "\
FROM scratch AS base
ARG WHO=nobody
COPY busybox /bin/busybox
COPY word /word
ENV WHO=$WHO
FROM base AS final
RUN --mount=type=secret,id=key --mount=type=secret,id=variable \\
    [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox wc -c /run/secrets/key /run/secrets/variable >/told\"]
CMD [\"/bin/busybox\", \"sleep\", \"1000\"]
FROM base AS other
CMD [\"/bin/busybox\", \"false\"]
";

const FILE: &str = "\
services:
  web:
    build:
      context: ./app
      target: final
      args: {WHO: ada}
      labels: {made.by: carrack}
      tags: ['shop/extra:1']
      secrets: [key, {source: from_variable, target: variable}]
  side:
    image: registry.invalid/side:1
    build:
      context: ./app
      dockerfile_inline: |
        FROM scratch
        COPY busybox /bin/busybox
        CMD [\"/bin/busybox\", \"sleep\", \"1000\"]
secrets:
  key: {file: ./key}
  from_variable: {environment: CANARY}
";

/// A project and a store for the builder, in the lab's directory.
fn project(lab: &Lab) -> PathBuf {
    let app = lab.path("app");
    fs::create_dir_all(&app).expect("a directory");
    fs::copy(busybox(), app.join("busybox")).expect("busybox-static is installed");
    lab.write("app/Dockerfile", DOCKERFILE);
    lab.write("app/word", "one\n");
    lab.write("key", "12345");
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
        lab.path("builder/root"),
        lab.path("builder/run")
    );
    lab.write("storage.conf", &storage);
    fs::create_dir_all(lab.path("scratch")).expect("a directory");
    lab.write("compose.yaml", FILE).into()
}

fn busybox() -> &'static Path {
    ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|p| p.exists()).expect("busybox")
}

/// The CLI with buildah, all of whose files are in the lab's directory, and which needs no OCI runtime.
fn builder(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.cli();
    command.args(arguments).env("CARRACK_BUILDER", "buildah").env("CANARY", "canary-1f3d");
    command.env("CONTAINERS_STORAGE_CONF", lab.path("storage.conf")).env("BUILDAH_ISOLATION", "chroot");
    command.env("TMPDIR", lab.path("scratch")).stdin(Stdio::null());
    command
}

fn build(lab: &Lab, arguments: &[&str]) -> Ran {
    let output = builder(lab, arguments).output().expect("run carrack");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
fn done(ran: Ran) -> Ran {
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    assert!(!format!("{ran:?}").contains("canary-1f3d"), "{ran:?}");
    ran
}

fn revision(lab: &Lab) -> u64 {
    lab.json::<Vec<StackStatus>>(&["ls", "shop"])[0].revision
}

fn task(lab: &Lab, service: &str) -> TaskStatus {
    let tasks = lab.tasks("shop");
    tasks.into_iter().find(|t| t.service.service.as_str() == service).expect("a task")
}

#[test]
fn what_was_built_runs_and_only_a_change_rolls() {
    let lab = Lab::started();
    let file = project(&lab);
    let file = file.to_str().expect("a path in UTF-8");
    // Nothing was built yet: each service is named, with what helps; a deploy builds what nobody has.
    let ran = build(&lab, &["deploy", "-p", "shop", "-f", file, "--no-build"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in ["services.web.build", "shop-web", "carrack deploy --build", "carrack image load"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    let ran = done(build(&lab, &["deploy", "-p", "shop", "-f", file]));
    assert!(ran.err.contains("to be built, as nobody has the image: side, web"), "{}", ran.err);
    assert!(ran.err.contains("web is built: docker.io/library/shop-web:latest"), "{}", ran.err);
    let (first, web) = (revision(&lab), task(&lab, "web"));
    assert!(web.image_digest.is_some(), "{web:?}");
    let told = |command: &[&str]| lab.ok(&[&["exec", "shop/web", "/bin/busybox"], command].concat());
    assert_eq!(told(&["cat", "/word"]), "one\n");
    assert!(told(&["env"]).contains("WHO=ada"), "{}", told(&["env"]));
    // The secrets were there, by file and by variable, and only then.
    assert!(told(&["cat", "/told"]).contains("5 /run/secrets/key"), "{}", told(&["cat", "/told"]));
    assert!(told(&["cat", "/told"]).contains("11 /run/secrets/variable"), "{}", told(&["cat", "/told"]));
    let details: Vec<carrack_api::ImageDetails> = lab.json(&["image", "inspect", "shop-web"]);
    assert_eq!(details[0].labels.get("made.by").map(String::as_str), Some("carrack"));
    let held: Vec<HeldImage> = lab.json(&["image", "ls"]);
    for name in ["docker.io/library/shop-web:latest", "docker.io/shop/extra:1", "registry.invalid/side:1"] {
        assert!(held.iter().any(|image| image.name == name), "{name}: {held:?}");
    }
    // The same again is the same image: nothing happens, with and without a build.
    done(build(&lab, &["deploy", "-p", "shop", "-f", file, "--build"]));
    done(build(&lab, &["deploy", "-p", "shop", "-f", file]));
    assert_eq!((revision(&lab), task(&lab, "web").id), (first, web.id));
    // Another file of the context is another image: its service rolls, the other does not.
    let side = task(&lab, "side").id;
    lab.write("app/word", "two\n");
    let ran = done(build(&lab, &["build", "-p", "shop", "-f", file, "web", "-o", "json"]));
    let built: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&built[0]["service"], revision(&lab)), (&"web".into(), first), "a build deploys nothing");
    done(build(&lab, &["deploy", "-p", "shop", "-f", file]));
    assert_eq!((revision(&lab), told(&["cat", "/word"]).as_str()), (first + 1, "two\n"));
    assert_eq!(task(&lab, "web").image_digest.as_deref(), built[0]["digest"].as_str());
    assert_eq!(task(&lab, "side").id, side);
    let mut notes = Notes::of(BUILT);
    notes.saw(&["services.build", "services.build.context", "services.build.dockerfile_inline"]);
    notes.saw(&["services.build.target", "services.build.args", "services.build.labels"]);
    notes.saw(&["services.build.tags", "services.build.secrets.source", "services.build.secrets.target"]);
    notes.finish();
    lab.finish();
}

/// `web` of this project, built from this Dockerfile.
fn project_of(lab: &Lab, dockerfile: &str) -> String {
    project(lab);
    lab.write("app/Dockerfile", dockerfile);
    lab.write(
        "compose.yaml",
        "services:\n  web:\n    build:\n      context: ./app\n      provenance: true\n",
    );
    lab.write("web.yaml", "services:\n  web: {build: ./app}\n")
}

#[test]
fn a_build_that_cannot_be_deploys_nothing_and_says_why() {
    let lab = Lab::started();
    let busybox = "FROM scratch\nCOPY busybox /bin/busybox\n";
    let run = |command: &str| format!("{busybox}RUN [\"/bin/busybox\", \"sh\", \"-c\", \"{command}\"]\n");
    let file = project_of(&lab, &run("echo it is not well; exit 7"));
    let fails = |arguments: &[&str], parts: &[&str]| {
        let ran = build(&lab, &[&["deploy", "-p", "shop", "-f"], arguments].concat());
        assert_eq!(ran.code, 1, "{ran:?}");
        for part in parts {
            assert!(ran.err.contains(part), "{part}: {}", ran.err);
        }
    };
    // What the builder said is there, and which service it was.
    fails(&[&file], &["it is not well", "exit status 7", "service web could not be built: buildah"]);
    lab.write("app/Dockerfile", "FROM scratch\nCOPY nothing-of-that-name /\n");
    fails(&[&file, "--build"], &["nothing-of-that-name", "service web could not be built"]);
    let other = lab.write(
        "other.yaml",
        "services:\n  web: {build: {context: ./app, target: nowhere}}\n  yard: {build: ./app}\n",
    );
    fails(&[&other, "--build"], &["nowhere", "service web could not be built"]);
    // A key that this builder lacks is named with its place, before anything is built; so is what is not there.
    let whole = lab.path("compose.yaml").display().to_string();
    fails(&[&whole], &["compose.yaml:5:7: services.web.build.provenance", "buildah", "has no --provenance"]);
    fs::remove_file(lab.path("app/Dockerfile")).expect("remove the Dockerfile");
    let web = "other.yaml:2:17: services.web.build.context: there is no Dockerfile";
    fails(&[&other], &[web, "other.yaml:3:17: services.yard.build.context: there is no Dockerfile"]);
    lab.write("app/Dockerfile", "FROM scratch\n");
    // Without a builder: the service, and what helps.
    fails(
        &[&file, "--builder", "/nowhere/buildah"],
        &["is not installed", "not built: web", "carrack image load"],
    );
    // An interrupted build ends what it began.
    lab.write("app/Dockerfile", &run("exec /bin/busybox sleep 86321"));
    let child = builder(&lab, &["deploy", "-p", "shop", "-f", &file]).stderr(Stdio::piped()).spawn();
    let child = child.expect("run carrack");
    until("the build sleeps", SOON, || if sleepers() == 0 { Err("it does not") } else { Ok(()) });
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("interrupt it");
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    until("what it began ends", SOON, || if sleepers() == 0 { Ok(()) } else { Err("it runs") });
    assert_eq!(lab.json::<Vec<StackStatus>>(&["ls"]), []);
    let left: Vec<_> = fs::read_dir(lab.path("scratch")).expect("a directory").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    lab.finish();
}

/// How many processes are the step of the build that never ends.
fn sleepers() -> usize {
    let lines = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = lines.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.starts_with(b"/bin/busybox\0sleep\086321")).count()
}

/// What a builder is told beside the sources. `REGISTRY` stands for one that answers without a password.
const KEYS: &str = "\
services:
  all:
    build:
      context: ./app
      dockerfile: Other
      isolation: default
      additional_contexts: {more: ./more}
      extra_hosts: ['far=192.0.2.7']
      ulimits: {nofile: {soft: 111, hard: 222}, core: 0}
      ssh: ['default=./key.pem']
  alien:
    build: {context: ./app, dockerfile: Alien, platforms: [linux/s390x]}
  kept:
    build: {context: ./app, dockerfile: Based}
  fresh:
    build: {context: ./app, dockerfile: Based, no_cache: true}
  pulled:
    build: {context: ./app, dockerfile: Based, pull: true}
  stored:
    build: {context: ./app, dockerfile: Random, cache_to: [REGISTRY/cache]}
  found:
    build: {context: ./app, dockerfile: Random, cache_from: [REGISTRY/cache]}
";

const OTHER: &str = "\
FROM scratch
COPY busybox /bin/busybox
COPY --from=more word /word
RUN --mount=type=ssh [\"/bin/busybox\", \"sh\", \"-c\", \"(/bin/busybox cat /etc/hosts; ulimit -Sn; ulimit -Hn; ulimit -Hc; \
    /bin/busybox test -S $SSH_AUTH_SOCK && echo an agent) >/told\"]
CMD [\"/bin/busybox\", \"sleep\", \"1000\"]
";

/// [`builder`] in the network of the lab's host, where its registry is.
fn build_there(lab: &Lab, arguments: &[&str]) -> Ran {
    let wanted = builder(lab, arguments);
    let words: Vec<&str> = wanted.get_args().filter_map(|word| word.to_str()).collect();
    let mut command = lab.host_command(&wanted.get_program().to_string_lossy(), &words);
    command.current_dir(lab.path("")).stdin(Stdio::null());
    for (name, value) in wanted.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let registries =
        lab.write("registries.conf", "[[registry]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n");
    let output = command.env("CONTAINERS_REGISTRIES_CONF", registries).output().expect("run carrack");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The digest of the image that was built for a service.
fn built(lab: &Lab, service: &str) -> String {
    let held: Vec<HeldImage> = lab.json(&["image", "ls"]);
    let name = format!("docker.io/library/shop-{service}:latest");
    held.into_iter().find(|image| image.name == name).map(|image| image.digest).expect("the image is held")
}

/// The project of [`KEYS`], with a registry.
fn project_of_keys(lab: &mut Lab) -> String {
    project(lab);
    let registry = lab.registry(&["busybox"]);
    fs::create_dir_all(lab.path("more")).expect("a directory");
    lab.write("more/word", "more\n");
    let key = lab.path("key.pem");
    let made = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(key).status();
    assert!(made.expect("run openssl").success());
    lab.write("app/Other", OTHER);
    lab.write("app/Alien", "FROM scratch\nCOPY word /word\n");
    // What differs each time that it is run.
    let random = "RUN [\"/bin/busybox\", \"cp\", \"/proc/sys/kernel/random/uuid\", \"/told\"]\n";
    lab.write("app/Random", &format!("FROM scratch\nCOPY busybox /bin/busybox\n{random}"));
    lab.write("app/Based", &format!("FROM {registry}/busybox:1\n{random}"));
    lab.write("compose.yaml", &KEYS.replace("REGISTRY", &registry))
}

#[test]
fn a_builder_is_told_what_the_keys_say() {
    let mut lab = Lab::new();
    let file = project_of_keys(&mut lab);
    lab.start();
    let mut notes = Notes::of(BUILT_KEYS);
    let make = |services: &[&str]| {
        done(build_there(&lab, &[&["build", "-p", "shop", "-f", &file], services].concat()));
    };
    make(&["all", "kept", "fresh", "pulled", "stored"]);
    lab.deploy("shop", "services: {all: {image: shop-all}}");
    let told = |path: &str| lab.ok(&["exec", "shop/all", "/bin/busybox", "cat", path]);
    assert_eq!(told("/word"), "more\n");
    let seen = told("/told");
    assert!(seen.lines().any(|line| line.split_whitespace().eq(["192.0.2.7", "far"])), "{seen}");
    assert!(seen.ends_with("\n111\n222\n0\nan agent\n"), "{seen}");
    notes.saw(&["services.build.dockerfile", "services.build.additional_contexts", "services.build.ssh"]);
    notes.saw(&["services.build.extra_hosts", "services.build.isolation (default)"]);
    notes.saw(&["services.build.ulimits", "services.build.ulimits.soft", "services.build.ulimits.hard"]);

    // The name of the base becomes another image: who does not ask builds on what is here, and has run its steps before.
    let before = ["kept", "fresh", "pulled"].map(|service| built(&lab, service));
    let other = format!("oci:{}:nginx", Lab::images().join("oci").display());
    let copy = [
        "--insecure-policy",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        &other,
        "docker://127.0.0.1:5000/busybox:1",
    ];
    assert!(lab.host_command("skopeo", &copy).status().expect("run skopeo").success());
    make(&["kept", "fresh"]);
    make(&["pulled"]);
    let after = ["kept", "fresh", "pulled"].map(|service| built(&lab, service));
    let same: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
    assert_eq!(same, [true, false, false], "{before:?} {after:?}");
    let layers = |service: &str| {
        let details: Vec<carrack_api::ImageDetails> =
            lab.json(&["image", "inspect", &format!("shop-{service}")]);
        details[0].layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>()
    };
    let base = |service: &str| layers(service).into_iter().next();
    assert!(base("fresh") == base("kept") && base("pulled") != base("kept"));
    notes.saw(&["services.build.no_cache", "services.build.pull"]);

    // A builder that has nothing finds in the registry what the other left there.
    fs::remove_dir_all(lab.path("builder")).expect("forget all layers");
    make(&["found"]);
    assert_eq!(layers("found"), layers("stored"));
    notes.saw(&["services.build.cache_to", "services.build.cache_from"]);

    // Nobody here can run what was built.
    let ran = build_there(&lab, &["build", "-p", "shop", "-f", &file, "alien"]);
    assert!(ran.code == 1 && ran.err.contains("it offers linux/s390x"), "{ran:?}");
    notes.saw(&["services.build.platforms"]);
    notes.finish();
    lab.finish();
}
