//! Colour, and text that is safe to print.

use carrack_api::{Health, TaskState};

/// How a text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Style {
    /// As it is.
    #[default]
    Plain,
    /// A title.
    Bold,
    /// Less important.
    Dim,
    /// As wanted.
    Good,
    /// Under way.
    Busy,
    /// Not as wanted.
    Bad,
}

/// The text in its style.
pub(crate) fn paint(text: &str, style: Style, colour: bool) -> String {
    let code = match style {
        _ if !colour || text.is_empty() => return text.to_owned(),
        Style::Plain => return text.to_owned(),
        Style::Bold => "1",
        Style::Dim => "2",
        Style::Good => "32",
        Style::Busy => "33",
        Style::Bad => "31",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A text from elsewhere in one line: control characters cannot move the cursor or change colours.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// The look of a task's state.
pub(crate) fn of_state(state: TaskState, health: Health) -> Style {
    match (state, health) {
        (TaskState::Running, Health::Passing) | (TaskState::Completed, _) => Style::Good,
        (TaskState::Running, Health::Failing) => Style::Bad,
        (TaskState::Failed | TaskState::Rejected | TaskState::Lost, _) => Style::Bad,
        (TaskState::Stopped, _) => Style::Dim,
        (
            TaskState::Pending
            | TaskState::Placed
            | TaskState::Preparing
            | TaskState::Starting
            | TaskState::Running,
            _,
        ) => Style::Busy,
    }
}

/// The colour of a name, the same for the same name: six that are readable on light and dark.
pub(crate) fn name_colour(name: &str) -> &'static str {
    const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "96"];
    let sum = name.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    COLOURS[sum % COLOURS.len()]
}
