//! The whole loader: two Compose files on top of each other, one that is included or extended, and `.env`. What is accepted
//! is printed as YAML and loaded again; with STRICT=1 it must be the same.

#![no_main]

use carrack_compose::{LoadOptions, MemoryFiles, config, load};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.split("\n%%%\n");
    let mut part = || parts.next().unwrap_or_default();
    let files = MemoryFiles::default().with("/app/compose.yaml", part());
    let over = part();
    let files = if over.is_empty() { files } else { files.with("/app/compose.override.yaml", over) };
    let files = files.with("/app/b.yaml", part()).with("/app/.env", part());
    let options = LoadOptions {
        working_dir: "/app".into(),
        project_name: Some("p".into()),
        profiles: vec!["*".into()],
        env: [("HOME".to_owned(), "/home/me".to_owned())].into(),
        ..LoadOptions::default()
    };
    let _ = load(&options, &files);
    match config(&options, &files) {
        Ok(model) => {
            let yaml = model.to_yaml();
            let again = LoadOptions { files: vec!["again.yaml".into()], ..options };
            let files = MemoryFiles(files.0).with("/app/again.yaml", yaml.as_str());
            let again = config(&again, &files);
            // Asked for by whoever looks for differences: STRICT=1.
            if std::env::var_os("STRICT").is_some() {
                let again = again.unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
                assert_eq!(again.model, model.model, "{yaml}");
            }
        }
        Err(problems) => problems.0.iter().for_each(|problem| drop(problem.explain())),
    }
});
