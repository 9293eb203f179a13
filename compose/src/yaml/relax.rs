//! What the YAML of Compose's own reader allows and the standard does not: lines of a flow collection or of a quoted text
//! that are indented no deeper than what they belong to, and tabs between tokens. Owns a rewriting that changes no line and
//! no value; it is tried only on a text that is no YAML as it stands.

/// A text that may be YAML, and by how much each of its lines was moved to the right.
pub(super) struct Relaxed {
    pub(super) text: String,
    pub(super) shifts: Vec<usize>,
}

/// Moves lines within brackets and quotes to the right; `None` when there is nothing to do.
pub(super) fn relax(text: &str) -> Option<Relaxed> {
    let mut scan = Scan::default();
    let mut out = Relaxed { text: String::with_capacity(text.len()), shifts: Vec::new() };
    let mut changed = false;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let blank = line.trim().is_empty();
        let shift = if blank || !scan.inside() { 0 } else { scan.column.saturating_sub(indent) };
        out.shifts.push(shift);
        out.text.extend(std::iter::repeat_n(' ', shift));
        let begin = out.text.len();
        out.text.push_str(line);
        if scan.literal.is_some_and(|least| blank || indent >= least) {
            continue;
        }
        scan.literal = None;
        for at in scan.line(line) {
            out.text.replace_range(begin + at..=begin + at, " ");
            changed = true;
        }
        changed |= shift > 0;
    }
    changed.then_some(out)
}

/// Where in a text one is.
#[derive(Default)]
struct Scan {
    /// Open brackets.
    depth: usize,
    quote: Option<char>,
    /// Where the outermost of them stands in its line.
    column: usize,
    /// The least indentation of the lines of a literal text that goes on.
    literal: Option<usize>,
}

impl Scan {
    fn inside(&self) -> bool {
        self.depth > 0 || self.quote.is_some()
    }

    /// Follows a line, and gives the places of its tabs that stand for a blank.
    fn line(&mut self, line: &str) -> Vec<usize> {
        let mut tabs = Vec::new();
        // The last character that is no blank, and whether a blank follows it.
        let (mut last, mut apart) = (None, true);
        let mut chars = line.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if let Some(quote) = self.quote {
                let next = chars.peek().map(|(_, c)| *c);
                if (quote == '"' && c == '\\') || (quote == '\'' && c == quote && next == Some(quote)) {
                    // The second half of the pair says nothing by itself.
                    chars.next();
                } else if c == quote {
                    self.quote = None;
                }
                (last, apart) = (Some(c), false);
                continue;
            }
            let begins = last.is_none() || (matches!(last, Some(':' | '-' | '?')) && apart);
            let begins = begins || (self.depth > 0 && matches!(last, Some(',' | '[' | '{' | ':')));
            match c {
                '#' if apart => break,
                '\t' if matches!(last, Some(':' | '-' | '?' | ',')) => tabs.push(at),
                '"' | '\'' if begins => self.open(at, |scan| scan.quote = Some(c)),
                '[' | '{' if begins || self.depth > 0 => self.open(at, |scan| scan.depth += 1),
                ']' | '}' if self.depth > 0 => self.depth -= 1,
                '|' | '>' if begins && self.depth == 0 => {
                    self.literal = Some(least(line));
                    break;
                }
                _ => {}
            }
            apart = c.is_whitespace();
            if !apart {
                last = Some(c);
            }
        }
        tabs
    }

    fn open(&mut self, at: usize, change: impl Fn(&mut Self)) {
        if !self.inside() {
            self.column = at;
        }
        change(self);
    }
}

/// How far lines are indented at least that belong to a literal text: deeper than the mapping or the list that it is in.
fn least(line: &str) -> usize {
    let mut rest = line.trim_start_matches(' ');
    while let Some(item) = rest.strip_prefix("- ") {
        rest = item.trim_start_matches(' ');
    }
    let column = line.len() - rest.len();
    // A text that is itself an element belongs to the list; one that is all of the file belongs to nothing.
    let own = rest.starts_with(['|', '>']);
    if own { column.saturating_sub(1) } else { column + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_brackets_and_quotes_move_and_others_stay() {
        let text =
            "a:\n  b: [x,\n  'y]',\n]\n  c: \"p\n q\" # [\n  d: it's [\n  e: |\n    [\n    \"\n  f:\t1\n";
        let relaxed = relax(text).unwrap();
        let moved = "a:\n  b: [x,\n     'y]',\n     ]\n  c: \"p\n     q\" # [\n  d: it's [\n  e: |\n    [\n    \"\n  f: 1\n";
        assert_eq!(relaxed.text, moved);
        assert_eq!(relaxed.shifts, [0, 0, 3, 5, 0, 4, 0, 0, 0, 0, 0]);
        assert!(relax("a: {\n  b: c\n}\n").is_some_and(|r| r.shifts == [0, 1, 3]));
        assert!(relax("a: [b]\n\tc: d\n").is_none());
        // A literal text that is the whole file, and what is no such text.
        assert!(relax("|\n[\n\"\n").is_none());
        assert!(relax("|ervices:\n  s: [\"\"]\n").is_none());
    }
}
