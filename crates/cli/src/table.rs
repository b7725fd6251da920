//! Aligned tables for people.

/// Rows of cells, aligned under their heads. The last column is not padded.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// Heads; one that begins with `>` stands for a column of numbers, aligned right.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let right = heads.iter().map(|head| head.starts_with('>')).collect();
        let heads = heads.iter().map(|head| head.trim_start_matches('>').to_owned()).collect();
        Table { rows: vec![heads], right }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // A line feed or an escape in a cell would break the table, or drive the terminal.
        let shown = |cell: String| cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// The lines, each with its line feed.
    pub(crate) fn render(&self) -> String {
        let width = |cell: &String| cell.chars().count();
        let columns = self.right.len();
        let widths: Vec<usize> = (0..columns)
            .map(|at| self.rows.iter().filter_map(|row| row.get(at)).map(width).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths.get(at).map_or(0, |widest| widest.saturating_sub(width(cell))));
                let gap = if at == 0 { "" } else { "  " };
                match self.right.get(at) {
                    Some(true) => line.push_str(&format!("{gap}{pad}{cell}")),
                    _ => line.push_str(&format!("{gap}{cell}{pad}")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", ">COUNT", "WHAT"]);
        table.row(["a".into(), "1,000".into(), "x\ny".into()]);
        table.row(["longer".into(), "2".into(), String::new()]);
        assert_eq!(table.render(), "NAME    COUNT  WHAT\na       1,000  x\u{fffd}y\nlonger      2\n");
    }
}
