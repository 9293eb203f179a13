//! Documents made from the specification's JSON schema: whatever the schema allows, a load never panics, the model of what is
//! accepted is the same after a way through YAML, and what is refused names a place.

use carrack_compose::{LoadOptions, MemoryFiles, config, load};
use serde_json::{Map, Value, json};

const SCHEMA: &str = include_str!("reference/schema/compose-spec.draft2020-12.json");
const ROUNDS: u64 = 700;
/// Texts that are something to somebody.
const TEXTS: [&str; 40] = [
    "a",
    "b",
    "nginx:1",
    "10s",
    "1m30s",
    "64m",
    "-1",
    "0",
    "80",
    "8080:80",
    "127.0.0.1:53:53/udp",
    "3000-3005",
    "./x",
    "../y",
    "~/z",
    "/abs",
    "v:/data",
    "data:/x:ro",
    "/a:/b:z,rslave",
    "K=V",
    "K",
    "K=a=b",
    "${A:-d}",
    "$$",
    "$1",
    "true",
    "off",
    "all",
    "service:a",
    "host",
    "0.5",
    "1e3",
    "CMD",
    "default",
    "default=/k",
    "h=1.2.3.4",
    "",
    "two words 'q'",
    "l1\nl2\t\u{7}",
    "ü #: -",
];

/// A small deterministic source of numbers (xorshift64).
struct Maker<'a> {
    schema: &'a Value,
    state: u64,
}

impl<'a> Maker<'a> {
    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % limit.max(1) as u64) as usize
    }

    /// Mostly a text that fits the key.
    fn text(&mut self, key: &str) -> String {
        let fitting: &[&str] = match key {
            "interval" | "timeout" | "start_period" | "start_interval" | "stop_grace_period" | "delay"
            | "monitor" | "window" => &["10s", "1m30s", "500ms"],
            "memory" | "mem_limit" | "mem_reservation" | "memswap_limit" | "shm_size" | "size" | "rate" => {
                &["64m", "1.5gb", "1024"]
            }
            "ports" => &["8080:80", "53:53/udp", "3000-3005"],
            "volumes" => &["data:/x:ro", "./x:/y", "/a:/b:z,rslave", "/anonymous"],
            "networks" | "depends_on" | "secrets" | "configs" | "models" | "links" => &["a", "b"],
            "extra_hosts" => &["h=1.2.3.4", "i:[::1]"],
            "env_file" | "label_file" => &["a", "./b"],
            "restart" => &["always", "on-failure:3"],
            "pull_policy" => &["daily", "every_12h"],
            "container_name" => &["boss"],
            "host_ip" => &["127.0.0.1"],
            "count" => &["all", "2"],
            "replicas" | "scale" | "target" | "published" | "retries" | "cpus" | "weight" | "mode"
            | "soft" | "hard" => &["1", "7"],
            "format" => &["raw"],
            _ => &[
                "a",
                "true",
                "${A:-d}",
                "$$x",
                "K=V",
                "two words 'q'",
                "l1\nl2\t\u{7}",
                "ü #: -",
                "0x10",
                "~",
            ],
        };
        let pool = if self.below(12) == 0 { &TEXTS[..] } else { fitting };
        pool[self.below(pool.len())].to_owned()
    }

    fn value(&mut self, part: &'a Value, key: &str, depth: usize) -> Value {
        if let Some(target) = part["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
            let target = self.schema.pointer(target).expect("the schema refers to itself");
            return self.value(target, key, depth);
        }
        for form in ["oneOf", "anyOf"] {
            if let Some(forms) = part[form].as_array() {
                let form = self.below(forms.len());
                return self.value(&forms[form], key, depth);
            }
        }
        if let Some(words) = part["enum"].as_array() {
            return words[self.below(words.len())].clone();
        }
        let kind = match &part["type"] {
            Value::Array(types) => types[self.below(types.len())].as_str(),
            one => one.as_str(),
        };
        match kind {
            Some("boolean") => json!(self.below(2) == 1),
            Some("integer") => json!(self.below(100)),
            Some("number") => [json!(self.below(5000)), json!(0.5), json!(1.25)][self.below(3)].clone(),
            Some("null") => Value::Null,
            Some("array") => {
                let count = self.below(3);
                (0..count).map(|_| self.value(&part["items"], key, depth + 1)).collect()
            }
            Some("object") => self.object(part, depth),
            _ => json!(self.text(key)),
        }
    }

    fn object(&mut self, part: &'a Value, depth: usize) -> Value {
        let mut out = Map::new();
        let required: Vec<&str> =
            part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, part) in part["properties"].as_object().into_iter().flatten() {
            // A service has some of its hundred keys, what lies deeper more of its few.
            let one_in = if depth < 2 { 30 } else { 2 };
            if required.contains(&name.as_str()) || self.below(one_in) == 0 {
                out.insert(name.clone(), self.value(part, name, depth + 1));
            }
        }
        let patterns = part["patternProperties"].as_object().into_iter().flatten();
        for (_, part) in patterns.filter(|(pattern, _)| *pattern != "^x-") {
            for name in ["a", "b"] {
                if self.below(2) == 0 {
                    out.insert(name.to_owned(), self.value(part, name, depth + 1));
                }
            }
        }
        Value::Object(out)
    }

    /// A whole file: two services that most often have an image, and what they may name.
    fn document(&mut self) -> Value {
        let service = self.schema.pointer("/$defs/service").expect("services are in the schema");
        let mut services = Map::new();
        for name in ["a", "b"] {
            let mut one = if self.below(2) == 0 { json!({}) } else { self.value(service, "", 1) };
            if self.below(8) > 0 {
                one["image"] = json!("nginx:1");
            }
            services.insert(name.to_owned(), one);
        }
        let mut out = json!({
            "services": services, "networks": {"a": {}, "b": null}, "volumes": {"data": {}},
            "secrets": {"a": {"file": "./a"}, "b": {"environment": "HOME"}},
            "configs": {"a": {"content": "x$$y"}, "b": {"file": "b"}}, "models": {"a": {"model": "m"}, "b": {"model": "n"}},
        });
        for section in ["networks", "volumes", "secrets", "configs", "models"] {
            if self.below(12) == 0 {
                out[section] = self.value(&self.schema["properties"][section], section, 1);
            }
        }
        out
    }
}

fn options(file: &str) -> LoadOptions {
    LoadOptions {
        files: vec![file.into()],
        working_dir: "/app".into(),
        project_name: Some("p".into()),
        env: [("HOME".to_owned(), "/home/me".to_owned())].into(),
        profiles: vec!["*".into()],
        ..LoadOptions::default()
    }
}

/// Whether the document is accepted, or what is wrong with our answer.
fn try_document(text: &str) -> Result<bool, String> {
    let files = MemoryFiles::default()
        .with("/app/compose.yaml", text)
        .with("/app/a", "A=1\n")
        .with("/app/b", "B=${A}");
    let loaded = load(&options("compose.yaml"), &files);
    let model = match config(&options("compose.yaml"), &files) {
        Ok(model) => model,
        Err(problems) => {
            let nowhere = problems.0.iter().find(|p| p.line == 0 && !p.message.ends_with("not shown"));
            problems.0.iter().for_each(|p| drop(p.explain()));
            return match nowhere {
                Some(problem) => Err(format!("no place: {problem}")),
                None if loaded.is_ok() => Err(format!("what is no model is deployed: {problems}")),
                None => Ok(false),
            };
        }
    };
    let yaml = model.to_yaml();
    match config(&options("again.yaml"), &files.with("/app/again.yaml", yaml.as_str())) {
        Ok(again) if again.model == model.model => Ok(true),
        Ok(again) => {
            Err(format!("the YAML is another model:\n{yaml}\n{:#}\nis\n{:#}", model.model, again.model))
        }
        Err(problems) => Err(format!("the YAML is refused: {problems}\n{yaml}")),
    }
}

/// What the fuzzer found, so that it stays found.
#[test]
fn what_once_went_wrong_stays_right() {
    for text in
        ["services: {s: {build: {context: '', tags: [x]}}}", "services: {s: {image: i, hostname: ''}}"]
    {
        assert_eq!(try_document(text), Ok(true), "{text}");
    }
}

#[test]
fn documents_of_the_schema_are_loaded_or_refused() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let (mut accepted, mut wrong) = (0, Vec::new());
    for round in 1..=ROUNDS {
        let mut maker = Maker { schema: &schema, state: round.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        let text = maker.document().to_string();
        match std::panic::catch_unwind(|| try_document(&text)) {
            Ok(Ok(is_accepted)) => accepted += usize::from(is_accepted),
            Ok(Err(why)) => wrong.push(format!("round {round}: {why}\nof\n{text}")),
            Err(_) => wrong.push(format!("round {round} panics with\n{text}")),
        }
    }
    println!("{accepted} of {ROUNDS} documents are accepted");
    assert!(wrong.is_empty(), "{} documents:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(accepted * 5 > ROUNDS as usize, "hardly any document is accepted: {accepted} of {ROUNDS}");
}
