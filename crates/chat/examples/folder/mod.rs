//! The chat templates of a folder.

use forebay_chat::{ChatTemplate, SpecialTokens, TemplateError};

/// The templates in the folder of the command line, sorted by name.
pub(crate) fn templates() -> impl Iterator<Item = (String, Result<ChatTemplate, TemplateError>)> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    paths.sort();
    paths.into_iter().map(|path| {
        let source = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let ends = vec!["<|im_end|>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "</s>"];
        let tokens = SpecialTokens { bos: "<s>", eos: "</s>", control: Vec::new(), ends };
        (name, ChatTemplate::new(&source, &tokens))
    })
}
