//! Properties of the plan over random histories, as sentences.

use carrack_api::{Health, ServiceMode, StackSpec, TaskId, TaskState};
use proptest::prelude::*;

use super::scenarios::Sim;
use crate::testing;

/// Something that happens to a cluster.
#[derive(Debug, Clone)]
enum Happening {
    Deploy { image: u8, replicas: u32, stop_first: bool },
    Scale(u32),
    Remove,
    Obey,
    Crash(usize),
    Reject(usize),
    Complete(usize),
    Fails(usize),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0_u8..4, 0_u32..6, any::<bool>())
            .prop_map(|(image, replicas, stop_first)| Happening::Deploy { image, replicas, stop_first }),
        2 => (0_u32..7).prop_map(Happening::Scale),
        1 => Just(Happening::Remove),
        5 => Just(Happening::Obey),
        1 => any::<usize>().prop_map(Happening::Crash),
        1 => any::<usize>().prop_map(Happening::Reject),
        1 => any::<usize>().prop_map(Happening::Complete),
        1 => any::<usize>().prop_map(Happening::Fails),
        2 => (0_u64..90).prop_map(Happening::Wait),
    ]
}

fn spec(image: u8, replicas: u32, stop_first: bool) -> StackSpec {
    let mut web = testing::service(&format!("web:{image}"));
    web.mode = ServiceMode::Replicated { replicas };
    web.update.order = stop_first.then_some(carrack_api::UpdateOrder::StopFirst);
    let mut db = testing::service("db:1");
    db.ports = vec![testing::port(5432, None)];
    testing::stack("app", &[("web", web), ("db", db)])
}

fn pick(sim: &Sim, number: usize) -> Option<TaskId> {
    let live: Vec<TaskId> =
        sim.state.tasks.values().filter(|t| t.is_wanted() && t.node.is_some()).map(|t| t.id).collect();
    live.get(number % live.len().max(1)).copied()
}

fn happen(sim: &mut Sim, what: &Happening) {
    let end = |sim: &mut Sim, number: usize, state: TaskState| {
        if let Some(id) = pick(sim, number) {
            sim.set(id, |r| (r.state, r.health) = (state, Health::Unknown));
        }
    };
    match what {
        Happening::Deploy { image, replicas, stop_first } => sim.deploy(spec(*image, *replicas, *stop_first)),
        Happening::Scale(replicas) => {
            if sim.state.services.get(&"app/web".parse().unwrap()).is_some() {
                sim.scale("app/web", *replicas);
            }
        }
        Happening::Remove => {
            if sim.state.stack(&"app".parse().unwrap()).is_some() {
                sim.remove("app");
            }
        }
        Happening::Obey => sim.obey(),
        Happening::Crash(n) => {
            if let Some(id) = pick(sim, *n) {
                sim.set(id, |r| (r.state, r.crashes) = (TaskState::Starting, r.crashes + 1));
            }
        }
        Happening::Reject(n) => end(sim, *n, TaskState::Rejected),
        Happening::Complete(n) => end(sim, *n, TaskState::Completed),
        Happening::Fails(n) => end(sim, *n, TaskState::Failed),
        Happening::Wait(seconds) => sim.now = sim.now.after(std::time::Duration::from_secs(*seconds)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn whatever_happens_no_plan_breaks_a_rule_and_each_settles(history in prop::collection::vec(happening(), 1..25)) {
        let mut sim = Sim::new();
        sim.add_node(1);
        for what in &history {
            happen(&mut sim, what);
            // `settle` fails when the linter objects to a prefix or when plans never end.
            sim.settle();
        }
    }

    #[test]
    fn once_nodes_obey_a_good_deploy_has_exactly_its_slots(
        history in prop::collection::vec(happening(), 0..20), image in 4_u8..6, replicas in 0_u32..6,
    ) {
        let mut sim = Sim::new();
        sim.add_node(1);
        for what in &history {
            happen(&mut sim, what);
            sim.settle();
        }
        sim.deploy(spec(image, replicas, false));
        for _ in 0..40 {
            sim.settle();
            sim.obey();
            sim.now = sim.now.after(std::time::Duration::from_secs(31));
        }
        let web: Vec<u32> = sim.state.tasks.values()
            .filter(|t| t.is_live() && t.service.service.as_str() == "web").map(|t| t.slot).collect();
        let mut sorted = web.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (1..=replicas).collect::<Vec<_>>());
    }

    #[test]
    fn a_rollout_never_has_fewer_passing_slots_than_before(replicas in 1_u32..6, parallel in 1_u32..4) {
        let mut sim = Sim::new();
        sim.add_node(1);
        let version = |image: u8| {
            let mut spec = spec(image, replicas, false);
            spec.services.get_mut("web").unwrap().update.parallelism = Some(parallel);
            spec
        };
        sim.deploy(version(1));
        for _ in 0..3 {
            sim.settle();
            sim.obey();
        }
        sim.deploy(version(2));
        for _ in 0..60 {
            sim.turn();
            let observations = sim.observations();
            let serving = sim.state.tasks.values()
                .filter(|t| t.service.service.as_str() == "web" && t.is_wanted() && observations.of(t).is_passing())
                .count();
            prop_assert!(serving >= replicas as usize, "{serving} of {replicas}");
            sim.obey();
        }
        prop_assert!(sim.state.tasks.values().filter(|t| t.is_live() && t.service.service.as_str() == "web")
            .all(|t| t.revision == 2));
    }

    #[test]
    fn a_silent_node_gets_no_decision(history in prop::collection::vec(happening(), 1..15)) {
        let mut sim = Sim::new();
        sim.add_node(1);
        for what in &history {
            happen(&mut sim, what);
            sim.settle();
        }
        let before = sim.state.clone();
        // A scheduler that has just started: nobody was heard.
        let plan = super::plan(&sim.state, &super::Observations::default(), sim.now, 1);
        for task in before.tasks.values().filter(|t| t.node.is_some()) {
            let after = plan.after.tasks.get(&task.id);
            prop_assert!(after.is_some_and(|t| t.verdict == task.verdict && t.node == task.node) || !task.is_live());
        }
        prop_assert!(plan.after.tasks.values().filter(|t| before.tasks.get(&t.id).is_none()).all(|t| t.node.is_none()));
    }
}
