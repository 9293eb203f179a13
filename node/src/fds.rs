//! Pipes, terminals and notification descriptors as async values.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is read or written without blocking a thread.
#[derive(Debug)]
pub(crate) struct AsyncFile {
    fd: AsyncFd<OwnedFd>,
}

impl AsyncFile {
    /// Takes a pipe end, a terminal's master or the like.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd: registered(fd, Interest::READABLE | Interest::WRITABLE)? })
    }

    /// Reads what is there; 0 at the end. The master of a terminal ends when its last user has gone.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fd.async_io(Interest::READABLE, |fd| read(fd, buffer)).await
    }

    /// Reads what is there by now, whatever was heard of it; an error when there is nothing.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read(self.fd.get_ref(), buffer)
    }

    /// Writes everything.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .fd
                .async_io(Interest::WRITABLE, |fd| rustix::io::write(fd, bytes).map_err(io::Error::from))
                .await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(fd, buffer) {
        Err(Errno::IO) => Ok(0),
        other => other.map_err(io::Error::from),
    }
}

/// Waits on a descriptor that somebody else owns, through a duplicate.
#[derive(Debug)]
pub(crate) struct Signal {
    fd: AsyncFd<OwnedFd>,
}

impl Signal {
    /// Watches a descriptor for readability.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { fd: registered(fd.try_clone_to_owned()?, Interest::READABLE)? })
    }

    /// Watches a descriptor of one's own.
    pub(crate) fn of(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: registered(fd, Interest::READABLE)? })
    }

    /// Waits until it may be readable; the owner then reads it.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await.map(|mut ready| ready.clear_ready())
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of descriptors that close early; an `OwnedFd` does not"
)]
fn registered(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}
