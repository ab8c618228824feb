//! The text of `config/forebay.toml`, written from the tables.

use std::fmt::{self, Write as _};

use super::sections::sections;
use super::setting::Section;

const HEAD: &str = "\
# Every setting of Forebay with its default. This file is written from the tables in crates/server/src/config.
#
# Each can also be given in the environment (FOREBAY_SERVER__PORT=9000) and, for the common ones,
# as a flag (--port 9000). Flags win over the environment, the environment over the file, the file
# over the defaults. `forebay check-config` shows what results; an unknown key is an error.
";

/// What marks a setting as commented out.
pub(super) const COMMENTED: &str = "#: ";

/// The text of `config/forebay.toml`.
pub fn example_file() -> String {
    let mut out = HEAD.to_owned();
    for section in sections() {
        // Writing to a String cannot fail.
        let _ = match section.name {
            "model" => write_section(&section, "[[model]]", COMMENTED, &mut out),
            name => write_section(&section, &format!("[{name}]"), "", &mut out),
        };
    }
    out
}

/// Writes a section. Its title and its settings follow `mark`.
fn write_section(section: &Section, title: &str, mark: &str, out: &mut String) -> fmt::Result {
    writeln!(out)?;
    write_comments(section.about, out)?;
    if !mark.is_empty() {
        writeln!(out, "# To use this example, remove the {mark:?} in front.")?;
    }
    writeln!(out, "{mark}{title}")?;
    for setting in &section.settings {
        write_comments(setting.docs, out)?;
        let value = setting.example.as_ref().unwrap_or(&setting.default);
        writeln!(out, "{mark}{} = {value}", setting.name)?;
    }
    Ok(())
}

/// Writes lines of documentation, which begin with a space.
fn write_comments(lines: &[&str], out: &mut String) -> fmt::Result {
    lines.iter().try_for_each(|line| writeln!(out, "#{line}"))
}
