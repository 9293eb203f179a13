//! `carrack config`: the canonical model of a Compose project. Asks no daemon.

use std::collections::BTreeMap;

use carrack_compose::{Config, Variables};
use carrack_runtime::image::Digest;
use serde_json::{Value, json};

use crate::args::{ConfigArgs, OutputFormat};
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::project;
use crate::render::table::{Table, cut, full};
use crate::terminal::{put, say};

/// `carrack config`.
pub(crate) fn run(args: &ConfigArgs, context: &Context) -> Outcome {
    // What can be set is to be seen also when something that must be set is not.
    let keep = args.no_interpolate || args.only.variables;
    let config = project::config(&args.project, &args.names, keep)?;
    if args.quiet {
        return Ok(Code::Ok);
    }
    if let Some(part) = part(args, &config)? {
        part.put(context)?;
        return Ok(Code::Ok);
    }
    for note in config.notes.iter().filter(|note| !note.detail) {
        say(&format!("note: {note}"));
    }
    match context.output {
        OutputFormat::Json => put(&format!("{}\n", config.to_json()))?,
        OutputFormat::Text | OutputFormat::Yaml => put(&config.to_yaml())?,
    }
    Ok(Code::Ok)
}

/// What is printed in place of the model.
enum Part {
    /// One a line.
    Names(Vec<String>),
    /// Two words a line, and what stands between them.
    Pairs(BTreeMap<String, String>, char),
    Variables(Variables),
}

impl Part {
    fn put(&self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Names(names) if context.json() => context.put_json(names),
            Self::Names(names) => put(&names.iter().map(|name| format!("{name}\n")).collect::<String>()),
            Self::Pairs(pairs, _) if context.json() => context.put_json(pairs),
            Self::Pairs(pairs, between) => put(&pairs
                .iter()
                .map(|(name, value)| format!("{name}{between}{value}\n"))
                .collect::<String>()),
            Self::Variables(variables) if context.json() => context.put_json(&listed(variables)),
            Self::Variables(variables) => {
                let terminal = &context.terminal;
                put(&table(variables).render(terminal.width(), terminal.colour_out()))
            }
        }
    }
}

fn part(args: &ConfigArgs, config: &Config) -> Result<Option<Part>, CliError> {
    let only = &args.only;
    let section = |name: &str| Part::Names(config.names(name).into_iter().map(str::to_owned).collect());
    Ok(Some(match only {
        _ if only.services => section("services"),
        _ if only.volumes => section("volumes"),
        _ if only.networks => section("networks"),
        _ if only.models => section("models"),
        _ if only.images => Part::Names(config.images().into_iter().collect()),
        _ if only.profile_names => Part::Names(config.profiles.iter().cloned().collect()),
        _ if only.variables => Part::Variables(config.variables.clone()),
        _ if only.environment => Part::Pairs(config.environment.clone(), '='),
        _ => match &only.hash {
            Some(service) => Part::Pairs(hashes(config, service)?, ' '),
            None => return Ok(None),
        },
    }))
}

/// A digest of what each service is: two are the same when nothing of the service differs.
fn hashes(config: &Config, service: &str) -> Result<BTreeMap<String, String>, CliError> {
    let services = config.model.get("services").and_then(Value::as_object);
    let asked = services.into_iter().flatten().filter(|(name, _)| service == "*" || *name == service);
    let found: BTreeMap<String, String> = asked
        .map(|(name, model)| (name.clone(), Digest::of(model.to_string().as_bytes()).hex().to_owned()))
        .collect();
    if found.is_empty() && service != "*" {
        let hint = "`carrack config --services` lists the services";
        return Err(CliError::new(format!("there is no service {service} in this project")).hint(hint));
    }
    Ok(found)
}

fn listed(variables: &Variables) -> Vec<Value> {
    let one = |(name, variable): (&String, &carrack_compose::Variable)| {
        json!({
            "name": name,
            "required": variable.required,
            "default": variable.default,
            "alternate": variable.alternate,
        })
    };
    variables.iter().map(one).collect()
}

fn table(variables: &Variables) -> Table {
    let mut table = Table::new(&[full("NAME"), full("REQUIRED"), cut("DEFAULT"), cut("ALTERNATE")]);
    for (name, variable) in variables {
        table.row([
            name.as_str().into(),
            variable.required.to_string().into(),
            variable.default.clone().unwrap_or_default().into(),
            variable.alternate.clone().unwrap_or_default().into(),
        ]);
    }
    table
}
