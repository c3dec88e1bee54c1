//! Text in columns.

use std::fmt;

use super::screen::{Screen, Tone};
use crate::colours::Colours;
use crate::printable::printable;

/// Between two columns.
const GAP: &str = "  ";
/// The last column is not cut shorter than this.
const LEAST: usize = 12;
/// Columns go for the last one to have so many characters.
const LEGIBLE: usize = 40;

/// Columns that a narrow screen goes without, by their numbers from 0, first to last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spare {
    /// Those that say less than the last column: they go before that is cut.
    pub(super) before_cut: &'static [usize],
    /// Those that go for the last column to be legible.
    pub(super) for_legible: &'static [usize],
}

/// Rows of equal length, shown with aligned columns.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

/// One entry of a row.
#[derive(Debug, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

impl Cell {
    /// `text`, which is `tone`.
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl Table {
    /// A table whose first row names the columns.
    pub(super) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(|name| Cell::new(name, Tone::Faint)).into()] }
    }

    /// A table of rows alone.
    pub(super) fn without_heading() -> Self {
        Self::default()
    }

    /// Adds a row; what does not belong in a line is escaped.
    pub(super) fn row<const N: usize, C: Into<Cell>>(&mut self, cells: [C; N]) {
        let escaped = cells.map(|cell| {
            let Cell { text, tone } = cell.into();
            Cell { text: printable(&text), tone }
        });
        self.rows.push(escaped.into());
    }

    /// The table as it fits on `screen`: where it is too wide, columns that say nothing are left out, then those that are
    /// `spare`, until the rest fits with what the last column is to have; then that is cut.
    pub(super) fn on(&self, screen: Screen, spare: Spare) -> String {
        let mut widths = self.widths();
        if let Some(limit) = screen.width {
            self.narrow(&mut widths, limit, spare);
        }
        self.rows.iter().map(|row| line(row, &widths, screen) + "\n").collect()
    }

    /// How wide every column is; `None` of one that is left out.
    fn widths(&self) -> Vec<Option<usize>> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max()
        };
        (0..columns).map(width).collect()
    }

    fn narrow(&self, widths: &mut [Option<usize>], limit: usize, spare: Spare) {
        let says_nothing = |column: usize| {
            self.rows.iter().skip(1).all(|row| row.get(column).is_none_or(|cell| cell.text.is_empty()))
        };
        let last = widths.len().saturating_sub(1);
        let empty = (0..last).filter(|column| says_nothing(*column)).map(|column| (column, usize::MAX));
        let less = spare.before_cut.iter().map(|column| (*column, usize::MAX));
        let others = spare.for_legible.iter().map(|column| (*column, LEGIBLE));
        for (column, kept) in empty.chain(less).chain(others) {
            if excess(widths, limit) <= cuttable(widths, kept) {
                break;
            }
            if let Some(width) = widths.get_mut(column) {
                *width = None;
            }
        }
        let cut = excess(widths, limit).min(cuttable(widths, LEAST));
        if let Some(Some(last)) = widths.last_mut() {
            *last -= cut;
        }
    }
}

/// By how many characters lines are too long.
fn excess(widths: &[Option<usize>], limit: usize) -> usize {
    let shown = widths.iter().flatten().count();
    let gaps = GAP.len() * shown.saturating_sub(1);
    (widths.iter().flatten().sum::<usize>() + gaps).saturating_sub(limit)
}

/// By how many characters the last column can be cut that is to have `kept` of them.
fn cuttable(widths: &[Option<usize>], kept: usize) -> usize {
    widths.last().copied().flatten().unwrap_or(0).saturating_sub(kept)
}

fn line(row: &[Cell], widths: &[Option<usize>], screen: Screen) -> String {
    let shown: Vec<(&Cell, usize)> =
        row.iter().zip(widths).filter_map(|(cell, width)| Some((cell, (*width)?))).collect();
    let filled = shown.iter().rposition(|(cell, _)| !cell.text.is_empty()).map_or(0, |last| last + 1);
    let cells: Vec<String> = shown[..filled]
        .iter()
        .enumerate()
        .map(|(column, (cell, width))| {
            let text = cut(&cell.text, *width);
            // No blanks at the end of a line.
            let blanks = if column + 1 == filled { 0 } else { width - text.chars().count() };
            format!("{}{}", screen.painted(&text, cell.tone), " ".repeat(blanks))
        })
        .collect();
    cells.join(GAP)
}

/// `text` in at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.on(Screen { width: None, colours: Colours::Unused }, Spare::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn screen(width: usize) -> Screen {
        Screen { width: Some(width), colours: Colours::Unused }
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(["ID", "PHASE"]);
        table.row(["web-1".to_owned(), "running".to_owned()]);
        table.row(["a".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "ID     PHASE\nweb-1  running\na\n");
    }

    #[test]
    fn what_stands_in_a_line_stays_in_it() {
        let mut table = Table::new(["REASON"]);
        table.row(["disk \"a\nb\x1b[2J\u{9b}1m\u{202e}x\" é".to_owned()]);
        assert_eq!(table.to_string(), "REASON\ndisk \"a\\nb\\u{1b}[2J\\u{9b}1m\\u{202e}x\" é\n");
    }

    #[test]
    fn a_narrow_screen_shows_what_matters_most() {
        const SPARE: Spare = Spare { before_cut: &[3], for_legible: &[2] };
        let mut table = Table::new(["ID", "READY", "CPU", "IMAGE", "REASON"]);
        let cause = "the guest's kernel panicked: no working init found, try passing init=";
        table.row(["web-1", "", "7 %", "image", cause].map(str::to_owned));
        assert_eq!(table.on(screen(120), SPARE), table.to_string());
        let shown = |width| table.on(screen(width), SPARE).lines().nth(1).map(str::to_owned);
        let line = |text: &str| Some(text.to_owned());
        let whole = |before: &str| Some(format!("{before}{cause}"));
        assert_eq!(shown(90), whole("web-1  7 %  image  "), "what says nothing goes first");
        assert_eq!(shown(85), whole("web-1  7 %  "), "then what says less than the cause");
        let cut = "web-1  7 %  the guest's kernel panicked: no working…";
        assert_eq!(shown(52), line(cut), "then the cause is cut");
        let legible = "web-1  the guest's kernel panicked: no working in…";
        assert_eq!(shown(50), line(legible), "as long as it is legible");
        assert_eq!(shown(1), line("web-1  the guest's…"), "and no more than that");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(["PHASE", "ID"]);
        table.row([Cell::new("failed", Tone::Bad), Cell::new("a", Tone::Plain)]);
        let shown = table.on(Screen { width: Some(80), colours: Colours::Used }, Spare::default());
        assert_eq!(shown, "\x1b[2mPHASE\x1b[0m   \x1b[2mID\x1b[0m\n\x1b[31mfailed\x1b[0m  a\n");
    }
}
