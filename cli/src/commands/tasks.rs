//! `carrack ps`: tasks, past ones when asked for.

use carrack_api::{TaskStatus, Timestamp};

use super::{stacks, tasks_of};
use crate::args::PsArgs;
use crate::context::Context;
use crate::error::{Code, Outcome};
use crate::render::style::Style;
use crate::render::table::{Cell, Table, cut, full};
use crate::render::task;
use crate::target::{self, Target};
use crate::terminal::{put, say};
use crate::{project, time};

/// `carrack ps`.
pub(crate) async fn run(args: &PsArgs, context: &Context) -> Outcome {
    let stacks = stacks(context).await?;
    let here = project::here();
    let wanted = match &args.target {
        Some(text) => Some(target::resolve(text, here.as_ref(), &stacks)?),
        None => here.filter(|here| stacks.iter().any(|stack| stack.name == *here)).map(Target::Stack),
    };
    let all = args.all || matches!(wanted, Some(Target::Task(_)));
    let mut tasks = tasks_of(context, wanted.as_ref().and_then(Target::stack), all).await?;
    if let Some(wanted) = &wanted {
        tasks.retain(|task| wanted.covers(&task.service, task.slot, task.id));
    }
    tasks.sort_by(|a, b| (&a.service, a.slot, a.id).cmp(&(&b.service, b.slot, b.id)));
    if context.json() {
        context.put_json(&tasks)?;
        return Ok(Code::Ok);
    }
    if tasks.is_empty() {
        let of = wanted.map(|wanted| format!(" of {wanted}")).unwrap_or_default();
        let past = if args.all { "" } else { "; -a shows past ones" };
        say(&format!("no tasks{of}{past}"));
        return Ok(Code::Ok);
    }
    let text = table(&tasks, time::now()).render(context.terminal.width(), context.terminal.colour_out());
    put(&text)?;
    Ok(Code::Ok)
}

fn table(tasks: &[TaskStatus], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        full("TASK"),
        full("ID"),
        full("STATE"),
        full("AGE"),
        full("RUN"),
        full("ADDRESS"),
        cut("NODE"),
        cut("IMAGE"),
        full("MEMORY"),
        cut("DETAIL"),
    ]);
    for task in tasks {
        let since = match (&task.exit, task.state.is_final()) {
            (Some(exit), true) => exit.at,
            _ => task.started_at.unwrap_or(task.created_at),
        };
        let memory = match (&task.usage, task.state.is_final()) {
            (Some(usage), false) => usage.memory.map_or_else(|| "-".to_owned(), |memory| memory.to_string()),
            _ => String::new(),
        };
        let name = if task.current { Style::Plain } else { Style::Dim };
        table.row([
            Cell::styled(task::name(task), name),
            task.id.to_string().into(),
            Cell::styled(task::state(task), task::style(task)),
            task::age(since, now).into(),
            task.run.to_string().into(),
            task.addresses.first().map(ToString::to_string).unwrap_or_default().into(),
            task.hostname.clone().unwrap_or_default().into(),
            task.image.as_str().into(),
            memory.into(),
            task::detail(task).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::task::tests::passing;
    use carrack_api::{Exit, TaskState};

    #[test]
    fn tasks_are_listed_with_how_they_are_and_how_they_ended() {
        let exit =
            Exit { code: 3, signal: None, oom: false, peak_memory: None, at: Timestamp(60_000), error: None };
        let dead = TaskStatus { state: TaskState::Failed, exit: Some(exit), ..passing("a/web.1", 1) };
        let live = TaskStatus { addresses: vec!["10.192.0.2".parse().unwrap()], ..passing("a/web.1", 12) };
        assert_eq!(
            table(&[dead, live], Timestamp(65_000)).render(None, false),
            "TASK     ID   STATE    AGE    RUN  ADDRESS     NODE  IMAGE  DETAIL\n\
             a/web.1  t1   failed   5s     1                host  web:1  exit code 3\n\
             a/web.1  t12  passing  1m03s  1    10.192.0.2  host  web:1\n"
        );
    }
}
