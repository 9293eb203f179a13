//! Tables that fit the terminal. Pure: cells and a width in, text out.

use super::style::{Style, clean, paint};

/// One cell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// The same in a style.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: clean(&text.into()), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::Plain)
    }
}

/// A column's title and whether its cells may be cut to make the table fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    cut: bool,
}

/// A column that is always shown in full.
pub(crate) const fn full(title: &'static str) -> Column {
    Column { title, cut: false }
}

/// A column that may be cut.
pub(crate) const fn cut(title: &'static str) -> Column {
    Column { title, cut: true }
}

/// Spaces between two columns.
const GAP: usize = 2;
/// A cut column keeps at least this many characters.
const CUT_MIN_WIDTH: usize = 8;

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, at most `width` columns wide where cutting can reach that. Columns without any text are left out.
    pub(crate) fn render(&self, width: Option<usize>, colour: bool) -> String {
        let empty = Cell::default();
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&c| {
                self.rows.is_empty() || self.rows.iter().any(|r| r.get(c).is_some_and(|x| !x.text.is_empty()))
            })
            .collect();
        let widths = self.widths(&shown, width);
        let mut out = String::new();
        let header = shown.iter().map(|&c| (self.columns[c].title, Style::Bold)).collect();
        line(&mut out, header, &widths, colour);
        for row in &self.rows {
            let cells = shown.iter().map(|&c| {
                let cell = row.get(c).unwrap_or(&empty);
                (cell.text.as_str(), cell.style)
            });
            line(&mut out, cells.collect(), &widths, colour);
        }
        out
    }

    fn widths(&self, shown: &[usize], limit: Option<usize>) -> Vec<usize> {
        let longest = |c: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(c)).map(|cell| length(&cell.text));
            cells.chain([length(self.columns[c].title)]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = shown.iter().map(|&c| longest(c)).collect();
        let Some(limit) = limit else { return widths };
        let gaps = GAP * shown.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > limit {
            // The widest of those that may be cut gives way first, so that they end up equally readable.
            let widest = (0..shown.len())
                .filter(|&i| self.columns[shown[i]].cut && widths[i] > CUT_MIN_WIDTH)
                .max_by_key(|&i| widths[i]);
            let Some(widest) = widest else { break };
            widths[widest] -= 1;
        }
        widths
    }
}

fn line(out: &mut String, cells: Vec<(&str, Style)>, widths: &[usize], colour: bool) {
    let last = cells.len().saturating_sub(1);
    let mut text = String::new();
    for (i, (cell, style)) in cells.into_iter().enumerate() {
        let cell = shorten(cell, widths[i]);
        let pad = if i == last { 0 } else { widths[i] - length(&cell) + GAP };
        text.push_str(&paint(&cell, style, colour));
        text.push_str(&" ".repeat(pad));
    }
    out.push_str(text.trim_end());
    out.push('\n');
}

/// Characters of a text; wide ones count as one, which only ever makes a table ragged.
pub(crate) fn length(text: &str) -> usize {
    text.chars().count()
}

/// At most `width` characters, the last one an ellipsis when something was cut.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[full("TASK"), full("NODE"), cut("REASON"), full("ID")]);
        table.row(["hello/web.1".into(), "".into(), "no such image: registry says no".into(), "t1".into()]);
        table.row(["a".into(), "".into(), Cell::styled("ok", Style::Good), "t22".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        assert_eq!(
            table().render(None, false),
            "TASK         REASON                           ID\n\
             hello/web.1  no such image: registry says no  t1\n\
             a            ok                               t22\n"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_only_what_may_be_cut() {
        assert_eq!(
            table().render(Some(30), false),
            "TASK         REASON        ID\n\
             hello/web.1  no such ima…  t1\n\
             a            ok            t22\n"
        );
        assert!(table().render(Some(5), false).lines().all(|line| length(line) <= 11 + 2 + 8 + 2 + 3));
    }

    #[test]
    fn colour_does_not_count_as_width_and_control_characters_are_harmless() {
        let mut table = Table::new(&[full("A"), full("B")]);
        table.row([Cell::styled("x\x1b[2J\ny", Style::Bad), "b".into()]);
        let text = table.render(None, true);
        assert!(text.contains("\x1b[31mx\u{fffd}[2J y\x1b[0m  b"), "{text:?}");
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(Table::new(&[full("A"), cut("B")]).render(None, false), "A  B\n");
    }
}
