//! `deploy` and `scale`: how many, where, with what, and how they are replaced.

use std::collections::BTreeMap;

use carrack_api::{
    Bytes, MilliCpus, Placement, RestartCondition, RestartPolicy, ServiceMode, UpdateOrder, UpdatePolicy,
};

use super::Build;
use crate::fields::{Fields, Item};
use crate::outcomes;

/// What `deploy` says.
#[derive(Default)]
pub(super) struct Deploy {
    pub(super) mode: ServiceMode,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) placement: Placement,
    pub(super) update: UpdatePolicy,
    pub(super) restart: Option<RestartPolicy>,
    pub(super) limits: Amounts,
    pub(super) reservations: Amounts,
}

/// Limits or reservations of `deploy.resources`.
#[derive(Default)]
pub(super) struct Amounts {
    pub(super) cpus: Option<MilliCpus>,
    pub(super) memory: Option<Bytes>,
    pub(super) pids: Option<u64>,
}

/// The words of `deploy.mode`.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Replicated,
    Global,
    Job,
}

impl Deploy {
    /// More than one task may run.
    pub(super) fn many(&self) -> bool {
        match self.mode {
            ServiceMode::Replicated { replicas } => replicas > 1,
            ServiceMode::Global => true,
        }
    }
}

/// What becomes of a number of tasks where there is one for each node.
const GLOBAL_NUMBER: &str = "left out: a global service has one task on each node";

impl Build<'_> {
    pub(super) fn deploy(&mut self, service: &mut Fields<'_>) -> Deploy {
        let mut out = Deploy::default();
        let scale = service.take("scale");
        let scale_value = scale.as_ref().and_then(|i| i.number::<u32>(self.report));
        let mut mode = Mode::Replicated;
        let mut replicas = None;
        if let Some(item) = service.take("deploy")
            && let Some(mut fields) = Fields::open(&item, self.report)
        {
            mode = self.mode(&mut fields);
            let written = fields.take("replicas");
            replicas = written.as_ref().and_then(|i| i.number::<u32>(self.report));
            if let (Some(item), Mode::Global) = (&written, mode) {
                item.note(GLOBAL_NUMBER, self.report);
            }
            out.labels = fields.take("labels").map(|i| i.labels(self.report)).unwrap_or_default();
            self.endpoint_mode(&mut fields);
            self.placement(&mut fields, &mut out.placement);
            self.update(&mut fields, &mut out.update);
            out.restart = self.restart_policy(&mut fields);
            self.resources(&mut fields, &mut out);
            fields.finish(&outcomes::refused("services.deploy"), self.report);
        }
        if let (Some(item), Some(scale), Some(replicas)) = (&scale, scale_value, replicas)
            && scale != replicas
        {
            item.invalid_hint("differs from deploy.replicas", "write only one of them", self.report);
        }
        if let (Some(item), Mode::Global) = (&scale, mode) {
            item.note(GLOBAL_NUMBER, self.report);
        }
        out.mode = match mode {
            Mode::Global => ServiceMode::Global,
            Mode::Replicated | Mode::Job => {
                ServiceMode::Replicated { replicas: replicas.or(scale_value).unwrap_or(1) }
            }
        };
        out
    }

    fn mode(&mut self, fields: &mut Fields<'_>) -> Mode {
        let Some(item) = fields.take("mode") else { return Mode::Replicated };
        let words = [
            ("replicated", Mode::Replicated),
            ("global", Mode::Global),
            ("replicated-job", Mode::Job),
            ("global-job", Mode::Job),
        ];
        let mode = item.choice(&words, self.report).unwrap_or(Mode::Replicated);
        if mode == Mode::Job {
            item.listed("services.deploy.mode", "replicated-job, global-job", self.report);
        }
        mode
    }

    fn endpoint_mode(&mut self, fields: &mut Fields<'_>) {
        if let Some(item) = fields.take("endpoint_mode")
            && item.choice(&[("vip", false), ("dnsrr", true)], self.report) == Some(true)
        {
            item.listed("services.deploy.endpoint_mode", "dnsrr", self.report);
        }
    }

    fn placement(&mut self, fields: &mut Fields<'_>, out: &mut Placement) {
        let Some(item) = fields.take("placement") else { return };
        let Some(mut fields) = Fields::open(&item, self.report) else { return };
        out.constraints = fields.take("constraints").map(|i| i.texts(self.report)).unwrap_or_default();
        out.max_replicas_per_node =
            fields.take("max_replicas_per_node").and_then(|i| i.number(self.report)).filter(|n| *n > 0);
        fields.listed("preferences", "services.deploy.placement.preferences", self.report);
        fields.finish(&[], self.report);
    }

    fn update(&mut self, fields: &mut Fields<'_>, out: &mut UpdatePolicy) {
        let Some(item) = fields.take("update_config") else { return };
        let Some(mut fields) = Fields::open(&item, self.report) else { return };
        let words = [("start-first", UpdateOrder::StartFirst), ("stop-first", UpdateOrder::StopFirst)];
        out.order = fields.take("order").and_then(|i| i.choice(&words, self.report));
        out.parallelism = fields.take("parallelism").and_then(|i| i.number(self.report));
        out.delay = fields.take("delay").and_then(|i| i.duration(self.report));
        out.monitor = fields.take("monitor").and_then(|i| i.duration(self.report));
        if let Some(item) = fields.take("failure_action") {
            let words = [("rollback", "rollback"), ("pause", "pause"), ("continue", "continue")];
            if let Some(action) = item.choice(&words, self.report)
                && action != "rollback"
            {
                item.listed("services.deploy.update_config.failure_action", "pause, continue", self.report);
            }
        }
        if let Some(item) = fields.take("max_failure_ratio")
            && item.node.as_text().and_then(|t| t.parse::<f64>().ok()) != Some(0.0)
        {
            item.listed("services.deploy.update_config.max_failure_ratio", "others", self.report);
        }
        fields.finish(&[], self.report);
    }

    fn restart_policy(&mut self, fields: &mut Fields<'_>) -> Option<RestartPolicy> {
        let item = fields.take("restart_policy")?;
        let mut fields = Fields::open(&item, self.report)?;
        let words = [
            ("none", RestartCondition::Never),
            ("on-failure", RestartCondition::OnFailure),
            ("any", RestartCondition::Any),
            ("always", RestartCondition::Any),
            ("unless-stopped", RestartCondition::Any),
        ];
        let condition = fields.take("condition").and_then(|i| i.choice(&words, self.report));
        let out = RestartPolicy {
            condition: condition.unwrap_or(RestartCondition::Any),
            max_attempts: fields.take("max_attempts").and_then(|i| i.number(self.report)).filter(|n| *n > 0),
            delay: fields.take("delay").and_then(|i| i.duration(self.report)),
        };
        fields.listed("window", "services.deploy.restart_policy.window", self.report);
        fields.finish(&[], self.report);
        Some(out)
    }

    fn resources(&mut self, fields: &mut Fields<'_>, out: &mut Deploy) {
        let Some(item) = fields.take("resources") else { return };
        let Some(mut fields) = Fields::open(&item, self.report) else { return };
        if let Some(item) = fields.take("limits") {
            out.limits = self.amounts(&item, true);
        }
        if let Some(item) = fields.take("reservations") {
            out.reservations = self.amounts(&item, false);
        }
        fields.finish(&[], self.report);
    }

    fn amounts(&mut self, item: &Item<'_>, limits: bool) -> Amounts {
        let Some(mut fields) = Fields::open(item, self.report) else { return Amounts::default() };
        let cpus = fields.take("cpus").and_then(|i| i.cpus(self.report)).filter(|c| c.0 > 0);
        let memory = fields.take("memory").and_then(|i| i.bytes(self.report)).filter(|b| b.0 > 0);
        let pids = if limits {
            let number = fields.take("pids").and_then(|i| i.int(self.report));
            number.map(|n| u64::try_from(n).unwrap_or(0))
        } else {
            None
        };
        let scope = if limits { "limits" } else { "reservations" };
        fields.finish(&outcomes::refused(&format!("services.deploy.resources.{scope}")), self.report);
        Amounts { cpus, memory, pids }
    }
}
