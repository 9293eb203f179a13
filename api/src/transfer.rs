//! What moves between a user and a task: a container's own streams (attach) and files (cp).
//!
//! Owns the questions and the answers; the bytes travel in [`crate::stream::Frame`]s.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::WindowSize;
use crate::state::TaskState;

/// `POST /v1/tasks/{id}/attach`, as JSON in the `carrack-attach` header, with `Upgrade: carrack-stream`.
///
/// The answer's messages are [`AttachEvent`]s, `Data` and `Error` frames are output (all of it `Data` with a terminal), `Done`
/// is an [`crate::http::ExecResult`] with the container's exit code. `Resize` and `Signal` frames work as for exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttachRequest {
    /// Sends input; without one of the container only output comes.
    pub stdin: bool,
    /// The end of the asker's input ends that of the container, too, for everybody. A terminal gets an end-of-file character.
    pub close_stdin: bool,
    /// Size of the asker's terminal, given to that of the container.
    pub tty: Option<WindowSize>,
    /// Output from the beginning of the run, and that of a task that has ended already; else only what comes.
    pub replay: bool,
}

/// What an attach tells beside output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum AttachEvent {
    /// The task does not run yet; said again when its state changes.
    Waiting {
        /// State of its newest run.
        state: TaskState,
        /// Why it is in that state.
        reason: Option<String>,
    },
    /// Output follows.
    Attached {
        /// The run.
        run: u32,
        /// The container has a terminal.
        tty: bool,
        /// The container takes input (`stdin_open` or `tty`) and the asker's is sent to it.
        stdin: bool,
    },
}

/// Which file of a task: `GET /v1/tasks/{id}/archive` answers a stream of frames with a tar archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyOut {
    /// Path in the container, absolute or from its root.
    pub path: String,
    /// A symlink at the end of the path is followed; those within a directory never are.
    #[serde(default)]
    pub follow: bool,
}

/// What a copied file is; the first message of a copy out of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopiedFile {
    /// The last part of its path; `.` for the root.
    pub name: String,
    /// What it is.
    pub kind: CopiedKind,
    /// Size of a regular file, bytes.
    pub size: u64,
}

/// Kinds of files as far as copying minds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopiedKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
}

/// Where files go: `PUT /v1/tasks/{id}/archive`, with a tar archive as body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyIn {
    /// Path in the container.
    pub path: String,
    /// What the archive holds, which decides what the path means.
    pub source: CopySource,
    /// Owners are those of the archive; else root, as in Docker.
    #[serde(default)]
    pub keep_owner: bool,
}

/// What an archive for a container holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CopySource {
    /// One entry that is no directory. It goes into the path when that is a directory, else to the path itself.
    File {
        /// Its name where it comes from.
        name: String,
    },
    /// A directory as the entry `.` and what is below it. It becomes the path, or goes into it when that is a directory.
    Directory {
        /// Its name where it comes from; `None` when only its content is meant.
        name: Option<String>,
    },
    /// Any entries, put below the path, which is a directory.
    Archive,
}

/// How much was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
    /// Sockets and devices, which are left out.
    pub skipped: u64,
}
