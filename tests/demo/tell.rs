//! Plain text, 100 columns or less, bold headings on a terminal only.

use std::io::IsTerminal as _;

/// A new chapter.
pub(crate) fn heading(title: &str) {
    let line = "=".repeat(title.chars().count());
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m{title}\n{line}\x1b[0m\n");
    } else {
        println!("\n{title}\n{line}\n");
    }
}

/// A few lines and an empty one, indented by two; the source's own indentation is taken off.
pub(crate) fn text(lines: &str) {
    for line in lines.lines() {
        let line = line.strip_prefix("         ").unwrap_or(line);
        println!("{}", format!("  {line}").trim_end());
    }
    println!();
}

/// A command as one would type it on `host`, and what it printed.
pub(crate) fn typed(host: &str, command: &str, output: &str) {
    println!("  {host}# {command}");
    quote(output);
}

/// What a program said, word for word.
pub(crate) fn quote(output: &str) {
    for line in output.lines() {
        println!("{}", format!("      {line}").trim_end());
    }
    println!();
}

/// A line of a guard's log without its time, on lines that are not too long.
pub(crate) fn log_line(label: &str, line: &str) {
    const WIDTH: usize = 84;
    let said = line.split_once(' ').map_or(line, |(_time, said)| said.trim_start());
    let mut row = String::new();
    let mut rows = Vec::new();
    for word in said.split(' ').filter(|word| !word.is_empty()) {
        if !row.is_empty() && row.len() + word.len() >= WIDTH {
            rows.push(std::mem::take(&mut row));
        }
        if !row.is_empty() {
            row.push(' ');
        }
        row.push_str(word);
    }
    rows.push(row);
    let indent = " ".repeat(label.len());
    println!("      {label}{}", rows.join(&format!("\n      {indent}")));
}
