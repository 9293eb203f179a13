//! The Compose project that a command is about: loading it with all problems told at once, and which stack is "here".

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use carrack_api::{Contents, FieldProblem, StackName, validate};
use carrack_compose::{Config, Diagnostics, DiskFiles, FILE_MAX_BYTES, Graduation, LoadOptions, Loaded};

use crate::args::{ProjectArgs, Strictness};
use crate::error::{CliError, field_problem};

/// Loads and checks the project.
pub(crate) fn load(args: &ProjectArgs) -> Result<Loaded, CliError> {
    load_as(args, &Strictness::default())
}

/// Loads and checks the project, taken as strictly as is asked for.
pub(crate) fn load_as(args: &ProjectArgs, strictness: &Strictness) -> Result<Loaded, CliError> {
    let Strictness { strict, lenient } = *strictness;
    let options = LoadOptions { strict, lenient, ..options(args)? };
    let files = source(&options)?;
    let loaded = carrack_compose::load(&options, &files)
        .map_err(|problems| refused(&problems, "cannot be deployed"))?;
    let problems = validate::validate(&loaded.stack);
    if problems.is_empty() { Ok(loaded) } else { Err(invalid(&loaded, &problems)) }
}

/// What many hosts would change or break for the project.
pub(crate) fn graduate(args: &ProjectArgs, strictness: &Strictness) -> Result<Graduation, CliError> {
    let Strictness { strict, lenient } = *strictness;
    let options = LoadOptions { strict, lenient, ..options(args)? };
    let files = source(&options)?;
    Ok(carrack_compose::graduate(&options, &files))
}

/// The content of the project's own secrets and configs.
pub(crate) fn contents(loaded: &Loaded) -> Result<Contents, CliError> {
    loaded.contents(&DiskFiles::default()).map_err(|problems| refused(&problems, "cannot be deployed"))
}

/// The canonical model of the project, or of some of its services; `keep` leaves variables as they are written.
pub(crate) fn config(args: &ProjectArgs, services: &[String], keep: bool) -> Result<Config, CliError> {
    let options = LoadOptions { services: services.to_vec(), keep_variables: keep, ..options(args)? };
    let files = source(&options)?;
    carrack_compose::config(&options, &files).map_err(|problems| refused(&problems, "is not right"))
}

/// The stack's name alone; also of a file that cannot be used otherwise when the name is given.
pub(crate) fn name(args: &ProjectArgs) -> Result<StackName, CliError> {
    if let Some(name) = &args.project_name {
        return name.parse().map_err(|error: carrack_api::InvalidName| CliError::usage(error.to_string()));
    }
    load(args).map(|loaded| loaded.stack.name)
}

/// The stack of the Compose file in the current directory, when there is one that can be read.
pub(crate) fn here() -> Option<StackName> {
    let options = options(&ProjectArgs::default()).ok()?;
    if let Some(name) = options.env.get("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty()) {
        return name.parse().ok();
    }
    carrack_compose::load(&options, &DiskFiles::default()).ok().map(|loaded| loaded.stack.name)
}

fn options(args: &ProjectArgs) -> Result<LoadOptions, CliError> {
    let working_dir = std::env::current_dir()
        .map_err(|error| CliError::new("the current directory cannot be used").caused_by(&error))?;
    // A variable that is no UTF-8 cannot be named in a Compose file either.
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(LoadOptions {
        files: args.files.clone(),
        working_dir,
        project_dir: args.project_directory.clone(),
        project_name: args.project_name.clone(),
        env,
        env_files: args.env_files.clone(),
        profiles: args.profiles.clone(),
        ..LoadOptions::default()
    })
}

fn source(options: &LoadOptions) -> Result<DiskFiles, CliError> {
    if !options.files.iter().any(|file| file == Path::new("-")) {
        return Ok(DiskFiles::default());
    }
    let mut content = Vec::new();
    std::io::stdin()
        .take(FILE_MAX_BYTES as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|error| CliError::new("standard input cannot be read").caused_by(&error))?;
    if content.len() > FILE_MAX_BYTES {
        return Err(CliError::new("the Compose file on standard input is larger than 4 MiB"));
    }
    Ok(DiskFiles::with_stdin(content))
}

fn refused(problems: &Diagnostics, verdict: &str) -> CliError {
    let files: Vec<&str> = problems.0.iter().map(|problem| problem.file.as_str()).collect();
    let mut error = CliError::new(headline(&files, problems.0.len(), verdict));
    for problem in &problems.0 {
        error = error.detail(problem.explain());
    }
    error
}

fn invalid(loaded: &Loaded, problems: &[FieldProblem]) -> CliError {
    let file = loaded.files.first().map(|file| display(file)).unwrap_or_default();
    let mut error = CliError::new(headline(&[&file], problems.len(), "cannot be deployed"));
    for problem in problems {
        let place = loaded.position_of(&problem.path).map(|at| format!("{at}: ")).unwrap_or_default();
        error = error.detail(format!("{place}{}", field_problem(problem)));
    }
    error
}

fn headline(files: &[&str], count: usize, verdict: &str) -> String {
    let file = match files {
        [first, rest @ ..] if !first.is_empty() && rest.iter().all(|file| file == first) => first,
        _ => "the Compose project",
    };
    match count {
        1 => format!("{file} {verdict}"),
        _ => format!("{file} {verdict}, for {count} reasons"),
    }
}

fn display(file: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    file.strip_prefix(&here).unwrap_or(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_names_the_file_that_all_problems_are_in() {
        assert_eq!(headline(&["a.yaml"], 1, "cannot be deployed"), "a.yaml cannot be deployed");
        assert_eq!(headline(&["a.yaml", "a.yaml"], 2, "is not right"), "a.yaml is not right, for 2 reasons");
        assert_eq!(
            headline(&["a.yaml", "b.yaml"], 2, "cannot be deployed"),
            "the Compose project cannot be deployed, for 2 reasons"
        );
    }
}
