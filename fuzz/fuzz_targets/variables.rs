//! Interpolation and the files of variables: `.env`, `env_file` in both formats, `label_file`. With STRICT=1 a value is the
//! same after a way through YAML.

#![no_main]

use carrack_compose::{LoadOptions, MemoryFiles, config};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (template, variables) = text.split_once('\n').unwrap_or((text, ""));
    // A text in YAML's double quotes, whatever is in it.
    let quoted: String = template.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
    let file = format!(
        "services: {{s: {{image: i, hostname: \"{quoted}\", label_file: a, env_file: [a, {{path: a, format: raw}}]}}}}"
    );
    for names in [&["/app/.env"][..], &["/app/a"], &["/app/.env", "/app/a"]] {
        let mut files = MemoryFiles::default().with("/app/compose.yaml", file.as_str()).with("/app/a", "");
        for name in names {
            files = files.with(*name, variables);
        }
        let options = LoadOptions { working_dir: "/app".into(), ..LoadOptions::default() };
        if let Ok(model) = config(&options, &files) {
            // Whatever `$` is left in the value is one: the YAML says so.
            let files = files.with("/app/compose.yaml", model.to_yaml());
            let again = config(&options, &files);
            if std::env::var_os("STRICT").is_some() {
                let again = again.unwrap_or_else(|problems| panic!("{problems}"));
                let name = "/services/s/hostname";
                assert_eq!(again.model.pointer(name), model.model.pointer(name));
            }
        }
    }
});
