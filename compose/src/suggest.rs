//! "Did you mean": the known word nearest to what was written.

/// The nearest of the known words, when it is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const WORD_MAX_CHARS: usize = 40;
    let written: Vec<char> = word.to_lowercase().replace('-', "_").chars().collect();
    if written.len() > WORD_MAX_CHARS {
        return None;
    }
    let allowed = (written.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (distance(&written, &candidate.chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits between two words; swapped neighbours count as one.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_word_meant() {
        let known = ["ports", "profiles", "image", "environment", "healthcheck", "depends_on"];
        let cases = [
            ("prots", Some("ports")),
            ("port", Some("ports")),
            ("enviroment", Some("environment")),
            ("health_check", Some("healthcheck")),
            ("depends-on", Some("depends_on")),
            ("Image", Some("image")),
            ("wrongField", None),
            ("x", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
