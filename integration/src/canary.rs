//! A secret that only this run knows, and the search for it where it must not be: files, memory, command lines, environments,
//! open files, answers. Owns what it looks like in other clothes, and the figures of a search; where to look is the caller's.

use std::fs::{self, File};
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a process's memory that are read at once.
const PART_BYTES: usize = 4 << 20;
/// Largest file that is read whole.
const FILE_MAX_BYTES: u64 = 256 << 20;
/// Files of a process that say what it was given, and what it has mounted.
const SAID: [&str; 5] = ["cmdline", "environ", "comm", "mountinfo", "maps"];

/// A text that nothing else on the machine holds.
#[derive(Debug)]
pub struct Canary {
    text: String,
    forms: Vec<Vec<u8>>,
}

impl Default for Canary {
    fn default() -> Self {
        Self::new()
    }
}

impl Canary {
    /// A new one.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        Self::of(format!("Zcanary-{:x}-{now:x}-secret", std::process::id()))
    }

    fn of(text: String) -> Self {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let list: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
        let mut forms = vec![text.clone().into_bytes(), hex.into_bytes(), list.join(",").into_bytes()];
        for offset in 0..3 {
            let encoded = carrack_api::base64::encode(format!("{}{text}", "x".repeat(offset)).as_bytes());
            // Without what the neighbours change.
            forms.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
        }
        Self { text, forms }
    }

    /// The text; a secret holds it and something of its own.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Plain, in hexadecimal digits, as numbers of a list, or as base64 at each of its three offsets.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| holds(bytes, form))
    }
}

/// The standard library looks for the first byte: this test is not optimised, and looks at a lot.
fn holds(mut bytes: &[u8], form: &[u8]) -> bool {
    let Some((first, rest)) = form.split_first() else { return true };
    loop {
        match bytes.skip_until(*first) {
            Ok(0) | Err(_) => return false,
            Ok(_) if bytes.starts_with(rest) => return true,
            Ok(_) => {}
        }
    }
}

/// What a search has looked at, and where it found the canary.
#[derive(Debug, Default)]
pub struct Looked {
    /// Files.
    pub files: usize,
    /// Bytes of files.
    pub bytes: u64,
    /// Processes.
    pub processes: usize,
    /// Bytes of processes' memory.
    pub memory: u64,
    /// Answers of the API and of commands.
    pub answers: usize,
    /// Where it is.
    pub hits: Vec<String>,
}

impl std::fmt::Display for Looked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { files, bytes, processes, memory, answers, hits } = self;
        let (bytes, memory, hits) = (bytes >> 10, memory >> 10, hits.len());
        write!(
            f,
            "{files} files ({bytes} KiB), {processes} processes ({memory} KiB of memory), {answers} answers: {hits} hits"
        )
    }
}

impl Looked {
    /// An answer, or what a command printed.
    pub fn at_answer(&mut self, canary: &Canary, what: &str, answer: &[u8]) {
        self.answers += 1;
        if canary.is_in(answer) {
            self.hits.push(what.to_owned());
        }
    }

    /// All files at and below a place that `wanted` lets pass, directories likewise. What goes meanwhile is gone.
    pub fn at_files(&mut self, canary: &Canary, place: &Path, wanted: &dyn Fn(&Path, &fs::Metadata) -> bool) {
        let Ok(found) = fs::symlink_metadata(place) else { return };
        if !wanted(place, &found) {
            return;
        }
        if canary.is_in(place.as_os_str().as_encoded_bytes()) {
            self.hits.push(format!("the name {}", place.display()));
        }
        if found.is_dir() {
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                self.at_files(canary, &entry.path(), wanted);
            }
        } else if found.is_file() && found.len() <= FILE_MAX_BYTES {
            let Ok(bytes) = fs::read(place) else { return };
            self.files += 1;
            self.bytes += bytes.len() as u64;
            if canary.is_in(&bytes) {
                self.hits.push(place.display().to_string());
            }
        }
    }

    /// What every process of the machine was given: command line, environment, mounts, names of what it has open.
    pub fn at_processes(&mut self, canary: &Canary) {
        for process in processes() {
            self.processes += 1;
            for name in SAID {
                let file = process.join(name);
                if fs::read(&file).is_ok_and(|bytes| canary.is_in(&bytes)) {
                    self.hits.push(file.display().to_string());
                }
            }
            for open in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
                let target = fs::read_link(open.path()).unwrap_or_default();
                if canary.is_in(target.as_os_str().as_encoded_bytes()) {
                    self.hits.push(format!("{} -> {}", open.path().display(), target.display()));
                }
            }
        }
    }

    /// The memory of a process, but for what is only a file of the disk.
    pub fn at_memory(&mut self, canary: &Canary, process: &Path) {
        let (maps, memory) = (fs::read_to_string(process.join("maps")), File::open(process.join("mem")));
        let (Ok(maps), Ok(memory)) = (maps, memory) else { return };
        let longest = canary.forms.iter().map(Vec::len).max().unwrap_or(0) as u64;
        let mut part = vec![0; PART_BYTES];
        for (mut from, to, name) in maps.lines().filter_map(region) {
            while from < to {
                let wanted = usize::try_from(to - from).unwrap_or(PART_BYTES).min(PART_BYTES);
                let Ok(read @ 1..) = memory.read_at(&mut part[..wanted], from) else { break };
                self.memory += read as u64;
                if canary.is_in(&part[..read]) {
                    self.hits.push(format!("the memory of {} at {from:x} {name}", process.display()));
                }
                // The next part begins before this one ends: nothing is cut in two.
                from += if from + (read as u64) < to {
                    (read as u64).saturating_sub(longest).max(1)
                } else {
                    read as u64
                };
            }
        }
    }
}

/// The directories of all processes.
pub fn processes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    entries.filter(|entry| entry.file_name().to_str().is_some_and(number)).map(|entry| entry.path()).collect()
}

/// A line of `maps` that can be read and is not the plain image of a file: its bounds and what it is.
fn region(line: &str) -> Option<(u64, u64, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    let name = fields.nth(3).unwrap_or("anonymous");
    let plain = name.starts_with('/') && !rights.contains('w');
    if !rights.starts_with('r') || plain || ["[vvar]", "[vsyscall]", "[vvar_vclock]"].contains(&name) {
        return None;
    }
    Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?, name))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn it_is_found_in_all_its_clothes() {
        let canary = Canary::of("Zcanary-1-2-secret".into());
        let text = canary.text();
        for offset in 0..5 {
            let padded = format!("{}{text} and more", "-".repeat(offset));
            assert!(canary.is_in(padded.as_bytes()));
            assert!(canary.is_in(carrack_api::base64::encode(padded.as_bytes()).as_bytes()), "{offset}");
            assert!(canary.is_in(format!("{:?}", padded.as_bytes()).replace(' ', "").as_bytes()));
        }
        assert!(!canary.is_in(b"Zcanary-1-2-secreT ZZZ") && !canary.is_in(b""));
    }

    #[test]
    fn it_is_found_in_files_and_in_memory() {
        let (canary, mut looked) = (Canary::new(), Looked::default());
        let place = tempfile::tempdir().expect("a directory");
        fs::create_dir(place.path().join("below")).expect("a directory below");
        fs::write(place.path().join("below/file"), canary.text()).expect("a file");
        fs::write(place.path().join("other"), "x").expect("a file");
        looked.at_files(&canary, place.path(), &|_, _| true);
        assert_eq!((looked.files, looked.hits.len()), (2, 1), "{looked:?}");
        looked.at_memory(&canary, Path::new("/proc/self"));
        assert!(looked.hits.len() > 1 && looked.memory > 1 << 20, "{looked}");
    }

    #[test]
    fn it_is_found_in_what_a_process_was_given() {
        let (canary, clean) = (Canary::new(), Canary::new());
        let place = tempfile::tempdir().expect("a directory");
        let named = place.path().join(canary.text());
        // It waits for its input.
        let mut child = Command::new("cat")
            .args(["-", canary.text()])
            .env("TOKEN", canary.text())
            .stdin(Stdio::piped())
            .stdout(File::create(&named).expect("its output"))
            .spawn()
            .expect("a process");
        let (mut looked, mut other) = (Looked::default(), Looked::default());
        looked.at_processes(&canary);
        other.at_processes(&clean);
        let _ = child.kill();
        let _ = child.wait();
        let own = format!("/proc/{}/", child.id());
        for part in ["cmdline", "environ", "fd/1"] {
            let hit = |hit: &&String| hit.starts_with(&format!("{own}{part}"));
            assert!(looked.hits.iter().any(|text| hit(&text)), "{part}: {looked:?}");
        }
        assert!(looked.processes > 1 && other.hits.is_empty(), "{other:?}");
        looked.at_answer(&canary, "an answer", format!("{{\"a\": \"{}\"}}", canary.text()).as_bytes());
        assert_eq!(looked.hits.last().map(String::as_str), Some("an answer"));
    }

    #[test]
    fn lines_of_maps_are_read() {
        let heap = "55d0-55ff rw-p 00000000 00:00 0   [heap]";
        assert_eq!(region(heap), Some((0x55d0, 0x55ff, "[heap]")));
        assert_eq!(region("7f00-7f01 rw-p 00000000 00:00 0 "), Some((0x7f00, 0x7f01, "anonymous")));
        assert_eq!(region("7f00-7f01 r-xp 00000000 08:01 12 /bin/x"), None);
        assert_eq!(region("7f00-7f01 ---p 00000000 00:00 0"), None);
    }
}
