//! Secrets and configs by command: what the daemon is asked, what is printed, what is refused before it is asked, and that a
//! secret's content is in nothing that is printed.

use carrack_api::{Bytes, ContentKind, ContentStatus, Problem, Timestamp, base64};

use crate::support::{Server, json, problem};

const CANARY: &str = "canary-c0de";

fn status(kind: ContentKind, name: &str, users: &[&str]) -> ContentStatus {
    ContentStatus {
        kind,
        name: name.parse().unwrap(),
        digest: "hmac-sha256:1".into(),
        size: Bytes(11),
        labels: Default::default(),
        stack: None,
        created_at: Timestamp(0),
        used_by: users.iter().map(|user| user.parse().unwrap()).collect(),
        text: None,
    }
}

#[test]
fn a_secret_is_made_of_a_file_or_of_standard_input() {
    let server = Server::start();
    server.write("key", CANARY);
    server.on("PUT /v1/secrets/shop_key", json(&status(ContentKind::Secret, "shop_key", &[])));
    let encoded = base64::encode(CANARY.as_bytes());
    for (arguments, input) in [
        (&["secret", "create", "shop_key", "./key"][..], ""),
        (&["secret", "create", "shop_key", "-"], CANARY),
        (&["secret", "create", "shop_key"], CANARY),
    ] {
        let ran = server.run_with_input(arguments, input.as_bytes());
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "shop_key\n", ""), "{arguments:?}");
        let asked = server.requests().pop().unwrap();
        assert!(asked.ends_with(&format!("{{\"content\":\"{encoded}\",\"labels\":{{}},\"replace\":false}}")));
    }
    let ran = server.run_with_input(
        &["secret", "create", "shop_key", "-", "-l", "team=a", "--label", "b=", "--replace", "-o", "json"],
        CANARY.as_bytes(),
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        server
            .requests()
            .pop()
            .unwrap()
            .ends_with("\"labels\":{\"b\":\"\",\"team\":\"a\"},\"replace\":true}")
    );
    let made: ContentStatus = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(made.name.as_str(), "shop_key");
    // Nobody meant to make an empty one; it is made, and told.
    let ran = server.run(&["secret", "create", "shop_key"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "note: the secret is empty\n"));
}

#[test]
fn users_of_a_replaced_config_are_told_of() {
    let server = Server::start();
    server.on("PUT /v1/configs/conf", json(&status(ContentKind::Config, "conf", &["shop/web"])));
    let ran = server.run_with_input(&["config", "create", "--replace", "conf"], b"x");
    assert_eq!((ran.code, ran.out.as_str()), (0, "conf\n"));
    assert_eq!(ran.err, "its users take it with their next deploy\n");
}

#[test]
fn what_cannot_be_made_is_refused_without_a_request_and_without_a_word_of_it() {
    let server = Server::start();
    std::fs::create_dir(server.directory().join("dir")).unwrap();
    server.write("large", &CANARY.repeat(carrack_api::CONTENT_MAX_BYTES / CANARY.len() + 1));
    for (arguments, code, told) in [
        (&["secret", "create"][..], 2, "<NAME>"),
        (&["secret", "create", ""], 2, "name"),
        (&["secret", "create", "a b"], 2, "a b"),
        (&["secret", "create", "-x"], 2, "-x"),
        (&["secret", "create", "../x", "none"], 2, "../x"),
        (&["secret", "create", "k", "a", "b"], 2, "does not take `b`"),
        (&["secret", "create", "k", "-l", "team"], 2, "team"),
        (&["secret", "create", "k", "none"], 1, "none cannot be read: No such file"),
        (&["secret", "create", "k", "dir"], 1, "dir cannot be read: Is a directory"),
        (&["config", "create", "k", "large"], 1, "large has more than the 500 KiB that a config may have"),
        (&["secret", "inspect"], 2, "<NAME>"),
        (&["secret", "rm"], 2, "<NAME>"),
        (&["secret"], 2, "create"),
        (&["secret", "cat", "k"], 2, "cat"),
    ] {
        let ran = server.run_with_input(arguments, CANARY.as_bytes());
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(told) && ran.out.is_empty(), "{arguments:?}: {ran:?}");
        assert!(!ran.err.contains(CANARY), "{ran:?}");
    }
    let large =
        server.run_with_input(&["secret", "create", "k"], &vec![b'x'; carrack_api::CONTENT_MAX_BYTES + 1]);
    assert_eq!(large.code, 1);
    assert!(large.err.contains("standard input has more than") && large.err.contains("hint: use a volume"));
    assert!(server.requests().is_empty(), "{:?}", server.requests());
}

#[test]
fn what_the_daemon_refuses_is_told_with_its_hint() {
    let server = Server::start();
    let exists = Problem::new(409, "exists", "secret k exists already").hint("`--replace` changes it");
    server.on("PUT /v1/secrets/k", problem(&exists));
    let ran = server.run_with_input(&["secret", "create", "k"], CANARY.as_bytes());
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(ran.err, "error: secret k exists already\nhint: `--replace` changes it\n");
    let missing = Problem::not_found("no-config", "no config k").hint("`carrack config ls` lists them");
    server.on("GET /v1/configs/k", problem(&missing));
    let ran = server.run(&["config", "inspect", "k"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (1, "error: no config k\nhint: `carrack config ls` lists them\n")
    );
}

#[test]
fn what_can_be_removed_is_and_the_others_are_told_of() {
    let server = Server::start();
    let used = |name: &str| {
        problem(
            &Problem::new(409, "in-use", format!("secret {name} is used by shop/web")).hint("deploy first"),
        )
    };
    server.on("DELETE /v1/secrets/a", used("a")).on("DELETE /v1/secrets/b", json(&()));
    server.on("DELETE /v1/secrets/c", used("c")).on("DELETE /v1/secrets/d", json(&()));
    let ran = server.run(&["secret", "rm", "a", "b", "c", "d"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(
        ran.err,
        "secret b is removed\nerror: secret a is used by shop/web\nhint: deploy first\nsecret d is removed\n\
         error: secret c is used by shop/web\nhint: deploy first\n"
    );
}

#[test]
fn lists_say_what_there_is_and_how_one_is_made() {
    let server = Server::start();
    server.on("GET /v1/secrets", json(&Vec::<ContentStatus>::new()));
    let ran = server.run(&["secret", "ls"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert_eq!(ran.err, "no secrets; `carrack secret create NAME FILE` makes one\n");
    assert_eq!(server.run(&["secret", "ls", "-o", "json"]).out, "[]\n");
    server.on("GET /v1/configs", json(&[status(ContentKind::Config, "conf", &["shop/web"])]));
    let ran = server.run(&["config", "ls"]);
    assert!(ran.out.starts_with("CONFIG ") && ran.out.contains("shop/web"), "{ran:?}");
    let listed: Vec<ContentStatus> =
        serde_json::from_str(&server.run(&["config", "ls", "-o", "json"]).out).unwrap();
    assert_eq!(listed.len(), 1);
}
