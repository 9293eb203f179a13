//! What deploys do to names and contents.

use carrack_api::defaults::REVISIONS_KEPT;
use carrack_api::{CONTENT_FILE_MODE, ContentSpec};

use super::*;
use crate::plan::Sim;
use crate::store::{ContentNameRecord, Object, RevisionRecord, StackRecord};
use crate::testing;

fn vault() -> Vault {
    Vault::open(tempfile::tempdir().unwrap().path()).unwrap()
}

fn file(name: &str) -> ContentFile {
    ContentFile {
        kind: ContentKind::Secret,
        name: name.parse().unwrap(),
        target: format!("/run/secrets/{name}"),
        uid: 0,
        gid: 0,
        mode: CONTENT_FILE_MODE,
        digest: None,
    }
}

fn stack(name: &str, secret: &str, external: bool) -> StackSpec {
    let mut web = testing::service("web:1");
    web.task.container.files = vec![file(secret)];
    let mut spec = testing::stack(name, &[("web", web)]);
    let content = ContentSpec { external, ..ContentSpec::default() };
    spec.secrets = BTreeMap::from([(secret.parse().unwrap(), content)]);
    spec
}

fn given(name: &str, text: &str) -> Contents {
    let content = Content::new(text.as_bytes().to_vec());
    Contents { secrets: BTreeMap::from([(name.parse().unwrap(), content)]), ..Contents::default() }
}

fn apply(snapshot: &mut Snapshot, ops: impl IntoIterator<Item = Op>) {
    let version = snapshot.index + 1;
    snapshot.index = version;
    ops.into_iter().for_each(|op| snapshot.apply(op, version));
}

/// A deploy as the server makes it.
fn deploy(vault: &Vault, snapshot: &mut Snapshot, mut spec: StackSpec, given: &Contents) -> StackSpec {
    let brought = settle(vault, snapshot, &mut spec, given, Timestamp(1)).unwrap();
    apply(snapshot, brought.ops);
    let revision = snapshot.stacks.get(&spec.name).map_or(0, |s| s.revision) + 1;
    let (stack, at) = (spec.name.clone(), Timestamp(revision));
    let record = RevisionRecord { stack: stack.clone(), revision, at, spec: spec.clone() };
    let of_stack = StackRecord { revision, ..testing::stack_record(&stack) };
    apply(snapshot, [Op::Put(Object::Revision(record)), Op::Put(Object::Stack(of_stack))]);
    spec
}

fn digest_of(spec: &StackSpec) -> String {
    digests_in(spec).next().unwrap()
}

#[test]
fn changed_content_changes_the_spec_and_the_same_content_nothing() {
    let (vault, mut snapshot) = (vault(), Snapshot::default());
    let spec = stack("shop", "shop_key", false);
    let first = deploy(&vault, &mut snapshot, spec.clone(), &given("shop_key", "one"));
    let mut again = spec.clone();
    let brought = settle(&vault, &snapshot, &mut again, &given("shop_key", "one"), Timestamp(2)).unwrap();
    assert_eq!((again, brought.ops.len()), (first.clone(), 0));
    let second = deploy(&vault, &mut snapshot, spec.clone(), &given("shop_key", "two"));
    assert_ne!(digest_of(&first), digest_of(&second));
    // What is not sent is what is in force; what an older revision has is kept for it.
    let mut silent = spec;
    assert!(
        settle(&vault, &snapshot, &mut silent, &Contents::default(), Timestamp(3)).unwrap().ops.is_empty()
    );
    assert_eq!(silent, second);
    let read = |spec: &StackSpec| read(&vault, &snapshot, &digest_of(spec)).unwrap().bytes().to_vec();
    assert_eq!((read(&first), read(&second)), (b"one".to_vec(), b"two".to_vec()));
    assert_eq!(needed(&snapshot).len(), 2);
}

#[test]
fn content_that_comes_back_is_written_again_so_that_a_removal_at_the_same_time_is_seen() {
    let (vault, mut snapshot) = (vault(), Snapshot::default());
    let spec = stack("shop", "shop_key", false);
    let first = deploy(&vault, &mut snapshot, spec.clone(), &given("shop_key", "one"));
    deploy(&vault, &mut snapshot, spec.clone(), &given("shop_key", "two"));
    let mut back = spec;
    let brought = settle(&vault, &snapshot, &mut back, &given("shop_key", "one"), Timestamp(2)).unwrap();
    let key = Key::Content(digest_of(&first));
    assert_eq!(brought.expect, [(key.clone(), snapshot.version(&key))]);
    assert_eq!(brought.ops.iter().map(Op::key).collect::<Vec<_>>(), [key]);
}

#[test]
fn an_external_secret_is_what_its_name_stands_for_and_a_missing_one_says_how_it_is_made() {
    let (vault, mut snapshot) = (vault(), Snapshot::default());
    let mut spec = stack("shop", "shared", true);
    let refused = settle(&vault, &snapshot, &mut spec, &Contents::default(), Timestamp(1)).unwrap_err();
    let Refused::Fields(problems) = refused else { panic!("{refused:?}") };
    assert_eq!(problems[0].path, "services.web.secrets[0]");
    assert_eq!(problems[0].message, "external secret shared does not exist");
    assert_eq!(problems[0].hint.as_deref(), Some("`carrack secret create shared FILE` makes it"));
    let record = ContentNameRecord {
        kind: ContentKind::Secret,
        name: "shared".parse().unwrap(),
        digest: "hmac-sha256:1".into(),
        labels: BTreeMap::new(),
        at: Timestamp(1),
    };
    apply(&mut snapshot, [Op::Put(Object::ContentName(record))]);
    let deployed = deploy(&vault, &mut snapshot, spec, &given("shared", "is not taken"));
    assert_eq!(digest_of(&deployed), "hmac-sha256:1");
    let name = "shared".parse().unwrap();
    assert_eq!(users(&snapshot, ContentKind::Secret, &name), ["shop/web".parse().unwrap()].into());
    // Its name is taken for stacks that would bring their own.
    let mut own = stack("other", "shared", false);
    let refused = settle(&vault, &snapshot, &mut own, &given("shared", "x"), Timestamp(2)).unwrap_err();
    let Refused::Whole(problem) = refused else { panic!("{refused:?}") };
    assert_eq!((problem.status, problem.detail.as_str()), (409, "secret shared was made by command"));
}

#[test]
fn one_stack_may_use_what_another_brings_but_not_bring_it_too() {
    let (vault, mut snapshot) = (vault(), Snapshot::default());
    let owner = deploy(&vault, &mut snapshot, stack("shop", "shared", false), &given("shared", "x"));
    let user = deploy(&vault, &mut snapshot, stack("other", "shared", true), &Contents::default());
    assert_eq!(digest_of(&owner), digest_of(&user));
    let mut third = stack("third", "shared", false);
    let refused = settle(&vault, &snapshot, &mut third, &given("shared", "x"), Timestamp(2)).unwrap_err();
    let Refused::Whole(problem) = refused else { panic!("{refused:?}") };
    assert_eq!(problem.detail, "secret shared belongs to stack shop");
    assert_eq!(names(&snapshot, ContentKind::Secret).len(), 1);
}

#[test]
fn content_that_was_never_sent_or_is_too_large_is_refused() {
    let (vault, snapshot) = (vault(), Snapshot::default());
    let mut spec = stack("shop", "shop_key", false);
    let refused = settle(&vault, &snapshot, &mut spec, &Contents::default(), Timestamp(1)).unwrap_err();
    let Refused::Fields(problems) = refused else { panic!("{refused:?}") };
    assert!(problems[0].message.contains("was not sent"), "{problems:?}");
    let large = Contents {
        secrets: BTreeMap::from([(
            "shop_key".parse().unwrap(),
            Content::new(vec![b'x'; CONTENT_MAX_BYTES + 1]),
        )]),
        ..Contents::default()
    };
    let refused = settle(&vault, &snapshot, &mut spec, &large, Timestamp(1)).unwrap_err();
    assert!(matches!(refused, Refused::Whole(problem) if problem.status == 413));
}

#[test]
fn content_goes_whole_when_nothing_leads_to_it_and_not_before() {
    let (vault, mut sim) = (vault(), Sim::new());
    let spec = stack("shop", "shop_key", false);
    let text = |number: usize| format!("{number}{}", "x".repeat(65 << 10));
    let mut first = None;
    for number in 0..REVISIONS_KEPT + 5 {
        let spec = deploy(&vault, &mut sim.state, spec.clone(), &given("shop_key", &text(number)));
        sim.settle();
        first.get_or_insert(digest_of(&spec));
    }
    // The oldest revision is kept for its tasks, which no node has replaced.
    let revisions = sim.state.revisions.len();
    assert_eq!(revisions, REVISIONS_KEPT + 1);
    let kept: BTreeSet<String> = sim.state.contents.values().map(|record| record.digest.clone()).collect();
    assert_eq!((&kept, kept.len()), (&needed(&sim.state), revisions));
    let parts = sim.state.content_parts.len();
    assert_eq!(parts, revisions);
    let first = first.unwrap();
    assert!(read(&vault, &sim.state, &first).is_some());
    // A crash between two transactions of a plan: the record went, its parts did not.
    apply(&mut sim.state, [Op::Delete(Key::Content(first.clone()))]);
    sim.settle();
    assert_eq!(sim.state.content_parts.len(), parts - 1);
}

#[test]
fn a_plan_that_takes_content_away_fails_when_a_deploy_wants_it_at_that_moment() {
    let (vault, mut sim) = (vault(), Sim::new());
    let spec = stack("shop", "shop_key", false);
    let first = deploy(&vault, &mut sim.state, spec.clone(), &given("shop_key", "one"));
    deploy(&vault, &mut sim.state, spec.clone(), &given("shop_key", "two"));
    apply(&mut sim.state, [Op::Delete(Key::Revision(spec.name.clone(), 1))]);
    let base = sim.state.clone();
    let (plan, _) = sim.turn();
    let key = Key::Content(digest_of(&first));
    let expected = plan.txns(&base).into_iter().flat_map(|txn| txn.expect);
    let expected = expected.into_iter().find(|(expected, _)| *expected == key).expect("it goes");
    assert_eq!(expected.1, base.version(&key));
    // The deploy comes first: the plan's expectation does not hold any more.
    let mut meanwhile = base;
    deploy(&vault, &mut meanwhile, spec.clone(), &given("shop_key", "one"));
    assert_ne!(meanwhile.version(&key), expected.1);
    // The plan comes first: what the deploy expects of it does not hold, or it brings the content anew.
    let mut late = spec;
    let brought = settle(&vault, &sim.state, &mut late, &given("shop_key", "one"), Timestamp(9)).unwrap();
    assert_eq!(brought.expect, [(key, None)]);
}
