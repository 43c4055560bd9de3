//! Standard output: text as the original tools print it, columns, or JSON.
//!
//! Text is printed raw, whatever characters a name has, because scripts compare it with the names
//! that they registered. Columns escape control characters, because a terminal would interpret
//! them.

use std::collections::BTreeSet;
use std::io::{self, Write};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use hearth_cli::{Listing, list_repr, set_repr};
use serde_json::json;

use crate::args::Format;
use crate::outcome::{Outcome, TagStyle};

/// Prints `outcome` and flushes `out`.
pub(crate) fn print(outcome: &Outcome, format: Format, out: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Text => print_text(outcome, out),
        Format::Table => print_table(outcome, out),
        Format::Json => print_json(outcome, out),
    }?;
    out.flush()
}

/// Prints one line and flushes `out`.
pub(crate) fn line(text: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{text}")?;
    out.flush()
}

fn print_text(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    match outcome {
        Outcome::Message { text: None, .. } => Ok(()),
        Outcome::Message {
            text: Some(text), ..
        } => writeln!(out, "{text}"),
        Outcome::Table {
            heading,
            columns,
            rows,
            notes,
            ..
        } => {
            if let Some(heading) = heading {
                writeln!(out, "{}", visible(heading))?;
            }
            write_table(columns, rows, out)?;
            for note in notes {
                writeln!(out, "{}", visible(note))?;
            }
            Ok(())
        }
        Outcome::Entry {
            uri,
            metadata,
            tag_style,
            ..
        } => {
            writeln!(out, "{uri}")?;
            if !metadata.is_empty() {
                writeln!(out, "metadata: {}", tags_repr(metadata, *tag_style))?;
            }
            Ok(())
        }
        Outcome::Listing {
            title,
            listing,
            tag_style,
        } => {
            writeln!(out, "--------START LIST {title}")?;
            for (name, entry) in listing {
                writeln!(out, "{name} --> {}", entry.uri)?;
                if !entry.metadata.is_empty() {
                    writeln!(
                        out,
                        "    metadata: {}",
                        tags_repr(&entry.metadata, *tag_style)
                    )?;
                }
            }
            writeln!(out, "--------END LIST {title}")
        }
    }
}

fn tags_repr(tags: &BTreeSet<String>, style: TagStyle) -> String {
    let tags = tags.iter().map(String::as_str);
    match style {
        TagStyle::List => list_repr(tags),
        TagStyle::Set => set_repr(tags),
    }
}

fn print_table(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    match outcome {
        Outcome::Message { text: None, .. } => Ok(()),
        Outcome::Message {
            text: Some(text), ..
        } => writeln!(out, "{}", visible(text)),
        Outcome::Table { columns, rows, .. } => write_table(columns, rows, out),
        Outcome::Entry {
            name,
            uri,
            metadata,
            ..
        } => write_rows([(name.as_str(), uri.as_str(), metadata)], out),
        Outcome::Listing { listing, .. } => write_rows(rows(listing), out),
    }
}

fn rows(listing: &Listing) -> impl Iterator<Item = (&str, &str, &BTreeSet<String>)> {
    listing
        .iter()
        .map(|(name, entry)| (name.as_str(), entry.uri.as_str(), &entry.metadata))
}

fn write_rows<'a>(
    rows: impl IntoIterator<Item = (&'a str, &'a str, &'a BTreeSet<String>)>,
    out: &mut impl Write,
) -> io::Result<()> {
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(name, uri, metadata)| {
            let tags: Vec<&str> = metadata.iter().map(String::as_str).collect();
            vec![name.to_owned(), uri.to_owned(), tags.join(",")]
        })
        .collect();
    write_table(&["NAME", "URI", "METADATA"], &rows, out)
}

fn write_table(columns: &[&str], rows: &[Vec<String>], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns);
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(cell)));
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The text with its control characters escaped as in Python.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => {
                out.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            plain => out.push(plain),
        }
    }
    out
}

fn print_json(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    let document = match outcome {
        Outcome::Message { json, .. } | Outcome::Table { json, .. } => json.clone(),
        Outcome::Entry {
            name,
            uri,
            metadata,
            ..
        } => json!({"name": name, "uri": uri, "metadata": metadata}),
        Outcome::Listing { listing, .. } => rows(listing)
            .map(|(name, uri, metadata)| json!({"name": name, "uri": uri, "metadata": metadata}))
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use hearth_cli::Registration;

    use super::*;

    fn listing(tag_style: TagStyle) -> Outcome {
        let entry = |uri: &str, tags: &[&str]| Registration {
            uri: uri.into(),
            metadata: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        };
        Outcome::Listing {
            title: "- prefix 'a'".into(),
            listing: Listing::from([
                ("a\u{1b}\nb".into(), entry("PYRO:a@h:1", &["y", "it's"])),
                ("aa".into(), entry("PYRO:long.object.id@h:2", &[])),
            ]),
            tag_style,
        }
    }

    fn printed(outcome: &Outcome, format: Format) -> String {
        let mut out = Vec::new();
        print(outcome, format, &mut out).expect("memory takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn text_is_raw_and_shows_tags_as_python_does() {
        let expected = |tags: &str| {
            format!(
                "--------START LIST - prefix 'a'\na\u{1b}\nb --> PYRO:a@h:1\n    metadata: {tags}\n\
                 aa --> PYRO:long.object.id@h:2\n--------END LIST - prefix 'a'\n"
            )
        };
        let list = printed(&listing(TagStyle::List), Format::Text);
        assert_eq!(list, expected("[\"it's\", 'y']"));
        let set = printed(&listing(TagStyle::Set), Format::Text);
        assert_eq!(set, expected("{\"it's\", 'y'}"));
    }

    #[test]
    fn columns_escape_what_a_terminal_would_obey() {
        let table = printed(&listing(TagStyle::Set), Format::Table);
        insta::assert_snapshot!(table, @r"
        NAME      URI                      METADATA
        a\x1b\nb  PYRO:a@h:1               it's,y
        aa        PYRO:long.object.id@h:2
        ");
    }

    #[test]
    fn json_is_an_array_of_entries() {
        let document = printed(&listing(TagStyle::Set), Format::Json);
        let document: serde_json::Value = serde_json::from_str(&document).expect("json");
        assert_eq!(
            document,
            json!([
                {"name": "a\u{1b}\nb", "uri": "PYRO:a@h:1", "metadata": ["it's", "y"]},
                {"name": "aa", "uri": "PYRO:long.object.id@h:2", "metadata": []},
            ])
        );
    }
}
