//! JSON as YAML. Owns which texts need quotes, so that what is written is read back as the same value.

use serde_json::Value as Json;

use crate::yaml::{Plain, is_null, plain};

/// A document that ends in a newline.
pub(super) fn document(value: &Json) -> String {
    let mut out = String::new();
    match value {
        Json::Object(map) if !map.is_empty() => write(value, 0, false, &mut out),
        other => {
            write(other, 0, false, &mut out);
            out.push('\n');
        }
    }
    out
}

/// Writes a value; a collection that is not empty ends in a newline, anything else does not.
fn write(value: &Json, level: usize, in_list: bool, out: &mut String) {
    let indent = |out: &mut String, first: bool| {
        if !(first && in_list) {
            out.extend(std::iter::repeat_n("  ", level));
        }
    };
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(value) => out.push_str(&value.to_string()),
        Json::Number(value) => out.push_str(&value.to_string()),
        Json::String(text) => scalar(text, out),
        Json::Array(list) if list.is_empty() => out.push_str("[]"),
        Json::Object(map) if map.is_empty() => out.push_str("{}"),
        Json::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                indent(out, index == 0);
                out.push_str("- ");
                write(item, level + 1, true, out);
                end(item, out);
            }
        }
        Json::Object(map) => {
            for (index, (key, item)) in map.iter().enumerate() {
                indent(out, index == 0);
                scalar(key, out);
                out.push(':');
                out.push(if is_block(item) { '\n' } else { ' ' });
                write(item, level + 1, false, out);
                end(item, out);
            }
        }
    }
}

fn is_block(value: &Json) -> bool {
    match value {
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

fn end(value: &Json, out: &mut String) {
    if !is_block(value) {
        out.push('\n');
    }
}

/// A text, in quotes unless it is plain beyond doubt.
fn scalar(text: &str, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                match u32::from(c) {
                    code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                    code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                    code => out.push_str(&format!("\\U{code:08x}")),
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Words that YAML 1.1 takes for booleans; other readers than ours may.
const WORDS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];

fn is_plain(text: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_./-+@%=,:~^$(){}[]<>|!*&?#' ".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphabetic() || "_./$".contains(c))
        && text.chars().all(safe)
        && !text.ends_with([' ', ':'])
        && ![": ", " #", "..."].iter().any(|odd| text.contains(odd))
        && !is_null(text)
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
        && plain(text, true) == Plain::Text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::Report;
    use crate::yaml::{Node, Value, parse};

    fn back(node: &Node) -> Json {
        match &node.value {
            Value::Null => Json::Null,
            Value::Scalar { text, plain: is_plain } => match plain(text, *is_plain) {
                Plain::Bool(value) => value.into(),
                Plain::Int(value) => i64::try_from(value).unwrap().into(),
                Plain::Float(value) => value.into(),
                Plain::Time | Plain::Text => text.as_str().into(),
            },
            Value::List(list) => Json::Array(list.iter().map(back).collect()),
            Value::Map(map) => {
                Json::Object(map.entries.iter().map(|e| (e.key.clone(), back(&e.value))).collect())
            }
        }
    }

    fn read(text: &str) -> Json {
        let mut report = Report::default();
        let file = report.add_file("f");
        let node = parse(text, file, &mut report);
        let problems = report.finish().err().map(|p| p.to_string());
        back(&node.unwrap_or_else(|| panic!("{problems:?} in\n{text}")))
    }

    #[test]
    fn documents_look_like_compose_files() {
        let value =
            json!({"services": {"web": {"ports": [{"target": 80}], "args": [], "env": {}, "none": null}}});
        let text =
            "services:\n  web:\n    args: []\n    env: {}\n    none: null\n    ports:\n      - target: 80\n";
        assert_eq!(document(&value), text);
    }

    #[test]
    fn texts_are_read_back_as_they_were() {
        let odd = [
            "",
            " ",
            "a b",
            "yes",
            "No",
            "null",
            "~",
            "1",
            "1.5",
            "0x1",
            "1e3",
            "1:2",
            "08",
            "1.2.3",
            "- a",
            "a: b",
            "a:",
            "a #b",
            "#a",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "'a'",
            "\"a\"",
            "{a}",
            "[a]",
            "a,b",
            "$$A",
            "a\nb",
            "\n",
            "a\tb",
            "\u{0}",
            "\u{7f}",
            "ü",
            "\u{2028}",
            "\u{feff}x",
            "😀",
            "---",
            "...",
            "<<",
            "=",
            "?",
            "? a",
            "| a",
            "> a",
            "2001-01-01",
            "12:30:45",
            ".inf",
            "a ",
            " a",
            "\\",
            "\\n",
            "x: [",
            "a\r\nb",
            "-",
            "--x",
            "/a:/b:ro",
        ];
        let value = Json::Object(odd.iter().map(|t| ((*t).to_owned(), Json::from(*t))).collect());
        assert_eq!(read(&document(&value)), value);
        let value = json!([odd.to_vec(), [[1, [odd.to_vec()]], {"a": [{"b": -1.5}]}], true, null, [[], {}]]);
        assert_eq!(read(&document(&value)), value);
    }
}
