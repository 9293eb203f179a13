//! Services that wait for each other in a circle.

use std::collections::BTreeMap;

/// One circle for each that there is, in order of names; each begins with its least name.
pub(super) fn find<'a>(edges: &BTreeMap<&'a str, Vec<&'a str>>) -> Vec<Vec<&'a str>> {
    let mut done: BTreeMap<&str, bool> = BTreeMap::new();
    let mut circles = Vec::new();
    for start in edges.keys() {
        if !done.contains_key(start) {
            walk(start, edges, &mut done, &mut circles);
        }
    }
    circles
}

/// Depth first, without recursion: a chain may be as long as a file has services.
fn walk<'a>(
    start: &'a str,
    edges: &BTreeMap<&'a str, Vec<&'a str>>,
    done: &mut BTreeMap<&'a str, bool>,
    circles: &mut Vec<Vec<&'a str>>,
) {
    let mut path: Vec<(&str, usize)> = vec![(start, 0)];
    done.insert(start, false);
    while let Some((name, next)) = path.last_mut() {
        let Some(target) = edges.get(*name).and_then(|e| e.get(*next)).copied() else {
            done.insert(name, true);
            path.pop();
            continue;
        };
        *next += 1;
        match done.get(target) {
            Some(true) => {}
            Some(false) => {
                let from = path.iter().position(|(n, _)| *n == target).unwrap_or(0);
                let mut circle: Vec<&str> = path[from..].iter().map(|(n, _)| *n).collect();
                let least = circle.iter().enumerate().min_by_key(|(_, n)| **n).map_or(0, |(i, _)| i);
                circle.rotate_left(least);
                circles.push(circle);
            }
            None if edges.contains_key(target) => {
                done.insert(target, false);
                path.push((target, 0));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_and_chains_are_none() {
        let edges = BTreeMap::from([
            ("a", vec!["b"]),
            ("b", vec!["c", "x"]),
            ("c", vec!["b", "nothing"]),
            ("d", vec!["d"]),
            ("x", vec![]),
        ]);
        assert_eq!(find(&edges), [vec!["b", "c"], vec!["d"]]);
        let names: Vec<String> = (0..100_000).map(|i| format!("s{i:06}")).collect();
        let chain: BTreeMap<&str, Vec<&str>> =
            names.windows(2).map(|w| (w[0].as_str(), vec![w[1].as_str()])).collect();
        assert!(find(&chain).is_empty());
    }
}
