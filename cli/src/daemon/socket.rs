//! The API's unix socket: bound aside, given to its group, then put in place, so that it is never open to more than that.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use carrack_api::defaults::SOCKET_GROUP;
use rustix::fs::Gid;
use tokio::net::UnixListener;

use crate::error::CliError;

/// Owner and group may use the socket.
const SOCKET_MODE: u32 = 0o660;

/// Listens on `path`. A socket that nobody answers on is a leftover and is replaced.
pub(super) fn listen(path: &Path) -> Result<UnixListener, CliError> {
    let fail = |error: io::Error| {
        CliError::new(format!("socket {} cannot be made", path.display())).caused_by(&error)
    };
    if UnixStream::connect(path).is_ok() {
        return Err(CliError::new(format!("another daemon answers on {}", path.display()))
            .hint("`carrack version` shows which one; give this one a --socket of its own"));
    }
    let aside = aside(path);
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&aside).map_err(fail)?;
    let placed = give_to_group(&aside).and_then(|()| std::fs::rename(&aside, path));
    placed.map_err(fail)?;
    Ok(listener)
}

/// Takes the socket away, so that a client is told at once that there is no daemon.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "the socket was gone already");
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn give_to_group(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    match group_id(&groups, SOCKET_GROUP) {
        Some(id) => Ok(rustix::fs::chown(path, None, Some(Gid::from_raw(id)))?),
        None => {
            tracing::info!("there is no group {SOCKET_GROUP}: only root may use the socket");
            Ok(())
        }
    }
}

/// The id of a group by the text of `/etc/group`.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_in_the_file() {
        let groups = "root:x:0:\ncarracks:x:7:\ncarrack:x:998:ada,bob\n";
        assert_eq!(group_id(groups, "carrack"), Some(998));
        assert_eq!(group_id(groups, "docker"), None);
        assert_eq!(group_id("carrack:x:none:\n", "carrack"), None);
    }

    #[tokio::test]
    async fn a_leftover_is_replaced_and_a_living_socket_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(listen(&path).unwrap());
        // A program that another test starts has a copy of the listener until its exec.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while UnixStream::connect(&path).is_ok() && std::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        let living = listen(&path).unwrap();
        assert!(listen(&path).unwrap_err().render(false).contains("another daemon answers"));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        drop(living);
    }
}
