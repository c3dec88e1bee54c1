//! Text in columns.

use std::fmt;

use crate::printable::printable;

/// Rows of equal length, shown with aligned columns.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose first row names the columns.
    pub(super) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(str::to_owned).into()] }
    }

    /// A table of rows alone.
    pub(super) fn without_heading() -> Self {
        Self::default()
    }

    /// Adds a row; what does not belong in a line is escaped.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)).into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(formatter, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
