//! Prints what is learned from each chat template in a folder.
#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::unwrap_used, reason = "an example")]

mod folder;

fn main() {
    for (name, template) in folder::templates() {
        match template {
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
