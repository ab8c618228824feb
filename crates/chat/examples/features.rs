//! Prints the features of each chat template in a folder.
#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::unwrap_used, reason = "an example")]

mod folder;

fn main() {
    for (name, template) in folder::templates() {
        match template {
            Ok(template) => println!("{name}\n    {:?}", template.features()),
            Err(error) => println!("{name}\n    {error}"),
        }
    }
}
