//! The copying process: enters a container's mounts, gives its powers up, and packs or places there.
//!
//! One process per copy, because entering a mount namespace changes its caller. Its root is then that of the container: there is
//! no other tree that a symlink could lead to. It ends when its pipes to the daemon do. The last line on stderr is the report.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use carrack_api::{Copied, CopiedFile, CopyIn, CopyOut, CopySource};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType};
use serde::{Deserialize, Serialize};

use super::{CopyError, Layout, Place, Source, pack, place, step};
use crate::cgroup::Cgroups;
use crate::process::ProcessId;
use crate::{child, in_root};

/// The mode's name on the command line; the argument is an [`Order`] as JSON.
pub(crate) const MODE: &str = "__copy";
/// Memory of the process, bytes.
const ADDRESS_SPACE_BYTES: u64 = 512 << 20;
/// Highest capability number that may exist, beyond those the kernel knows.
const LAST_CAPABILITY: u32 = 63;
/// What copying needs: files of others, their owners and modes. It cannot make devices, trace, signal or mount.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);
/// Symlinks are resolved as within the container; those of /proc that lead to open files are not.
const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What is to be copied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Way {
    /// To stdout.
    Out(CopyOut),
    /// From stdin.
    In(CopyIn),
}

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The container's first process.
    pub(super) init: ProcessId,
    /// Whose cgroup it runs in.
    pub(super) instance: String,
    /// What that is below, when it was given to us.
    pub(super) parent: Option<String>,
    /// The run, for people.
    pub(super) run: String,
    pub(super) way: Way,
}

/// A line on stderr.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// What is copied out; before the first byte of it.
    File(CopiedFile),
    /// The end.
    Done(Copied),
    /// The end.
    Failed(CopyError),
}

/// Runs the mode.
pub(crate) fn main(arguments: &[String]) -> ! {
    let order = arguments.first().and_then(|text| serde_json::from_str::<Order>(text).ok());
    let report = match order.map(|order| run(&order)) {
        Some(Ok(copied)) => Report::Done(copied),
        Some(Err(error)) => Report::Failed(error),
        None => Report::Failed(CopyError::archive("the order cannot be read")),
    };
    let done = matches!(report, Report::Done(_));
    // Without a daemon there is nobody to tell.
    let _ = say(&report);
    child::exit_now(i32::from(!done))
}

fn say(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    io::stderr().write_all(&line)
}

fn run(order: &Order) -> Result<Copied, CopyError> {
    enter(order)?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(step("open the container's root"))?;
    match &order.way {
        Way::Out(copy) => {
            let source = Source::open(root.as_fd(), &relative(&copy.path), RESOLVE, copy.follow)
                .map_err(|error| named(error, &copy.path))?;
            say(&Report::File(source.file.clone())).map_err(step("tell what is copied"))?;
            pack(&source, &source.file.name, io::stdout().lock())
        }
        Way::In(copy) => {
            let (path, layout) = destination(&root, copy)?;
            let at =
                Place { root: root.as_fd(), resolve: RESOLVE, path, layout, keep_owner: copy.keep_owner };
            place(&at, io::stdin().lock())
        }
    }
}

/// The same error with the path as the user wrote it.
fn named(error: CopyError, path: &str) -> CopyError {
    let path = path.to_owned();
    match error {
        CopyError::Missing { .. } => CopyError::Missing { path },
        CopyError::NotDirectory { .. } => CopyError::NotDirectory { path },
        CopyError::Unsupported { what, .. } => CopyError::Unsupported { path, what },
        other => other,
    }
}

/// A path from the root, its end kept: a slash there means something.
fn relative(path: &str) -> String {
    match path.trim_start_matches('/') {
        "" => ".".to_owned(),
        path => path.to_owned(),
    }
}

fn enter(order: &Order) -> Result<(), CopyError> {
    let gone = || CopyError::NotRunning(order.run.clone());
    rustix::process::umask(Mode::empty());
    Cgroups::detect_below(&order.instance, order.parent.as_deref())
        .and_then(|cgroups| cgroups.supervisors().join())
        .map_err(step("enter the supervisors' cgroup"))?;
    let namespace = File::open(format!("/proc/{}/ns/mnt", order.init.pid)).map_err(|_| gone())?;
    // Looked at after the namespace was opened: it is surely that of this process.
    if !order.init.runs().map_err(step("look at the container's first process"))? {
        return Err(gone());
    }
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(step("enter the container's mounts"))?;
    let bound = Rlimit { current: Some(ADDRESS_SPACE_BYTES), maximum: Some(ADDRESS_SPACE_BYTES) };
    rustix::process::setrlimit(Resource::As, bound).map_err(step("limit the memory"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(step("forbid core files"))?;
    give_up().map_err(step("give up privileges"))
}

fn give_up() -> Result<(), rustix::io::Errno> {
    for number in 0..=LAST_CAPABILITY {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            1 << number,
        )) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)
}

/// Where an archive goes: what its path means depends on what it holds and on what is there, as in Docker.
fn destination(root: &impl AsFd, copy: &CopyIn) -> Result<(String, Layout), CopyError> {
    let given = &copy.path;
    let slash = given.ends_with('/') || given.ends_with("/.");
    let settled = in_root::settle(root, given).map_err(|error| CopyError::at("find", given, &error))?;
    let found = match in_root::open(root, &settled, OFlags::PATH) {
        Ok(found) => {
            let stat = rustix::fs::fstat(&found).map_err(step("look at the destination"))?;
            Some(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(CopyError::at("open", given, &error)),
    };
    let below = |path: String| Ok((path, Layout::Below { strip: false }));
    let missing = || CopyError::Missing { path: given.clone() };
    let not_directory = || CopyError::NotDirectory { path: given.clone() };
    match (&copy.source, found) {
        (CopySource::Archive, Some(true)) => below(settled),
        (CopySource::Archive, None) => Err(missing()),
        (CopySource::Archive, Some(false)) => Err(not_directory()),
        (CopySource::Directory { .. }, Some(false)) => Err(CopyError::InTheWay {
            path: given.clone(),
            found: "no directory".into(),
            wanted: "a directory".into(),
        }),
        (CopySource::Directory { name: Some(name) }, Some(true)) => {
            below(format!("{}/{}", settled.trim_end_matches('/'), plain(name)?))
        }
        (CopySource::Directory { name: None }, Some(true)) | (CopySource::Directory { .. }, None) => {
            below(settled)
        }
        (CopySource::File { name }, Some(true)) => Ok((settled, Layout::Only(plain(name)?.to_owned()))),
        (CopySource::File { .. }, Some(false)) if slash => Err(not_directory()),
        (CopySource::File { .. }, None) if slash => Err(missing()),
        (CopySource::File { .. }, _) => {
            let (dir, name) = settled.rsplit_once('/').unwrap_or(("", &settled));
            Ok((format!("{dir}/"), Layout::Only(plain(name)?.to_owned())))
        }
    }
}

/// A single name.
fn plain(name: &str) -> Result<&str, CopyError> {
    match name {
        "" | "." | ".." => Err(CopyError::archive(format!("{name:?} is no name of a file"))),
        name if name.contains(['/', '\0']) => {
            Err(CopyError::archive(format!("{name:?} is no name of a file")))
        }
        name => Ok(name),
    }
}
