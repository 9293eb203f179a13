//! What the dependencies of services mean for each other, which is known only when all services are read.

use carrack_api::{DependencyCondition, HealthTest, RestartCondition, ServiceSpec, StackSpec};

use super::Build;
use crate::yaml::Node;

/// A condition that the other service cannot meet as it is meant, in the words of the scheduler's gate.
fn odd(condition: DependencyCondition, other: &ServiceSpec) -> Option<&'static str> {
    let disabled = |service: &ServiceSpec| {
        service.task.container.healthcheck.as_ref().map(|check| &check.test) == Some(&HealthTest::Disabled)
    };
    let restart = &other.task.restart;
    let endless = restart.condition == RestartCondition::Any && restart.max_attempts.is_none();
    match condition {
        DependencyCondition::Completed if endless => {
            Some("waits for ever: its restart policy starts it again whenever it ends, so it never completes")
        }
        DependencyCondition::Healthy if disabled(other) => Some(
            "its healthcheck is disabled: it is healthy once its port listens, or without one once it has run for a second",
        ),
        DependencyCondition::Started | DependencyCondition::Completed | DependencyCondition::Healthy => None,
    }
}

impl Build<'_> {
    /// Notes dependencies that do not mean what they say.
    pub(super) fn note_dependencies(&mut self, stack: &StackSpec) {
        let services = self.root.as_map().and_then(|root| root.get("services")).and_then(Node::as_map);
        for (name, service) in &stack.services {
            let tree = services.and_then(|all| all.get(name.as_str())).and_then(Node::as_map);
            let depends = tree.and_then(|tree| tree.get("depends_on")).and_then(Node::as_map);
            for (target, dependency) in &service.depends_on {
                let entry = depends.and_then(|map| map.entry(target.as_str()));
                let other = stack.services.get(target);
                if let (Some(entry), Some(text)) =
                    (entry, other.and_then(|other| odd(dependency.condition, other)))
                {
                    let path = format!("services.{name}.depends_on.{target}");
                    self.report.note(entry.mark, &path, text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{LoadOptions, MemoryFiles, load};

    #[test]
    fn a_condition_that_nothing_meets_is_noted() {
        let notes = |condition: &str, other: &str| {
            let text = format!(
                "services:\n  a: {{image: i, depends_on: {{b: {{condition: {condition}}}}}}}\n  b: {{image: i, {other}}}\n"
            );
            let files = MemoryFiles::default().with("/app/compose.yaml", text);
            let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
            let loaded = load(&options, &files).unwrap();
            let notes = loaded.notes.into_iter().filter(|note| !note.detail);
            notes.map(|note| format!("{} {}", note.key, note.text)).collect::<Vec<_>>().join(";")
        };
        let completed = "service_completed_successfully";
        for other in
            ["restart: always", "restart: unless-stopped", "deploy: {restart_policy: {condition: any}}"]
        {
            let told = notes(completed, other);
            assert!(told.starts_with("services.a.depends_on.b waits for ever"), "{other}: {told}");
        }
        for other in
            ["restart: 'no'", "tty: true", "deploy: {restart_policy: {condition: any, max_attempts: 2}}"]
        {
            assert_eq!(notes(completed, other), "", "{other}");
        }
        for other in ["healthcheck: {disable: true}", "healthcheck: {test: [NONE]}"] {
            assert!(notes("service_healthy", other).contains("is disabled"), "{other}");
        }
        assert_eq!(notes("service_healthy", "healthcheck: {test: x}"), "");
        assert_eq!(notes("service_started", "restart: always, healthcheck: {disable: true}"), "");
    }
}
