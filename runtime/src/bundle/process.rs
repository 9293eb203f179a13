//! The process of a container: arguments, environment, user, limits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use carrack_api::Ulimit;
use serde_json::{Value, json};

use super::{HostFacts, command, hostname, working_dir};
use crate::error::StartError;
use crate::request::StartRequest;

/// Where programs are looked for when neither image nor spec say so.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest argument and longest variable that `execve` takes, in bytes: 32 pages with the final zero.
pub(super) const TEXT_MAX_BYTES: usize = 131_071;

/// The limits of Linux by their names in Compose.
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A user as numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory; empty when unknown.
    pub home: String,
}

pub(super) fn build(
    request: &StartRequest,
    user: &User,
    capabilities: &BTreeSet<String>,
    no_new_privileges: bool,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Value, StartError> {
    let names: Vec<String> = capabilities.iter().map(|name| format!("CAP_{name}")).collect();
    let mut process = json!({
        "terminal": request.spec.tty,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": command(request)?,
        "env": environment(request, user)?,
        "cwd": working_dir(request)?,
        "capabilities": {
            "bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": [],
        },
        "rlimits": ulimits(&request.spec.ulimits, host, warnings)?,
    });
    // Left out rather than false: libcontainer treats an explicit false as a wish for late seccomp.
    if no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(adjustment) = oom_score_adj(request.spec.oom_score_adj, host, warnings) {
        process["oomScoreAdj"] = json!(adjustment);
    }
    Ok(process)
}

/// A container does not inherit the daemon's protection; to take less than that needs CAP_SYS_RESOURCE.
fn oom_score_adj(wanted: Option<i32>, host: &HostFacts, warnings: &mut Vec<String>) -> Option<i32> {
    let adjustment = wanted.unwrap_or(0).clamp(-1000, 1000);
    if adjustment < host.oom_score_adj && !host.capabilities.contains("SYS_RESOURCE") {
        if wanted.is_some() {
            let own = host.oom_score_adj;
            warnings.push(format!(
                "oom_score_adj is {own} instead of {adjustment}: the node lacks CAP_SYS_RESOURCE"
            ));
        }
        return None;
    }
    (adjustment != host.oom_score_adj).then_some(adjustment)
}

/// `KEY=VALUE` in this order: ours, the image's, the spec's; a later value replaces an earlier one in its place.
fn environment(request: &StartRequest, user: &User) -> Result<Vec<String>, StartError> {
    let home = if user.home.is_empty() { "/" } else { &user.home };
    let mut list: Vec<(String, String)> =
        vec![("PATH".into(), DEFAULT_PATH.into()), ("HOSTNAME".into(), hostname(request).into())];
    if request.spec.tty {
        list.push(("TERM".into(), "xterm".into()));
    }
    let mut places: HashMap<String, usize> =
        list.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
    let mut set = |name: &str, value: &str| match places.get(name) {
        Some(place) => list[*place].1 = value.into(),
        None => {
            places.insert(name.into(), list.len());
            list.push((name.into(), value.into()));
        }
    };
    request.env.iter().for_each(|(name, value)| set(name, value));
    for entry in &request.image.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(name, value);
    }
    for (name, value) in request.spec.env.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        set(name, value);
    }
    list.retain(|(name, _)| !matches!(request.spec.env.get(name), Some(None)));
    if !list.iter().any(|(name, _)| name == "HOME") {
        list.push(("HOME".into(), home.into()));
    }
    if let Some((name, _)) =
        list.iter().find(|(name, value)| name.is_empty() || name.contains('\0') || value.contains('\0'))
    {
        return Err(StartError::Spec {
            field: "environment".into(),
            why: format!("{name:?} cannot be a variable"),
        });
    }
    let list: Vec<String> = list.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let Some(entry) = list.iter().find(|entry| entry.len() > TEXT_MAX_BYTES) {
        let name = entry.split('=').next().unwrap_or_default();
        let why = format!("{name:?} is longer than the {TEXT_MAX_BYTES} bytes that the kernel takes");
        return Err(StartError::Spec { field: "environment".into(), why });
    }
    Ok(list)
}

fn ulimits(
    wanted: &BTreeMap<String, Ulimit>,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Vec<Value>, StartError> {
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let mut limits = Vec::new();
    for (name, limit) in wanted {
        let error = |why: String| StartError::Spec { field: format!("ulimits.{name}"), why };
        if !ULIMITS.contains(&name.as_str()) {
            return Err(error("is not a limit of Linux".into()));
        }
        let (mut soft, mut hard) = (number(limit.soft), number(limit.hard));
        if soft > hard {
            return Err(error(format!("the soft limit {soft} is above the hard limit {hard}")));
        }
        let own = host.ulimits.get(name).map_or(u64::MAX, |(_, hard)| *hard);
        if hard > own && !host.capabilities.contains("SYS_RESOURCE") {
            warnings.push(format!(
                "ulimit {name} is {own} instead of {}: the node lacks CAP_SYS_RESOURCE",
                shown(hard)
            ));
            hard = own;
            soft = soft.min(own);
        }
        if name == "nofile" && hard > host.most_open_files {
            // Nobody may have more, and a start would fail.
            let most = host.most_open_files;
            warnings
                .push(format!("ulimit nofile is {most} instead of {}: the kernel's fs.nr_open", shown(hard)));
            (soft, hard) = (soft.min(most), most);
        }
        limits.push(
            json!({ "type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": soft, "hard": hard }),
        );
    }
    Ok(limits)
}

/// A limit for people.
fn shown(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}
