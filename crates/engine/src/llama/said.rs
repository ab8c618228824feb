//! What llama.cpp says of its errors: it logs them, and returns only that there was one.

use std::sync::{Mutex, PoisonError};

/// Lines that are kept: the last ones only say that what failed has failed.
const LINES: usize = 4;
/// Characters of a line that are kept: it may quote the file.
const LINE: usize = 200;

/// The first errors since `forget`.
static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes a line of llama.cpp's log that is an error.
pub(super) fn note(line: &str) {
    let mut errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
    let line = clean(line);
    if errors.len() < LINES && !line.is_empty() && !errors.contains(&line) {
        errors.push(line);
    }
}

/// What comes now is about something else.
pub(super) fn forget() {
    ERRORS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// What was said since then; empty if nothing was.
pub(super) fn all() -> String {
    let errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
    errors.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
}

/// A line without the name of the function that logged it, and without what a terminal would obey.
fn clean(line: &str) -> String {
    let is_name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let text = match line.split_once(": ") {
        Some((function, text)) if is_name(function) && function.contains('_') => text,
        _ => line,
    };
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(LINE).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_without_functions_and_controls() {
        assert_eq!(clean("llama_model_load: error: a file: b\n"), "error: a file: b");
        assert_eq!(clean("not a name: b"), "not a name: b");
        assert_eq!(clean("gguf_init: \u{1b}[31mred\n"), "[31mred");
        assert_eq!(clean(&"ä".repeat(500)).chars().count(), LINE);
    }

    /// The only test that notes anything: there is one list.
    #[test]
    fn the_first_lines_stay() {
        forget();
        for n in [1, 1, 2, 3, 4, 5] {
            note(&format!("a_b: {n}\n"));
        }
        note("\n");
        assert_eq!(all(), "1; 2; 3; 4");
        forget();
        assert_eq!(all(), "");
    }
}
