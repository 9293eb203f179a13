//! What was typed, read as it is meant. Pure: words in, words out.

use std::ffi::OsString;

/// What was typed as it is meant: the `-o FILE` of `image save` is a file, as in Docker, and not a format.
pub(crate) fn as_meant(mut words: Vec<OsString>) -> Vec<OsString> {
    let is = |at: usize, text: &str| words.get(at).is_some_and(|word| word == text);
    let Some(save) = (1..words.len()).find(|at| is(*at, "image") && is(at + 1, "save")) else { return words };
    let format = |text: &std::ffi::OsStr| text == "json" || text == "text";
    for at in save + 2..words.len() {
        let Some(word) = words[at].to_str().map(str::to_owned) else { continue };
        if matches!(word.as_str(), "-o" | "--output") {
            if words.get(at + 1).is_some_and(|next| !format(next)) {
                words[at] = "--file".into();
            }
            continue;
        }
        let given = word
            .strip_prefix("--output=")
            .or_else(|| word.strip_prefix("-o="))
            .or_else(|| word.strip_prefix("-o"));
        if let Some(given) = given.filter(|given| !given.is_empty() && !format(given.as_ref())) {
            words[at] = format!("--file={given}").into();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_an_image_save_is_a_file() {
        let meant = |line: &str| {
            let words = as_meant(line.split(' ').map(OsString::from).collect());
            words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(meant("carrack image save -o web.tar web:1"), "carrack image save --file web.tar web:1");
        assert_eq!(
            meant("carrack image save web:1 --output=web.tar"),
            "carrack image save web:1 --file=web.tar"
        );
        assert_eq!(meant("carrack image save -oweb.tar web"), "carrack image save --file=web.tar web");
        for same in
            ["carrack image save -o json web", "carrack -o json image ls", "carrack exec web image -o save"]
        {
            assert_eq!(meant(same), same);
        }
    }
}
