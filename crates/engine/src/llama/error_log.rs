//! The reasons of llama.cpp's errors, which it only logs. A process has one log: if models load in parallel, a reason
//! may be another model's.

use std::sync::{Mutex, PoisonError};

/// Lines that are kept: later ones only repeat that loading failed.
const LINES: usize = 4;
/// Characters of a line that are kept: a line may quote the file.
const LINE: usize = 200;

/// The first errors since `clear`.
static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Records a line of llama.cpp's log that is an error.
pub(super) fn record(line: &str) {
    let mut errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
    let line = without_function(line);
    if errors.len() < LINES && !line.is_empty() && !errors.contains(&line) {
        errors.push(line);
    }
}

/// Forgets all errors before an attempt.
pub(super) fn clear() {
    ERRORS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The errors since then, joined; empty if there are none.
pub(super) fn joined() -> String {
    let errors = ERRORS.lock().unwrap_or_else(PoisonError::into_inner);
    errors.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
}

/// A line without the name of the function that logged it, and without control characters.
fn without_function(line: &str) -> String {
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
        assert_eq!(without_function("llama_model_load: error: a file: b\n"), "error: a file: b");
        assert_eq!(without_function("not a name: b"), "not a name: b");
        assert_eq!(without_function("gguf_init: \u{1b}[31mred\n"), "[31mred");
        assert_eq!(without_function(&"ä".repeat(500)).chars().count(), LINE);
    }

    /// The only test that records anything: there is one list.
    #[test]
    fn the_first_lines_stay() {
        clear();
        for n in [1, 1, 2, 3, 4, 5] {
            record(&format!("a_b: {n}\n"));
        }
        record("\n");
        assert_eq!(joined(), "1; 2; 3; 4");
        clear();
        assert_eq!(joined(), "");
    }
}
