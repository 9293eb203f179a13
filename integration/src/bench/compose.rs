//! `compose`: reading Compose files, in this process and from memory: the largest real application among the cases of
//! `compose/tests/reference`, and made-up projects of 10, 100 and 1,000 services, to show how it grows.

use std::fmt::Write as _;
use std::time::Instant;

use carrack_compose::{LoadOptions, MemoryFiles, config, load};

use super::figure::Figure;
use super::{Setting, milliseconds};

const ROUNDS: usize = 20;
const LARGEST: &str =
    include_str!("../../../compose/tests/reference/awesome-compose/pihole-cloudflared-DoH/compose.yaml");

pub(super) fn run(_: &Setting) -> Vec<Figure> {
    let mut figures = measure("largest", LARGEST);
    for services in [10, 100, 1000] {
        figures.extend(measure(&services.to_string(), &project(services)));
    }
    figures
}

/// The canonical model, and the stack that would be deployed.
fn measure(name: &str, text: &str) -> Vec<Figure> {
    let files = MemoryFiles::default().with("/app/compose.yaml", text);
    let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
    let (mut configs, mut loads) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let model = config(&options, &files);
        configs.push(milliseconds(begin.elapsed()));
        assert!(model.is_ok(), "{name}: {}", model.err().map(|e| e.to_string()).unwrap_or_default());
        let begin = Instant::now();
        // Whether all of it can be deployed is not the question; it is decoded to the end either way.
        let _ = load(&options, &files);
        loads.push(milliseconds(begin.elapsed()));
    }
    vec![
        Figure::new(format!("compose.{name}.config"), "ms", &configs),
        Figure::new(format!("compose.{name}.load"), "ms", &loads),
    ]
}

/// A project of so many services with what services usually have.
fn project(services: usize) -> String {
    let mut text = String::from("volumes: {data: {}}\nnetworks: {front: {}, back: {}}\nservices:\n");
    for i in 0..services {
        let _ = write!(
            text,
            "  s{i}:\n    image: nginx:${{TAG:-1.27}}\n    command: [serve, --port, '80']\n    environment: {{A: '1', B: '${{B:-x}}'}}\n    \
             ports: ['{}:80']\n    volumes: ['data:/data']\n    networks: [front, back]\n    restart: always\n    \
             healthcheck: {{test: curl -f localhost, interval: 5s}}\n    labels: [a=b, c]\n    \
             deploy: {{replicas: 2, resources: {{limits: {{memory: 64m, cpus: '0.5'}}}}}}\n",
            20_000 + i
        );
        if i > 0 {
            let _ = writeln!(text, "    depends_on: [s{}]", i - 1);
        }
    }
    text
}
