//! A command written as one line becomes its words, as Compose splits them: quotes and backslashes, nothing of a shell else.

/// The words of a line, and where the line was cut off when it uses an operator of a shell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Words {
    pub(crate) words: Vec<String>,
    pub(crate) cut_at: Option<char>,
}

/// Words of one line at most.
const WORDS_MAX: usize = 10_000;
const PARENTHESIS: &str = "a parenthesis stands outside of quotes; no shell runs this line";

/// Splits a line; `Err` names the quote that is not closed.
pub(crate) fn split(line: &str) -> Result<Words, &'static str> {
    let mut out = Words::default();
    let mut word: Option<String> = None;
    // Within the substitutions of a shell, which nobody carries out, blanks and operators are text.
    let (mut ticks, mut parens) = (false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let substituted = ticks || parens;
        match c {
            '\\' => {
                let Some(next) = chars.next() else { return Err("nothing follows the backslash") };
                word.get_or_insert_default().push(next);
            }
            '\'' => quoted(&mut chars, '\'', word.get_or_insert_default())?,
            '"' => quoted(&mut chars, '"', word.get_or_insert_default())?,
            '`' if !parens => {
                ticks = !ticks;
                word.get_or_insert_default().push(c);
            }
            '(' if !ticks => {
                if parens || !word.as_ref().is_some_and(|w| w.ends_with('$')) {
                    return Err(PARENTHESIS);
                }
                parens = true;
                word.get_or_insert_default().push(c);
            }
            ')' if !ticks => {
                if !parens {
                    return Err(PARENTHESIS);
                }
                parens = false;
                word.get_or_insert_default().push(c);
            }
            ' ' | '\t' | '\r' | '\n' if !substituted => {
                out.words.extend(word.take());
                if out.words.len() > WORDS_MAX {
                    return Err("it has more than 10000 words; put it into a file");
                }
            }
            ';' | '&' | '|' | '<' | '>' if !substituted => {
                // The number of a file that would be written to is no word.
                if c == '>' && word.as_ref().is_some_and(|w| w.starts_with(|d: char| d.is_ascii_digit())) {
                    word = None;
                }
                out.cut_at = Some(c);
                break;
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    match (ticks, parens) {
        (true, _) => return Err("a backtick is not closed"),
        (_, true) => return Err(PARENTHESIS),
        (false, false) => out.words.extend(word),
    }
    Ok(out)
}

fn quoted(chars: &mut std::str::Chars<'_>, quote: char, word: &mut String) -> Result<(), &'static str> {
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => match chars.next() {
                Some(next) => word.push(next),
                None => break,
            },
            c => word.push(c),
        }
    }
    Err(if quote == '"' { "a double quote is not closed" } else { "a single quote is not closed" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_compose_splits_them() {
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            ("sh -c 'echo \"x\" $HOME'", &["sh", "-c", "echo \"x\" $HOME"]),
            ("a\"b c\"d '' \\ e", &["ab cd", "", " e"]),
            ("\"a\\\"b\"", &["a\"b"]),
            ("--x=\"y z\"", &["--x=y z"]),
            ("redis-server --save 60 1", &["redis-server", "--save", "60", "1"]),
        ];
        for (line, expected) in cases {
            assert_eq!(split(line).unwrap().words, expected, "{line}");
        }
        let cut = split("echo a && b").unwrap();
        assert_eq!((cut.words, cut.cut_at), (vec!["echo".into(), "a".into()], Some('&')));
        assert!(split("a 'b").is_err());
        assert!(split("a \"b").is_err());
    }
}
