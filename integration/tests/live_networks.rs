//! Networks made by command: stacks share them, nobody else is on them, and they stay while they are used.

use std::process::Command;

use carrack_api::{NetworkStatus, StackStatus};
use carrack_integration::lab::{Lab, Ran, SOON};
use carrack_integration::observed::{NETWORKS, Notes};
use carrack_integration::wait::until;

const ONE: &str = "\
services:
  web: {image: 'nginx:1', networks: [edge]}
networks: {edge: {external: {name: edge}}}
";
const TWO: &str = "\
services:
  inside: {image: 'busybox:1', command: sleep 1000, init: true, networks: [shared]}
  outside: {image: 'busybox:1', command: sleep 1000, init: true, networks: [own]}
networks:
  shared: {name: edge, external: true}
  own: {labels: {team: data}}
";

fn get(lab: &Lab, from: &str, url: &str) -> Ran {
    lab.carrack(&["exec", from, "timeout", "10", "wget", "-q", "-O", "-", url])
}

#[test]
fn stacks_share_a_network_that_stays_while_it_is_used() {
    let lab = Lab::started();
    lab.load_images(&["nginx", "busybox"]);
    let file = lab.write("one.yaml", ONE);
    let ran = lab.carrack(&["deploy", "-p", "one", "-f", &file]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in ["external network edge does not exist", "`carrack network create edge`"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    assert_eq!(lab.ok(&["network", "create", "--internal", "--label", "tier=front", "edge"]), "edge\n");
    let again = lab.carrack(&["network", "create", "edge"]);
    assert!(again.code == 1 && again.err.contains("network edge exists already"), "{again:?}");
    lab.deploy("one", ONE);
    lab.deploy("two", TWO);
    // By name and address from the other stack, and by nobody who is not on it.
    let vip = lab.json::<Vec<StackStatus>>(&["ls", "one"])[0].services[0].vips[0].to_string();
    let url = format!("http://{vip}/");
    let ran = get(&lab, "two/inside", &url);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_ne!(get(&lab, "two/outside", &url).code, 0);
    assert!(lab.ok(&["dns", "web.one", "--from", "two/inside"]).contains(&vip));
    assert_eq!(lab.carrack(&["dns", "web.one", "--from", "two/outside"]).code, 1);
    // Internal: no way to what is outside of the cluster, where the other network has one.
    lab.write("word", "from outside");
    let mut server = Command::new("nsenter")
        .arg(format!("--net={}", lab.outside().display()))
        .args(["busybox", "httpd", "-f", "-p", "8099", "-h"])
        .arg(lab.path(""))
        .spawn()
        .expect("busybox-static is installed");
    let url = "http://192.0.2.2:8099/word";
    until("what is outside is reached", SOON, || match get(&lab, "two/outside", url) {
        Ran { code: 0, .. } => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_ne!(get(&lab, "two/inside", url).code, 0);
    server.kill().expect("end the server");
    server.wait().expect("the end of the server");
    let edge: NetworkStatus = lab.json::<Vec<NetworkStatus>>(&["network", "inspect", "edge"]).remove(0);
    let services: Vec<String> = edge.services.iter().map(ToString::to_string).collect();
    assert_eq!(
        (services.join(" "), edge.internal, edge.stack),
        ("one/web two/inside".to_owned(), true, None)
    );
    assert_eq!(edge.labels.get("tier").map(String::as_str), Some("front"));
    let list: Vec<NetworkStatus> = lab.json(&["network", "ls"]);
    let own = list.iter().find(|n| n.name.as_str() == "two_own").expect("the stack's own network is listed");
    assert_eq!(own.labels.get("team").map(String::as_str), Some("data"));
    // It goes only when nobody is on it.
    let used = lab.carrack(&["network", "rm", "edge"]);
    assert!(used.code == 1 && used.err.contains("network edge is used by one/web, two/inside"), "{used:?}");
    let of_stack = lab.carrack(&["network", "rm", "two_own"]);
    assert!(of_stack.err.contains("belongs to stack two"), "{of_stack:?}");
    lab.ok(&["rm", "one", "two"]);
    assert_eq!(lab.ok(&["network", "prune", "-f"]), "removed edge\n");
    assert_eq!(lab.carrack(&["network", "inspect", "edge"]).code, 1);
    let mut notes = Notes::of(NETWORKS);
    notes.saw(&["networks.name", "networks.external", "networks.external.name"]);
    notes.saw(&["networks.internal", "networks.labels"]);
    notes.finish();
    lab.finish();
}
