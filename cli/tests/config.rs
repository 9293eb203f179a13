//! `carrack config`, run as a user runs it: no daemon, data on standard output, problems on standard error.

use std::path::Path;
use std::process::{Command, Output};

fn config(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_carrack"))
        .arg("config")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("HOME", "/nonexistent")
        .output()
        .expect("run carrack")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn project(file: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("compose.yaml"), file).expect("write the file");
    dir
}

#[test]
fn the_model_is_printed_as_yaml_and_as_json_and_in_parts() {
    let dir = project(
        "services:\n  web: {image: 'nginx:${TAG:-1}', ports: ['8080:80'], command: 'echo $$X'}\n  \
         dev: {build: ., profiles: [dev]}\n",
    );
    let json = config(dir.path(), &["-p", "shop", "-o", "json"]);
    assert!(json.status.success(), "{}", text(&json.stderr));
    let model: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(model["name"], "shop");
    assert_eq!(model["services"]["web"]["command"][1], "$X");
    assert_eq!(model["services"]["web"]["ports"][0]["published"], "8080");
    assert!(model["services"].get("dev").is_none(), "nobody asked for its profile");
    for args in [&["-p", "shop"][..], &["-p", "shop", "-o", "yaml"]] {
        let yaml = config(dir.path(), args);
        assert!(
            text(&yaml.stdout).contains("    command:\n      - echo\n      - $$X\n"),
            "{}",
            text(&yaml.stdout)
        );
    }
    let part = |args: &[&str]| text(&config(dir.path(), &[&["-p", "shop"], args].concat()).stdout).to_owned();
    assert_eq!(part(&["--services", "--profile", "*"]), "dev\nweb\n");
    assert_eq!(part(&["--images", "--profile", "*"]), "nginx:1\nshop-dev\n");
    assert_eq!(part(&["--profiles"]), "dev\n");
    assert_eq!(part(&["-q"]), "");
}

#[test]
fn services_variables_and_what_they_come_from_are_told_apart() {
    let dir = project(
        "services:\n  web: {image: 'w:${TAG:-1}', depends_on: [db], networks: [front], cpus: '${CPUS?say}'}\n  \
         db: {image: db, volumes: ['data:/d']}\n  other: {image: o, profiles: [x]}\n\
         networks: {front: {}, back: {}}\nvolumes: {data: {}, more: {}}\n",
    );
    let out = |args: &[&str]| config(dir.path(), &[&["-p", "shop"], args].concat());
    assert_eq!(out(&["-q"]).status.code(), Some(1), "CPUS is not set");
    let kept = out(&["--no-interpolate"]);
    let kept = text(&kept.stdout);
    assert!(kept.contains("image: w:${TAG:-1}\n") && kept.contains("cpus: ${CPUS?say}\n"), "{kept}");
    let variables = "NAME  REQUIRED  DEFAULT\nCPUS  true\nTAG   false     1\n";
    assert_eq!(text(&out(&["--variables"]).stdout), variables);

    std::fs::write(dir.path().join(".env"), "CPUS=2\n").expect("write .env");
    let part = |args: &[&str]| text(&out(args).stdout).to_owned();
    assert_eq!(part(&["web", "--services"]), "db\nweb\n");
    assert_eq!(part(&["web", "--networks"]), "default\nfront\n");
    assert_eq!(part(&["web", "--volumes"]), "data\n");
    assert_eq!(part(&["other", "--services"]), "other\n", "who is named is there whatever its profile");
    assert_eq!(part(&["--environment"]), "COMPOSE_PROJECT_NAME=shop\nCPUS=2\nHOME=/nonexistent\n");
    let unknown = out(&["wbe"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("did you mean `web`?"), "{}", text(&unknown.stderr));

    let hash = part(&["--hash", "web"]);
    assert!(hash.starts_with("web ") && hash.trim_end().len() == "web ".len() + 64, "{hash}");
    assert_eq!(part(&["--hash", "*"]).lines().count(), 2);
    assert_eq!(part(&["--hash", "web"]), hash);
    std::fs::write(dir.path().join(".env"), "CPUS=3\n").expect("write .env");
    assert_ne!(part(&["--hash", "web"]), hash);
}

#[test]
fn problems_are_told_with_line_and_caret() {
    let dir = project("services:\n  web:\n    image: nginx\n    prots: ['80:80']\n    depends_on: [db]\n");
    let refused = config(dir.path(), &["-q"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    let told = "  compose.yaml:4:5: services.web.prots: unknown key\n    4 |     prots: ['80:80']\n      |     ^^^^^\n    \
                hint: did you mean `ports`?\n";
    assert!(text(&refused.stderr).contains(told), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("compose.yaml:5:18: services.web.depends_on.db"));
    let other =
        Command::new(env!("CARGO_BIN_EXE_carrack")).args(["ps", "-o", "yaml"]).output().expect("run carrack");
    assert_eq!(other.status.code(), Some(2));
    assert!(text(&other.stderr).contains("only `carrack config` prints YAML"));
}
