//! Secrets and configs: names, places, owners, and content that is read when it is asked for.

use carrack_api::{ContentFile, ContentKind};
use carrack_compose::{LoadOptions, Loaded, MemoryFiles, load};

fn options() -> LoadOptions {
    let env = [("TOKEN", "from the environment"), ("WORD", "world")].map(|(k, v)| (k.into(), v.into()));
    LoadOptions {
        working_dir: "/app".into(),
        project_name: Some("shop".into()),
        env: env.into(),
        ..Default::default()
    }
}

fn files(yaml: &str) -> MemoryFiles {
    MemoryFiles::default().with("/app/compose.yaml", yaml).with("/app/key", b"\x00\xffkey".to_vec())
}

fn loaded(yaml: &str) -> Loaded {
    load(&options(), &files(yaml)).unwrap_or_else(|problems| panic!("{problems}"))
}

fn refused(yaml: &str) -> String {
    match load(&options(), &files(yaml)) {
        Ok(loaded) => loaded.contents(&files(yaml)).expect_err("it is to be refused").to_string(),
        Err(problems) => problems.to_string(),
    }
}

const ALL: &str = "\
services:
  web:
    image: x
    secrets:
      - key
      - {source: token, target: mine, uid: '33', gid: '34', mode: 0400}
      - {source: shared, target: /etc/shared, mode: '440'}
    configs:
      - motd
      - {source: script, target: /bin/run.sh, mode: 0o555}
secrets:
  key: {file: ./key, labels: {a: b}}
  token: {environment: TOKEN}
  shared: {external: true, name: of_all}
  unused: {file: ./missing}
configs:
  motd: {content: 'hello ${WORD}'}
  script: {file: key, name: run-script}
";

#[test]
fn every_source_and_form_is_taken() {
    let loaded = loaded(ALL);
    let web = loaded.stack.services.values().next().unwrap();
    let shown = |file: &ContentFile| {
        format!("{} {} {} {}:{} {:o}", file.kind, file.name, file.target, file.uid, file.gid, file.mode)
    };
    let shown: Vec<String> = web.task.container.files.iter().map(shown).collect();
    assert_eq!(
        shown,
        [
            "secret shop_key /run/secrets/key 0:0 444",
            "secret shop_token /run/secrets/mine 33:34 400",
            "secret of_all /etc/shared 0:0 440",
            "config shop_motd /motd 0:0 444",
            "config run-script /bin/run.sh 0:0 555",
        ]
    );
    let secrets: Vec<(&str, bool)> =
        loaded.stack.secrets.iter().map(|(name, spec)| (name.as_str(), spec.external)).collect();
    assert_eq!(secrets, [("of_all", true), ("shop_key", false), ("shop_token", false)]);
    assert_eq!(loaded.stack.secrets["shop_key"].labels["a"], "b");
    let contents = loaded.contents(&files(ALL)).unwrap();
    let text = |kind, name: &str| contents.of(kind).get(name).map(|content| content.bytes().to_vec());
    assert_eq!(text(ContentKind::Secret, "shop_key").unwrap(), b"\x00\xffkey");
    assert_eq!(text(ContentKind::Secret, "shop_token").unwrap(), b"from the environment");
    assert_eq!(text(ContentKind::Config, "shop_motd").unwrap(), b"hello world");
    assert_eq!((contents.secrets.len(), contents.configs.len()), (2, 2));
    let printed = format!("{loaded:?}");
    assert!(!printed.contains("from the environment") && !printed.contains("hello world"), "{printed}");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let of = |top: &str, service: &str| {
        format!("services: {{web: {{image: x, {service}}}}}\nsecrets: {{{top}}}\n")
    };
    for (top, service, told) in [
        ("k: {file: none}", "secrets: [k]", "compose.yaml:2:"),
        ("k: {file: none}", "secrets: [k]", "none cannot be read"),
        ("k: {environment: NOT_SET}", "secrets: [k]", "the environment variable NOT_SET is not set"),
        ("k: {file: a, environment: B}", "secrets: [k]", "secrets.k"),
        ("k: {labels: {a: b}}", "secrets: [k]", "secrets.k"),
        ("k: {external: true, file: a}", "secrets: [k]", "secrets.k"),
        ("key: {file: a}", "secrets: [kye]", "kye"),
        ("k: {file: a}", "secrets: [{source: k, uid: app}]", "services.web.secrets[0].uid"),
        ("k: {file: a}", "secrets: [{source: k, mode: 1777}]", "services.web.secrets[0].mode"),
        ("k: {file: a, template_driver: golang}", "secrets: [k]", "secrets.k.template_driver"),
        ("a: {file: a, name: n}, b: {file: b, name: n}", "secrets: [a, b]", "named twice"),
        ("a: {file: a}, b: {file: b}", "secrets: [a, {source: b, target: a}]", "is the place of"),
        (
            "k: {file: a}",
            "volumes: [{type: tmpfs, target: /run/secrets/k/}], secrets: [k]",
            "compose.yaml:1:89: services.web.secrets[0]: \"/run/secrets/k\" is the place of services.web.volumes[0] already (compose.yaml:1:",
        ),
        ("k: {file: a}", "tmpfs: /run/secrets/k, secrets: [k]", "the place of services.web.tmpfs"),
        (
            "k: {file: a}",
            "volumes: ['/srv:/run/secrets/k'], secrets: [k]",
            "the place of services.web.volumes[0]",
        ),
        (
            "k: {file: a}",
            "volumes: ['/srv:/run/secrets//./k'], secrets: [k]",
            "the place of services.web.volumes[0]",
        ),
        (
            "k: {file: a}",
            "volumes: ['/srv:/run/secrets/k/below'], secrets: [k]",
            "below services.web.secrets[0]",
        ),
        ("k: {file: a}", "secrets: [k, {source: k, target: k/below}]", "below services.web.secrets[0]"),
        ("k: {file: a}", "secrets: [{source: k, target: ../../etc/shadow}]", "is not an absolute path"),
        ("k: {file: a}", "secrets: [{source: k, target: /}]", "names no file"),
        ("k: {file: a}", "secrets: [{source: k, target: x/}]", "names no file"),
        ("k: {file: a}", "secrets: [{source: k, target: /proc/1/mem}]", "below /proc"),
        ("k: {file: a}", "secrets: [{source: k, mode: 512}]", "expected permission bits"),
        ("k: {file: a}", "secrets: [{source: k, mode: '0888'}]", "expected the mode of a file"),
    ] {
        let text = refused(&of(top, service));
        assert!(text.contains(told), "{top} {service}: {text}");
    }
}

#[test]
fn a_secret_inside_a_mount_is_no_clash_and_what_is_borrowed_gives_way() {
    let loaded = loaded(
        "\
services:
  lender:
    image: x
    volumes: ['/srv:/run/secrets/key', '/srv:/data']
    configs: [{source: motd, target: /motd}]
  web:
    image: x
    volumes_from: [lender]
    tmpfs: [/run]
    secrets: [key]
secrets: {key: {file: ./key}}
configs: {motd: {content: x}}
",
    );
    let web = &loaded.stack.services["web"].task.container;
    let targets: Vec<&str> = web.mounts.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(targets, ["/run", "/data"]);
    let targets: Vec<&str> = web.files.iter().map(|file| file.target.as_str()).collect();
    assert_eq!(targets, ["/run/secrets/key", "/motd"]);
}

#[test]
fn modes_are_octal_as_yaml_and_quotes_say_it() {
    for (written, bits) in
        [("0440", 0o440), ("0o440", 0o440), ("288", 0o440), ("'0440'", 0o440), ("'440'", 0o440)]
    {
        let yaml = format!(
            "services: {{web: {{image: x, secrets: [{{source: k, mode: {written}}}]}}}}\nsecrets: {{k: {{file: key}}}}\n"
        );
        let loaded = loaded(&yaml);
        assert_eq!(loaded.stack.services["web"].task.container.files[0].mode, bits, "{written}");
    }
}
