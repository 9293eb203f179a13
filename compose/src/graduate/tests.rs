use super::*;
use crate::MemoryFiles;

fn found(text: &str) -> Graduation {
    let files = MemoryFiles::default().with("/app/compose.yaml", text).with("/app/nginx.conf", "x");
    graduate(&LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() }, &files)
}

/// The verdicts on a service with these keys, as `VERDICT KEY`.
fn verdicts(keys: &str) -> Vec<String> {
    let found = found(&format!("services: {{s: {{image: i, {keys}}}}}\nvolumes: {{data: {{}}}}\n"));
    let word = |f: &Finding| format!("{} {}", f.verdict.word(), f.key.replace("services.s.", ""));
    found.findings.iter().map(word).collect()
}

#[test]
fn each_rule_finds_what_it_is_for() {
    let cases: [(&str, &[&str]); 24] = [
        ("command: [a], ports: ['80:80'], networks: [default]", &[]),
        ("volumes: ['/var/run/docker.sock:/var/run/docker.sock']", &["breaks volumes[0]"]),
        ("volumes: ['/etc/localtime:/etc/localtime:ro']", &["changes volumes[0]"]),
        ("volumes: ['/srv/data:/data']", &["changes volumes[0]"]),
        ("volumes: ['./nginx.conf:/etc/nginx.conf']", &["breaks volumes[0]"]),
        ("volumes: ['./nginx.conf:/etc/nginx.conf:ro']", &["mapped volumes[0]"]),
        ("volumes: ['./missing:/etc/nginx.conf:ro']", &["breaks volumes[0]"]),
        ("volumes: ['./src:/src']", &["breaks volumes[0]"]),
        ("volumes: ['data:/data']", &["changes volumes[0]"]),
        ("scale: 2, volumes: ['data:/data']", &["changes volumes[0]"]),
        ("deploy: {mode: global}, volumes: ['data:/data']", &["breaks volumes[0]"]),
        ("network_mode: host", &["changes network_mode"]),
        ("network_mode: host, scale: 2", &["breaks network_mode"]),
        ("network_mode: host, deploy: {mode: global}", &["changes network_mode"]),
        ("ports: ['127.0.0.1:80:80']", &["changes ports[0]"]),
        ("ports: ['0.0.0.0:80:80']", &[]),
        ("ports: ['192.0.2.7:80:80']", &["breaks ports[0]"]),
        ("ports: [{target: 80, published: 80, mode: host}]", &["changes ports[0]"]),
        ("container_name: boss", &["changes container_name"]),
        ("hostname: h, scale: 2", &["changes hostname"]),
        ("pid: host, privileged: true", &["changes pid", "changes privileged"]),
        ("devices: ['/dev/kvm']", &["breaks devices[0]"]),
        ("extra_hosts: ['h:host-gateway']", &["changes extra_hosts"]),
        ("attach: false, gpus: all", &["mapped attach", "refused gpus"]),
    ];
    for (keys, expected) in cases {
        assert_eq!(verdicts(keys), expected, "{keys}");
    }
    assert_eq!(found("services: {s: {build: .}}").worst(), Some(Verdict::Breaks));
    assert_eq!(found("services: {s: {image: i, build: .}}").worst(), Some(Verdict::Changes));
}

#[test]
fn what_is_wrong_does_not_hide_what_is_found() {
    let all = found("services:\n  a: {image: i, prots: []}\n  b: {image: i, network_mode: host}\n");
    let told: Vec<_> = all.findings.iter().map(|f| (f.verdict, f.position.line)).collect();
    assert_eq!(told, [(Verdict::Invalid, 2), (Verdict::Changes, 3)]);
    assert_eq!(found("services: [").worst(), Some(Verdict::Invalid));
    assert_eq!(found("services: [").stack, None);
}
