//! Whatever the input, a load ends with a stack or with problems: no panic, no hang, bounded work.

use carrack_compose::{LoadOptions, MemoryFiles, load};

const SEEDS: [&str; 4] = [
    include_str!("../../examples/hello/compose.yaml"),
    include_str!("cases/full.yaml"),
    include_str!("cases/wordpress.yaml"),
    "x: &x {a: [1, *y]}\nservices: {s: {<<: *x, extends: {service: t}, image: '${A:-${B:?c}}'}, t: {build: .}}\n",
];
/// What files of this sort are made of; spliced in at random places.
const PIECES: [&str; 24] = [
    "&a ",
    "*a",
    "<<: ",
    "!reset ",
    "!override ",
    "${",
    "${A:-",
    "}",
    "$$",
    "$",
    "[",
    "]",
    "{",
    "}",
    ": ",
    "\n  ",
    "- ",
    "'",
    "\"",
    "\u{feff}",
    "ü",
    "\0",
    "99999999999999999999",
    "-",
];
const ROUNDS: usize = 4000;

/// A small deterministic source of numbers (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

fn mutate(text: &str, numbers: &mut Numbers) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(chars.len());
        match numbers.below(4) {
            0 => chars.truncate(at),
            1 => {
                let end = (at + numbers.below(12)).min(chars.len());
                chars.drain(at..end);
            }
            2 => {
                let piece = PIECES[numbers.below(PIECES.len())];
                chars.splice(at..at, piece.chars());
            }
            _ => {
                let from = numbers.below(chars.len());
                let copy: Vec<char> = chars[from..(from + numbers.below(60)).min(chars.len())].to_vec();
                chars.splice(at..at, copy);
            }
        }
    }
    chars.into_iter().collect()
}

fn try_load(text: &str, extra: &str) -> bool {
    let files = MemoryFiles::default()
        .with("/app/compose.yaml", text)
        .with("/app/compose.override.yaml", extra)
        .with("/app/.env", extra.lines().next().unwrap_or_default());
    let options =
        LoadOptions { working_dir: "/app".into(), profiles: vec!["*".into()], ..LoadOptions::default() };
    load(&options, &files).is_ok()
}

#[test]
fn mutated_files_never_panic() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..ROUNDS {
        let text = mutate(SEEDS[round % SEEDS.len()], &mut numbers);
        let extra = mutate(SEEDS[numbers.below(SEEDS.len())], &mut numbers);
        // A panic shows the file that made it.
        let result = std::panic::catch_unwind(|| try_load(&text, &extra));
        assert!(result.is_ok(), "round {round} panics with:\n{text}\n--- and\n{extra}");
    }
}

#[test]
fn what_would_grow_without_bounds_is_refused() {
    let mut laughs = String::from("services: {s: {image: i}}\nx-0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..40 {
        let row = vec![format!("*a{}", i - 1); 10].join(",");
        laughs.push_str(&format!("x-{i}: &a{i} [{row}]\n"));
    }
    for hostile in [
        laughs,
        "[".repeat(1_000_000),
        "{a: ".repeat(200_000),
        "- ".repeat(200_000),
        format!("services: {{s: {{image: '{}'}}}}", "${A:-".repeat(100_000)),
        format!("services: {{s: {{image: i, ports: [{}]}}}}", "'1-4000',".repeat(20_000)),
        format!(
            "services: {{b: {{image: i, labels: {{{}}}}}, {}}}",
            (0..50_000).map(|i| format!("l{i}: x")).collect::<Vec<_>>().join(","),
            (0..900).map(|i| format!("s{i}: {{extends: b}}")).collect::<Vec<_>>().join(","),
        ),
        format!("services: {{s: {{image: i, command: {}}}}}", "a ".repeat(1_000_000)),
        format!("services: {{s: {{image: i, volumes: [{}]}}}}", "/a:/b,".repeat(100_000)),
        format!("services: {{{}}}", (0..50_000).map(|i| format!("s{i}: {{}}")).collect::<Vec<_>>().join(",")),
    ] {
        assert!(!try_load(&hostile, "services: {s: {image: i}}"));
    }
}
