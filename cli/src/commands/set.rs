//! `carrack set web image=web:2`: single values of a service, until the next deploy of the file.

use std::time::Instant;

use carrack_api::client::segment;
use carrack_api::{REPLICAS_MAX, ServiceKey, SetService, StackChange, StackStatus};
use http::Method;

use super::lifecycle::unsettled;
use super::targets;
use super::wait::{Ended, Goal, wait};
use crate::args::SetArgs;
use crate::context::Context;
use crate::credentials;
use crate::error::{CliError, Code, Outcome};
use crate::render::change;
use crate::target::{Target, nearest};
use crate::terminal::{put, say};
use crate::time;

/// What can be set, as it is typed.
const KEYS: [&str; 5] = ["image", "env.NAME", "replicas", "cpus", "memory"];

/// `carrack set`.
pub(crate) async fn run(args: &SetArgs, context: &Context) -> Outcome {
    let begun = Instant::now();
    let mut body = read(&args.values)?;
    let target = targets(context, std::slice::from_ref(&args.service)).await?.into_iter().next();
    let Some(Target::Service(key)) = target else {
        return Err(CliError::usage(format!("{} is not a service", args.service))
            .hint("write it as carrack set web image=web:2"));
    };
    if let Some(image) = &body.image {
        body.credentials = credentials::for_images([image.as_str()].into_iter())?;
    }
    let accepted = ask(context, &key, &body).await?;
    if change::changes(&accepted) || !accepted.notes.is_empty() {
        let text = change::text(&accepted, context.terminal.colour_err());
        say(&format!("{}: revision {}\n{}", key.stack, accepted.revision, text.trim_end()));
    }
    if args.wait.detach {
        if context.json() {
            context.put_json(&accepted)?;
        }
        return Ok(Code::Ok);
    }
    settle(args, context, &key, &accepted, begun).await
}

async fn ask(context: &Context, key: &ServiceKey, body: &SetService) -> Result<StackChange, CliError> {
    let stack: StackStatus =
        context.client.get(&format!("/v1/stacks/{}", segment(key.stack.as_str()))).await?;
    let path = format!("/v1/services/{}/{}", segment(key.stack.as_str()), segment(key.service.as_str()));
    let based_on = format!("\"{}\"", stack.revision);
    let headers = [("if-match", based_on.as_str())];
    Ok(context.client.json(Method::PATCH, &path, Some(body), &headers).await?)
}

async fn settle(
    args: &SetArgs,
    context: &Context,
    key: &ServiceKey,
    accepted: &StackChange,
    begun: Instant,
) -> Outcome {
    let stopped = accepted.notes.iter().any(|note| note.contains(" is stopped; "));
    let goal = Goal::Settled { services: vec![key.clone()], revision: accepted.revision, stopped };
    match wait(context, &key.stack, &goal, args.wait.timeout).await? {
        Ended::Reached(view) => {
            let service = view.stack.into_iter().flat_map(|s| s.services).find(|s| s.service == *key);
            if context.json() {
                context.put_json(&service)?;
            } else if let Some(service) = service {
                let took = time::took(begun.elapsed());
                let (passing, replicas) = (service.passing, service.replicas);
                put(&format!("{key} is set: {passing} of {replicas} replicas passing, after {took}\n"))?;
            }
            Ok(Code::Ok)
        }
        Ended::Interrupted => {
            say("\nno longer waiting; the change goes on");
            Ok(Code::Interrupted)
        }
        ended => Err(unsettled(&key.stack, "change", ended, begun)),
    }
}

/// What was typed as what is meant.
fn read(values: &[String]) -> Result<SetService, CliError> {
    let mut body = SetService::default();
    for text in values {
        if let Some(name) = text.strip_suffix('-').and_then(|t| t.strip_prefix("env.")).filter(|n| is_name(n))
        {
            body.env.insert(name.to_owned(), None);
            continue;
        }
        let Some((key, value)) = text.split_once('=') else {
            return Err(CliError::usage(format!("{text:?} is not of the form KEY=VALUE"))
                .hint("for example image=web:2, env.COLOUR=blue, or env.COLOUR- to take a variable away"));
        };
        one(&mut body, key, value)?;
    }
    Ok(body)
}

fn one(body: &mut SetService, key: &str, value: &str) -> Result<(), CliError> {
    let bad = |why: String| CliError::usage(format!("{key}: {why}"));
    match key {
        "image" if value.is_empty() => {
            return Err(bad("no image".into()).hint("name one, for example image=web:2"));
        }
        "image" => body.image = Some(value.to_owned()),
        "replicas" => {
            let number = value.parse().map_err(|_| bad(format!("{value:?} is not a number of replicas")))?;
            if number > REPLICAS_MAX {
                return Err(bad(format!("{number} replicas; at most {REPLICAS_MAX} are allowed")));
            }
            body.replicas = Some(number);
        }
        "cpus" => {
            body.cpus = Some(
                carrack_compose::parse_cpus(value)
                    .map_err(|e| bad(e).hint("for example cpus=0.5; cpus=0 takes the limit away"))?,
            );
        }
        "memory" => {
            body.memory = Some(
                carrack_compose::parse_bytes(value)
                    .map_err(|e| bad(e).hint("for example memory=512m; memory=0 takes the limit away"))?,
            );
        }
        _ => match key.strip_prefix("env.").filter(|name| is_name(name)) {
            Some(name) => drop(body.env.insert(name.to_owned(), Some(value.to_owned()))),
            None => return Err(unknown(key)),
        },
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn unknown(key: &str) -> CliError {
    let error = CliError::usage(format!("{key:?} cannot be set"));
    match nearest(key, KEYS.into_iter()) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!("what can be set: {}; the rest is in the file", KEYS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::{Bytes, MilliCpus};

    fn of(values: &[&str]) -> Result<SetService, String> {
        read(&values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>()).map_err(|e| e.render(false))
    }

    #[test]
    fn values_are_read_as_a_compose_file_writes_them() {
        let body =
            of(&["image=web:2", "env.A=x=y", "env.B-", "env.C=", "replicas=3", "cpus=0.5", "memory=64m"])
                .unwrap();
        assert_eq!(body.image.as_deref(), Some("web:2"));
        assert_eq!(body.env["A"].as_deref(), Some("x=y"));
        assert_eq!((body.env["B"].clone(), body.env["C"].as_deref()), (None, Some("")));
        assert_eq!(
            (body.replicas, body.cpus, body.memory),
            (Some(3), Some(MilliCpus(500)), Some(Bytes(64 << 20)))
        );
    }

    #[test]
    fn what_cannot_be_set_is_refused_with_a_hint() {
        assert!(of(&["imge=x"]).unwrap_err().contains("did you mean image?"));
        assert!(of(&["ports=80"]).unwrap_err().contains("what can be set: image, env.NAME"));
        assert!(of(&["image"]).unwrap_err().contains("KEY=VALUE"));
        assert!(of(&["image="]).unwrap_err().contains("no image"));
        assert!(of(&["env.=x"]).unwrap_err().contains("cannot be set"));
        assert!(of(&["replicas=-1"]).unwrap_err().contains("not a number of replicas"));
        assert!(of(&["memory=12zz"]).unwrap_err().contains("memory=512m"));
        assert!(of(&["cpus=x"]).unwrap_err().contains("cpus=0.5"));
    }
}
