//! One table, as text and as HTML.

use super::words;

/// Widest line of the text form.
pub(super) const WIDTH: usize = 100;
const GAP: usize = 2;

/// A table: columns, each of words (left) or of numbers (right), and rows of as many cells.
#[derive(Debug, Default)]
pub(super) struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
struct Column {
    title: &'static str,
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// One cell: what it says, and whether that is good or bad.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    mood: Mood,
}

/// Whether what a cell says is good or bad, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Neither.
    Plain,
    /// Good.
    Good,
    /// Bad.
    Bad,
}

impl Mood {
    /// Bad if `bad`, else neither.
    pub(super) fn bad_if(bad: bool) -> Self {
        if bad { Self::Bad } else { Self::Plain }
    }

    /// Good if `good`, else bad.
    pub(super) fn good_if(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), mood: Mood::Plain }
    }
}

/// A cell with a mood.
pub(super) fn cell(text: impl Into<String>, mood: Mood) -> Cell {
    Cell { text: text.into(), mood }
}

impl Grid {
    /// Adds columns of words.
    pub(super) fn words<const N: usize>(mut self, titles: [&'static str; N]) -> Self {
        self.columns.extend(titles.map(|title| Column { title, side: Side::Left }));
        self
    }

    /// Adds columns of numbers.
    pub(super) fn numbers<const N: usize>(mut self, titles: [&'static str; N]) -> Self {
        self.columns.extend(titles.map(|title| Column { title, side: Side::Right }));
        self
    }

    /// Adds a row with one cell per column.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let row: Vec<Cell> = cells.into_iter().collect();
        debug_assert_eq!(row.len(), self.columns.len(), "{row:?}");
        self.rows.push(row);
    }

    /// Whether it has no row.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As lines of at most [`WIDTH`] columns; the widest column of words gives way where that is too little.
    pub(super) fn text(&self) -> String {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| {
                let of_cell =
                    |row: &Vec<Cell>| words::line(&row[i].text, usize::MAX).chars().count();
                self.rows.iter().map(of_cell).max().unwrap_or(0).max(column.title.chars().count())
            })
            .collect();
        let whole: usize = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        let of_words = |(i, _): &(usize, &usize)| self.columns[*i].side == Side::Left;
        let widest = widths.iter().enumerate().filter(of_words).max_by_key(|(_, width)| **width);
        if let (Some(over), Some((widest, _))) = (whole.checked_sub(WIDTH), widest) {
            widths[widest] = widths[widest].saturating_sub(over).max(8);
        }
        let mut lines = self.line(&widths, |i| self.columns[i].title);
        for row in &self.rows {
            lines.push_str(&self.line(&widths, |i| &row[i].text));
        }
        lines
    }

    fn line<'a>(&self, widths: &[usize], text: impl Fn(usize) -> &'a str) -> String {
        let mut line = String::new();
        for (i, (column, &width)) in self.columns.iter().zip(widths).enumerate() {
            let text = words::line(text(i), width);
            line.push_str(&match column.side {
                Side::Left => format!("{text:<width$}"),
                Side::Right => format!("{text:>width$}"),
            });
            line.push_str(&" ".repeat(GAP));
        }
        format!("{}\n", line.trim_end())
    }

    /// As an HTML table.
    pub(super) fn html(&self) -> String {
        let class = |column: &Column, mood: Mood| {
            let side = if column.side == Side::Left { "w" } else { "n" };
            match mood {
                Mood::Plain => side.to_owned(),
                Mood::Good => format!("{side} good"),
                Mood::Bad => format!("{side} bad"),
            }
        };
        let mut html = String::from("<div class=\"scroll\"><table><thead><tr>");
        for column in &self.columns {
            let title = words::escape(column.title);
            html.push_str(&format!(
                "<th scope=\"col\" class=\"{}\">{title}</th>",
                class(column, Mood::Plain)
            ));
        }
        html.push_str("</tr></thead><tbody>");
        for row in &self.rows {
            html.push_str("<tr>");
            for (column, cell) in self.columns.iter().zip(row) {
                let text = words::escape(&cell.text);
                html.push_str(&format!("<td class=\"{}\">{text}</td>", class(column, cell.mood)));
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div>\n");
        html
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_widest_words_give_way() {
        let mut grid = Grid::default().words(["Kind"]).numbers(["Count"]).words(["Example"]);
        grid.row(["cut".into(), "12".into(), "x".repeat(200).into()]);
        grid.row(["timeout".into(), "3".into(), "\x1b[31mred".into()]);
        let text = grid.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Kind     Count  Example");
        assert_eq!(lines[1].chars().count(), WIDTH);
        assert!(lines[1].starts_with("cut         12  xxx") && lines[1].ends_with("x…"), "{text}");
        assert_eq!(lines[2], "timeout      3  [31mred");
    }

    #[test]
    fn html_is_escaped() {
        let mut grid = Grid::default().words(["<th>"]);
        grid.row([cell("<script>", Mood::Bad)]);
        let html = grid.html();
        assert!(
            html.contains("&lt;th&gt;") && html.contains("class=\"w bad\">&lt;script&gt;<"),
            "{html}"
        );
    }
}
