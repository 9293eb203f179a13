//! All projects of docker/awesome-compose through the mapping and the check for many hosts, as one file to read, `awesome.out`:
//! first what `check` says, then what `deploy` says beside it. `UPDATE_GOLDEN=1 cargo test -p carrack-compose --test awesome` writes it anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use carrack_compose::{DEFAULT_FILES, Finding, Graduation, LoadOptions, MemoryFiles, Note, graduate, load};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// All files below a directory, as if it were at `/NAME`.
fn files(dir: &Path, at: &Path, mut files: MemoryFiles) -> MemoryFiles {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let at = at.join(path.file_name().expect("a name"));
        files = match path.is_dir() {
            true => self::files(&path, &at, files),
            false => match std::fs::read_to_string(&path) {
                Ok(text) => files.with(at.to_str().expect("a path in UTF-8"), text),
                Err(_) => files,
            },
        };
    }
    files
}

/// What the projects have beside what is kept here, as far as their files mount it: one file stands for a directory.
const BESIDE: [&str; 17] = [
    "angular/angular/package.json",
    "apache-php/app/index.php",
    "elasticsearch-logstash-kibana/logstash/nginx.log",
    "nginx-flask-mongo/flask/server.py",
    "prometheus-grafana/grafana/datasource.yml",
    "prometheus-grafana/prometheus/prometheus.yml",
    "react-express-mongodb/backend/package.json",
    "react-express-mongodb/frontend/package.json",
    "react-express-mysql/backend/package-lock.json",
    "react-express-mysql/backend/package.json",
    "react-express-mysql/backend/src/index.js",
    "react-express-mysql/frontend/src/index.js",
    "react-java-mysql/frontend/src/index.js",
    "react-rust-postgres/backend/src/main.rs",
    "react-rust-postgres/frontend/src/index.js",
    "vuejs/vuejs/package.json",
    "wasmedge-mysql-nginx/frontend/index.html",
];

fn report(name: &str, found: &Graduation, notes: &[Note]) -> String {
    let mut out = String::new();
    let verdict = found.worst().map_or("nothing to do", |worst| match worst.stops() {
        true => "must change first",
        false => "can move as it is",
    });
    let _ = writeln!(out, "== {name} ({} services): {verdict}", found.services);
    for finding in &found.findings {
        let (line, key) = (finding.position.line, &finding.key);
        let _ = writeln!(out, "  {:8} {line:3}  {key}: {}", finding.verdict.word(), finding.text);
    }
    // What `deploy` says and the check does not, with what it says when asked for details.
    for note in notes {
        let told = |finding: &Finding| finding.key == note.key && finding.text == note.text;
        if !found.findings.iter().any(told) {
            let word = if note.detail { "detail" } else { "note" };
            let _ = writeln!(out, "  {word:8} {:3}  {}: {}", note.position.line, note.key, note.text);
        }
    }
    out
}

#[test]
fn every_project_of_awesome_compose_has_the_verdict_that_was_reviewed() {
    let root = directory().join("reference/awesome-compose");
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    names.sort();
    assert_eq!(names.len(), 39, "the projects are missing");
    let mut got = String::new();
    let mut deployable = 0;
    for dir in &names {
        let name = dir.file_name().unwrap().to_str().unwrap();
        let at = PathBuf::from("/").join(name);
        let mut files = files(dir, &at, MemoryFiles::default());
        for path in BESIDE.iter().filter(|path| path.starts_with(&format!("{name}/"))) {
            files = files.with(format!("/{path}"), "x");
        }
        assert!(DEFAULT_FILES.iter().any(|file| dir.join(file).is_file()), "{name} has no Compose file");
        let env = [("HOME".to_owned(), "/home/me".to_owned())].into();
        let options = LoadOptions { working_dir: at, env, ..LoadOptions::default() };
        let found = graduate(&options, &files);
        // What cannot be deployed is told by the check, and the other way round.
        let (loaded, notes) = match load(&options, &files) {
            Ok(loaded) => (true, loaded.notes),
            Err(_) => (false, Vec::new()),
        };
        let told = found.findings.iter().all(|f| !["invalid", "refused"].contains(&f.verdict.word()));
        assert_eq!(loaded, told, "{name}: {:?}", load(&options, &files).err());
        deployable += usize::from(loaded);
        got.push_str(&report(name, &found, &notes));
    }
    let _ = writeln!(got, "== {deployable} of {} can be deployed to one host", names.len());
    let golden = directory().join("awesome.out");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &got).unwrap();
    }
    assert_eq!(got, std::fs::read_to_string(&golden).unwrap_or_default(), "awesome.out differs");
}
