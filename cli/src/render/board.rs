//! One line per task while a command waits: redrawn in place on a terminal, else a new line whenever a task changed.
//!
//! Tasks that are as wanted, or past, when the wait begins are left out until they change.

use std::collections::{BTreeMap, BTreeSet};

use carrack_api::{Bytes, Desired, TaskId, TaskState, TaskStatus};

use super::style::{Style, clean, of_state, paint};
use super::table::{length, shorten};
use super::task;
use crate::terminal::{self, Terminal};

/// Steps in which the progress of an image is told where lines cannot be redrawn, per cent.
const PLAIN_PROGRESS_STEP: u64 = 25;
/// Lines of the terminal that are left to what stood there before.
const ROWS_KEPT: usize = 2;
/// Size of a terminal that does not tell.
const FALLBACK_SIZE: (usize, usize) = (24, 80);

/// What is shown of the tasks that a command waits for.
#[derive(Debug)]
pub(crate) struct Board {
    live: bool,
    colour: bool,
    /// Lines drawn last, on a terminal.
    drawn: Vec<String>,
    /// What was last told of each task.
    told: BTreeMap<TaskId, String>,
    /// Tasks that nothing was to be said of at the beginning, and how they were.
    quiet: BTreeMap<TaskId, String>,
    begun: bool,
}

impl Board {
    /// An empty board.
    pub(crate) fn new(terminal: &Terminal) -> Self {
        Self {
            live: terminal.stderr,
            colour: terminal.colour_err(),
            drawn: Vec::new(),
            told: BTreeMap::new(),
            quiet: BTreeMap::new(),
            begun: false,
        }
    }

    /// Shows the tasks as they are now.
    pub(crate) fn show(&mut self, tasks: &[TaskStatus]) {
        let text = self.update(tasks, size());
        terminal::draw(&text);
    }

    /// What is to be written.
    fn update(&mut self, tasks: &[TaskStatus], size: (usize, usize)) -> String {
        if !self.begun {
            self.begun = true;
            self.quiet = tasks.iter().filter(|task| settled(task)).map(|task| (task.id, key(task))).collect();
        }
        let ids: BTreeSet<TaskId> = tasks.iter().map(|task| task.id).collect();
        self.told.retain(|id, _| ids.contains(id));
        let quiet = &self.quiet;
        let mut shown: Vec<&TaskStatus> =
            tasks.iter().filter(|task| quiet.get(&task.id) != Some(&key(task))).collect();
        shown.sort_by_key(|task| (task.service.clone(), task.slot, task.id));
        if self.live { self.redraw(&shown, size) } else { self.append(&shown) }
    }

    fn append(&mut self, shown: &[&TaskStatus]) -> String {
        let width = name_width(shown);
        let mut out = String::new();
        for task in shown {
            let key = key(task);
            if self.told.get(&task.id) != Some(&key) {
                out.push_str(&line(task, width, usize::MAX, self.colour));
                out.push('\n');
                self.told.insert(task.id, key);
            }
        }
        out
    }

    fn redraw(&mut self, shown: &[&TaskStatus], (rows, columns): (usize, usize)) -> String {
        let room = rows.saturating_sub(ROWS_KEPT).max(1);
        let mut tasks = shown.to_vec();
        let hidden = tasks.len().saturating_sub(room.saturating_sub(1));
        if tasks.len() > room {
            // What is under way is of more interest than what is done.
            tasks.sort_by_key(|task| (settled(task), task.service.clone(), task.slot, task.id));
            tasks.truncate(room.saturating_sub(1));
            tasks.sort_by_key(|task| (task.service.clone(), task.slot, task.id));
        }
        let width = name_width(&tasks);
        let mut lines: Vec<String> =
            tasks.iter().map(|task| line(task, width, columns, self.colour)).collect();
        if shown.len() > room {
            lines.push(shorten(&format!("  and {hidden} more"), columns));
        }
        if self.drawn == lines {
            return String::new();
        }
        let mut out = String::new();
        if !self.drawn.is_empty() {
            out.push_str(&format!("\x1b[{}F", self.drawn.len()));
        }
        for line in &lines {
            out.push_str("\x1b[2K");
            out.push_str(line);
            out.push('\n');
        }
        out.push_str("\x1b[J");
        self.drawn = lines;
        out
    }
}

fn size() -> (usize, usize) {
    terminal::window_size_err()
        .map_or(FALLBACK_SIZE, |size| (usize::from(size.rows), usize::from(size.columns)))
}

/// Nothing more is awaited of it.
fn settled(task: &TaskStatus) -> bool {
    task.state.is_final()
        || (task.desired == Desired::Run
            && task.state == TaskState::Running
            && of_state(task.state, task.health) == Style::Good)
}

/// Two tasks with the same key would be told in the same words, up to the progress of an image.
fn key(task: &TaskStatus) -> String {
    let detail = match (&task.progress, task.state) {
        (Some(progress), TaskState::Preparing) => match progress.total {
            Bytes(0) => "image".to_owned(),
            Bytes(total) => {
                let percent = u128::from(progress.done.0) * 100 / u128::from(total);
                (percent / u128::from(PLAIN_PROGRESS_STEP)).to_string()
            }
        },
        _ => task::detail(task),
    };
    format!("{} {} {detail}", task::state(task), task.run)
}

fn name_width(tasks: &[&TaskStatus]) -> usize {
    tasks.iter().map(|task| length(&task::name(task))).max().unwrap_or(0)
}

fn line(task: &TaskStatus, width: usize, columns: usize, colour: bool) -> String {
    let name = task::name(task);
    let state = task::state(task);
    let start = format!("  {name:width$}  {:<5}  ", task.id);
    let room = columns.saturating_sub(length(&start) + STATE_WIDTH + 2);
    let detail = shorten(&clean(&task::detail(task)), room);
    let style = task::style(task);
    let pad = " ".repeat(STATE_WIDTH.saturating_sub(length(&state)));
    format!("{start}{}{pad}  {detail}", paint(&state, style, colour)).trim_end().to_owned()
}

/// Characters of the longest state.
const STATE_WIDTH: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::task::tests::passing;
    use carrack_api::{Health, PullProgress};

    fn board(live: bool) -> Board {
        let terminal = Terminal { stdin: false, stdout: false, stderr: live, colour: false };
        Board::new(&terminal)
    }

    fn preparing(name: &str, id: u64, done: u64) -> TaskStatus {
        let progress = PullProgress { done: Bytes(done), total: Bytes(100), layers: (0, 1), waiting: 0 };
        TaskStatus {
            state: TaskState::Preparing,
            health: Health::Unknown,
            progress: Some(progress),
            ..passing(name, id)
        }
    }

    #[test]
    fn without_a_terminal_only_news_are_told() {
        let mut board = board(false);
        let old = passing("a/db.1", 1);
        let text = board.update(&[old.clone(), preparing("a/web.1", 2, 10)], FALLBACK_SIZE);
        assert_eq!(text, "  a/web.1  t2     preparing  image 10 B of 100 B, 0 of 1 layers unpacked\n");
        assert_eq!(board.update(&[old.clone(), preparing("a/web.1", 2, 20)], FALLBACK_SIZE), "");
        let text = board.update(&[old.clone(), preparing("a/web.1", 2, 60)], FALLBACK_SIZE);
        assert!(text.contains("image 60 B"), "{text}");
        let text = board.update(&[old, passing("a/web.1", 2)], FALLBACK_SIZE);
        assert_eq!(text, "  a/web.1  t2     passing\n");
    }

    #[test]
    fn a_task_that_was_as_wanted_is_told_once_it_changes() {
        let mut board = board(false);
        assert_eq!(board.update(&[passing("a/db.1", 1)], FALLBACK_SIZE), "");
        let failing = TaskStatus { health: Health::Failing, ..passing("a/db.1", 1) };
        assert!(board.update(&[failing], FALLBACK_SIZE).contains("failing"));
    }

    #[test]
    fn on_a_terminal_the_lines_are_redrawn_and_never_exceed_it() {
        let mut board = board(true);
        let tasks: Vec<TaskStatus> = (1..=9).map(|n| preparing(&format!("a/web.{n}"), n, 10)).collect();
        let text = board.update(&tasks, (8, 40));
        assert_eq!(text.lines().count(), 6 + 1, "five tasks, one line for the rest, the erased end");
        assert!(text.contains("and 4 more"), "{text}");
        assert!(text.lines().all(|line| length(line.trim_start_matches("\x1b[2K")) <= 40), "{text}");
        let again = board.update(&tasks[..1], (8, 40));
        assert!(again.starts_with("\x1b[6F\x1b[2K"), "{again:?}");
    }
}
