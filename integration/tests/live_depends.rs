//! `depends_on` over a whole deploy: who waits for whom, what is told when it never comes, and who follows a restart.

use carrack_api::{ServiceStatus, StackStatus, TaskId};
use carrack_integration::lab::{Lab, SOON};
use carrack_integration::observed::{Notes, ORDER as OBSERVED};
use carrack_integration::wait::until;

fn first_task(lab: &Lab, service: &str) -> TaskId {
    let tasks = lab.tasks("shop");
    tasks.iter().find(|t| t.service.service.as_str() == service).map(|t| t.id).expect("a task")
}

fn service(lab: &Lab, name: &str) -> ServiceStatus {
    let stack = lab.json::<Vec<StackStatus>>(&["ls", "shop"]).remove(0);
    stack.services.into_iter().find(|s| s.service.service.as_str() == name).expect("the service")
}

const ORDER: &str = "\
services:
  db:
    image: busybox:1
    command: sh -c 'sleep 1; touch /data/ready; exec sleep 1000'
    healthcheck: {test: [CMD, test, -e, /data/ready], interval: 1s}
    init: true
    volumes: ['data:/data']
  migrate:
    image: busybox:1
    command: sh -c 'test -e /data/ready && touch /data/migrated'
    restart: 'no'
    volumes: ['data:/data']
    depends_on: {db: {condition: service_healthy}}
  web:
    image: busybox:1
    command: sh -c 'test -e /data/migrated && exec sleep 1000'
    init: true
    restart: 'no'
    volumes: ['data:/data']
    depends_on:
      db: {condition: service_healthy, restart: true}
      migrate: {condition: service_completed_successfully}
      absent: {condition: service_started, required: false}
volumes: {data: {}}
";

#[test]
fn services_start_in_order_and_follow_a_restart() {
    let lab = Lab::started();
    lab.load_images(&["busybox"]);
    // Each of them fails for good unless what it depends on has come so far.
    lab.deploy("shop", ORDER);
    assert_eq!((service(&lab, "migrate").completed, service(&lab, "web").passing), (1, 1));
    let (db, web) = (first_task(&lab, "db"), first_task(&lab, "web"));
    lab.ok(&["restart", "shop/db"]);
    assert_ne!(first_task(&lab, "db"), db);
    until("web follows", SOON, || {
        let tasks = lab.tasks("shop");
        let others: Vec<TaskId> =
            tasks.iter().filter(|t| t.service.service.as_str() == "web").map(|t| t.id).collect();
        if others.len() == 1 && others[0] != web { Ok(()) } else { Err(format!("{others:?}, before {web}")) }
    });
    // A crash is no restart: nobody follows it.
    until("all is well", SOON, || match service(&lab, "web").passing {
        1 => Ok(()),
        other => Err(other),
    });
    let (db, web) = (first_task(&lab, "db"), first_task(&lab, "web"));
    lab.ok(&["kill", "shop/db", "-s", "KILL"]);
    until("db runs again", SOON, || {
        let tasks = lab.tasks("shop");
        let task = tasks.iter().find(|t| t.service.service.as_str() == "db").map(|t| (t.id, t.run));
        if task.is_some_and(|(id, run)| id == db && run == 2) { Ok(()) } else { Err(format!("{task:?}")) }
    });
    assert_eq!(first_task(&lab, "web"), web);
    let mut notes = Notes::of(OBSERVED);
    notes.saw(&["services.depends_on.condition", "services.depends_on.restart"]);
    notes.finish();
    lab.finish();
}

const SICK: &str = "\
services:
  db:
    image: busybox:1
    command: sleep 1000
    init: true
    healthcheck: {test: 'echo no table of that name; exit 1', interval: 100ms, retries: 2, start_period: 100ms}
  web:
    image: busybox:1
    command: sleep 1000
    depends_on: {db: {condition: service_healthy}}
";

const FAILING: &str = "\
services:
  migrate:
    image: busybox:1
    command: sh -c 'echo no such column; exit 3'
    restart: 'no'
  web:
    image: busybox:1
    command: sleep 1000
    depends_on: {migrate: {condition: service_completed_successfully}}
";

#[test]
fn a_dependency_that_never_comes_is_named_with_what_it_said() {
    let lab = Lab::started();
    lab.load_images(&["busybox"]);
    for (name, yaml, parts) in [
        (
            "sick",
            SICK,
            [
                "sick/db did not become healthy",
                "no table of that name",
                "sick/web: waits for db to be passing",
            ],
        ),
        (
            "failing",
            FAILING,
            [
                "failing/migrate did not become healthy",
                "no such column",
                "failing/web: depends on migrate, which failed",
            ],
        ),
    ] {
        let file = lab.write(&format!("{name}.yaml"), yaml);
        let ran = lab.carrack(&["deploy", "-p", name, "-f", &file]);
        assert_eq!(ran.code, 1, "{ran:?}");
        for part in parts {
            assert!(ran.err.contains(part), "{part}: {}", ran.err);
        }
        assert!(ran.err.contains("hint: mend the cause and run `carrack deploy` again"), "{}", ran.err);
    }
    lab.finish();
}
