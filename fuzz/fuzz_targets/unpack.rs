//! A layer of any content, unpacked by the code of the confined child: no panic, no hang, and
//! nothing outside the directory that it is unpacked into.

#![no_main]

use std::fs;

use carrack_runtime::image::fuzzing;
use libfuzzer_sys::fuzz_target;

/// What a file beside the root holds, which no layer may change.
const CANARY: &str = "untouched";

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let (root, canary) = (dir.path().join("root"), dir.path().join("canary"));
    fs::create_dir(&root).expect("a root");
    fs::write(&canary, CANARY).expect("a canary");
    fuzzing::unpack(data, &root);
    assert_eq!(fs::read_to_string(&canary).expect("the canary"), CANARY);
    assert_eq!(
        fs::read_dir(dir.path()).expect("the directory").count(),
        2,
        "something stands beside the root"
    );
});
