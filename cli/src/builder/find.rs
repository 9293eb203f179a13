//! Which tool builds: the one asked for, else the first of docker, podman and buildah that is there and works.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::error::CliError;

/// Time a tool has to say whether it works.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// What to do without a tool.
const INSTALL: &str = "install one of them (Debian: `apt-get install buildah`), or build elsewhere: \
                       `docker save IMAGE | carrack image load`";

/// Options that a docker without buildx names and cannot do.
const OF_BUILDKIT: [&str; 5] = ["--secret", "--ssh", "--cache-to", "--build-context", "--no-cache-filter"];

/// A kind of tool; their command lines differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `docker buildx build`.
    Buildx,
    /// `docker build` of a docker without buildx.
    Docker,
    /// `podman build`.
    Podman,
    /// `buildah build`.
    Buildah,
}

/// A tool that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Builder {
    /// Its kind.
    pub(crate) tool: Tool,
    /// How it is called.
    pub(crate) program: String,
    /// Its name and version, for people.
    pub(crate) title: String,
    /// The options that its `build` has, with their dashes.
    pub(crate) options: BTreeSet<String>,
}

impl Builder {
    /// Its command for a build, without options.
    pub(crate) fn verb(&self) -> &'static [&'static str] {
        match self.tool {
            Tool::Buildx => &["buildx", "build"],
            Tool::Docker | Tool::Podman | Tool::Buildah => &["build"],
        }
    }

    /// Variables that it is run with.
    pub(crate) fn environment(&self) -> &'static [(&'static str, &'static str)] {
        match self.tool {
            Tool::Docker => &[("DOCKER_BUILDKIT", "0")],
            Tool::Buildx | Tool::Podman | Tool::Buildah => &[],
        }
    }
}

/// Finds the tool; `wanted` is `docker`, `buildx`, `podman`, `buildah`, or a path to one of them.
pub(crate) async fn find(wanted: Option<&str>) -> Result<Builder, CliError> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return search().await };
    let name = Path::new(wanted).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let found = match name {
        "docker" => docker(wanted).await,
        "buildx" => match docker(&wanted.replace("buildx", "docker")).await {
            Ok(builder) if builder.tool == Tool::Docker => {
                Err("docker has no buildx: install the package docker-buildx or docker-buildx-plugin".into())
            }
            other => other,
        },
        "podman" => podman(wanted).await,
        "buildah" => buildah(wanted).await,
        _ => {
            return Err(CliError::usage(format!("{wanted:?} is no builder that is known"))
                .hint("use docker, buildx, podman or buildah, or a path to one of them"));
        }
    };
    found.map_err(|why| CliError::new(format!("the builder {wanted} cannot be used: {why}")).hint(INSTALL))
}

async fn search() -> Result<Builder, CliError> {
    let mut error = CliError::new("no program that builds images was found on this machine").hint(INSTALL);
    match docker("docker").await {
        Ok(builder) => return Ok(builder),
        Err(why) => error = error.detail(format!("docker: {why}")),
    }
    match podman("podman").await {
        Ok(builder) => return Ok(builder),
        Err(why) => error = error.detail(format!("podman: {why}")),
    }
    match buildah("buildah").await {
        Ok(builder) => Ok(builder),
        Err(why) => Err(error.detail(format!("buildah: {why}"))),
    }
}

/// Docker, when its daemon answers. What calls itself docker may be podman.
async fn docker(program: &str) -> Result<Builder, String> {
    let told = said(program, &["--version"]).await?;
    if told.to_ascii_lowercase().contains("podman") {
        return podman(program).await;
    }
    let version = said(program, &["version", "--format", "{{.Server.Version}}"]).await?;
    let tool = match said(program, &["buildx", "version"]).await {
        Ok(_) => Tool::Buildx,
        Err(_) => Tool::Docker,
    };
    let with = if tool == Tool::Buildx { " with buildx" } else { " without buildx" };
    with_options(tool, program, format!("docker {version}{with}")).await
}

async fn podman(program: &str) -> Result<Builder, String> {
    let version = said(program, &["info", "--format", "{{.Version.Version}}"]).await?;
    with_options(Tool::Podman, program, format!("podman {version}")).await
}

async fn buildah(program: &str) -> Result<Builder, String> {
    let told = said(program, &["--version"]).await?;
    said(program, &["info"]).await?;
    let version = told.split_whitespace().nth(2).unwrap_or_default().to_owned();
    with_options(Tool::Buildah, program, format!("buildah {version}")).await
}

async fn with_options(tool: Tool, program: &str, title: String) -> Result<Builder, String> {
    let mut builder = Builder { tool, program: program.to_owned(), title, options: BTreeSet::new() };
    let mut words = builder.verb().to_vec();
    words.push("--help");
    let help = run(program, &words, builder.environment()).await?;
    builder.options = options(&String::from_utf8_lossy(&help.stdout));
    if tool == Tool::Docker {
        builder.options.retain(|option| !OF_BUILDKIT.contains(&option.as_str()));
    }
    match builder.options.contains("--tag") {
        true => Ok(builder),
        false => Err(format!("`{program} {}` does not say what it can do", words.join(" "))),
    }
}

/// The long options that a help text names.
pub(super) fn options(help: &str) -> BTreeSet<String> {
    let words = help.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
    words.filter(|word| word.len() > 3 && word.starts_with("--")).map(str::to_owned).collect()
}

/// What a command prints, trimmed; when it fails, the last line of its complaint.
async fn said(program: &str, words: &[&str]) -> Result<String, String> {
    let output = run(program, words, &[]).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint.lines().rfind(|line| !line.trim().is_empty()).map(str::trim);
    Err(last.map_or_else(|| format!("`{program} {}` fails", words.join(" ")), str::to_owned))
}

async fn run(program: &str, words: &[&str], environment: &[(&str, &str)]) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.args(words).envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(ANSWER_MAX, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err("it is not installed".into()),
        Ok(Err(error)) => Err(format!("it cannot be run: {error}")),
        Err(_elapsed) => Err(format!("it does not answer within {} s", ANSWER_MAX.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_from_any_help() {
        let help = "  -t, --tag strings   name\n      --build-context stringArray\n  --cache-from=[]  x\n---- --pull[=always]";
        let found: Vec<String> = options(help).into_iter().filter(|o| o != "----").collect();
        assert_eq!(found, ["--build-context", "--cache-from", "--pull", "--tag"]);
    }

    #[tokio::test]
    async fn what_is_no_builder_is_told_with_those_that_are() {
        let error = find(Some("kaniko")).await.unwrap_err().render(false);
        assert!(error.contains("docker, buildx, podman or buildah"), "{error}");
        let error = find(Some("/nowhere/podman")).await.unwrap_err().render(false);
        assert!(error.contains("/nowhere/podman cannot be used: it is not installed"), "{error}");
    }
}
