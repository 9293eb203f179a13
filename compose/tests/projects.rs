//! Whole projects: files that merge, extend and include each other, profiles, environment, names.

use std::path::{Path, PathBuf};

use carrack_compose::{Diagnostics, LoadOptions, Loaded, MemoryFiles, find_default_files, load};

/// Files of `/app`, written as (name, text).
fn files(list: &[(&str, &str)]) -> MemoryFiles {
    list.iter().fold(MemoryFiles::default(), |files, (name, text)| files.with(format!("/app/{name}"), *text))
}

fn options() -> LoadOptions {
    LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() }
}

fn project(list: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    load(&options(), &files(list))
}

/// Environment of service `s` as `A=1 B=2`.
fn env(loaded: &Loaded) -> String {
    let pairs = loaded.stack.services["s"].task.container.env.iter();
    pairs.map(|(k, v)| format!("{k}={}", v.as_deref().unwrap_or("~"))).collect::<Vec<_>>().join(" ")
}

fn published(loaded: &Loaded) -> Vec<u16> {
    loaded.stack.services["s"].ports.iter().filter_map(|p| p.published).collect()
}

#[test]
fn default_files_are_found_upwards_with_their_override() {
    let files = files(&[
        ("compose.yaml", ""),
        ("docker-compose.yml", ""),
        ("compose.override.yml", ""),
        ("sub/x", ""),
    ]);
    let found = find_default_files(Path::new("/app/sub"), &files);
    assert_eq!(found, [PathBuf::from("/app/compose.yaml"), "/app/compose.override.yml".into()]);
    let nothing = load(&LoadOptions { working_dir: "/else".into(), ..options() }, &files).unwrap_err();
    assert!(nothing.to_string().contains("no Compose file in /else"), "{nothing}");
}

#[test]
fn later_files_change_earlier_ones_by_the_rules_of_each_key() {
    let loaded = project(&[
        (
            "compose.yaml",
            "services:\n  s:\n    image: a\n    command: x y\n    environment: [A=1, B=2]\n    ports: ['80:80']\n    \
             volumes: ['v:/d', './old:/e']\n    cap_add: [KILL]\n    dns: 1.1.1.1\nvolumes: {v: {}}\n",
        ),
        (
            "compose.override.yaml",
            "services:\n  s:\n    image: b\n    command: [z]\n    environment: {B: 3, C: 4}\n    \
             ports: ['81:81', '80:80']\n    volumes: ['./new:/e']\n    cap_add: [KILL, CHOWN]\n    dns: [8.8.8.8]\n",
        ),
    ])
    .unwrap();
    let container = &loaded.stack.services["s"].task.container;
    assert_eq!((container.image.as_str(), env(&loaded).as_str()), ("b", "A=1 B=3 C=4"));
    assert_eq!(container.command, Some(vec!["z".to_owned()]));
    assert_eq!(published(&loaded), [80, 81]);
    assert_eq!(container.mounts.len(), 2);
    assert!(format!("{:?}", container.mounts[1]).contains("/app/new"));
    assert_eq!(container.security.cap_add, ["KILL", "CHOWN"]);
    assert_eq!(container.dns, ["1.1.1.1", "8.8.8.8"]);
    assert_eq!(loaded.files.len(), 2);
}

#[test]
fn reset_and_override_take_earlier_values_away() {
    let loaded = project(&[
        ("compose.yaml", "services: {s: {image: a, ports: ['80:80'], environment: {A: 1}, command: x, user: u}}"),
        (
            "compose.override.yaml",
            "services:\n  s:\n    ports: !override ['81:81']\n    environment: !reset {}\n    user: !reset null\n    command:\n",
        ),
    ])
    .unwrap();
    assert_eq!((published(&loaded), env(&loaded).as_str()), (vec![81], ""));
    let container = &loaded.stack.services["s"].task.container;
    assert_eq!((&container.user, &container.command), (&None, &None));
}

#[test]
fn a_service_extends_another_of_this_or_another_file() {
    let loaded = project(&[
        (
            "compose.yaml",
            "services:\n  s:\n    extends: {file: sub/base.yaml, service: base}\n    environment: {B: 3, C: 4}\n    \
             ports: ['81:81']\n",
        ),
        (
            "sub/base.yaml",
            "services:\n  root: {image: i, volumes: ['./d:/d'], environment: {A: 1}}\n  \
             base: {extends: root, environment: {B: 2}, ports: ['80:80'], env_file: e.env}\n",
        ),
        ("sub/e.env", "E=5\n"),
    ])
    .unwrap();
    assert_eq!(env(&loaded), "A=1 B=3 C=4 E=5");
    assert_eq!(published(&loaded), [80, 81]);
    assert!(format!("{:?}", loaded.stack.services["s"].task.container.mounts).contains("/app/sub/d"));
    let circle = project(&[("compose.yaml", "services: {a: {extends: b}, b: {extends: a}}")]).unwrap_err();
    assert!(circle.to_string().contains("extend each other in a circle"), "{circle}");
    let unknown =
        project(&[("compose.yaml", "services: {a: {extends: bas}, base: {image: i}}")]).unwrap_err();
    assert!(unknown.to_string().contains("did you mean `base`?"), "{unknown}");
}

#[test]
fn included_files_have_their_own_directory_and_environment() {
    let main = "include: [sub/inc.yaml]\nservices: {s: {image: 'i:$V', depends_on: [inc]}}";
    let inc = "services: {inc: {image: 'j:$V', volumes: ['./c:/c']}}";
    let list = [("compose.yaml", main), ("sub/inc.yaml", inc), (".env", "V=1"), ("sub/.env", "V=2\nW=3")];
    let loaded = project(&list).unwrap();
    let image = |name: &str| loaded.stack.services[name].task.container.image.clone();
    assert_eq!((image("s"), image("inc")), ("i:1".into(), "j:1".into()));
    assert!(format!("{:?}", loaded.stack.services["inc"].task.container.mounts).contains("/app/sub/c"));
    let both = [
        ("compose.yaml", "include: [b.yaml]\nservices: {s: {image: i}}"),
        ("b.yaml", "services: {s: {image: j, user: u}}"),
    ];
    let loaded = project(&both).unwrap();
    let container = &loaded.stack.services["s"].task.container;
    assert_eq!((container.image.as_str(), container.user.as_deref()), ("i", Some("u")));
    let note = loaded.notes.iter().find(|n| n.key == "services.s").unwrap();
    assert!(note.text.contains("also in an included file, at b.yaml:1:12"), "{note}");
    let extended = [
        ("compose.yaml", "include: [b.yaml]\nservices: {s: {extends: base, image: i}}"),
        ("b.yaml", "services: {base: {image: j, user: u}}"),
    ];
    let loaded = project(&extended).unwrap();
    assert_eq!(loaded.stack.services["s"].task.container.user.as_deref(), Some("u"));
    let circle =
        project(&[("compose.yaml", "include: [compose.yaml]\nservices: {s: {image: i}}")]).unwrap_err();
    assert!(circle.to_string().contains("include each other in a circle"), "{circle}");
    let missing = project(&[("compose.yaml", "include: [no.yaml]\nservices: {s: {image: i}}")]).unwrap_err();
    assert!(
        missing.to_string().starts_with("compose.yaml:1:11: include[0]: file no.yaml is not found"),
        "{missing}"
    );
}

#[test]
fn profiles_choose_services() {
    let text = "services:\n  s: {image: i}\n  debug: {image: d, profiles: [dev], gpus: all, volumes: ['v:/v']}\nvolumes: {v: {}}\n";
    let list = files(&[("compose.yaml", text)]);
    let plain = load(&options(), &list).unwrap();
    assert_eq!(plain.inactive.iter().map(|n| n.as_str()).collect::<Vec<_>>(), ["debug"]);
    assert!(plain.stack.volumes.is_empty(), "a volume that only an inactive service uses is not made");
    for profile in ["dev", "*"] {
        let asked = LoadOptions { profiles: vec![profile.into()], ..options() };
        assert!(load(&asked, &list).unwrap_err().to_string().contains("GPUs are not built yet"));
    }
    let typo = files(&[("compose.yaml", &text.replace("gpus", "gpsu"))]);
    assert!(load(&options(), &typo).unwrap_err().to_string().contains("unknown key"));
    let needed = project(&[(
        "compose.yaml",
        "services: {s: {image: i, depends_on: [d]}, d: {image: i, profiles: [p]}}",
    )]);
    assert!(needed.unwrap_err().to_string().contains("service d is in no active profile"));
}

#[test]
fn variables_come_from_the_user_before_dot_env() {
    let list = files(&[
        ("compose.yaml", "services: {s: {image: 'i:${V}', environment: [V, W, 'P=$COMPOSE_PROJECT_NAME']}}"),
        (".env", "V=file\nW=\"${V}-${HOME}\"\n"),
        ("other.env", "V=other\n"),
    ]);
    let user = LoadOptions { env: [("HOME".to_owned(), "/h".to_owned())].into(), ..options() };
    assert_eq!(env(&load(&user, &list).unwrap()), "P=app V=file W=file-/h");
    let mut winning = user.clone();
    winning.env.insert("V".into(), "user".into());
    assert_eq!(env(&load(&winning, &list).unwrap()), "P=app V=user W=user-/h");
    let given = LoadOptions { env_files: vec!["other.env".into()], ..user };
    assert_eq!(env(&load(&given, &list).unwrap()), "P=app V=other W=~");
}

#[test]
fn dot_env_may_name_the_files_of_the_project() {
    let list = files(&[
        (".env", "COMPOSE_FILE=a.yaml:b.yaml\nV=1\n"),
        ("a.yaml", "services: {s: {image: 'i:$V'}}"),
        ("b.yaml", "services: {s: {user: u}}"),
        ("compose.yaml", "services: {other: {image: o}}"),
    ]);
    let loaded = load(&options(), &list).unwrap();
    let container = &loaded.stack.services["s"].task.container;
    assert_eq!((container.image.as_str(), container.user.as_deref()), ("i:1", Some("u")));
    let given = LoadOptions { files: vec!["compose.yaml".into()], ..options() };
    assert_eq!(load(&given, &list).unwrap().stack.services.len(), 1);
}

#[test]
fn a_project_is_named_by_option_environment_file_or_directory() {
    let name = |options: &LoadOptions, text: &str| {
        load(options, &files(&[("compose.yaml", text)]))
            .map(|l| l.stack.name.to_string())
            .map_err(|e| e.to_string())
    };
    let plain = "services: {s: {image: i}}";
    let named = "name: ${N:-filed}\nservices: {s: {image: i}}";
    assert_eq!(name(&options(), plain), Ok("app".into()));
    assert_eq!(name(&options(), named), Ok("filed".into()));
    let with = |key: &str, value: &str| LoadOptions {
        env: [(key.to_owned(), value.to_owned())].into(),
        ..options()
    };
    assert_eq!(name(&with("N", "n1"), named), Ok("n1".into()));
    assert_eq!(name(&with("COMPOSE_PROJECT_NAME", "e1"), named), Ok("e1".into()));
    let given = LoadOptions { project_name: Some("p1".into()), ..with("COMPOSE_PROJECT_NAME", "e1") };
    assert_eq!(name(&given, named), Ok("p1".into()));
    assert_eq!(name(&options(), "name: My App\nservices: {s: {image: i}}"), Ok("myapp".into()));
    let bad = name(&options(), "name: '@@'\nservices: {s: {image: i}}").unwrap_err();
    assert!(bad.starts_with("compose.yaml:1:7: name: \"@@\" is no project name"), "{bad}");
}

#[test]
fn networks_and_volumes_get_cluster_wide_names() {
    let loaded = project(&[(
        "compose.yaml",
        "services: {s: {image: i, networks: [a, b, c], volumes: ['u:/u', 'w:/w', 'z:/z']}}\n\
         networks: {a: , b: {name: given, internal: true}, c: {external: true}, unused: {}}\n\
         volumes: {u: , w: {name: wide, labels: {l: 1}}, z: {external: {name: old}}, unused: {}}\n",
    )])
    .unwrap();
    let networks: Vec<String> = loaded
        .stack
        .networks
        .iter()
        .map(|(key, n)| format!("{key}={} {} {}", n.name, n.internal, n.external))
        .collect();
    assert_eq!(networks, ["a=app_a false false", "b=given true false", "c=c false true"]);
    let volumes: Vec<String> =
        loaded.stack.volumes.iter().map(|(n, v)| format!("{n} {}", v.external)).collect();
    assert_eq!(volumes, ["app_u false", "old true", "wide false"]);
}

#[test]
fn broken_files_are_refused_with_their_place() {
    let message = |text: &str| project(&[("compose.yaml", text)]).unwrap_err().to_string();
    assert!(message("").contains("compose.yaml:1:1: the file is empty"));
    assert!(message("- a").contains("compose.yaml:1:1: a Compose file is a mapping"));
    assert!(
        message("services:\n  a: {image: i}\n  a: {image: j}\n")
            .contains("compose.yaml:3:3: duplicate key `a`, first on line 2")
    );
    assert!(message("services:\n\tweb: {}\n").starts_with("compose.yaml:2:"));
    assert!(message("name: x\n").contains("the file has no services"));
    assert!(message("services:\n  s:\n").contains("services.s: the service is empty"));
    let binary = MemoryFiles::default().with("/app/compose.yaml", vec![0xff, 0xfe, 0x00]);
    assert!(load(&options(), &binary).unwrap_err().to_string().contains("is not UTF-8 text"));
}

#[test]
fn the_hello_example_loads_without_a_note() {
    let text = include_str!("../../examples/hello/compose.yaml");
    let loaded = project(&[("compose.yaml", text)]).unwrap();
    assert_eq!(loaded.stack.name.as_str(), "hello");
    assert_eq!(loaded.stack.services["web"].replicas(), Some(3));
    let notes: Vec<String> = loaded.notes.iter().filter(|n| !n.detail).map(ToString::to_string).collect();
    assert!(notes.is_empty(), "{notes:?}");
}
