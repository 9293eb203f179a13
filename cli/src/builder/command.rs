//! A build's keys become a tool's command line. Pure. A key that the tool cannot do is told, never left out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use carrack_compose::{BuildSecretSource, BuildSpec};

use super::find::{Builder, Tool};

/// What is to be built.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The file's keys.
    pub(crate) spec: &'a BuildSpec,
    /// Full names of the image, the main one first.
    pub(crate) names: &'a [String],
    /// Full names of the images of other services, for contexts.
    pub(crate) images: &'a BTreeMap<String, String>,
    /// `--no-cache` of the command.
    pub(crate) no_cache: bool,
    /// `--pull` of the command.
    pub(crate) pull: bool,
    /// `--build-arg` of the command; they win.
    pub(crate) args: &'a [(String, String)],
    /// Where the content of `dockerfile_inline` was written.
    pub(crate) inline: Option<&'a Path>,
}

/// A command line.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Words after the program.
    pub(crate) args: Vec<String>,
    /// Variables beside ours; secrets are among them.
    pub(crate) env: Vec<(String, String)>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("args", &self.args).finish_non_exhaustive()
    }
}

/// A key that the tool cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lacking {
    /// The key below `build`.
    pub(crate) key: &'static str,
    /// What it cannot do, and what helps.
    pub(crate) text: String,
}

/// The command line, or all that the tool cannot do.
pub(crate) fn line(builder: &Builder, wanted: &Wanted<'_>) -> Result<Line, Vec<Lacking>> {
    let mut draft = Draft { builder, args: Vec::new(), env: Vec::new(), lacking: Vec::new() };
    draft.args.extend(builder.verb().iter().map(|word| (*word).to_owned()));
    draft.basics(wanted);
    draft.cache(wanted);
    draft.of_run(wanted.spec);
    draft.secrets(wanted.spec);
    draft.contexts(wanted);
    draft.privileges(wanted.spec);
    draft.statements(wanted.spec);
    draft.args.push(wanted.spec.context.clone());
    let env = builder.environment().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    draft.env.extend(env);
    match draft.lacking.is_empty() {
        true => Ok(Line { args: draft.args, env: draft.env }),
        false => Err(draft.lacking),
    }
}

struct Draft<'a> {
    builder: &'a Builder,
    args: Vec<String>,
    env: Vec<(String, String)>,
    lacking: Vec<Lacking>,
}

impl Draft<'_> {
    /// The key cannot be done.
    fn lacks(&mut self, key: &'static str, why: &str, helps: &str) {
        let text = format!("{} {why}; {helps}", self.builder.title);
        self.lacking.push(Lacking { key, text });
    }

    /// An option with a value, when the tool has it.
    fn option(&mut self, key: &'static str, option: &str, value: impl Into<String>) {
        if self.builder.options.contains(option) {
            self.args.extend([option.to_owned(), value.into()]);
        } else if !self.lacking.iter().any(|lacking| lacking.key == key) {
            self.lacks(
                key,
                &format!("has no {option}"),
                "use docker with buildx (--builder buildx), or take the key away",
            );
        }
    }

    fn basics(&mut self, wanted: &Wanted<'_>) {
        let spec = wanted.spec;
        for name in wanted.names {
            self.args.extend(["--tag".to_owned(), name.clone()]);
        }
        match (wanted.inline, &spec.dockerfile) {
            (Some(inline), _) => self.option("dockerfile_inline", "--file", inline.display().to_string()),
            (None, Some(file)) => self.option("dockerfile", "--file", file),
            (None, None) => {}
        }
        let mut args = spec.args.clone();
        args.extend(wanted.args.iter().cloned());
        for (name, value) in args {
            self.option("args", "--build-arg", format!("{name}={value}"));
        }
        for (name, value) in &spec.labels {
            self.option("labels", "--label", format!("{name}={value}"));
        }
        if let Some(target) = &spec.target {
            self.option("target", "--target", target);
        }
        if let Some(platform) = &spec.platform {
            self.option("platforms", "--platform", platform);
        }
    }

    fn cache(&mut self, wanted: &Wanted<'_>) {
        let spec = wanted.spec;
        if spec.no_cache || wanted.no_cache {
            self.args.push("--no-cache".into());
        }
        match (self.builder.tool, spec.pull || wanted.pull) {
            (Tool::Buildx | Tool::Docker, true) => self.args.push("--pull".into()),
            (Tool::Buildx | Tool::Docker, false) => {}
            (Tool::Podman | Tool::Buildah, true) => self.args.push("--pull=always".into()),
            // Unasked, these two look for a newer base each time.
            (Tool::Podman | Tool::Buildah, false) => self.args.push("--pull=false".into()),
        }
        if self.builder.tool == Tool::Buildah {
            // Without it nothing is remembered, and an unchanged build would be another image each time.
            self.args.push("--layers".into());
        }
        for (key, option, list) in
            [("cache_from", "--cache-from", &spec.cache_from), ("cache_to", "--cache-to", &spec.cache_to)]
        {
            for place in list {
                self.cache_place(key, option, place);
            }
        }
        for stage in &spec.no_cache_filter {
            self.option("no_cache_filter", "--no-cache-filter", stage);
        }
    }

    /// Buildx knows caches of many kinds, docker alone images, and podman and buildah repositories without a tag.
    fn cache_place(&mut self, key: &'static str, option: &str, place: &str) {
        let tagged = place.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        let (why, helps) = match self.builder.tool {
            Tool::Buildx => return self.option(key, option, place),
            _ if place.contains('=') => {
                ("keeps no cache of that kind", "use docker with buildx (--builder buildx)")
            }
            Tool::Podman | Tool::Buildah if tagged => (
                "keeps layers in repositories, whose name has no tag",
                "take the tag away, or use --builder buildx",
            ),
            Tool::Docker | Tool::Podman | Tool::Buildah => return self.option(key, option, place),
        };
        self.lacks(key, why, &format!("{helps}: {place:?}"));
    }

    fn of_run(&mut self, spec: &BuildSpec) {
        if let Some(network) = &spec.network {
            self.option("network", "--network", network);
        }
        if let Some(size) = spec.shm_size {
            self.option("shm_size", "--shm-size", size.0.to_string());
        }
        for (name, address) in &spec.extra_hosts {
            self.option("extra_hosts", "--add-host", format!("{name}:{address}"));
        }
        for (name, limit) in &spec.ulimits {
            self.option("ulimits", "--ulimit", format!("{name}={}:{}", limit.soft, limit.hard));
        }
    }

    fn secrets(&mut self, spec: &BuildSpec) {
        for secret in &spec.secrets {
            let id = &secret.id;
            let value = match (&secret.source, self.builder.tool) {
                (BuildSecretSource::File(path), _) => format!("id={id},src={path}"),
                (BuildSecretSource::Variable { name, value }, tool) => {
                    self.env.push((name.clone(), value.clone()));
                    match tool {
                        Tool::Buildx | Tool::Docker => format!("id={id},env={name}"),
                        Tool::Podman | Tool::Buildah => format!("id={id},src={name},type=env"),
                    }
                }
            };
            self.option("secrets", "--secret", value);
        }
        for agent in &spec.ssh {
            self.option("ssh", "--ssh", agent);
        }
    }

    fn contexts(&mut self, wanted: &Wanted<'_>) {
        for (name, context) in &wanted.spec.additional_contexts {
            let context =
                match context.strip_prefix("service:").and_then(|service| wanted.images.get(service)) {
                    Some(image) => format!("docker-image://{image}"),
                    None => context.clone(),
                };
            self.option("additional_contexts", "--build-context", format!("{name}={context}"));
        }
    }

    fn privileges(&mut self, spec: &BuildSpec) {
        let privileged = spec.privileged.then(|| ("privileged", "security.insecure".to_owned()));
        let allowed = spec.entitlements.iter().map(|name| ("entitlements", name.clone()));
        for (key, name) in privileged.into_iter().chain(allowed) {
            self.option(key, "--allow", name);
        }
    }

    /// The image goes into the tool's own store, from where it is saved; statements about it only when they are asked for, as they
    /// would make an unchanged build another image.
    fn statements(&mut self, spec: &BuildSpec) {
        if self.builder.tool == Tool::Buildx {
            self.args.push("--load".into());
        }
        let off = |value: &str| value == "false";
        match &spec.provenance {
            Some(value) if !off(value) => self.option("provenance", "--provenance", value),
            _ if self.builder.options.contains("--provenance") => self.args.push("--provenance=false".into()),
            _ => {}
        }
        match &spec.sbom {
            Some(value) if !off(value) => self.option("sbom", "--sbom", value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::{Bytes, Ulimit};
    use carrack_compose::BuildSecret;

    fn builder(tool: Tool, options: &str) -> Builder {
        let options = options.split(' ').map(|o| format!("--{o}")).collect();
        Builder { tool, program: "x".into(), title: "tool 1.2".into(), options }
    }

    const ALL: &str = "tag file build-arg label target platform cache-from cache-to no-cache-filter network shm-size add-host ulimit \
                       secret ssh build-context allow provenance sbom";
    const CLASSIC: &str =
        "tag file build-arg label target platform cache-from network shm-size add-host ulimit";

    fn full() -> BuildSpec {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        BuildSpec {
            context: "/src".into(),
            dockerfile: Some("/src/Other".into()),
            args: [pair("A", "1"), pair("B", "two words")].into(),
            target: Some("final".into()),
            labels: [pair("l", "x")].into(),
            cache_from: vec!["type=gha".into()],
            cache_to: vec!["reg/cache".into()],
            no_cache_filter: vec!["deps".into()],
            pull: true,
            platform: Some("linux/arm64".into()),
            network: Some("none".into()),
            shm_size: Some(Bytes(1024)),
            extra_hosts: vec![pair("db", "::1")],
            secrets: vec![
                BuildSecret { id: "f".into(), source: BuildSecretSource::File("/s".into()) },
                BuildSecret {
                    id: "v".into(),
                    source: BuildSecretSource::Variable { name: "V".into(), value: "canary".into() },
                },
            ],
            ssh: vec!["default".into()],
            ulimits: [("nofile".to_owned(), Ulimit { soft: 1, hard: 2 })].into(),
            additional_contexts: [pair("base", "service:db"), pair("more", "/more")].into(),
            privileged: true,
            ..BuildSpec::default()
        }
    }

    fn of(builder: &Builder, spec: &BuildSpec) -> Result<Line, Vec<Lacking>> {
        let images = BTreeMap::from([("db".to_owned(), "docker.io/library/s-db:latest".to_owned())]);
        let (names, args) =
            (["docker.io/library/s-web:latest".to_owned()], [("A".to_owned(), "9".to_owned())]);
        let wanted = Wanted {
            spec,
            names: &names,
            images: &images,
            no_cache: false,
            pull: false,
            args: &args,
            inline: None,
        };
        line(builder, &wanted)
    }

    #[test]
    fn buildx_has_every_key() {
        let line = of(&builder(Tool::Buildx, ALL), &full()).unwrap();
        assert_eq!(
            line.args.join(" "),
            "buildx build --tag docker.io/library/s-web:latest --file /src/Other --build-arg A=9 --build-arg B=two words \
             --label l=x --target final --platform linux/arm64 --pull --cache-from type=gha --cache-to reg/cache \
             --no-cache-filter deps --network none --shm-size 1024 --add-host db:::1 --ulimit nofile=1:2 --secret id=f,src=/s \
             --secret id=v,env=V --ssh default --build-context base=docker-image://docker.io/library/s-db:latest \
             --build-context more=/more --allow security.insecure --load --provenance=false /src"
        );
        assert_eq!(line.env, [("V".to_owned(), "canary".to_owned())]);
        assert!(!format!("{line:?}").contains("canary"));
    }

    #[test]
    fn what_a_tool_lacks_is_told_for_each_key_once() {
        let lacking = of(&builder(Tool::Docker, CLASSIC), &full()).unwrap_err();
        let keys: Vec<&str> = lacking.iter().map(|l| l.key).collect();
        let expected = [
            "cache_from",
            "cache_to",
            "no_cache_filter",
            "secrets",
            "ssh",
            "additional_contexts",
            "privileged",
        ];
        assert_eq!(keys, expected);
        assert_eq!(
            lacking[0].text,
            "tool 1.2 keeps no cache of that kind; use docker with buildx (--builder buildx): \"type=gha\""
        );
        assert!(
            lacking[1].text.starts_with("tool 1.2 has no --cache-to; use docker with buildx"),
            "{}",
            lacking[1].text
        );
    }

    #[test]
    fn podman_and_buildah_have_words_of_their_own() {
        let spec = BuildSpec { cache_from: vec!["reg/cache:1".into()], pull: true, ..BuildSpec::default() };
        let lacking = of(&builder(Tool::Podman, ALL), &spec).unwrap_err();
        assert!(lacking[0].text.contains("take the tag away"), "{}", lacking[0].text);
        let spec =
            BuildSpec { context: "/c".into(), secrets: full().secrets, pull: true, ..BuildSpec::default() };
        let line = of(&builder(Tool::Buildah, "tag file build-arg secret"), &spec).unwrap();
        assert_eq!(
            line.args.join(" "),
            "build --tag docker.io/library/s-web:latest --build-arg A=9 --pull=always --layers --secret id=f,src=/s \
             --secret id=v,src=V,type=env /c"
        );
        let line = of(&builder(Tool::Buildah, "tag build-arg"), &BuildSpec::default()).unwrap();
        assert!(line.args.contains(&"--pull=false".to_owned()), "{line:?}");
    }
}
