//! Whether the calls that each chat template in a folder spells are read, whole and character by
//! character: a line of JSON for each template, with what was read where it is not what was spelled.
#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::unwrap_used, reason = "an example")]

mod spelled;

use serde_json::json;

fn main() {
    let folder = std::env::args().nth(1).unwrap();
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "jinja")) {
        let source = std::fs::read_to_string(path).unwrap();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let Ok(template) = forebay_chat::ChatTemplate::new(&source, "<s>", "</s>", Vec::new())
        else {
            continue;
        };
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
