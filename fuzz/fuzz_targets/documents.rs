//! What a registry and an image say in words: manifests, indices, configs, user files, headers.

#![no_main]

use carrack_runtime::image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::documents(data));
