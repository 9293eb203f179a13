//! A signal for the first process of a running task. What follows its end is the restart policy's.

use carrack_api::stream::Frame;
use carrack_api::{Problem, TaskId};

use super::{Desk, done};
use crate::engine::{Engine, Refusal};

impl Desk {
    pub(super) async fn signal(&self, task: TaskId, run: u32, signal: i32) -> Result<Frame, Problem> {
        match Engine::signal(&self.containers, task, run, signal).await {
            Ok(()) => done(&()),
            Err(Refusal::Retry(reason) | Refusal::Final(reason)) => {
                let text = format!("signal {signal} could not be sent to task {task}: {reason}");
                Err(Problem::new(500, "signal", text))
            }
        }
    }
}
