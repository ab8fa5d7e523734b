//! What commands print: tables for people, JSON for scripts, words for sizes and times.
//!
//! What must hold: standard output carries the answer and nothing else; text that came from
//! elsewhere is shown without its control characters, so that a cell cannot steer a terminal.

use std::io::Write;

use crate::error::CliError;

/// Prints one line, JSON or not. A closed pipe ends the program quietly.
pub(crate) fn line(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(CliError::failed(format!("standard output: {error}"))),
    }
}

/// Prints a JSON value in one line.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string(value).map_err(|error| CliError::failed(error.to_string()))?;
    line(&text)
}

/// Rows under headings, columns aligned, numbers to the right; without a line break at the end.
pub(crate) fn table_text(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |place: usize| {
        let cells = rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(headings[place].len())
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let heading: Vec<String> = headings.iter().map(|text| (*text).to_owned()).collect();
    let mut lines = Vec::with_capacity(rows.len() + 1);
    for row in std::iter::once(&heading).chain(rows) {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            let number = !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
            text += &if number { format!("{pad}{cell}  ") } else { format!("{cell}{pad}  ") };
        }
        lines.push(text.trim_end().to_owned());
    }
    lines.join("\n")
}

/// Text without control characters.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| -> String {
        if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
    };
    text.chars().map(shown).collect()
}

/// Bytes as people say them.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| count >= *size) {
        Some((size, name)) => format!("{:.1} {name}", count as f64 / *size as f64),
        None => format!("{count} B"),
    }
}

/// Milliseconds as people say them.
pub(crate) fn span(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..120_000 => format!("{:.1} s", millis as f64 / 1e3),
        120_000..7_200_000 => format!("{} min", millis / 60_000),
        7_200_000..172_800_000 => format!("{} h", millis / 3_600_000),
        _ => format!("{} d", millis / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["a".into(), "7".into()], vec!["long".into(), "42".into()]];
        assert_eq!(table_text(&["NAME", "N"], &rows), "NAME  N\na      7\nlong  42");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jé\n"), "a\\u{1b}[2Jé\\n");
    }

    #[test]
    fn sizes_and_spans_have_units() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(96 << 20), "96.0 MiB");
        assert_eq!(span(999), "999 ms");
        assert_eq!(span(1_500), "1.5 s");
        assert_eq!(span(600_000), "10 min");
    }
}
