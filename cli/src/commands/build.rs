//! `carrack build`, and building before a deploy: a tool of this machine builds, the daemon gets the images.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use carrack_api::{HeldImage, Info, ServiceName, TagImage};
use carrack_compose::{BuildSecretSource, BuildSpec, Loaded};
use carrack_runtime::image::ImageReference;
use http::Method;
use serde::Serialize;

use super::image::{send, short_digest, stream_body};
use crate::args::BuildArgs;
use crate::builder::{self, Builder, Ended, Wanted};
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::project;
use crate::terminal::{put, say};

/// How all images are built.
#[derive(Debug, Default)]
pub(super) struct Options<'a> {
    /// The tool, when one was named.
    pub(super) builder: Option<&'a str>,
    pub(super) no_cache: bool,
    pub(super) pull: bool,
    pub(super) args: &'a [(String, String)],
}

/// An image that was built and is held by the daemon.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Built {
    /// The service it was built for.
    pub(super) service: ServiceName,
    /// What the daemon holds.
    #[serde(flatten)]
    pub(super) image: HeldImage,
}

/// `carrack build`.
pub(crate) async fn run(args: &BuildArgs, context: &Context) -> Outcome {
    let loaded = project::load(&args.project)?;
    let options = Options {
        builder: args.builder.as_deref(),
        no_cache: args.no_cache,
        pull: args.pull,
        args: &args.args,
    };
    let Some(built) = build(&loaded, &args.services, &options, context).await? else {
        return Ok(Code::Interrupted);
    };
    if context.json() {
        context.put_json(&built)?;
    } else {
        for one in &built {
            put(&format!("{}\n", describe(one)))?;
        }
    }
    Ok(Code::Ok)
}

/// `web is built: docker.io/library/shop-web:latest 3f2a9c81d0aa (12 MiB)`.
pub(super) fn describe(built: &Built) -> String {
    let image = &built.image;
    format!("{} is built: {} {} ({})", built.service, image.name, short_digest(&image.digest), image.size)
}

/// Builds the images of these services, or of all that have a build; `None` when the user broke it off.
pub(super) async fn build(
    loaded: &Loaded,
    services: &[String],
    options: &Options<'_>,
    context: &Context,
) -> Result<Option<Vec<Built>>, CliError> {
    let order = order(loaded, services)?;
    if order.is_empty() {
        say("no service has `build:`");
        return Ok(Some(Vec::new()));
    }
    // Asked before, as a build may take long.
    let _: Info = context.client.get("/v1/info").await?;
    absent(loaded, &order)?;
    let wanted: Vec<&str> = order.iter().map(|service| service.as_str()).collect();
    let unbuilt = |error: CliError| error.detail(format!("not built: {}", wanted.join(", ")));
    let builder = builder::find(options.builder).await.map_err(unbuilt)?;
    let work = Work { loaded, options, builder, context, images: images(loaded)?, scratch: Scratch::new()? };
    let lines = work.lines(&order)?;
    let mut built = Vec::new();
    for (service, line) in lines {
        match work.one(service, &line).await? {
            Some(image) => built.push(Built { service: service.clone(), image }),
            None => return Ok(None),
        }
    }
    Ok(Some(built))
}

/// Services to build, those first whose images others need.
fn order<'a>(loaded: &'a Loaded, services: &[String]) -> Result<Vec<&'a ServiceName>, CliError> {
    let named = |name: &String| match loaded.builds.keys().find(|service| service.as_str() == name) {
        Some(service) => Ok(service),
        None if loaded.stack.services.keys().any(|service| service.as_str() == name) => {
            Err(CliError::usage(format!("service {name} has no `build:`"))
                .hint(format!("its image is pulled or loaded; `carrack build` builds {}", names(loaded))))
        }
        None => Err(CliError::usage(format!("no service {name} in the Compose file"))
            .hint(format!("`carrack build` builds {}", names(loaded)))),
    };
    let mut open: Vec<&ServiceName> = match services.is_empty() {
        true => loaded.builds.keys().collect(),
        false => services.iter().map(named).collect::<Result<_, _>>()?,
    };
    open.reverse();
    let (mut order, mut begun): (Vec<&ServiceName>, BTreeSet<&ServiceName>) = Default::default();
    while let Some(service) = open.last().copied() {
        let first = begun.insert(service);
        let needs = loaded.builds.get(service).into_iter().flat_map(BuildSpec::services);
        let needs: Vec<&ServiceName> = needs
            .filter_map(|name| loaded.builds.keys().find(|known| known.as_str() == name))
            .filter(|name| !order.contains(name))
            .collect();
        match needs.iter().find(|name| begun.contains(*name)) {
            _ if needs.is_empty() => {
                open.pop();
                if !order.contains(&service) {
                    order.push(service);
                }
            }
            Some(other) if first => {
                return Err(CliError::new(format!(
                    "services {service} and {other} need each other's images"
                ))
                .hint("take one of the two out of `additional_contexts`"));
            }
            _ => open.extend(needs),
        }
    }
    Ok(order)
}

/// What these builds read on this machine and is not there, all of it with its place in the file: builders stop at the first.
fn absent(loaded: &Loaded, order: &[&ServiceName]) -> Result<(), CliError> {
    let mut details = Vec::new();
    for service in order {
        let Some(spec) = loaded.builds.get(*service) else { continue };
        for (key, text) in absent_of(spec) {
            let path = format!("services.{service}.build");
            let exact = loaded.position_of(&format!("{path}.{key}"));
            let place = exact.or_else(|| loaded.position_of(&path)).map(|at| format!("{at}: "));
            details.push(format!("{}{path}.{key}: {text}", place.unwrap_or_default()));
        }
    }
    if details.is_empty() {
        return Ok(());
    }
    let error = CliError::new("what is to be built from is not on this machine")
        .hint("builds read the machine where the command is typed; a built image is brought by `carrack image load`");
    Err(details.into_iter().fold(error, CliError::detail))
}

fn absent_of(spec: &BuildSpec) -> Vec<(&'static str, String)> {
    let mut absent = Vec::new();
    let there = |path: &str| Path::new(path).exists();
    let context = Path::new(&spec.context);
    match &spec.dockerfile {
        _ if spec.is_remote() => {}
        _ if !context.is_dir() => absent.push(("context", format!("there is no directory {}", spec.context))),
        Some(file) if !there(file) => absent.push(("dockerfile", format!("there is no file {file}"))),
        None if spec.dockerfile_inline.is_none()
            && !["Dockerfile", "Containerfile"].iter().any(|name| context.join(name).exists()) =>
        {
            absent.push(("context", format!("there is no Dockerfile in {}", spec.context)));
        }
        _ => {}
    }
    // Paths are absolute by now; what is not one is an address or a service.
    for other in spec.additional_contexts.values().filter(|other| other.starts_with('/') && !there(other)) {
        absent.push(("additional_contexts", format!("there is no {other}")));
    }
    for secret in &spec.secrets {
        if let BuildSecretSource::File(path) = &secret.source
            && !there(path)
        {
            absent.push(("secrets", format!("there is no file {path}")));
        }
    }
    absent
}

fn names(loaded: &Loaded) -> String {
    let names: Vec<&str> = loaded.builds.keys().map(|name| name.as_str()).collect();
    if names.is_empty() { "nothing here".into() } else { names.join(", ") }
}

/// The full name of each service's image.
fn images(loaded: &Loaded) -> Result<BTreeMap<String, String>, CliError> {
    let services = loaded.stack.services.iter();
    services
        .map(|(name, service)| Ok((name.to_string(), full_name(&service.task.container.image)?)))
        .collect()
}

fn full_name(image: &str) -> Result<String, CliError> {
    match ImageReference::parse(image) {
        Ok(reference) => Ok(reference.to_string()),
        Err(error) => Err(CliError::new(error.to_string())),
    }
}

/// What all builds of one command share.
struct Work<'a> {
    loaded: &'a Loaded,
    options: &'a Options<'a>,
    builder: Builder,
    context: &'a Context,
    /// Full names of the images of all services.
    images: BTreeMap<String, String>,
    scratch: Scratch,
}

impl<'a> Work<'a> {
    /// The command lines of all builds; what the tool cannot do is told for all of them at once.
    fn lines(&self, order: &[&'a ServiceName]) -> Result<Vec<(&'a ServiceName, builder::Line)>, CliError> {
        let (mut lines, mut details) = (Vec::new(), Vec::new());
        for service in order {
            let Some(spec) = self.loaded.builds.get(*service) else { continue };
            let names = self.names(service, spec)?;
            let inline =
                spec.dockerfile_inline.as_deref().map(|text| self.scratch.file(service, text)).transpose()?;
            let wanted = Wanted {
                spec,
                names: &names,
                images: &self.images,
                no_cache: self.options.no_cache,
                pull: self.options.pull,
                args: self.options.args,
                inline: inline.as_deref(),
            };
            match builder::line(&self.builder, &wanted) {
                Ok(line) => lines.push((*service, line)),
                Err(lacking) => details.extend(lacking.into_iter().map(|lacking| {
                    let path = format!("services.{service}.build.{}", lacking.key);
                    let place =
                        self.loaded.position_of(&path).map(|at| format!("{at}: ")).unwrap_or_default();
                    format!("{place}{path}: {}", lacking.text)
                })),
            }
        }
        if details.is_empty() {
            return Ok(lines);
        }
        let error = CliError::new(format!("{} cannot build what the file asks for", self.builder.title));
        Err(details.into_iter().fold(error, CliError::detail))
    }

    /// Full names, the main one first.
    fn names(&self, service: &ServiceName, spec: &BuildSpec) -> Result<Vec<String>, CliError> {
        let main = self.images.get(service.as_str()).cloned().unwrap_or_default();
        let mut names = vec![main];
        for tag in &spec.tags {
            let name = full_name(tag)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Builds one image and sends it; `None` when the user broke it off.
    async fn one(&self, service: &ServiceName, line: &builder::Line) -> Result<Option<HeldImage>, CliError> {
        say(&format!("building {service} with {}", self.builder.title));
        let cannot = |error: io::Error| {
            CliError::new(format!("{} cannot be run", self.builder.program)).caused_by(&error)
        };
        match builder::build(&self.builder, line).await.map_err(cannot)? {
            Ended::Built => {}
            Ended::Interrupted => {
                say(&format!("\n{service} is not built; nothing was deployed"));
                return Ok(None);
            }
            Ended::Failed(status) => {
                return Err(CliError::new(format!(
                    "service {service} could not be built: {} ended with {status}",
                    self.builder.title
                ))
                .hint(format!("its output is above; `carrack build {service}` tries again")));
            }
        }
        let Some(spec) = self.loaded.builds.get(service) else { return Ok(None) };
        let names = self.names(service, spec)?;
        tokio::select! {
            sent = self.send(service, &names) => sent.map(Some),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                Ok(None)
            }
        }
    }

    async fn send(&self, service: &ServiceName, names: &[String]) -> Result<HeldImage, CliError> {
        let Some(name) = names.first() else { return Err(CliError::new(format!("{service} has no image"))) };
        let cannot = |error: io::Error| {
            CliError::new(format!("the image of {service} cannot be saved with {}", self.builder.title))
                .caused_by(&error)
        };
        let (mut save, archive) = builder::save(&self.builder, name).map_err(cannot)?;
        let loaded = send(stream_body(archive), None, name, self.context).await;
        let status = save.wait().await.map_err(cannot)?;
        if !status.success() && loaded.is_err() {
            let text =
                format!("the image of {service} cannot be saved: {} ended with {status}", self.builder.title);
            return Err(CliError::new(text).hint("what it said is above"));
        }
        let image = loaded?.images.into_iter().find(|image| image.name == *name);
        let image = image.ok_or_else(|| {
            CliError::new(format!("{} saved no image of the name {name}", self.builder.title))
                .hint("`carrack image ls` shows what was loaded; another tool may do: --builder")
        })?;
        for target in &names[1..] {
            let tag = TagImage { source: name.clone(), target: target.clone() };
            let _: HeldImage =
                self.context.client.json(Method::POST, "/v1/images/tag", Some(&tag), &[]).await?;
        }
        Ok(image)
    }
}

/// A directory for the Dockerfiles that stand in a Compose file; it goes with the command.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, CliError> {
        Self::below(&std::env::temp_dir())
    }

    /// Under a name that nobody can guess: a directory that another user made before us would stop every build.
    fn below(dir: &Path) -> Result<Self, CliError> {
        let name = RandomState::new().hash_one(std::process::id());
        let path = dir.join(format!("carrack-build-{name:016x}"));
        let cannot = |error| CliError::new(format!("{} cannot be made", path.display())).caused_by(&error);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(cannot)?;
        Ok(Self(path))
    }

    fn file(&self, service: &ServiceName, text: &str) -> Result<PathBuf, CliError> {
        let path = self.0.join(format!("{service}.Dockerfile"));
        let cannot = |error| CliError::new(format!("{} cannot be written", path.display())).caused_by(&error);
        fs::write(&path, text).map_err(cannot)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind it harms nobody.
        let _ = fs::remove_dir_all(Path::new(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_compose::{LoadOptions, MemoryFiles, load};

    fn loaded(text: &str) -> Loaded {
        let files = MemoryFiles::default().with("/app/compose.yaml", text);
        load(&LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() }, &files).unwrap()
    }

    fn ordered(loaded: &Loaded, services: &[&str]) -> Result<String, String> {
        let services: Vec<String> = services.iter().map(|s| (*s).to_owned()).collect();
        let order = order(loaded, &services).map_err(|error| error.render(false))?;
        Ok(order.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_directory_for_dockerfiles_is_private_has_a_name_of_its_own_and_goes() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        // What another user made under the name that can be guessed.
        fs::create_dir(dir.path().join(format!("carrack-build-{}", std::process::id()))).unwrap();
        let (one, other) = (Scratch::below(dir.path()).unwrap(), Scratch::below(dir.path()).unwrap());
        assert_ne!(one.0, other.0);
        assert_eq!(fs::metadata(&one.0).unwrap().permissions().mode() & 0o777, 0o700);
        drop((one, other));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn images_that_others_need_come_first() {
        let loaded = loaded(
            "services:\n  a: {build: {context: ., additional_contexts: {base: 'service:c'}}}\n  b: {build: .}\n  \
             c: {build: {context: ., additional_contexts: ['x=service:d']}}\n  d: {build: .}\n  e: {image: x}\n",
        );
        assert_eq!(ordered(&loaded, &[]).unwrap(), "d c a b");
        assert_eq!(ordered(&loaded, &["b", "c"]).unwrap(), "b d c");
        assert!(ordered(&loaded, &["e"]).unwrap_err().contains("service e has no `build:`"));
        assert!(ordered(&loaded, &["f"]).unwrap_err().contains("no service f"));
    }

    #[test]
    fn all_that_builds_lack_on_this_machine_is_told_before_one_begins() {
        let loaded = loaded(
            "services:\n  a: {build: ./none}\n  b:\n    build:\n      context: /\n      dockerfile: no.such\n      \
             secrets: [s]\n  c: {build: 'https://example.com/x.git'}\n  d: {build: {context: /proc}}\nsecrets: {s: {file: ./s}}\n",
        );
        let order: Vec<&ServiceName> = loaded.builds.keys().collect();
        let error = absent(&loaded, &order).unwrap_err().render(false);
        for part in [
            "compose.yaml:2:14: services.a.build.context: there is no directory /app/none",
            "compose.yaml:6:7: services.b.build.dockerfile: there is no file /no.such",
            "compose.yaml:7:7: services.b.build.secrets: there is no file /app/s",
            "services.d.build.context: there is no Dockerfile in /proc",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("services.c"), "{error}");
    }

    #[test]
    fn images_that_need_each_other_cannot_be_built() {
        let loaded = loaded(
            "services:\n  a: {build: {context: ., additional_contexts: {x: 'service:b'}}}\n  \
             b: {build: {context: ., additional_contexts: {x: 'service:a'}}}\n",
        );
        assert!(ordered(&loaded, &[]).unwrap_err().contains("need each other's images"));
    }

    #[test]
    fn a_service_without_an_image_is_called_after_stack_and_service() {
        let loaded =
            loaded("name: shop\nservices: {web: {build: .}, db: {build: ., image: 'reg.example/db:2'}}\n");
        let images = images(&loaded).unwrap();
        assert_eq!(images["web"], "docker.io/library/shop-web:latest");
        assert_eq!(images["db"], "reg.example/db:2");
    }
}
