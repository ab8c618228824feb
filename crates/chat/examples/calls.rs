//! Parses the calls that each chat template in a folder renders, whole and character by
//! character, and prints a line of JSON for each template.
#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::unwrap_used, reason = "an example")]

mod folder;
mod spelled;

use serde_json::json;

fn main() {
    for (name, template) in folder::templates() {
        let Ok(template) = template else { continue };
        let Some((text, calls)) = spelled::spelled(&template) else {
            println!("{}", json!({"template": name, "spells": false}));
            continue;
        };
        let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
        let (whole, split) = (spelled::ours(&template, &[&text]), spelled::ours(&template, &each));
        let read = whole == calls && split == calls;
        println!(
            "{}",
            json!({"template": name, "spells": true, "read": read, "text": text, "whole": whole, "split": split})
        );
    }
}
