//! The real [`Engine`]: images and containers of [`carrack_runtime`], whose blocking calls run on blocking threads.
//!
//! Owns the translation between a task's words and the runtime's, and the cached list of held images. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use carrack_api::{
    Bytes, ContainerSpec, ContentFile, Exit, HealthTest, Healthcheck, HeldImage, Hook, ImageCollection,
    PullPolicy, PullProgress, RegistryCredentials, TaskId, Timestamp, Usage, fail,
};
use carrack_net::dns::{ResolvOptions, resolv_conf};
use carrack_runtime::cgroup::TasksUnit;
use carrack_runtime::error::chain;
use carrack_runtime::image::{
    self, Credentials, DiskUse, Image, ImageReference, ImageStore, Progress, StoreOptions,
};
use carrack_runtime::{
    CgroupSampler, ExecRequest, InjectedFile, LogLimit, RunId, RunState, Runtime, RuntimeConfig,
    RuntimeError, StartError, StartRequest,
};
use tokio::task::spawn_blocking;

use crate::collect;
use crate::config::{NodeConfig, NodeError};
use crate::engine::{
    Attachment, Engine, FoundRun, FoundState, ProgressSink, Refusal, RegistryLogins, StartOrder, Started,
};
use crate::fds::Signal;
use crate::probe_exec;

/// A container whose supervisor says nothing of its start for this long after a daemon start is killed.
const STARTING_MAX: Duration = Duration::from_secs(60);
/// How often such a one is looked at.
const STARTING_POLL: Duration = Duration::from_millis(50);
/// The host's resolver file, given to containers on the host's network.
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// Containers and images of this host. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Containers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    runtime: Runtime,
    images: ImageStore,
    held: Mutex<Vec<HeldImage>>,
    samplers: Mutex<BTreeMap<(TaskId, u32), CgroupSampler>>,
}

impl Containers {
    /// Opens runtime and image store. Blocks; touches no container.
    pub(crate) fn open(config: &NodeConfig, instance: &str) -> Result<Self, NodeError> {
        let NodeConfig { state_dir, runtime_dir, exe, registries, .. } = config;
        let runtime = Runtime::open(RuntimeConfig {
            state_dir: state_dir.clone(),
            runtime_dir: runtime_dir.clone(),
            instance: instance.to_owned(),
            exe: Some(exe.clone()),
            unit: tasks_unit(state_dir, instance),
        });
        let runtime = runtime.map_err(NodeError::Runtime)?;
        let options =
            StoreOptions { helper: exe.clone(), registries: registries.clone(), ..StoreOptions::default() };
        let images = ImageStore::open(&state_dir.join("images"), options).map_err(NodeError::Images)?;
        let shared = Shared { runtime, images, held: Mutex::default(), samplers: Mutex::default() };
        let containers = Self { shared: Arc::new(shared) };
        containers.refresh_images();
        Ok(containers)
    }

    /// The runtime itself, for requests.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    /// The image store itself, for requests.
    pub(crate) fn store(&self) -> &ImageStore {
        &self.shared.images
    }

    /// Reads the list of held images again. Blocks.
    pub(crate) fn refresh_images(&self) {
        match self.shared.images.list() {
            Ok(images) => *lock(&self.shared.held) = images.iter().flat_map(held).collect(),
            Err(error) => tracing::error!(error = chain(&error), "the images cannot be listed"),
        }
    }

    /// The image that a spec means on this host, if it is held: by its digest when one was resolved, else by its name.
    pub(crate) fn find_image(&self, spec: &ContainerSpec) -> Result<Option<Image>, Refusal> {
        let found = match &spec.image_digest {
            Some(digest) => {
                let digest = digest.parse().map_err(|error| Refusal::Final(chain(&error)))?;
                self.shared.images.get_by_digest(&digest)
            }
            None => {
                let reference =
                    ImageReference::parse(&spec.image).map_err(|error| Refusal::Final(chain(&error)))?;
                self.shared.images.get(&reference)
            }
        };
        found.map_err(refuse_image)
    }

    /// Brings an image from its registry.
    pub(crate) async fn pull(
        &self,
        reference: &ImageReference,
        credentials: Option<&RegistryCredentials>,
        progress: ProgressSink,
    ) -> Result<Image, image::Error> {
        let credentials = credentials.map(registry_credentials);
        let sink = image::ProgressSink::new(move |now| progress(pull_progress(now)));
        let image = self.shared.images.pull(reference, credentials.as_ref(), sink).await?;
        self.clone().blocking(Self::refresh_images).await;
        Ok(image)
    }

    /// Runs blocking work on a blocking thread.
    pub(crate) async fn blocking<T: Send + 'static>(
        self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        match spawn_blocking(move || work(&self)).await {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn run_id(task: TaskId, run: u32) -> RunId {
        RunId::new(task.to_string(), run)
    }

    fn start_request(&self, order: &StartOrder) -> Result<StartRequest, Refusal> {
        let spec = &order.assigned.spec.container;
        let image = self
            .find_image(spec)?
            .ok_or_else(|| Refusal::Retry(format!("image {} is not on this node any more", spec.image)))?;
        let layers = self.shared.images.short_layers(&image).map_err(refuse_image)?;
        let service = &order.assigned.service;
        Ok(StartRequest {
            id: Self::run_id(order.task, order.run),
            spec: spec.clone(),
            image: image.config.clone(),
            lowerdirs: layers.names.iter().map(|name| layers.dir.join(name)).collect(),
            network: match &order.attachment {
                Attachment::Wired(path) => carrack_runtime::Network::Namespace(path.clone()),
                Attachment::Host => carrack_runtime::Network::Host,
                Attachment::None => carrack_runtime::Network::None,
            },
            hostname: default_hostname(service.service.as_str(), order.assigned.slot),
            addresses: order.assigned.addresses.clone(),
            resolv_conf: resolver_file(spec, service.stack.as_str(), &order.attachment),
            host_gateway: order.node_address.map(IpAddr::V4),
            env: BTreeMap::new(),
            files: injected(order)?,
            log: LogLimit::default(),
        })
    }

    /// Runs of the runtime that belong to tasks, with starts that are under way waited for.
    fn found_runs(&self) -> Result<Vec<FoundRun>, RuntimeError> {
        let mut found = Vec::new();
        for record in self.shared.runtime.list()? {
            let Ok(task) = record.id.task.parse() else {
                tracing::warn!(run = %record.id, "a run has no task's name; it is left alone");
                continue;
            };
            let run = record.id.run;
            let state = match self.settled(&record.id)? {
                Some((RunState::Running { init_pid, .. }, stop_signal)) => {
                    FoundState::Running { pid: init_pid, stop_signal }
                }
                Some((RunState::Exited(exit), _)) => FoundState::Ended(exit),
                Some((RunState::Starting, _)) | None => continue,
            };
            found.push(FoundRun { task, run, state });
        }
        Ok(found)
    }

    fn settled(&self, id: &RunId) -> Result<Option<(RunState, i32)>, RuntimeError> {
        let deadline = std::time::Instant::now() + STARTING_MAX;
        loop {
            let Some(record) = self.shared.runtime.inspect(id)? else { return Ok(None) };
            if record.state != RunState::Starting {
                return Ok(Some((record.state, record.stop_signal)));
            }
            if std::time::Instant::now() >= deadline {
                tracing::warn!(run = %id, "a run that never started is killed");
                self.shared.runtime.kill(id)?;
            } else {
                std::thread::sleep(STARTING_POLL);
            }
        }
    }
}

impl Engine for Containers {
    async fn runs(&self) -> Result<Vec<FoundRun>, Refusal> {
        self.clone().blocking(Self::found_runs).await.map_err(retry)
    }

    async fn prepare(
        &self,
        spec: &ContainerSpec,
        credentials: &RegistryLogins,
        progress: ProgressSink,
    ) -> Result<(), Refusal> {
        let wanted = spec.clone();
        if self.clone().blocking(move |this| this.find_image(&wanted)).await?.is_some() {
            return Ok(());
        }
        if spec.pull == PullPolicy::Never {
            let reason = format!("image {} is not on this node, and its pull policy is never", spec.image);
            return Err(Refusal::Final(reason));
        }
        let mut reference =
            ImageReference::parse(&spec.image).map_err(|error| Refusal::Final(chain(&error)))?;
        if let Some(digest) = &spec.image_digest {
            let digest = digest.parse().map_err(|error| Refusal::Final(chain(&error)))?;
            reference = reference.with_digest(digest);
        }
        let credentials = credentials.get(reference.registry());
        self.pull(&reference, credentials, progress).await.map(drop).map_err(refuse_image)
    }

    async fn healthcheck(&self, spec: &ContainerSpec) -> Option<Healthcheck> {
        let wanted = spec.clone();
        let found = self.clone().blocking(move |this| this.find_image(&wanted)).await;
        let image = found.ok().flatten().and_then(|image| image_healthcheck(&image.config));
        healthcheck_in_force(spec.healthcheck.as_ref(), image)
    }

    async fn start(&self, order: StartOrder) -> Result<Started, Refusal> {
        self.clone()
            .blocking(move |this| {
                let request = this.start_request(&order)?;
                let started = this.shared.runtime.start(&request).map_err(refuse_start)?;
                for warning in &started.warnings {
                    tracing::warn!(task = %order.task, warning, "a wish of the spec is met only in part");
                }
                Ok(Started { pid: started.init_pid, stop_signal: started.stop_signal })
            })
            .await
    }

    async fn ended(&self, task: TaskId, run: u32) -> Result<Exit, Refusal> {
        let id = Self::run_id(task, run);
        let wait_for = id.clone();
        match self.clone().blocking(move |this| this.shared.runtime.wait_fd(&wait_for)).await {
            Ok(fd) => {
                let ended = Signal::of(fd).map_err(|error| Refusal::Retry(error.to_string()))?;
                ended.readable().await.map_err(|error| Refusal::Retry(error.to_string()))?;
            }
            Err(RuntimeError::NotRunning(_)) => {}
            Err(error) => return Err(retry(error)),
        }
        let exit = self
            .clone()
            .blocking(move |this| {
                fail::pass("end.4-heard");
                // What the first process left behind goes before anyone may start the next run.
                this.shared.runtime.kill(&id)?;
                let sampler = lock(&this.shared.samplers).remove(&(task, run));
                let exit = this.shared.runtime.exit(&id)?;
                Ok(exit.map(|mut exit| {
                    exit.peak_memory =
                        exit.peak_memory.or_else(|| sampler.as_ref().and_then(CgroupSampler::largest_seen));
                    exit
                }))
            })
            .await
            .map_err(retry)?;
        exit.ok_or_else(|| Refusal::Retry(format!("run {task}.{run} has ended and left no record yet")))
    }

    async fn signal(&self, task: TaskId, run: u32, signal: i32) -> Result<(), Refusal> {
        let id = Self::run_id(task, run);
        gone_is_fine(self.clone().blocking(move |this| this.shared.runtime.signal(&id, signal)).await)
    }

    async fn kill(&self, task: TaskId, run: u32) -> Result<(), Refusal> {
        let id = Self::run_id(task, run);
        let killed = self.clone().blocking(move |this| {
            let killed = this.shared.runtime.kill(&id);
            // Here, as the loop may hear of the end first and wait for this no more.
            fail::pass("stop.7-killed");
            killed
        });
        gone_is_fine(killed.await)
    }

    async fn remove_run(&self, task: TaskId, run: u32) -> Result<(), Refusal> {
        let id = Self::run_id(task, run);
        let removed = self.clone().blocking(move |this| this.shared.runtime.remove_run(&id)).await;
        // A sample taken between a run's end and the loop's hearing of it opened the cgroup again.
        lock(&self.shared.samplers).remove(&(task, run));
        gone_is_fine(removed)
    }

    async fn remove_task(&self, task: TaskId, logs: bool) -> Result<(), Refusal> {
        let removed =
            self.clone().blocking(move |this| this.shared.runtime.remove_task(&task.to_string(), logs)).await;
        lock(&self.shared.samplers).retain(|(known, _), _| *known != task);
        gone_is_fine(removed)
    }

    async fn release(&self) -> Result<(), Refusal> {
        gone_is_fine(self.clone().blocking(|this| this.shared.runtime.release()).await)
    }

    async fn probe(
        &self,
        task: TaskId,
        run: u32,
        argv: Vec<String>,
        timeout: Duration,
    ) -> Option<(bool, String)> {
        let request = ExecRequest { argv, ..ExecRequest::default() };
        probe_exec::run(self.clone(), Self::run_id(task, run), request, timeout).await
    }

    async fn hook(&self, task: TaskId, run: u32, hook: Hook, timeout: Duration) -> Option<(bool, String)> {
        let Hook { command, user, working_dir, env, privileged } = hook;
        let request =
            ExecRequest { argv: command, env, user, working_dir, privileged, ..ExecRequest::default() };
        probe_exec::run(self.clone(), Self::run_id(task, run), request, timeout).await
    }

    fn sample(&self, task: TaskId, run: u32) -> Option<Usage> {
        let mut samplers = lock(&self.shared.samplers);
        let sampler = match samplers.entry((task, run)) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                match self.shared.runtime.sampler(&Self::run_id(task, run)) {
                    Ok(sampler) => new.insert(sampler),
                    Err(error) => {
                        tracing::debug!(%task, run, error = chain(&error), "no samples");
                        return None;
                    }
                }
            }
        };
        // A cgroup that has just gone is no news: its exit is on the way.
        sampler.sample().ok()
    }

    async fn collect(&self, needed: BTreeSet<String>) -> Result<Option<ImageCollection>, Refusal> {
        let collected = self.clone().blocking(move |this| {
            let collected = collect::images(this.store(), &needed, &DiskUse::of);
            this.refresh_images();
            collected
        });
        collected.await.map_err(|error| Refusal::Retry(chain(&error)))
    }

    fn images(&self) -> Vec<HeldImage> {
        lock(&self.shared.held).clone()
    }
}

/// The unit of systemd that holds what runs, where there is systemd; that of the usual state directory has the short name.
pub(crate) fn tasks_unit(state_dir: &Path, instance: &str) -> Option<TasksUnit> {
    let first = state_dir == Path::new(carrack_api::defaults::STATE_DIR);
    TasksUnit::here((!first).then_some(instance))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn retry(error: RuntimeError) -> Refusal {
    Refusal::Retry(chain(&error))
}

fn gone_is_fine(result: Result<(), RuntimeError>) -> Result<(), Refusal> {
    match result {
        Ok(()) | Err(RuntimeError::NoRun(_) | RuntimeError::NotRunning(_)) => Ok(()),
        Err(error) => Err(retry(error)),
    }
}

/// What the user must change is final; what the host, a registry or a login may get over is tried again.
fn refuse_image(error: image::Error) -> Refusal {
    let text = chain(&error);
    match error {
        image::Error::Io { .. }
        | image::Error::Locked { .. }
        | image::Error::Registry { .. }
        | image::Error::Unauthorized { .. }
        | image::Error::Transport { .. }
        | image::Error::Throttled { .. }
        | image::Error::NoSpace { .. }
        | image::Error::Joined { .. }
        | image::Error::DigestMismatch { .. }
        | image::Error::SizeMismatch { .. }
        | image::Error::Internal { .. } => Refusal::Retry(text),
        _ => Refusal::Final(text),
    }
}

fn refuse_start(error: StartError) -> Refusal {
    let text = error.to_string();
    match error {
        StartError::ProgramMissing { .. }
        | StartError::ProgramNotExecutable { .. }
        | StartError::NoCommand
        | StartError::User { .. }
        | StartError::WorkingDir { .. }
        | StartError::Mount { .. }
        | StartError::Device { .. }
        | StartError::Spec { .. } => Refusal::Final(text),
        StartError::Network { .. } | StartError::PreviousRun(_) | StartError::System { .. } => {
            Refusal::Retry(text)
        }
    }
}

/// The secrets and configs of a task with their content.
fn injected(order: &StartOrder) -> Result<Vec<InjectedFile>, Refusal> {
    let files = order.assigned.spec.container.files.iter();
    let with_content = |file: &ContentFile| {
        let digest = file.digest.as_deref().unwrap_or_default();
        let content = order.contents.get(digest).cloned().ok_or_else(|| {
            Refusal::Retry(format!("the content of {} {} is not on this node yet", file.kind, file.name))
        })?;
        let ContentFile { target, uid, gid, mode, .. } = file.clone();
        Ok(InjectedFile { target, content, mode, uid, gid })
    };
    files.map(with_content).collect()
}

/// `SERVICE-SLOT` with what no host name may hold replaced.
fn default_hostname(service: &str, slot: u32) -> String {
    let name: String =
        service.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    // A one-off task is alone under its name.
    let suffix = if slot == 0 { String::new() } else { format!("-{slot}") };
    let room = carrack_api::id::NAME_MAX_BYTES - suffix.len();
    format!("{}{suffix}", name.get(..room).unwrap_or(&name))
}

fn resolver_file(spec: &ContainerSpec, stack: &str, attachment: &Attachment) -> Option<String> {
    let mut options = ResolvOptions {
        nameservers: Vec::new(),
        search: spec.dns_search.clone(),
        options: spec.dns_options.clone(),
    };
    match attachment {
        // Its own resolvers are asked by ours, so that it keeps its service names.
        Attachment::Wired(_) => Some(resolv_conf(stack, &options)),
        Attachment::Host if spec.dns.is_empty() => std::fs::read_to_string(HOST_RESOLV_CONF).ok(),
        Attachment::Host => {
            options.nameservers = spec.dns.iter().filter_map(|text| text.parse().ok()).collect();
            Some(resolv_conf(stack, &options))
        }
        Attachment::None => None,
    }
}

fn image_healthcheck(config: &image::ImageConfig) -> Option<Healthcheck> {
    let check = config.healthcheck.as_ref()?;
    let test = match check.test.split_first() {
        Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => HealthTest::Exec(rest.to_vec()),
        Some((kind, [line])) if kind == "CMD-SHELL" => HealthTest::Shell(line.clone()),
        _ => return None,
    };
    let time = |ns: u64| (ns > 0).then(|| Duration::from_nanos(ns));
    Some(Healthcheck {
        test,
        interval: time(check.interval_ns),
        timeout: time(check.timeout_ns),
        retries: (check.retries > 0).then_some(check.retries),
        start_period: time(check.start_period_ns),
        start_interval: time(check.start_interval_ns),
    })
}

/// What the spec writes wins, field by field; without a test of its own the image's is meant.
fn healthcheck_in_force(spec: Option<&Healthcheck>, image: Option<Healthcheck>) -> Option<Healthcheck> {
    let Some(spec) = spec else { return image };
    match &spec.test {
        HealthTest::Disabled => None,
        HealthTest::Exec(_) | HealthTest::Shell(_) => Some(spec.clone()),
        HealthTest::Inherit => image.map(|image| Healthcheck {
            test: image.test,
            interval: spec.interval.or(image.interval),
            timeout: spec.timeout.or(image.timeout),
            retries: spec.retries.or(image.retries),
            start_period: spec.start_period.or(image.start_period),
            start_interval: spec.start_interval.or(image.start_interval),
        }),
    }
}

/// The credentials in the image store's words.
pub(crate) fn registry_credentials(credentials: &RegistryCredentials) -> Credentials {
    Credentials::Basic { username: credentials.username.clone(), password: credentials.password.clone() }
}

/// The progress in the API's words.
pub(crate) fn pull_progress(progress: Progress) -> PullProgress {
    PullProgress {
        done: Bytes(progress.received_bytes),
        total: Bytes(progress.total_bytes.unwrap_or(0)),
        layers: (progress.layers_done, progress.layers_total),
        waiting: progress.waiting_seconds,
    }
}

/// An image under each of its names.
pub(crate) fn held(image: &Image) -> Vec<HeldImage> {
    let stored = image.stored_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let created_at = Timestamp(u64::try_from(stored.as_millis()).unwrap_or(u64::MAX));
    let names = image.names.iter().map(ToString::to_string);
    names
        .map(|name| HeldImage {
            name,
            digest: image.digest.to_string(),
            size: Bytes(image.unpacked_bytes()),
            created_at,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(test: HealthTest, retries: Option<u32>) -> Healthcheck {
        Healthcheck { test, interval: None, timeout: None, retries, start_period: None, start_interval: None }
    }

    #[test]
    fn the_healthcheck_of_the_file_wins_over_that_of_the_image() {
        let image = || Some(check(HealthTest::Shell("image".into()), Some(9)));
        assert_eq!(healthcheck_in_force(None, image()), image());
        assert_eq!(healthcheck_in_force(Some(&check(HealthTest::Disabled, None)), image()), None);
        let own = check(HealthTest::Exec(vec!["own".into()]), None);
        assert_eq!(healthcheck_in_force(Some(&own), image()), Some(own));
        let times = check(HealthTest::Inherit, Some(2));
        let joined = healthcheck_in_force(Some(&times), image()).unwrap();
        assert_eq!((joined.test, joined.retries), (HealthTest::Shell("image".into()), Some(2)));
    }

    #[test]
    fn host_names_hold_only_what_host_names_may() {
        assert_eq!(default_hostname("my_web.1", 3), "my-web-1-3");
        assert_eq!(default_hostname(&"x".repeat(80), 12).len(), 63);
    }

    #[test]
    fn a_container_with_resolvers_of_its_own_still_asks_ours() {
        let spec = ContainerSpec { dns: vec!["1.1.1.1".into()], ..ContainerSpec::default() };
        let wired = resolver_file(&spec, "demo", &Attachment::Wired("/ns".into())).unwrap();
        assert!(wired.contains("169.254.1.53") && !wired.contains("1.1.1.1"), "{wired}");
        assert!(resolver_file(&spec, "demo", &Attachment::Host).unwrap().contains("1.1.1.1"));
        assert_eq!(resolver_file(&spec, "demo", &Attachment::None), None);
    }
}
