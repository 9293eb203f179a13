//! Network namespaces as file descriptors.
//!
//! Owns: making a namespace, finding that of a process, running a closure inside one. A namespace is held by a
//! descriptor only: nothing is mounted, so a crash leaks nothing; it lives as long as a process or a descriptor
//! does. Owns not: what is inside (links, addresses).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::linux::fs::MetadataExt;
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, held open. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
}

/// A failed operation on a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The kernel made no new namespace.
    #[error("cannot make a network namespace")]
    Create(#[source] io::Error),
    /// The namespace of a process (or a path) cannot be opened.
    #[error("cannot open the network namespace {path}")]
    Open {
        /// What was opened.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A thread could not move into the namespace.
    #[error("cannot enter a network namespace")]
    Enter(#[source] io::Error),
    /// The short-lived thread that does the work could not be started, or died.
    #[error("cannot run a thread in a network namespace")]
    Thread(#[source] io::Error),
}

impl Netns {
    /// A new, empty namespace. Its loopback link is down until an endpoint is made in it.
    pub fn create() -> Result<Self, NetnsError> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Create(errno.into()))?;
            Self::open("/proc/thread-self/ns/net")
        })?
    }

    /// The namespace this thread is in.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of a process, for adoption after a restart.
    pub fn of_pid(pid: i32) -> Result<Self, NetnsError> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    /// Whether two handles mean the same namespace.
    pub fn is_same(&self, other: &Self) -> Result<bool, NetnsError> {
        Ok(self.identity()? == other.identity()?)
    }

    /// The number the kernel shows for this namespace (`net:[NUMBER]`), and the device it is on.
    pub fn identity(&self) -> Result<(u64, u64), NetnsError> {
        let describe = |source| NetnsError::Open { path: "(held descriptor)".to_owned(), source };
        let metadata = self.file.metadata().map_err(describe)?;
        Ok((metadata.st_dev(), metadata.st_ino()))
    }

    /// Runs a closure on a short-lived thread inside the namespace. Sockets opened there stay in the namespace.
    pub fn run<T, F>(&self, work: F) -> Result<T, NetnsError>
    where
        T: Send,
        F: FnOnce() -> T + Send,
    {
        on_thread(|| {
            setns(&*self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter(errno.into()))?;
            Ok(work())
        })?
    }

    fn open(path: &str) -> Result<Self, NetnsError> {
        let file = File::open(path).map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        Ok(Self { file: Arc::new(file) })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns".to_owned());
        let thread = builder.spawn_scoped(scope, work).map_err(NetnsError::Thread)?;
        thread.join().map_err(|_| NetnsError::Thread(io::Error::other("the thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_namespace_is_that_of_this_process() {
        let current = Netns::current().unwrap();
        let by_pid = Netns::of_pid(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(current.is_same(&by_pid).unwrap());
    }

    #[test]
    fn a_process_that_does_not_exist_is_named_in_the_error() {
        let error = Netns::of_pid(i32::MAX).unwrap_err().to_string();
        assert!(error.contains(&i32::MAX.to_string()), "{error}");
    }
}
