//! Records of logs as text: who said it, when, what. Keeps lines of different tasks apart when one of them is unfinished.

use std::collections::BTreeMap;

use carrack_api::{LogRecord, TaskId};

use super::style::name_colour;
use super::table::length;
use crate::time;

/// How records are written.
#[derive(Debug)]
pub(crate) struct LogPrinter {
    prefix: bool,
    timestamps: bool,
    colour: bool,
    names: BTreeMap<TaskId, String>,
    width: usize,
    /// The task whose line is not finished.
    open: Option<TaskId>,
}

impl LogPrinter {
    /// A printer that knows no task by name yet.
    pub(crate) fn new(prefix: bool, timestamps: bool, colour: bool) -> Self {
        Self { prefix, timestamps, colour, names: BTreeMap::new(), width: 0, open: None }
    }

    /// The task has a name already.
    pub(crate) fn knows(&self, task: TaskId) -> bool {
        self.names.contains_key(&task)
    }

    /// Gives a task its name, `web.1`.
    pub(crate) fn name(&mut self, task: TaskId, name: String) {
        self.width = self.width.max(length(&name));
        self.names.insert(task, name);
    }

    /// The record as text.
    pub(crate) fn render(&mut self, record: &LogRecord) -> String {
        let mut out = String::new();
        if self.open.is_some_and(|open| open != record.task) {
            out.push('\n');
            self.open = None;
        }
        for line in record.text.split_inclusive('\n') {
            if self.open.is_none() {
                self.start(&mut out, record);
            }
            out.push_str(line);
            self.open = (!line.ends_with('\n')).then_some(record.task);
        }
        out
    }

    /// What finishes a line that was left open.
    pub(crate) fn finish(&mut self) -> &'static str {
        if self.open.take().is_some() { "\n" } else { "" }
    }

    fn start(&self, out: &mut String, record: &LogRecord) {
        if self.prefix {
            let id = record.task.to_string();
            let name = self.names.get(&record.task).unwrap_or(&id);
            let pad = " ".repeat(self.width.saturating_sub(length(name)));
            if self.colour {
                // All replicas of a service share a colour.
                let service = name.rsplit_once('.').map_or(name.as_str(), |(service, _)| service);
                out.push_str(&format!("\x1b[{}m{name}{pad} |\x1b[0m ", name_colour(service)));
            } else {
                out.push_str(&format!("{name}{pad} | "));
            }
        }
        if self.timestamps {
            out.push_str(&time::moment_ns(record.at_ns));
            out.push(' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrack_api::LogStream;

    fn record(task: u64, text: &str) -> LogRecord {
        LogRecord {
            task: TaskId(task),
            run: 1,
            at_ns: 1_767_323_045_000_000_000,
            stream: LogStream::Stdout,
            text: text.into(),
        }
    }

    #[test]
    fn lines_say_who_said_them() {
        let mut printer = LogPrinter::new(true, false, false);
        printer.name(TaskId(1), "web.1".into());
        printer.name(TaskId(2), "redis.1".into());
        assert_eq!(printer.render(&record(1, "a\nb\n")), "web.1   | a\nweb.1   | b\n");
        assert_eq!(printer.render(&record(2, "c\n")), "redis.1 | c\n");
        assert_eq!(printer.render(&record(9, "d\n")), "t9      | d\n");
    }

    #[test]
    fn an_unfinished_line_is_continued_by_its_task_and_broken_by_others() {
        let mut printer = LogPrinter::new(true, false, false);
        printer.name(TaskId(1), "a.1".into());
        printer.name(TaskId(2), "b.1".into());
        assert_eq!(printer.render(&record(1, "half ")), "a.1 | half ");
        assert_eq!(printer.render(&record(1, "full")), "full");
        assert_eq!(printer.render(&record(2, "x\n")), "\nb.1 | x\n");
        assert_eq!(printer.finish(), "");
        printer.render(&record(2, "open"));
        assert_eq!(printer.finish(), "\n");
    }

    #[test]
    fn times_and_bare_lines_are_what_was_asked_for() {
        let mut printer = LogPrinter::new(false, true, false);
        assert_eq!(printer.render(&record(1, "a\n")), "2026-01-02T03:04:05.000000000Z a\n");
    }
}
