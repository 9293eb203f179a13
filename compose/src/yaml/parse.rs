//! Text to trees, one a document. Owns the bounds: depth, number of nodes (aliases count each time they are used).

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::relax::relax;
use super::scalar::{self, Plain, is_null};
use super::{Entry, Map, Node, Tag, Value};
use crate::report::{DiagnosticKind, Mark, Report};
use crate::suggest;

/// Deepest nesting, in levels, with aliases followed.
pub(crate) const DEPTH_MAX: usize = 64;
/// Largest number of nodes of a file, with aliases followed.
pub(crate) const NODES_MAX: usize = 200_000;
/// Largest number of entries of one list or mapping; each may become a dozen values in its long form.
pub(crate) const ENTRIES_MAX: usize = 10_000;

/// Parses the documents of one file; problems go to the report, and `None` means that nothing of the file can be used.
pub(crate) fn parse_all(text: &str, file: Mark, report: &mut Report) -> Option<Vec<Node>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let before = report.checkpoint();
    let stop = match Builder::new(text, &[], file, report).documents() {
        Ok(documents) => return Some(documents),
        Err(stop) => stop,
    };
    if stop.scanned
        && let Some(relaxed) = relax(text)
    {
        // All of it is seen once more.
        report.forget_since(before);
        if let Ok(documents) = Builder::new(&relaxed.text, &relaxed.shifts, file, report).documents() {
            return Some(documents);
        }
    }
    report.problem(DiagnosticKind::Syntax, stop.mark, "", stop.message, stop.hint.map(str::to_owned));
    None
}

/// The first document of a text.
#[cfg(test)]
pub(crate) fn parse(text: &str, file: Mark, report: &mut Report) -> Option<Node> {
    parse_all(text, file, report)?.into_iter().next()
}

/// Why nothing more can be read of a file.
struct Stop {
    mark: Mark,
    message: String,
    hint: Option<&'static str>,
    /// It is no YAML at all.
    scanned: bool,
}

impl Stop {
    fn new(mark: Mark, message: impl Into<String>) -> Self {
        Self { mark, message: message.into(), hint: None, scanned: false }
    }
}

/// A finished value that an alias may repeat.
struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

struct Builder<'a, 'r> {
    parser: Parser<'a, StrInput<'a>>,
    /// By how much lines were moved to the right.
    shifts: &'a [usize],
    file: Mark,
    report: &'r mut Report,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
}

type Parsed = (Node, usize);

impl<'a, 'r> Builder<'a, 'r> {
    fn new(text: &'a str, shifts: &'a [usize], file: Mark, report: &'r mut Report) -> Self {
        let parser = Parser::new_from_str(text);
        Self { parser, shifts, file, report, anchors: HashMap::new(), nodes: 0 }
    }

    fn documents(&mut self) -> Result<Vec<Node>, Stop> {
        let mut documents = Vec::new();
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(documents),
                // Names of values end with the document.
                Event::DocumentStart(_) => self.anchors.clear(),
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                other => documents.push(self.value(other, span, 1)?.0),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Err(Stop::new(self.file, "the file ends too early")),
        }
    }

    fn syntax(&self, error: &ScanError) -> Stop {
        let hint = if error.info().contains('\t') || error.info().contains("tab") {
            Some("indent with spaces; YAML does not allow tabs")
        } else {
            None
        };
        let marker = error.marker();
        let mark = self.at(marker.line(), marker.col());
        Stop { mark, message: format!("not valid YAML: {}", error.info()), hint, scanned: true }
    }

    fn at(&self, line: usize, column: usize) -> Mark {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let shift = self.shifts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = column.saturating_sub(shift);
        Mark { file: self.file.file, line: number(line), column: number(column.saturating_add(1)) }
    }

    fn mark(&self, span: Span) -> Mark {
        self.at(span.start.line(), span.start.col())
    }

    fn count(&mut self, nodes: usize, mark: Mark) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes <= NODES_MAX {
            return Ok(());
        }
        let message = format!("the file has more than {NODES_MAX} values once its aliases are followed");
        Err(Stop { hint: Some("split it, or use fewer aliases of aliases"), ..Stop::new(mark, message) })
    }

    /// The value that starts with `event`, and how many levels it has.
    fn value(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Parsed, Stop> {
        let mark = self.mark(span);
        let before = self.nodes;
        self.count(1, mark)?;
        check_depth(depth, mark)?;
        let (value, anchor, tag, height) = match event {
            Event::Alias(id) => return self.alias(id, depth, mark),
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain;
                let is_string = tag.as_ref().is_some_and(|t| t.suffix == "str");
                let value = if is_plain && !is_string && is_null(&text) {
                    Value::Null
                } else {
                    Value::Scalar { text: text.into_owned(), plain: is_plain && !is_string }
                };
                (value, anchor, tag, 1)
            }
            Event::SequenceStart(anchor, tag) => {
                let (list, height) = self.sequence(depth)?;
                (Value::List(list), anchor, tag, height)
            }
            Event::MappingStart(anchor, tag) => {
                let (map, height) = self.mapping(depth)?;
                (Value::Map(map), anchor, tag, height)
            }
            _ => return Err(Stop::new(mark, "not valid YAML: a value is missing")),
        };
        let tag = match tag {
            Some(tag) => self.tag(&tag.handle, &tag.suffix, mark),
            None => None,
        };
        let node = Node { value, mark, tag };
        if anchor != 0 {
            let nodes = self.nodes - before;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, height });
            self.count(nodes, mark)?;
        }
        Ok((node, height))
    }

    fn alias(&mut self, id: usize, depth: usize, mark: Mark) -> Result<Parsed, Stop> {
        let Some((nodes, height)) = self.anchors.get(&id).map(|a| (a.nodes, a.height)) else {
            return Err(Stop::new(mark, "the alias stands within its own anchor"));
        };
        self.count(nodes, mark)?;
        check_depth(depth + height - 1, mark)?;
        let node = self.anchors.get(&id).map_or_else(|| Node::null(mark), |a| a.node.clone());
        Ok((node, height))
    }

    fn tag(&mut self, handle: &str, suffix: &str, mark: Mark) -> Option<Tag> {
        match (handle, suffix) {
            ("!", "reset") => Some(Tag::Reset),
            ("!", "override") => Some(Tag::Override),
            ("!" | "", "") => None,
            ("tag:yaml.org,2002:", _) => None,
            _ => {
                let text = format!("unknown tag `{handle}{suffix}`");
                match suggest::nearest(suffix, ["reset", "override"]) {
                    Some(meant) => {
                        self.report.invalid_hint(mark, "", text, format!("did you mean `!{meant}`?"));
                    }
                    None => self.report.note(mark, "", format!("{text} means nothing here")),
                }
                None
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<(Vec<Node>, usize), Stop> {
        let mut list = Vec::new();
        let mut height = 1;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok((list, height));
            }
            let (node, below) = self.value(event, span, depth + 1)?;
            height = height.max(below + 1);
            check_entries(list.len(), node.mark)?;
            list.push(node);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<(Map, usize), Stop> {
        let mut map = Map::default();
        let mut merged: Vec<Node> = Vec::new();
        let mut seen: HashMap<String, u32> = HashMap::new();
        let mut height = 1;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                merge_into(&mut map, merged, seen);
                return Ok((map, height));
            }
            let mark = self.mark(span);
            let is_plain = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, _, _));
            let (key, _) = self.value(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let (value, below) = self.value(event, span, depth + 1)?;
            height = height.max(below + 1);
            let found = key.kind();
            let key = match key.value {
                Value::Scalar { text, plain } if scalar::plain(&text, plain) == Plain::Text => text,
                Value::Scalar { text, .. } => {
                    let message = format!("a key must be a string; this is {found}");
                    self.report.invalid_hint(mark, "", message, format!("write it in quotes: \"{text}\""));
                    continue;
                }
                Value::Null | Value::List(_) | Value::Map(_) => {
                    self.report.invalid(mark, "", format!("a key must be a string; this is {found}"));
                    continue;
                }
            };
            if key == "<<" && is_plain {
                if !merged.is_empty() {
                    let hint = "write one with a list: `<<: [*a, *b]`";
                    self.report.invalid_hint(mark, "", "`<<` stands here twice", hint);
                }
                self.merge_key(value, &mut merged);
            } else if !seen.contains_key(&key) {
                check_entries(seen.len(), mark)?;
                seen.insert(key.clone(), mark.line);
                map.entries.push(Entry { key, mark, value });
            } else {
                let first = seen.get(&key).copied().unwrap_or_default();
                let message = format!("duplicate key `{key}`, first on line {first}");
                self.report.problem(DiagnosticKind::Syntax, mark, "", message, None);
            }
        }
    }

    fn merge_key(&mut self, value: Node, merged: &mut Vec<Node>) {
        let mark = value.mark;
        match value.value {
            Value::Map(_) => merged.push(value),
            Value::List(list) if list.iter().all(|n| n.as_map().is_some()) => merged.extend(list),
            Value::Null | Value::List(_) | Value::Scalar { .. } => {
                self.report.invalid(mark, "", "`<<` takes a mapping or a list of mappings");
            }
        }
    }
}

fn check_entries(before: usize, mark: Mark) -> Result<(), Stop> {
    if before < ENTRIES_MAX {
        return Ok(());
    }
    Err(Stop::new(mark, format!("more than {ENTRIES_MAX} entries in one list or mapping")))
}

fn check_depth(depth: usize, mark: Mark) -> Result<(), Stop> {
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    Err(Stop::new(mark, format!("nested deeper than {DEPTH_MAX} levels")))
}

/// Adds what `<<` brings: keys written in the mapping win, then earlier merged mappings.
fn merge_into(map: &mut Map, merged: Vec<Node>, mut seen: HashMap<String, u32>) {
    for node in merged {
        if let Value::Map(from) = node.value {
            for entry in from.entries {
                if seen.insert(entry.key.clone(), entry.mark.line).is_none() {
                    map.entries.push(entry);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, String> {
        let mut report = Report::default();
        let file = report.add_file("f");
        let node = parse(text, file, &mut report);
        match report.finish() {
            Ok(_) => Ok(node.unwrap()),
            Err(problems) => Err(problems.to_string()),
        }
    }

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".into(),
            Value::Scalar { text, plain: true } => text.clone(),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(list) => format!("[{}]", list.iter().map(show).collect::<Vec<_>>().join(",")),
            Value::Map(map) => {
                let pairs: Vec<String> =
                    map.entries.iter().map(|e| format!("{}:{}", e.key, show(&e.value))).collect();
                format!("{{{}}}", pairs.join(","))
            }
        }
    }

    #[test]
    fn every_value_knows_its_place() {
        let root = read("a:\n  b: [1,\n   x]\n").unwrap();
        assert_eq!(show(&root), "{a:{b:[1,x]}}");
        let b = root.as_map().unwrap().get("a").unwrap().as_map().unwrap().entry("b").unwrap();
        assert_eq!((b.mark.line, b.mark.column), (2, 3));
        let x = &b.value.as_list().unwrap()[1];
        assert_eq!((x.mark.line, x.mark.column), (3, 4));
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let root = read("x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], a: 9}\n").unwrap();
        assert_eq!(show(&root), "{x:{a:1,b:2},y:{b:3,c:4},z:{a:9,b:2,c:4}}");
    }

    #[test]
    fn null_is_null_only_when_plain() {
        assert_eq!(
            show(&read("[~, null, '', \"null\", !!str null]").unwrap()),
            "[~,~,\"\",\"null\",\"null\"]"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        assert_eq!(read("a: 1\nb: 2\na: 3\n").unwrap_err(), "f:3:1: duplicate key `a`, first on line 1");
        assert!(read("a: [1\n").unwrap_err().starts_with("f:"));
        assert!(
            read("a: 1\n1: b\n").unwrap_err().contains("f:2:1: a key must be a string; this is a number")
        );
        assert!(read("a: *nope\n").is_err());
        assert!(read("a: &a [*a]\n").is_err());
        assert!(read("a: !overide x\n").unwrap_err().contains("did you mean `!override`"));
        assert!(read("a: !weird x\n").is_ok());
    }

    #[test]
    fn a_file_has_documents() {
        let mut report = Report::default();
        let file = report.add_file("f");
        let all = |text: &str, report: &mut Report| {
            parse_all(text, file, report).map(|all| all.iter().map(show).collect::<Vec<_>>())
        };
        assert_eq!(all("a: 1\n---\nb: 1\n", &mut report).unwrap(), ["{a:1}", "{b:1}"]);
        assert!(all("# nothing\n", &mut report).unwrap().is_empty());
        assert!(all("a: &a 1\n---\nb: *a\n", &mut report).is_none());
    }

    #[test]
    fn what_other_readers_allow_keeps_its_place() {
        let root = read("a:\n  b: [x,\n  y,\n]\n  c:\t1\n").unwrap();
        assert_eq!(show(&root), "{a:{b:[x,y],c:1}}");
        let b = root.as_map().unwrap().get("a").unwrap().as_map().unwrap().get("b").unwrap();
        let y = &b.as_list().unwrap()[1];
        assert_eq!((y.mark.line, y.mark.column), (3, 3));
    }

    #[test]
    fn hostile_input_is_bounded() {
        let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let row = vec![format!("*a{}", i - 1); 10].join(",");
            laughs.push_str(&format!("a{i}: &a{i} [{row}]\n"));
        }
        assert!(read(&laughs).unwrap_err().contains("more than 200000 values"));
        assert!(read(&"[".repeat(70)).unwrap_err().contains("nested deeper than 64"));
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"- ".repeat(10_000)).is_err());
        assert!(read(&format!("a: [{}]", "x,".repeat(ENTRIES_MAX))).is_ok());
        assert!(
            read(&format!("a: [{}]", "x,".repeat(ENTRIES_MAX + 1))).unwrap_err().contains("10000 entries")
        );
        let keys: String = (0..=ENTRIES_MAX).map(|i| format!("k{i}: 1\n")).collect();
        assert!(read(&keys).unwrap_err().contains("10000 entries"));
    }
}
