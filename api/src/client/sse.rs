//! Server-sent events: bytes in, events out. Only the fields our server writes: `id`, `event`, `data`, and comments.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SseEvent {
    /// Its name; `message` when the server gave none.
    pub event: String,
    /// Its data, lines joined by newlines.
    pub data: String,
    /// Its id, to resume after it.
    pub id: Option<String>,
}

/// Longest event kept while it arrives, bytes.
const EVENT_MAX_BYTES: usize = 64 << 20;

/// Takes bytes as they arrive and gives whole events.
#[derive(Debug, Default)]
pub struct SseParser {
    buffer: Vec<u8>,
}

impl SseParser {
    /// Adds bytes; `false` when an event is too long to be one of ours.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.buffer.extend_from_slice(bytes);
        self.buffer.len() <= EVENT_MAX_BYTES
    }

    /// The next whole event, comments left out.
    pub fn next_event(&mut self) -> Option<SseEvent> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
            let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
            if let Some(event) = parse(&String::from_utf8_lossy(&block)) {
                return Some(event);
            }
        }
    }
}

fn parse(block: &str) -> Option<SseEvent> {
    let mut event = SseEvent { event: "message".into(), ..Default::default() };
    let mut data: Vec<&str> = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.event = value.into(),
            "data" => data.push(value),
            "id" => event.id = Some(value.into()),
            _ => {}
        }
    }
    event.data = data.join("\n");
    (!data.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_and_comments_do_not() {
        let text = b": keep-alive\n\nid: 7\nevent: stack\ndata: {\"a\":1}\n\ndata: x\ndata: y\n\n";
        for step in [1, 4, text.len()] {
            let mut parser = SseParser::default();
            let mut events = Vec::new();
            for chunk in text.chunks(step) {
                assert!(parser.push(chunk));
                while let Some(event) = parser.next_event() {
                    events.push(event);
                }
            }
            assert_eq!(events.len(), 2, "step {step}");
            assert_eq!((events[0].event.as_str(), events[0].id.as_deref()), ("stack", Some("7")));
            assert_eq!(events[1].data, "x\ny");
        }
    }
}
