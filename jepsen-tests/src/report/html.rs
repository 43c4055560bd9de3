//! Text into HTML.

use std::fmt::Write;

/// `text` as it must be written between tags and within quotes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in HTML, and logs may hold them.
            '\0'..='\x08' | '\x0b'..='\x1f' | '\x7f' => out.push('\u{fffd}'),
            _ => out.push(letter),
        }
    }
    out
}

/// `text`, or its beginning.
pub(super) fn shortened(text: &str, len_max: usize) -> String {
    if text.chars().count() <= len_max {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(len_max.saturating_sub(1)).collect();
    format!("{beginning}…")
}

/// A table; its cells are text. Columns after the first `text_columns` are numbers.
pub(super) struct Table {
    out: String,
    text_columns: usize,
}

impl Table {
    pub(super) fn new(caption: &str, heads: &[&str], text_columns: usize) -> Self {
        let mut out = format!(
            "<div class=\"scroll\"><table><caption>{}</caption><thead><tr>",
            escape(caption)
        );
        for (column, head) in heads.iter().enumerate() {
            let class = class(column, text_columns);
            // Writing to a string cannot fail.
            let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escape(head));
        }
        out.push_str("</tr></thead><tbody>");
        Self { out, text_columns }
    }

    pub(super) fn row(&mut self, cells: &[String]) {
        self.out.push_str("<tr>");
        for (column, cell) in cells.iter().enumerate() {
            let class = class(column, self.text_columns);
            let _ = write!(self.out, "<td{class}>{}</td>", escape(cell));
        }
        self.out.push_str("</tr>");
    }

    pub(super) fn end(mut self) -> String {
        self.out.push_str("</tbody></table></div>\n");
        self.out
    }
}

fn class(column: usize, text_columns: usize) -> &'static str {
    if column < text_columns {
        ""
    } else {
        " class=\"number\""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_its_place() {
        assert_eq!(
            escape("<script>'x' & \"y\"\0\n</script>"),
            "&lt;script&gt;&#39;x&#39; &amp; &quot;y&quot;\u{fffd}\n&lt;/script&gt;"
        );
        let mut table = Table::new("<b>", &["<i>", "n"], 1);
        table.row(&["<u>".to_owned(), "1".to_owned()]);
        let html = table.end();
        assert!(!html.contains("<b>") && !html.contains("<i>") && !html.contains("<u>"));
        assert!(html.contains("<td class=\"number\">1</td>"), "{html}");
    }

    #[test]
    fn long_text_is_cut_at_a_letter() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }
}
