//! carrack-runtime

pub mod error;
pub mod image;
pub mod reexec;
pub mod request;
pub mod runtime;
pub mod volume;

pub use error::{ExecError, RuntimeError, StartError};
pub use request::*;
pub use runtime::*;
