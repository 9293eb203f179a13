//! `.env`, `env_file` and `label_file`: the quoting rules of Compose. Owns the grammar; reads no file.

use std::collections::{BTreeMap, BTreeSet};

use crate::interpolate::interpolate;

/// A line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// Reads a file into what earlier files gave. `lookup` gives variables from outside; they win over those of the files in
/// `${VAR}`. A name without a value takes it from outside, or is left out.
pub(crate) fn parse(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    out: &mut BTreeMap<String, String>,
) -> Result<(), EnvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { rest: text, line: 1 };
    while reader.next_statement() {
        let line = reader.line;
        let (name, has_value) = reader.name()?;
        if !has_value {
            if let Some(value) = lookup(&name) {
                out.insert(name, value);
            }
            continue;
        }
        let value = {
            let known = &*out;
            reader.value(&|key| lookup(key).or_else(|| known.get(key).cloned()))?
        };
        if name.is_empty() {
            return Err(EnvError { line, message: "a line needs a name before `=`".into() });
        }
        out.insert(name, value);
    }
    Ok(())
}

/// Reads a file in the format `raw`: each line is NAME=VALUE to its end, nothing is unquoted or filled in.
pub(crate) fn parse_raw(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    out: &mut BTreeMap<String, String>,
) -> Result<(), EnvError> {
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim_start(), Some(value.to_owned())),
            None => (line.trim(), lookup(line.trim())),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            let line = u32::try_from(index + 1).unwrap_or(u32::MAX);
            return Err(EnvError { line, message: format!("{name:?} is no name for a variable") });
        }
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a str,
    line: u32,
}

impl<'a> Reader<'a> {
    fn error(&self, message: impl Into<String>) -> EnvError {
        EnvError { line: self.line, message: message.into() }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        let lines = taken.bytes().filter(|b| *b == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        taken
    }

    /// Skips blank space and comments; false at the end.
    fn next_statement(&mut self) -> bool {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.take(blank);
            if !self.rest.starts_with('#') {
                return !self.rest.is_empty();
            }
            let line = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take(line);
        }
    }

    /// The name and whether a value follows it.
    fn name(&mut self) -> Result<(String, bool), EnvError> {
        if let Some(rest) = self.rest.strip_prefix("export")
            && rest.starts_with([' ', '\t'])
        {
            let length = "export".len() + rest.len() - rest.trim_start_matches([' ', '\t']).len();
            self.take(length);
        }
        let length = self.rest.find(['=', ':', '\n']).unwrap_or(self.rest.len());
        let name = self.rest[..length].trim().to_owned();
        let valid = |c: char| c.is_alphanumeric() || "_.-[]".contains(c);
        let without_comment = name.split(" #").next().unwrap_or_default().trim().to_owned();
        let ends = !self.rest[length..].starts_with(['=', ':']);
        let name = if ends { without_comment } else { name };
        if let Some(bad) = name.chars().find(|c| !valid(*c)) {
            return Err(self.error(format!("unexpected character {bad:?} in the name {name:?}")));
        }
        if ends {
            self.take(length);
            return Ok((name, false));
        }
        self.take(length + 1);
        let blank = self.rest.len() - self.rest.trim_start_matches([' ', '\t']).len();
        self.take(blank);
        Ok((name, true))
    }

    fn value(&mut self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, EnvError> {
        match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote, lookup),
            _ => {
                let line = self.rest.find('\n').unwrap_or(self.rest.len());
                let text = self.take(line);
                let text = text.split(" #").next().unwrap_or_default();
                self.expand(text.trim_end(), lookup)
            }
        }
    }

    fn expand(&self, text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, EnvError> {
        interpolate(text, lookup, &mut BTreeSet::new()).map_err(|e| self.error(e.to_string()))
    }

    fn quoted(&mut self, quote: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, EnvError> {
        let mut raw = String::new();
        let mut escaped = false;
        let mut end = None;
        for (index, c) in self.rest.char_indices().skip(1) {
            if escaped {
                if c != quote {
                    raw.push('\\');
                }
                raw.push(c);
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == quote {
                end = Some(index + 1);
                break;
            } else {
                raw.push(c);
            }
        }
        let Some(end) = end else {
            return Err(self.error(format!("the quote {quote} is not closed")));
        };
        let value = if quote == '"' { self.expand(&unescape(&raw), lookup)? } else { raw };
        self.take(end);
        Ok(value)
    }
}

/// The escapes of double quotes; `\$` becomes the `$$` of the interpolation.
fn unescape(raw: &str) -> String {
    let mut out = String::new();
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('v') => out.push('\u{b}'),
            Some('"') => out.push('"'),
            Some('\\') => out.push('\\'),
            Some('$') => out.push_str("$$"),
            Some('0') => out.push_str(&octal(&mut chars)),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

/// Up to three octal digits after `\0`.
fn octal(chars: &mut std::str::Chars<'_>) -> String {
    let digits: String = chars.clone().take(3).take_while(|c| c.is_digit(8)).collect();
    let value = u32::from_str_radix(&digits, 8).ok().filter(|v| digits.len() == 3 && *v < 256);
    match value.and_then(char::from_u32) {
        Some(c) => {
            chars.nth(2);
            c.to_string()
        }
        // As Docker Compose has it: the zero is gone.
        None => "\\".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, EnvError> {
        let outside = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let mut pairs = BTreeMap::new();
        parse(text, &outside, &mut pairs)?;
        Ok(pairs.iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn lines_are_read_as_compose_reads_them() {
        let cases = [
            ("# c\n\nA=1\nexport B=2\nC: 3", r#"A="1" B="2" C="3""#),
            ("A=val # comment\nB=val#no\nC=\nD= # x", r##"A="val" B="val#no" C="" D="# x""##),
            ("A=\"a b\\tc # not\"\nB='$X ${Y}'", r#"A="a b\tc # not" B="$X ${Y}""#),
            ("A=1\nB=${A}-x\nC=\"${A} \\$A\"\nD=$HOME", r#"A="1" B="1-x" C="1 $A" D="/root""#),
            ("HOME\nNOPE\nA=1", r#"A="1" HOME="/root""#),
            ("J=\"{\\\"h\\\": 1}\"\nM='l1\nl2'\nZ=1", r#"J="{\"h\": 1}" M="l1\nl2" Z="1""#),
            ("A=b=c\r\nB='it\\'s'", r#"A="b=c" B="it's""#),
            ("A='x' # c\nB=\"y\"", r#"A="x" B="y""#),
            (r"A=a\$A", r#"A="a\\""#),
            ("A=\"\\0101\\$x\"", r#"A="A$x""#),
            ("U=http://a:1/#x\nV=${N:-d e}", r#"U="http://a:1/#x" V="d e""#),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn wrong_lines_are_told_with_their_number() {
        assert_eq!(read("A=1\nB C=2\n").unwrap_err().line, 2);
        assert_eq!(read("A=1\n\nB=\"x\n\n").unwrap_err().line, 3);
        assert_eq!(read("A=${").unwrap_err().line, 1);
        assert_eq!(read("=x").unwrap_err().line, 1);
    }

    #[test]
    fn raw_files_are_taken_as_they_are() {
        let mut pairs = BTreeMap::new();
        parse_raw("# c\nA=\"x\" $Y # z\nB\n", &|_| None, &mut pairs).unwrap();
        assert_eq!(pairs.into_iter().collect::<Vec<_>>(), [("A".into(), "\"x\" $Y # z".into())]);
    }
}
