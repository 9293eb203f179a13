//! One line of progress for one thing: redrawn in place on a terminal, else told in steps.

use carrack_api::{Bytes, PullProgress};

use super::table::shorten;
use super::task::image_progress;
use crate::terminal::{self, Terminal};

/// Steps in which progress is told where a line cannot be redrawn, per cent.
const PLAIN_STEP_PERCENT: u64 = 25;
/// Columns of a terminal that does not tell.
const FALLBACK_COLUMNS: usize = 80;

/// A line of progress.
#[derive(Debug)]
pub(crate) struct Meter {
    live: bool,
    subject: String,
    told: Option<(u64, bool)>,
}

impl Meter {
    /// A line about `subject`.
    pub(crate) fn new(terminal: &Terminal, subject: impl Into<String>) -> Self {
        Self { live: terminal.stderr, subject: subject.into(), told: None }
    }

    /// Shows how far it is.
    pub(crate) fn show(&mut self, progress: &PullProgress) {
        let text = format!("{}: {}", self.subject, image_progress(progress));
        if self.live {
            let columns = terminal::window_size_err().map_or(FALLBACK_COLUMNS, |s| usize::from(s.columns));
            terminal::draw(&format!("\r\x1b[2K{}", shorten(&text, columns)));
            return;
        }
        let step = match progress.total {
            Bytes(0) => 0,
            Bytes(total) => {
                let percent = u128::from(progress.done.0) * 100 / u128::from(total);
                u64::try_from(percent).unwrap_or(100) / PLAIN_STEP_PERCENT
            }
        };
        let now = Some((step, progress.waiting > 0));
        if self.told != now {
            self.told = now;
            terminal::say(&text);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.live {
            terminal::draw("\r\x1b[2K");
        }
    }
}
