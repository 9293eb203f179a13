//! `carrack login` and `carrack logout`: credentials for a registry, checked before they are kept.

use std::io::{self, Read as _};

use carrack_api::client::segment;
use carrack_api::{RegistryCredentials, RegistryLogin, RegistryStacks, StackName};
use http::Method;
use serde::Serialize;

use crate::args::{LoginArgs, LogoutArgs};
use crate::context::Context;
use crate::credentials::{self, DOCKER_HUB, Kept};
use crate::error::{CliError, Code, Outcome};
use crate::terminal::{self, put, say};

/// Longest line that is read, bytes: tokens of cloud registries have a few thousand.
const LINE_MAX_BYTES: u64 = 64 << 10;

#[derive(Serialize)]
struct LoggedIn<'a> {
    registry: &'a str,
    username: &'a str,
    helper: Option<&'a str>,
    file: Option<&'a str>,
    stacks: &'a [StackName],
}

#[derive(Serialize)]
struct LoggedOut<'a> {
    registry: &'a str,
    was_logged_in: bool,
    stacks: &'a [StackName],
}

/// `carrack login`.
pub(crate) async fn login(args: &LoginArgs, context: &Context) -> Outcome {
    let registry = registry(args.registry.as_deref())?;
    let given = read_credentials(args, &registry, context)?;
    let body = RegistryLogin { registry: registry.clone(), credentials: given.clone() };
    let RegistryStacks { stacks, .. } =
        context.client.json(Method::POST, "/v1/registries/login", Some(&body), &[]).await?;
    let kept = credentials::keep(&registry, &given)?;
    let (helper, file) = match &kept {
        Kept::Helper(program) => (Some(program.as_str()), None),
        Kept::File(path) => (None, Some(path.as_str())),
    };
    if context.json() {
        let username = &given.username;
        context.put_json(&LoggedIn { registry: &registry, username, helper, file, stacks: &stacks })?;
        return Ok(Code::Ok);
    }
    put(&format!("logged in to {registry} as {}\n", given.username))?;
    match (helper, file) {
        (Some(program), _) => say(&format!("{program} keeps the password")),
        (None, Some(path)) => {
            say(&format!("note: the password is kept in {path}, readable for you and root"))
        }
        (None, None) => {}
    }
    say_stacks(&stacks, "use it from now on");
    Ok(Code::Ok)
}

/// `carrack logout`.
pub(crate) async fn logout(args: &LogoutArgs, context: &Context) -> Outcome {
    let registry = registry(args.registry.as_deref())?;
    let mut stacks = Vec::new();
    if args.stacks {
        let path = format!("/v1/registries/{}", segment(&registry));
        let none = None::<&()>;
        stacks = context.client.json::<_, RegistryStacks>(Method::DELETE, &path, none, &[]).await?.stacks;
    }
    let was_logged_in = credentials::forget(&registry)?;
    if context.json() {
        context.put_json(&LoggedOut { registry: &registry, was_logged_in, stacks: &stacks })?;
        return Ok(Code::Ok);
    }
    match was_logged_in {
        true => put(&format!("logged out of {registry}\n"))?,
        false => say(&format!("not logged in to {registry}")),
    }
    say_stacks(&stacks, "pull without credentials from now on");
    Ok(Code::Ok)
}

fn say_stacks(stacks: &[StackName], what: &str) {
    if !stacks.is_empty() {
        let names: Vec<&str> = stacks.iter().map(StackName::as_str).collect();
        say(&format!("stacks that {what}: {}", names.join(", ")));
    }
}

fn registry(text: Option<&str>) -> Result<String, CliError> {
    credentials::registry_of(text.unwrap_or(DOCKER_HUB))
}

/// User name and password: typed, or the password from standard input.
fn read_credentials(
    args: &LoginArgs,
    registry: &str,
    context: &Context,
) -> Result<RegistryCredentials, CliError> {
    let again = format!("printenv TOKEN | carrack login {registry} -u USER --password-stdin");
    if args.password_stdin {
        let Some(username) = args.username.clone() else {
            return Err(CliError::usage("--password-stdin needs a user name").hint(again));
        };
        return check(username, password_from(io::stdin().lock())?);
    }
    if !context.terminal.stdin {
        return Err(CliError::usage("there is no terminal to ask for the password on").hint(again));
    }
    let username = match &args.username {
        Some(username) => username.clone(),
        None => ask_user(registry)?,
    };
    let password = terminal::ask_hidden(&format!("Password of {username} at {registry}: "))?;
    check(username, password)
}

fn check(username: String, password: String) -> Result<RegistryCredentials, CliError> {
    if username.is_empty() {
        return Err(CliError::usage("the user name is empty"));
    }
    if password.is_empty() {
        return Err(CliError::usage("the password is empty"));
    }
    Ok(RegistryCredentials { username, password })
}

fn ask_user(registry: &str) -> Result<String, CliError> {
    terminal::draw(&format!("User name at {registry}: "));
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// The whole input without the newline that ends it.
fn password_from(input: impl io::Read) -> Result<String, CliError> {
    let mut text = Vec::new();
    input.take(LINE_MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LINE_MAX_BYTES {
        return Err(CliError::usage(format!("the password has more than {LINE_MAX_BYTES} bytes")));
    }
    let text = String::from_utf8(text).map_err(|_| CliError::usage("the password is not UTF-8 text"))?;
    Ok(text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_from_standard_input_loses_one_newline_and_nothing_else() {
        for (input, password) in
            [("s\n", "s"), ("s\r\n", "s"), (" s x ", " s x "), ("a\n\n", "a\n"), ("", "")]
        {
            assert_eq!(password_from(input.as_bytes()).map_err(|e| e.render(false)), Ok(password.to_owned()));
        }
        assert!(password_from([0xff_u8, 0xfe].as_slice()).is_err());
        assert!(password_from(vec![b'x'; 70_000].as_slice()).is_err());
    }
}
