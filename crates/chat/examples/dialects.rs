//! Prints what is learned from each chat template in a folder.
#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::unwrap_used, reason = "an example")]

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "jinja")) {
        let source = std::fs::read_to_string(path).unwrap();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        match forebay_chat::ChatTemplate::new(&source, "<s>", "</s>", Vec::new()) {
            Ok(template) => println!(
                "{name}\n    {:?}",
                forebay_chat::Dialect::learn(
                    &template,
                    &["<|im_end|>", "<|END_OF_TURN_TOKEN|>", "<|eot_id|>"]
                )
            ),
            Err(error) => println!("{name}\n    {error}"),
        }
    }
}
