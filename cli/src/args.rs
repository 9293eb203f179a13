//! What can be typed. The doc comments are the help that users read; `tests/help/` holds all of it as golden files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use carrack_api::PublishedPort;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::commands::DetachKeys;
use crate::commands::parse_publish;
use crate::commands::{ConfigCommand, SecretCommand};
use crate::time::{Moment, parse_duration, parse_moment};

/// Runs Compose applications on a fleet of Linux hosts, without a Docker daemon.
#[derive(Debug, Parser)]
#[command(
    name = "carrack",
    version,
    after_help = "\
Start here:
  sudo carrack daemon -d     a whole cluster on this host
  carrack deploy             deploy the Compose file that is here
  carrack ls                 stacks, services, replicas, URLs
  carrack logs -f web        what the tasks of a service say

A TARGET is a stack (hello), a service (hello/web, or web), one replica of it
(web.2) or a task id (t17). Without a stack, the one of the Compose file in the
current directory is meant, else the only one that fits.

Exit codes: 0 done and healthy, 1 error, 2 usage or changed, 4 timed out,
5 no daemon. `carrack help VERB` explains a verb."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// How data is printed.
    #[arg(short, long, global = true, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    #[arg(hide_possible_values = true, help = "Print data as `text` or `json`")]
    pub output: OutputFormat,
    /// The daemon's socket, or unix://PATH [env: CARRACK_HOST]
    #[arg(short = 'H', long, global = true, env = "CARRACK_HOST", hide_env = true, value_name = "HOST")]
    pub host: Option<String>,
    /// The daemon's socket [/run/carrack/carrack.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// A Compose file; only `config` has one to print.
    Yaml,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon: scheduler, node and network of this host
    Daemon(DaemonArgs),
    /// Deploy a Compose file and wait until it is healthy
    Deploy(DeployArgs),
    /// Build images of a Compose file with docker, podman or buildah
    Build(BuildArgs),
    /// Show a Compose project as it is understood; needs no daemon
    Config(ConfigArgs),
    /// Tell what many hosts change or break in a Compose file
    Check(CheckArgs),
    /// Deploy and follow the logs until Ctrl-C, as in Compose
    Up(UpArgs),
    /// Remove the stack of a Compose file; volumes stay unless -v
    Down(DownArgs),
    /// List stacks with their services, replicas and URLs
    Ls(LsArgs),
    /// List tasks
    Ps(PsArgs),
    /// Show everything about a stack, service or task, as JSON
    Inspect(InspectArgs),
    /// Set the number of replicas of services
    Scale(ScaleArgs),
    /// Stop stacks or services, until a start or a deploy
    Stop(StopArgs),
    /// Run stopped stacks or services again
    Start(StartArgs),
    /// Replace tasks of stacks or services, one at a time
    Restart(RestartArgs),
    /// Send a signal to running tasks
    Kill(KillArgs),
    /// Change values of a service, until the next deploy of its file
    Set(SetArgs),
    /// Wait until tasks have ended and show their exit codes
    Wait(WaitVerbArgs),
    /// Show where published ports are reached
    Port(PortArgs),
    /// Show the output of tasks, past ones included
    Logs(LogsArgs),
    /// Run a command in a running task
    Exec(ExecArgs),
    /// Join the input, output and terminal of a task's container
    Attach(AttachArgs),
    /// Run a one-off task of a service, on its networks
    Run(RunArgs),
    /// Copy files between here and a running task
    Cp(CpArgs),
    /// Show what running tasks use, each second
    Stats(StatsArgs),
    /// Show what a name resolves to, and why
    Dns(DnsArgs),
    /// Show what happened
    Events(EventsArgs),
    /// Remove stacks or one-off tasks; volumes stay unless -v
    Rm(RmArgs),
    /// Log in to a registry; credentials are checked, then kept
    Login(LoginArgs),
    /// Forget the credentials for a registry
    Logout(LogoutArgs),
    /// Load, pull, save, list and remove images
    Image(ImageArgs),
    /// List, inspect and remove volumes
    Volume(VolumeArgs),
    /// Make, list, inspect and remove networks that stacks share
    Network(NetworkArgs),
    /// Make, list, inspect and remove secrets that stacks share
    Secret(SecretArgs),
    /// Check what this host offers and lacks; needs no daemon
    Doctor(DoctorArgs),
    /// Stop everything, take Carrack off this host; volumes stay
    Uninstall(UninstallArgs),
    /// Show the versions of the command and of the daemon
    #[command(after_help = "\
Examples:
  carrack version
  carrack version -o json | jq -r .version

Exit code 5 when no daemon answers; the command's own version is told all the same.")]
    Version,
    /// Show every default and what it means
    #[command(after_help = "\
Examples:
  carrack defaults
  carrack defaults -o json | jq -r '.\"stop.grace\".value'

What a Compose file says wins over a default.")]
    Defaults,
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages of all verbs into a directory
    Man(ManArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo carrack daemon -d           start in the background, return once it answers
  sudo carrack daemon              stay in the foreground; Ctrl-C leaves the containers running
  sudo carrack daemon --stop       stop the one in the background; its containers keep running
  sudo carrack daemon --stop --stop-containers

Stopping or killing the daemon stops no container: the next start adopts them. SIGTERM and SIGINT stop the daemon alone,
SIGUSR1 stops the containers first.")]
pub(crate) struct DaemonArgs {
    /// Go to the background once the daemon answers
    #[arg(short, long, conflicts_with = "stop")]
    pub detach: bool,
    /// Stop the daemon of this state directory
    #[arg(long)]
    pub stop: bool,
    /// On stopping, stop the containers in order, too
    #[arg(long, alias = "containers")]
    pub stop_containers: bool,
    /// Survives reboots: store, images, logs, volumes
    #[arg(long, default_value = carrack_api::defaults::STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// What a reboot may take: the socket, supervisors' files
    #[arg(long, default_value = carrack_api::defaults::RUNTIME_DIR, value_name = "DIR")]
    pub runtime_dir: PathBuf,
    /// Configuration of registries [default: /etc/carrack/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Addresses of the cluster, fixed at its first start [default: 10.192.0.0/10, else 100.64.0.0/10]
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// A label of this node, for placement; can be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// A name server for names that are not ours [default: those of the host]
    #[arg(long = "dns", value_name = "ADDRESS[:PORT]", value_parser = parse_name_server)]
    pub name_servers: Vec<SocketAddr>,
    /// Log this much: error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_name = "LEVEL", value_parser = parse_level)]
    pub log_level: tracing::Level,
    /// Set by `-d` in the process it starts.
    #[arg(long, hide = true)]
    pub background: bool,
}

/// Which Compose project.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ProjectArgs {
    /// A Compose file, `-` for standard input; several are merged [default: compose.yaml here or above]
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Name of the stack [default: COMPOSE_PROJECT_NAME, `name:` of the file, the directory's name]
    #[arg(short, long = "project-name", value_name = "NAME")]
    pub project_name: Option<String>,
    /// Directory that relative paths start from [default: that of the first file]
    #[arg(long, value_name = "DIR")]
    pub project_directory: Option<PathBuf>,
    /// A file of variables in place of `.env`; can be given several times
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// A profile to include; can be given several times
    #[arg(long = "profile", value_name = "NAME")]
    pub profiles: Vec<String>,
}

/// How strictly a Compose file is taken.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Strictness {
    /// Refuse what would be done in another way than Docker Compose does it
    #[arg(long, conflicts_with = "lenient")]
    pub strict: bool,
    /// Leave out refused keys without which the application runs as well
    #[arg(long)]
    pub lenient: bool,
}

/// How long a command stays.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Do not wait
    #[arg(short, long)]
    pub detach: bool,
    /// Wait this long, as 90s or 5m
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack check                     the Compose file that is here
  carrack check -f compose.yaml -f prod.yaml --profile jobs
  carrack check -o json | jq -r '.findings[] | select(.verdict == \"breaks\").key'

invalid: the file is wrong. refused: Carrack cannot do it, on one host or many. breaks: works on one host, not on another or not
with replicas. changes: works on many hosts, otherwise than on one. mapped: done in another way than Docker Compose does it. Exit
code 1 when something is invalid, refused or breaks, else 0.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    #[command(flatten)]
    pub strictness: Strictness,
}

/// Building before a deploy.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BuildFirst {
    /// Build the images of services with `build:` first; without, only those that nobody has
    #[arg(long)]
    pub build: bool,
    /// Build nothing, also when an image is missing
    #[arg(long, conflicts_with = "build")]
    pub no_build: bool,
    /// What builds: docker, buildx, podman, buildah, or a path to one [env: CARRACK_BUILDER]
    #[arg(long, env = "CARRACK_BUILDER", hide_env = true, value_name = "TOOL")]
    pub builder: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack build                       every service of the Compose file that has `build:`
  carrack build web --no-cache
  carrack build --builder podman --build-arg VERSION=1.4

A program of this machine builds: the first of docker, podman and buildah that works, or the one that --builder or CARRACK_BUILDER
names. The image goes to the daemon under the name in `image:`, else STACK-SERVICE, and the next deploy uses it. Nothing is
deployed: `carrack deploy --build` does both. What the builder says is on standard error.")]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    /// What builds: docker, buildx, podman, buildah, or a path to one [env: CARRACK_BUILDER]
    #[arg(long, env = "CARRACK_BUILDER", hide_env = true, value_name = "TOOL")]
    pub builder: Option<String>,
    /// Use nothing that was built before
    #[arg(long)]
    pub no_cache: bool,
    /// Ask registries for newer base images
    #[arg(long)]
    pub pull: bool,
    /// A build argument for all services; can be given several times
    #[arg(long = "build-arg", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub args: Vec<(String, String)>,
    /// Services; none means all that have `build:`
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack deploy                          the Compose file that is here
  carrack deploy -f compose.yaml -f prod.yaml -p shop
  carrack deploy --build                  build the images of services with `build:` first
  carrack deploy --dry-run                what would change; exit code 2 when something would

Only services whose definition or image changed are touched, one task at a time. Services gone from the file are removed;
volumes never are. With -d the command returns once the deploy is accepted.")]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub strictness: Strictness,
    #[command(flatten)]
    pub build: BuildFirst,
    /// Show what would change and change nothing
    #[arg(long, conflicts_with = "build")]
    pub dry_run: bool,
    /// Show also the defaults that the file leaves open
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack config                       the Compose file that is here, with all it leaves open, as YAML
  carrack config -f base.yaml -f prod.yaml --profile '*' -o json
  carrack config -q                    only what is wrong with it; exit code 1 when something is
  carrack config --images | sort       one a line
  carrack config web                   only web, what it depends on, and what these use
  carrack config --variables           what can be set for this project, and what stands for it when it is not

The model is that of `docker compose config`: short forms are long, files are merged, variables filled in, paths absolute.
`-o yaml`, the default, can be loaded again; a `$` is written `$$` in it. `--profile '*'` means all profiles.
`create`, `ls`, `inspect` and `rm` are about configs that the daemon keeps, as `carrack secret` is about secrets.")]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct ConfigArgs {
    /// Manage configs that stacks share
    #[command(subcommand)]
    pub command: Option<ConfigCommand>,
    /// Only these services, with what they depend on [default: all that the profiles ask for]
    #[arg(value_name = "SERVICE")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Leave variables as they are written; what they would mean is not checked
    #[arg(long)]
    pub no_interpolate: bool,
    /// Print nothing but what is wrong
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub only: ConfigOnly,
}

/// A part of the model.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
pub(crate) struct ConfigOnly {
    /// Print only the names of the services, one a line
    #[arg(long)]
    pub services: bool,
    /// Print only the images of the services
    #[arg(long)]
    pub images: bool,
    /// Print only the names of the volumes
    #[arg(long)]
    pub volumes: bool,
    /// Print only the names of the networks
    #[arg(long)]
    pub networks: bool,
    /// Print only the names of the models
    #[arg(long)]
    pub models: bool,
    /// Print only the profiles that the services name
    #[arg(long = "profiles")]
    pub profile_names: bool,
    /// Print the variables that the files name, what stands for them, and which must be set
    #[arg(long)]
    pub variables: bool,
    /// Print the variables that values are filled in from: the environment and .env
    #[arg(long)]
    pub environment: bool,
    /// Print a digest of what each service is, one a line, or of SERVICE alone; `*` is all
    #[arg(long, value_name = "SERVICE")]
    pub hash: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack up          deploy, follow the logs; Ctrl-C stops and removes the containers
  carrack up -d       deploy, wait until healthy, leave it running (the same as `carrack deploy`)

Volumes outlive Ctrl-C.")]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    #[command(flatten)]
    pub strictness: Strictness,
    #[command(flatten)]
    pub build: BuildFirst,
    /// Leave it running in the background once it is healthy
    #[arg(short, long)]
    pub detach: bool,
    /// Wait this long for it to be healthy, as 90s or 5m
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack down             the stack of the Compose file that is here
  carrack down -p shop -v  and its volumes, with their data")]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Remove the stack's volumes, too: their data is lost
    #[arg(short, long)]
    pub volumes: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack ls
  carrack ls -o json | jq '.[].services[].vips'")]
pub(crate) struct LsArgs {
    /// Only this stack
    #[arg(value_name = "STACK")]
    pub stack: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack ps            tasks of the stack that is here, else all
  carrack ps web -a     also past tasks of a service, with how they ended")]
pub(crate) struct PsArgs {
    /// A stack, a service or a replica
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// Past tasks, too
    #[arg(short, long)]
    pub all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack inspect hello              a stack: status, specification, tasks
  carrack inspect web.1 | jq .pid    a task: state, address, process")]
pub(crate) struct InspectArgs {
    /// A stack, a service, a replica or a task
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack scale web=5
  carrack scale hello/web=5 hello/worker=0

The number holds until the next deploy, which returns to that of the file and says so.")]
pub(crate) struct ScaleArgs {
    /// A service and its replicas
    #[arg(value_name = "SERVICE=REPLICAS", required = true, value_parser = parse_scale)]
    pub services: Vec<(String, u32)>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack run --rm -it web sh          a shell beside the service, with its environment
  carrack run --rm web ./manage migrate
  carrack run -d --name nightly web ./backup

The task is on the service's networks and has its volumes, but no published ports unless -p or --service-ports asks
for them; it is not behind the service's address, no deploy replaces it, and it is not restarted. Its exit code is
that of the command. Without --rm it stays listed by `carrack ps -a` until `carrack rm`, or until its stack is
removed.  Without -i and -t, both are on when standard input and output are terminals, as in Compose; -T turns that
off.")]
pub(crate) struct RunArgs {
    /// Take the task and its log away once it has ended, also when this command is gone by then
    #[arg(long = "rm")]
    pub remove: bool,
    /// Send standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Allocate no terminal
    #[arg(short = 'T', long = "no-tty", conflicts_with = "tty")]
    pub no_tty: bool,
    /// Show its name and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// A variable; without a value it is taken from here
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Run as this user: name or number, or user:group
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Run in this directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// In place of the entrypoint; the service's command is dropped, too
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Its name is SERVICE.run-NAME [default: a number]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A further mount: a path here or a volume of the stack; can be given several times
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro]")]
    pub volumes: Vec<String>,
    /// A label; can be given several times
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Publish a port of it; can be given several times
    #[arg(short, long, value_name = "PORT:TARGET", value_parser = parse_publish)]
    pub publish: Vec<PublishedPort>,
    /// Publish the service's ports, which it must not hold itself meanwhile
    #[arg(short = 'P', long)]
    pub service_ports: bool,
    /// Neither start nor wait for what the service depends on
    #[arg(long)]
    pub no_deps: bool,
    /// A service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// In place of the service's command
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// What is stopped, started or restarted.
#[derive(Debug, Args)]
pub(crate) struct LifecycleArgs {
    /// Stacks or services [default: the stack that is here]
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack stop              the stack of the Compose file that is here
  carrack stop hello/web    one service; what depends on it runs on

Tasks are taken out of the load balancers, drained, asked to stop, and killed after their grace period. What is stopped stays
so, also when the daemon or the host starts again, until `carrack start`, `carrack up` or `carrack deploy`. Volumes, addresses
and logs stay.")]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub selection: LifecycleArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack start
  carrack start hello/web    and the services it depends on

Replicas are those of before the stop, set by `carrack scale` or by the file. Tasks that had failed are tried again; those that
had completed stay so, `carrack restart` runs them again.")]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub selection: LifecycleArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack restart web
  carrack restart hello     every service of a stack

It is a rollout of the same definition: each task gets a successor that is passing before the old one stops, so that no
request is lost. A task that writes a volume or holds a port of the host stops first.")]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub selection: LifecycleArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack kill web.2             SIGKILL for one replica
  carrack kill -s HUP hello/web  a signal for all replicas of a service

A killed task is restarted as its restart policy says; `carrack stop` ends tasks for good.")]
pub(crate) struct KillArgs {
    /// The signal: a name or a number
    #[arg(short, long, default_value = "KILL", value_name = "SIGNAL")]
    pub signal: String,
    /// Stacks, services, replicas or tasks
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack set web image=web:2
  carrack set hello/web env.COLOUR=blue env.OLD- replicas=3
  carrack set web cpus=0.5 memory=256m     limits; 0 takes one away

It makes a new revision and rolls it out as a deploy does. The next deploy of the file returns to the file, and says so.")]
pub(crate) struct SetArgs {
    /// A service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// image=, env.NAME=, env.NAME- (takes it away), replicas=, cpus=, memory=
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub values: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// What `carrack wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    /// All is as the newest revision wants it.
    Healthy,
    /// No task is left that runs.
    Stopped,
    /// Every task has completed.
    Completed,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack wait migrate                 until its task has ended; prints its exit code, as docker wait does
  carrack wait --for healthy hello     until all services are as wanted
  carrack wait --for completed --timeout 10m job

Without --for it waits for the tasks that are there now, restarts included. Exit code 1 when it can no longer come true, 4 when
the time is over.")]
pub(crate) struct WaitVerbArgs {
    /// Stacks, services, replicas or tasks [default: the stack that is here]
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// What to wait for: healthy, stopped or completed [default: the end of the tasks]
    #[arg(long = "for", value_name = "STATE", value_enum, hide_possible_values = true)]
    pub wanted: Option<WaitFor>,
    /// Wait this long, as 90s or 5m [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack port web 80        0.0.0.0:8080
  carrack port hello/web     all of them: 80/tcp -> 0.0.0.0:8080")]
pub(crate) struct PortArgs {
    /// A service
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// A port in the container, as 80 or 53/udp
    #[arg(value_name = "PORT[/PROTO]")]
    pub port: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack logs                   the stack that is here, all of it, in order of time
  carrack logs -f web            follow all replicas of a service, those to come included
  carrack logs --tail 20 web.1   the last lines of one replica, its past tasks included
  carrack logs --since 10m -t")]
pub(crate) struct LogsArgs {
    /// Stacks, services, replicas or tasks
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Stay and show what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines of each task; `all` for all
    #[arg(short = 'n', long, value_name = "LINES", value_parser = parse_tail)]
    pub tail: Option<Tail>,
    /// Only from then on: 10m (so long ago) or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    pub since: Option<Moment>,
    /// Only up to then
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    pub until: Option<Moment>,
    /// Show the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Leave out who said it
    #[arg(long)]
    pub no_log_prefix: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack exec -it web sh          a shell in the lowest running replica
  carrack exec web.2 -- ls -l /    no terminal, the exit code is passed on
  carrack exec -i redis redis-cli < commands.txt

Without -i and -t, both are on when standard input and output are terminals, as in Compose; -T turns that off.")]
pub(crate) struct ExecArgs {
    /// Send standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Allocate no terminal
    #[arg(short = 'T', long = "no-tty", conflicts_with = "tty")]
    pub no_tty: bool,
    /// Run as this user: name or number, or user:group
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Run in this directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// A variable; without a value it is taken from here
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// A service, a replica or a task
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack attach web               output from now on, and input where the service has stdin_open or tty
  carrack attach --no-stdin web.2  only look
  carrack attach --detach-keys ctrl-a,d shell

Ctrl-P Ctrl-Q leaves a terminal and lets the container run on; so does closing the window. Without a terminal Ctrl-C is sent
to the container, as in Docker; with --sig-proxy=false it only ends this command. A task that does not run yet is waited for.
The exit code is the container's.")]
pub(crate) struct AttachArgs {
    /// Send no input
    #[arg(long)]
    pub no_stdin: bool,
    /// Keys that detach: characters or ctrl-X, separated by commas
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = parse_detach_keys)]
    pub detach_keys: DetachKeys,
    /// Pass SIGINT and SIGTERM on to the container
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, hide_possible_values = true)]
    pub sig_proxy: bool,
    /// A service, a replica or a task
    #[arg(value_name = "TARGET")]
    pub target: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack cp web.1:/var/log/app.log .     a file of a task, to here
  carrack cp conf/. web:/etc/app          the content of a directory into one of a task
  carrack cp web:/etc - | tar -t          a tar archive to standard output
  tar -c src | carrack cp - web:/srv      and from standard input

As in Docker: a directory that exists at the destination takes the source in, else the copy gets the destination's name; a
source that ends in /. is the content of a directory. Files that arrive in a task belong to root, files that arrive here to
you; -a keeps owners and set-user-id bits. A copy that breaks off leaves no half file. What begins with . or / is here.")]
pub(crate) struct CpArgs {
    /// Keep owners
    #[arg(short, long)]
    pub archive: bool,
    /// Follow a symlink that the source is
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Say nothing of what was copied
    #[arg(short, long)]
    pub quiet: bool,
    /// TARGET:PATH, a path here, or - for a tar archive on standard input
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// TARGET:PATH, a path here, or - for a tar archive on standard output
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack stats                      the stack that is here, else all tasks
  carrack stats web db               some services
  carrack stats --no-stream -o json | jq .memory

CPU is in percent of one CPU; THROTTLED is the share of moments at which a CPU limit held the task back;
PEAK is the most memory so far, page cache included; READ and WRITTEN are bytes from and to block devices so
far, `-` where the host does not account for them. With -o json each sample is a line, with processes killed
for lack of memory (oom_kills) and, on cgroup v2, time lost by waiting (pressure).")]
pub(crate) struct StatsArgs {
    /// Stacks, services, replicas or tasks
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Show one sample of each and end
    #[arg(long)]
    pub no_stream: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack dns web.hello            as the host and every network see it
  carrack dns web --from hello/db  as a task of db gets it
  carrack dns 10.192.0.5           whose address that is

A task asks for web, web.STACK, 2.web (one replica) or tasks.web (all of them that are passing); the host for web.STACK. Exit
code 1 when nobody who was asked knows the name.")]
pub(crate) struct DnsArgs {
    /// A name, or an address
    #[arg(value_name = "NAME")]
    pub name: String,
    /// As this service, replica or task gets it
    #[arg(long, value_name = "TARGET")]
    pub from: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack events --since 1h
  carrack events -f web            what happens from now on
  carrack events -f --since 10m    and the ten minutes before
  carrack events -f -o json | jq -c 'select(.kind==\"task.failed\")'")]
pub(crate) struct EventsArgs {
    /// Only of this stack, service or replica
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// Stay and show what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only from then on: 10m (so long ago) or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "MOMENT", value_parser = parse_moment)]
    pub since: Option<Moment>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack rm hello
  carrack rm web.run-1        a one-off task; one that runs is stopped first
  carrack rm -v hello shop    and their volumes, with their data")]
pub(crate) struct RmArgs {
    /// Stacks, or one-off tasks of `carrack run`
    #[arg(value_name = "STACK", required = true)]
    pub targets: Vec<String>,
    /// Remove the stacks' volumes, too: their data is lost
    #[arg(short, long)]
    pub volumes: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack login                      Docker Hub; asks for user name and password
  carrack login registry.example:5000 -u ada
  printenv TOKEN | carrack login ghcr.io -u ada --password-stdin

The daemon shows the credentials to the registry; only those that it accepts are kept, where Docker keeps them: with the
credential helper of $DOCKER_CONFIG/config.json (or ~/.docker/config.json), else in that file. Deploys send those of the
registries they need, and the daemon keeps them encrypted with the stack, for later pulls. Stacks that have some for this
registry get the new ones at once.")]
pub(crate) struct LoginArgs {
    /// The registry's host [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// The user name
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// Read the password, or a token, from standard input
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack logout ghcr.io
  carrack logout --stacks ghcr.io    stacks forget theirs, too: later pulls from there are anonymous")]
pub(crate) struct LogoutArgs {
    /// The registry's host [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// Forget also what stacks keep for it
    #[arg(long)]
    pub stacks: bool,
}

#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load images from archives (docker save, OCI) or standard input
    #[command(after_help = "\
Examples:
  carrack image load web.tar
  docker save web:1 | carrack image load")]
    Load {
        /// Archives; `-` or none is standard input
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// An archive, as Docker's option is called
        #[arg(short, long = "input", value_name = "FILE", conflicts_with = "files")]
        input: Option<PathBuf>,
    },
    /// Pull images from their registry
    #[command(after_help = "\
Examples:
  carrack image pull nginx:1.27
  carrack image pull 127.0.0.1:5000/web:1

Registries on loopback may speak plain HTTP. Credentials are taken from ~/.docker/config.json.")]
    Pull {
        /// Names of images
        #[arg(value_name = "IMAGE", required = true)]
        references: Vec<String>,
    },
    /// List the images that the nodes hold
    #[command(after_help = "\
Examples:
  carrack image ls
  carrack image ls -o json")]
    #[command(visible_alias = "list")]
    Ls,
    /// Show everything about images, as JSON
    #[command(after_help = "\
Examples:
  carrack image inspect nginx:1.27
  carrack image inspect nginx | jq '.[].layers[].size'")]
    Inspect {
        /// Names, digests or the beginning of an id
        #[arg(value_name = "IMAGE", required = true)]
        references: Vec<String>,
    },
    /// Give an image one more name
    #[command(after_help = "\
Examples:
  carrack image tag web:build web:1.4
  carrack image tag 3f2a9c81d0aa registry.example.org/web:1.4")]
    Tag {
        /// Name, digest or the beginning of an id
        #[arg(value_name = "IMAGE")]
        source: String,
        /// The new name
        #[arg(value_name = "NAME")]
        target: String,
    },
    /// Save images to an archive (OCI layout), or to standard output
    #[command(after_help = "\
Examples:
  carrack image save -o web.tar web:1 redis:7
  carrack image save web:1 | ssh other carrack image load

`docker load`, skopeo and `carrack image load` take the archive; digests stay as they are. As in Docker, -o names the file here,
unless it says `json` or `text`.")]
    Save {
        /// The archive to write
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Names, digests or the beginning of an id
        #[arg(value_name = "IMAGE", required = true)]
        references: Vec<String>,
    },
    /// Remove images that nobody needs
    #[command(after_help = "\
Examples:
  carrack image prune        images that have lost their name
  carrack image prune -a -f  every image that no revision and no task needs, without a question")]
    Prune {
        /// Also images with a name
        #[arg(short, long)]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
    /// Remove images that no task uses
    #[command(after_help = "\
Examples:
  carrack image rm nginx:1.26
  carrack image rm sha256:...")]
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or digests
        #[arg(value_name = "IMAGE", required = true)]
        references: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    pub command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List volumes with their size and users
    #[command(after_help = "\
Examples:
  carrack volume ls
  carrack volume ls -o json")]
    #[command(visible_alias = "list")]
    Ls,
    /// Show everything about volumes, as JSON
    #[command(after_help = "\
Examples:
  carrack volume inspect hello_data
  carrack volume inspect hello_data | jq -r '.[].path'")]
    Inspect {
        /// Names of volumes
        #[arg(value_name = "VOLUME", required = true)]
        names: Vec<String>,
    },
    /// Remove volumes of stacks that are gone: their data is lost
    #[command(after_help = "\
Examples:
  carrack volume prune        volumes whose stack is gone, after a question
  carrack volume prune -a -f  also those that no service of their stack uses any more

A volume that a service or a task uses is never removed.")]
    Prune {
        /// Also unused volumes of stacks that exist, and of none
        #[arg(short, long)]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
    /// Remove volumes that no task uses: their data is lost
    #[command(after_help = "\
Examples:
  carrack volume rm shop_data")]
    #[command(visible_alias = "remove")]
    Rm {
        /// Names of volumes
        #[arg(value_name = "VOLUME", required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct SecretArgs {
    #[command(subcommand)]
    pub command: SecretCommand,
}

#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    pub command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network that belongs to no stack
    #[command(after_help = "\
Examples:
  carrack network create edge
  carrack network create --internal --label team=data backend

A Compose file uses it with `networks: {edge: {external: true}}`. Services on it reach each other by name, whatever their stack;
others do not reach them. A task that is only on internal networks has no way out of the cluster.")]
    Create {
        /// Its tasks reach nothing outside of the cluster
        #[arg(long)]
        internal: bool,
        /// A label; can be given several times
        #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
        /// Names of networks
        #[arg(value_name = "NETWORK", required = true)]
        names: Vec<String>,
    },
    /// List networks, those of stacks too, with the services on them
    #[command(after_help = "\
Examples:
  carrack network ls
  carrack network ls -o json | jq -r '.[] | select(.stack == null).name'")]
    #[command(visible_alias = "list")]
    Ls,
    /// Show everything about networks, as JSON
    #[command(after_help = "\
Examples:
  carrack network inspect edge
  carrack network inspect edge | jq -r '.[].services[]'")]
    Inspect {
        /// Names of networks
        #[arg(value_name = "NETWORK", required = true)]
        names: Vec<String>,
    },
    /// Remove networks that no service is on
    #[command(after_help = "\
Examples:
  carrack network rm edge

The networks of a stack go with the stack.")]
    #[command(visible_alias = "remove")]
    Rm {
        /// Names of networks
        #[arg(value_name = "NETWORK", required = true)]
        names: Vec<String>,
    },
    /// Remove all networks made by command that no service is on
    #[command(after_help = "\
Examples:
  carrack network prune
  carrack network prune -f   without a question")]
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo carrack doctor
  sudo carrack doctor -o json
  carrack doctor --state-dir /srv/carrack      a state directory elsewhere, as the daemon is told

A note is something that works with less, or that is good to know; its cost and what helps stand below it. Exit code 0 when
nothing is missing, 1 when something is missing without which containers cannot run or be reached, or when something could
not be tried without root. Nothing is changed.")]
pub(crate) struct DoctorArgs {
    /// The daemon's state directory, to check its filesystem
    #[arg(long, default_value = carrack_api::defaults::STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo carrack uninstall               asks first
  sudo carrack uninstall -y --volumes  without a question, and with the data of all volumes
  sudo carrack uninstall --keep-state  all stops and the kernel is as before; the next daemon starts it again

Stops all containers in order and the daemon, then removes images, logs, the record of all stacks, cgroups, links, routes,
addresses, the nftables table and our rules in the tables of others. It works without a daemon, too, and can be run again
when it was broken off. Named volumes stay where they are, anonymous ones go with their tasks. A Debian package is taken away
by `apt purge carrack`, which does the same, volumes included.")]
pub(crate) struct UninstallArgs {
    /// Remove named volumes, too: their data is lost
    #[arg(long)]
    pub volumes: bool,
    /// Keep stacks, images, logs and volumes: the state directory stays as it is
    #[arg(long, conflicts_with = "volumes")]
    pub keep_state: bool,
    /// Change nothing when a container runs (exit code 1)
    #[arg(long)]
    pub unless_running: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// The daemon's state directory
    #[arg(long, default_value = carrack_api::defaults::STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The daemon's runtime directory
    #[arg(long, default_value = carrack_api::defaults::RUNTIME_DIR, value_name = "DIR")]
    pub runtime_dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(carrack completions bash)
  carrack completions fish > ~/.config/fish/completions/carrack.fish")]
pub(crate) struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    pub shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrack man /usr/local/share/man/man1    then: man carrack-deploy
  carrack man . && man -l carrack.1")]
pub(crate) struct ManArgs {
    /// The directory; made when it is missing
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// How many of the last lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Every line.
    All,
    /// This many.
    Lines(u64),
}

fn parse_detach_keys(text: &str) -> Result<DetachKeys, String> {
    text.parse()
}

fn parse_tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail::All),
        _ => text.parse().map(Tail::Lines).map_err(|_| format!("{text:?} is neither a number nor `all`")),
    }
}

fn parse_scale(text: &str) -> Result<(String, u32), String> {
    let bad = || format!("{text:?} is not of the form web=5");
    let (service, replicas) = text.split_once('=').ok_or_else(bad)?;
    let replicas = replicas.parse().map_err(|_| bad())?;
    if service.is_empty() {
        return Err(bad());
    }
    if replicas > carrack_api::REPLICAS_MAX {
        return Err(format!("{replicas} replicas; at most {} are allowed", carrack_api::REPLICAS_MAX));
    }
    Ok((service.into(), replicas))
}

pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE")),
    }
}

/// DNS servers listen here unless the user says otherwise.
const DNS_PORT: u16 = 53;

fn parse_name_server(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)))
        .map_err(|_| format!("{text:?} is no address; write 192.0.2.1 or 192.0.2.1:53"))
}

fn parse_level(text: &str) -> Result<tracing::Level, String> {
    text.parse().map_err(|_| format!("{text:?} is none of error, warn, info, debug, trace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_after_the_target_is_taken_as_it_is() {
        let cli = Cli::try_parse_from(["carrack", "exec", "-it", "web", "ls", "-l", "--", "-o"]).unwrap();
        let Command::Exec(args) = cli.command else { panic!("not exec") };
        assert!(args.interactive && args.tty);
        assert_eq!(args.command, ["ls", "-l", "--", "-o"]);
    }

    #[test]
    fn options_of_every_command_stand_before_or_after_the_verb() {
        for line in [["carrack", "-o", "json", "ls"], ["carrack", "ls", "-o", "json"]] {
            assert_eq!(Cli::try_parse_from(line).unwrap().global.output, OutputFormat::Json);
        }
    }

    #[test]
    fn values_are_checked_where_they_are_typed() {
        assert_eq!(parse_scale("hello/web=5"), Ok(("hello/web".into(), 5)));
        assert!(parse_scale("web").is_err() && parse_scale("=1").is_err() && parse_scale("web=-1").is_err());
        assert!(parse_scale("web=10001").unwrap_err().contains("at most 10000"));
        assert_eq!(parse_name_server("192.0.2.1").unwrap().to_string(), "192.0.2.1:53");
        assert_eq!(parse_tail("all"), Ok(Tail::All));
        assert!(parse_label("=x").is_err());
    }
}
