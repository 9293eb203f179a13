//! `carrack scale web=5`: how many replicas, until the next deploy.

use std::collections::BTreeMap;
use std::time::Instant;

use carrack_api::client::segment;
use carrack_api::{Scale, ServiceKey, StackName};
use http::Method;
use serde_json::Value;

use super::wait::{Ended, Goal, wait};
use super::{targets, with_query};
use crate::args::ScaleArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::target::Target;
use crate::terminal::{put, say};

/// `carrack scale`.
pub(crate) async fn run(args: &ScaleArgs, context: &Context) -> Outcome {
    let begun = Instant::now();
    let names: Vec<String> = args.services.iter().map(|(name, _)| name.clone()).collect();
    let mut wanted: BTreeMap<StackName, Vec<(ServiceKey, u32)>> = BTreeMap::new();
    for (target, (_, replicas)) in targets(context, &names).await?.into_iter().zip(&args.services) {
        let Target::Service(service) = target else {
            return Err(
                CliError::usage(format!("{target} is not a service")).hint("write it as carrack scale web=5")
            );
        };
        wanted.entry(service.stack.clone()).or_default().push((service, *replicas));
    }
    for (service, replicas) in wanted.values().flatten() {
        set(context, service, *replicas).await?;
    }
    if args.wait.detach {
        return Ok(Code::Ok);
    }
    for (stack, services) in wanted {
        match settle(context, &stack, services, args, begun).await? {
            Code::Ok => {}
            other => return Ok(other),
        }
    }
    Ok(Code::Ok)
}

async fn set(context: &Context, service: &ServiceKey, replicas: u32) -> Result<(), CliError> {
    let path = format!(
        "/v1/services/{}/{}/scale",
        segment(service.stack.as_str()),
        segment(service.service.as_str())
    );
    let scale = Scale { replicas };
    context.client.json::<_, Value>(Method::PUT, &with_query(&path, &[]), Some(&scale), &[]).await?;
    Ok(())
}

async fn settle(
    context: &Context,
    stack: &StackName,
    services: Vec<(ServiceKey, u32)>,
    args: &ScaleArgs,
    begun: Instant,
) -> Outcome {
    let goal = Goal::Scaled { services: services.clone() };
    let took = || crate::time::took(begun.elapsed());
    match wait(context, stack, &goal, args.wait.timeout).await? {
        Ended::Reached(view) => {
            let scaled = view.stack.into_iter().flat_map(|stack| stack.services);
            let scaled: Vec<_> =
                scaled.filter(|s| services.iter().any(|(key, _)| *key == s.service)).collect();
            if context.json() {
                context.put_json(&scaled)?;
                return Ok(Code::Ok);
            }
            for service in scaled {
                let (key, passing, replicas) = (&service.service, service.passing, service.replicas);
                put(&format!("{key} has {passing} of {replicas} replicas passing, after {}\n", took()))?;
            }
            Ok(Code::Ok)
        }
        Ended::Interrupted => {
            say("\nno longer waiting; the scaling goes on");
            Ok(Code::Interrupted)
        }
        Ended::Failed(_, failed) => {
            let mut error = CliError::new(format!("the new replicas of {stack} did not become healthy"));
            for (service, reason) in failed {
                error = error.detail(format!("{service}: {reason}"));
            }
            Err(error
                .hint(format!("`carrack ps {stack}` shows the tasks, `carrack logs {stack}` their output")))
        }
        Ended::Overtaken(what) => Err(CliError::new(what).code(Code::UsageOrChanged)),
        Ended::TimedOut(_, reasons) => {
            let mut error = CliError::new(format!("not done after {}", took()))
                .code(Code::TimedOut)
                .hint(format!("it goes on in the background; `carrack ps {stack}` shows how"));
            for reason in reasons {
                error = error.detail(reason);
            }
            Err(error)
        }
    }
}
