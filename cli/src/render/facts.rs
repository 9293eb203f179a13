//! Facts about a host as text. Pure.
//!
//! ```text
//! network
//!   ok       vxlan            works
//!   note     conntrack table  63000 of 65536 entries
//!            cost: new connections are dropped when it is full
//!            help: sysctl -w net.netfilter.nf_conntrack_max=262144
//! ```

use carrack_api::fact::{Fact, Verdict};

use super::count;
use super::style::{Style, clean, paint};

/// Columns before the name of a check, and before what is said of its lack.
const INDENT: usize = 11;
/// Narrower than this a text is not folded.
const FOLD_MIN: usize = 20;

/// All facts, by area, at most `width` columns wide where words allow.
pub(crate) fn render(facts: &[Fact], width: Option<usize>, colour: bool) -> String {
    let longest = facts.iter().map(|fact| fact.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    let mut area = "";
    for fact in facts {
        if fact.area != area {
            area = &fact.area;
            out.push_str(&format!("{}\n", paint(&clean(area), Style::Bold, colour)));
        }
        let (word, style) = look(fact.verdict);
        let word = paint(&format!("{word:<7}"), style, colour);
        let name = clean(&fact.name);
        out.push_str(&format!("  {word}  {name:<longest$}  "));
        fold(&mut out, &fact.found, INDENT + longest + 2, width);
        for (label, text) in [("cost: ", &fact.cost), ("help: ", &fact.hint)] {
            // That root could try it is said once, at the end.
            if !text.is_empty() && fact.verdict != Verdict::Untried {
                out.push_str(&" ".repeat(INDENT));
                out.push_str(&paint(label, Style::Dim, colour));
                fold(&mut out, text, INDENT + label.len(), width);
            }
        }
    }
    out
}

/// `24 checks: 22 ok, 1 note, 1 missing`, and what to do next.
pub(crate) fn summary(facts: &[Fact]) -> String {
    let number = |verdict: Verdict| facts.iter().filter(|fact| fact.verdict == verdict).count();
    let (notes, untried, missing) =
        (number(Verdict::Note), number(Verdict::Untried), number(Verdict::Missing));
    let mut parts = vec![format!("{} ok", number(Verdict::Ok))];
    parts.extend((notes > 0).then(|| count(notes, "note")));
    parts.extend((untried > 0).then(|| format!("{untried} not tried")));
    parts.extend((missing > 0).then(|| format!("{missing} missing")));
    let verdict = match (missing, untried) {
        (0, 0) => "this host has all that is needed",
        (0, _) => "the rest needs root: sudo carrack doctor",
        _ => "what is missing keeps containers from running, or from being reached",
    };
    format!("{}: {}; {verdict}", count(facts.len(), "check"), parts.join(", "))
}

fn look(verdict: Verdict) -> (&'static str, Style) {
    match verdict {
        Verdict::Ok => ("ok", Style::Good),
        Verdict::Note => ("note", Style::Busy),
        Verdict::Untried => ("untried", Style::Dim),
        Verdict::Missing => ("missing", Style::Bad),
    }
}

/// A text that begins in column `at`; what does not fit goes on below where it began.
fn fold(out: &mut String, text: &str, at: usize, width: Option<usize>) {
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(at).max(FOLD_MIN));
    let mut used = 0;
    for word in clean(text).split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            out.push('\n');
            out.push_str(&" ".repeat(at));
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Vec<Fact> {
        vec![
            Fact::ok("host", "user", "root"),
            Fact::note(
                "network",
                "conntrack table",
                "63000 of 65536 entries are in use",
                "new connections fail",
            )
            .hint("sysctl -w net.netfilter.nf_conntrack_max=262144"),
            Fact::missing("network", "vxlan", "not in this kernel", "one host\x1b[31m only"),
        ]
    }

    #[test]
    fn facts_stand_below_their_area_with_what_they_cost_and_what_helps() {
        assert_eq!(
            render(&facts(), None, false),
            "host\n  ok       user             root\nnetwork\n  note     conntrack table  63000 of 65536 entries are \
             in use\n           cost: new connections fail\n           help: sysctl -w \
             net.netfilter.nf_conntrack_max=262144\n  missing  vxlan            not in this kernel\n           \
             cost: one host\u{fffd}[31m only\n"
        );
    }

    #[test]
    fn a_narrow_terminal_folds_between_words() {
        let text = render(&facts(), Some(50), false);
        assert!(text.contains("63000 of 65536 entries\n                            are in use\n"), "{text}");
        let long = "nf_conntrack_max=262144";
        assert!(text.lines().all(|line| line.chars().count() <= 50 || line.contains(long)), "{text}");
    }

    #[test]
    fn the_summary_counts_and_says_what_to_do() {
        assert_eq!(
            summary(&facts()),
            "3 checks: 1 ok, 1 note, 1 missing; what is missing keeps containers from running, or from being reached"
        );
        let untried = [Fact::ok("host", "user", "root"), Fact::untried("network", "vxlan")];
        assert_eq!(
            summary(&untried),
            "2 checks: 1 ok, 1 not tried; the rest needs root: sudo carrack doctor"
        );
    }
}
