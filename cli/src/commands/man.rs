//! `carrack man DIR`: one manual page for the command and one for each verb, from the same words as the help.

use std::path::Path;

use clap_mangen::Man;

use crate::args::ManArgs;
use crate::context::Context;
use crate::error::{CliError, Code, Outcome};
use crate::help::{self, Detail};
use crate::terminal::put;

/// The section of the manual: commands.
const SECTION: &str = "1";

/// How roff is told of an apostrophe that is no accent.
const APOSTROPHE: [&str; 2] = [".ie \\n(.g .ds Aq \\(aq", ".el .ds Aq '"];

/// What scripts may rely on; the table is in docs/architecture.md.
const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "done; a deploy is healthy"),
    ("1", "it did not work"),
    ("2", "the command was not understood, a dry run found changes, or the stack changed in between"),
    ("3", "kept for a deploy that was rolled back"),
    ("4", "not healthy in time; it goes on in the background"),
    ("5", "no daemon, or no permission to use its socket"),
    ("130", "Ctrl-C ended the wait"),
];

/// A page.
struct Page {
    /// `carrack-image-load.1`
    name: String,
    text: String,
}

/// `carrack man`.
pub(crate) fn run(args: &ManArgs, context: &Context) -> Outcome {
    let fail = |what: &str, path: &Path, error: &std::io::Error| {
        CliError::new(format!("{} cannot be {what}", path.display())).caused_by(error)
    };
    std::fs::create_dir_all(&args.directory).map_err(|error| fail("made", &args.directory, &error))?;
    let pages = pages().map_err(|error| CliError::new("the pages cannot be made").caused_by(&error))?;
    let mut written = Vec::new();
    for page in pages {
        let path = args.directory.join(&page.name);
        std::fs::write(&path, &page.text).map_err(|error| fail("written", &path, &error))?;
        written.push(path.display().to_string());
    }
    if context.json() {
        context.put_json(&written)?;
    } else {
        put(&(written.join("\n") + "\n"))?;
    }
    Ok(Code::Ok)
}

fn pages() -> std::io::Result<Vec<Page>> {
    let mut root = help::command(Detail::Long).disable_help_subcommand(true);
    root.build();
    let mut pages = vec![page(&root, "carrack")?];
    for verb in root.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("carrack-{}", verb.get_name());
        pages.push(page(verb, &name)?);
        for inner in verb.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            pages.push(page(inner, &format!("{name}-{}", inner.get_name()))?);
        }
    }
    Ok(pages)
}

fn page(command: &clap::Command, name: &str) -> std::io::Result<Page> {
    let man = Man::new(command.clone());
    let mut text = Vec::new();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    // Each section brings the same two lines, which one page needs once.
    let text = String::from_utf8(text).map_err(std::io::Error::other)?;
    let sections = text.lines().filter(|line| !APOSTROPHE.contains(line));
    let title = escaped(&name.to_uppercase());
    let mut text = format!(
        "{}\n.TH {title} {SECTION} \"\" \"carrack {}\" \"Carrack\"\n",
        APOSTROPHE.join("\n"),
        env!("CARGO_PKG_VERSION")
    );
    for line in sections {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if command.get_subcommands().any(|verb| !verb.is_hide_set()) {
        text.push_str(&verbs(command, name));
    }
    text.push_str(&after(command, name));
    Ok(Page { name: format!("{name}.{SECTION}"), text })
}

/// The verbs of a command, each with the page that explains it.
fn verbs(command: &clap::Command, name: &str) -> String {
    let mut text = String::from(".SH COMMANDS\n");
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!(
            ".TP\n\\fB{}\\fR(1)\n{}\n",
            escaped(&format!("{name}-{}", verb.get_name())),
            escaped(&about)
        ));
    }
    text
}

/// What stands below the options: examples as they are, text as paragraphs, exit codes, where to read on.
fn after(command: &clap::Command, name: &str) -> String {
    let mut text = String::new();
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut notes = false;
    for paragraph in after.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let (heading, body) = paragraph.split_once('\n').unwrap_or(("", paragraph));
        if let Some(heading) = heading.strip_suffix(':')
            && body.starts_with("  ")
        {
            text.push_str(&format!(
                ".SH {}\n.nf\n{}\n.fi\n",
                escaped(&heading.to_uppercase()),
                escaped(body)
            ));
            continue;
        }
        text.push_str(if notes { ".PP\n" } else { ".SH NOTES\n" });
        notes = true;
        text.push_str(&escaped(paragraph));
        text.push('\n');
    }
    text.push_str(".SH EXIT STATUS\n");
    for (code, meaning) in EXIT_STATUS {
        text.push_str(&format!(".TP\n\\fB{code}\\fR\n{}\n", escaped(meaning)));
    }
    if name != "carrack" {
        text.push_str(".SH SEE ALSO\n\\fBcarrack\\fR(1)\n");
    }
    text
}

/// Text that roff prints as it is.
fn escaped(text: &str) -> String {
    let line = |line: &str| {
        let escaped = line.replace('\\', "\\e").replace('-', "\\-").replace('`', "\\(ga");
        match line.starts_with(['.', '\'']) {
            true => format!("\\&{escaped}"),
            false => escaped,
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_for_the_command_and_each_verb() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        for name in ["carrack.1", "carrack-deploy.1", "carrack-image-load.1", "carrack-uninstall.1"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for page in &pages {
            let text = &page.text;
            let title = page.name.trim_end_matches(".1").to_uppercase();
            let first = text.lines().find(|line| line.starts_with(".TH")).unwrap();
            assert!(first.replace("\\-", "-").starts_with(&format!(".TH {title} 1 ")), "{first}");
            let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
            assert_eq!(&sections[..3], ["NAME", "SYNOPSIS", "DESCRIPTION"], "{}", page.name);
            assert!(sections.contains(&"EXIT STATUS"), "{sections:?}");
            // Only requests that man(7) knows: anything else would be swallowed, text and all.
            for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
                let request = line.split(' ').next().unwrap();
                let known =
                    [".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".nf", ".fi", ".br", ".ie", ".el"];
                assert!(known.contains(&request), "{}: {line}", page.name);
            }
            assert_eq!(text.matches("\n.nf\n").count(), text.matches("\n.fi\n").count(), "{}", page.name);
        }
    }

    #[test]
    fn text_cannot_become_a_request() {
        assert_eq!(escaped(".env\n'x' a\\b --x"), "\\&.env\n\\&'x' a\\eb \\-\\-x");
    }
}
