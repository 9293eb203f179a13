//! What a benchmark found, as a value, as a line of the table, and as an entry of `results.json`.

use std::fmt;

use serde::{Serialize, Serializer};

/// Median, smallest and largest of some measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread(pub [f64; 3]);

impl Spread {
    /// Of these values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = |at: usize| sorted[at / 2];
        Some(Self([f64::midpoint(middle(sorted.len() - 1), middle(sorted.len())), first, last]))
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.0[0]
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, least, most] = self.0.map(short);
        let text = if least == most { median } else { format!("{median} ({least}-{most})") };
        f.pad(&text)
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// What is required.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Nothing.
    None,
    /// The median of ours at most this.
    AtMost(f64),
    /// Ours at most this many times the peer's.
    RatioAtMost(f64),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("-"),
            Self::AtMost(most) => f.pad(&format!("<= {most}")),
            Self::RatioAtMost(most) => f.pad(&format!("ratio <= {most}")),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Begins with the benchmark's name.
    pub name: String,
    /// Of the values.
    pub unit: &'static str,
    /// Median, smallest and largest of ours.
    pub ours: Spread,
    /// The same of the peer, when it was measured.
    pub peer: Option<Spread>,
    /// Who that is.
    pub peer_name: Option<String>,
    /// Ours by the peer's, of the medians.
    pub ratio: Option<f64>,
    /// Measurements of ours.
    pub n: usize,
    /// What is required.
    pub target: Target,
}

impl Figure {
    /// A figure of ours alone.
    ///
    /// # Panics
    /// Without a measurement.
    pub fn new(name: impl Into<String>, unit: &'static str, ours: &[f64]) -> Self {
        let name = name.into();
        let spread = Spread::of(ours).unwrap_or_else(|| panic!("{name} was not measured"));
        Self {
            name,
            unit,
            ours: spread,
            peer: None,
            peer_name: None,
            ratio: None,
            n: ours.len(),
            target: Target::None,
        }
    }

    /// The same beside a peer; without its measurements nothing is said of it.
    #[must_use]
    pub fn beside(mut self, peer_name: &str, peer: &[f64]) -> Self {
        self.peer = Spread::of(peer);
        self.peer_name = self.peer.map(|_| peer_name.to_owned());
        self.ratio = self.peer.map(|peer| self.ours.median() / peer.median());
        self
    }

    /// The same with a target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// Whether the target is met; `None` when there is none or nothing to compare with.
    pub fn is_met(&self) -> Option<bool> {
        match self.target {
            Target::None => None,
            Target::AtMost(most) => Some(self.ours.median() <= most),
            Target::RatioAtMost(most) => Some(self.ratio? <= most),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.name, self.ours, self.unit)?;
        if let (Some(name), Some(peer)) = (&self.peer_name, &self.peer) {
            write!(f, "; {name}: {peer} {}", self.unit)?;
        }
        Ok(())
    }
}

/// All figures as a table for people, which is Markdown too.
pub(super) fn table(figures: &[Figure]) -> String {
    let head = ["name", "unit", "n", "ours: median (min-max)", "peer", "peer's", "ratio", "target", ""];
    let mut rows = vec![head.map(str::to_owned)];
    rows.push(Default::default());
    rows.extend(figures.iter().map(|f| {
        [
            f.name.clone(),
            f.unit.to_owned(),
            f.n.to_string(),
            f.ours.to_string(),
            f.peer_name.clone().unwrap_or_else(|| "-".into()),
            f.peer.map_or("-".into(), |peer| peer.to_string()),
            f.ratio.map_or("-".into(), short),
            f.target.to_string(),
            match f.is_met() {
                Some(true) => "met".into(),
                Some(false) => "MISSED".into(),
                None => String::new(),
            },
        ]
    }));
    let widths: Vec<usize> =
        (0..head.len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    rows[1] = std::array::from_fn(|column| "-".repeat(widths[column]));
    let line = |row: &[String; 9]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("| {} |", cells.join(" | "))
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_written_with_the_names_that_readers_know() {
        let figure =
            Figure::new("x.y", "ms", &[3.0, 1.0, 2.0]).beside("Swarm", &[4.0]).target(Target::AtMost(2.0));
        assert_eq!(
            serde_json::to_string(&figure).unwrap(),
            r#"{"name":"x.y","unit":"ms","ours":[2.0,1.0,3.0],"peer":[4.0,4.0,4.0],"peer_name":"Swarm","ratio":0.5,"n":3,"target":"<= 2"}"#
        );
        assert_eq!(figure.is_met(), Some(true));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of(&[4.0, 1.0]), Some(Spread([2.5, 1.0, 4.0])));
        assert_eq!(Spread::of(&[4.0, 1.0, 9.0]), Some(Spread([4.0, 1.0, 9.0])));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_peer_that_was_not_measured_is_not_named() {
        let figure = Figure::new("x", "s", &[1.0]).beside("Swarm", &[]).target(Target::RatioAtMost(1.0));
        assert_eq!((figure.peer_name.as_deref(), figure.is_met()), (None, None));
        let table = table(&[figure]);
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.lines().all(|line| line.len() == table.lines().next().unwrap().len()), "{table}");
    }
}
