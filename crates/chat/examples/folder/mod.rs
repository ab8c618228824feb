//! The chat templates of a folder.

use forebay_chat::{ChatTemplate, TemplateError};

/// Those in the folder that the command line names: their names in order, and what became of them.
pub(crate) fn templates() -> impl Iterator<Item = (String, Result<ChatTemplate, TemplateError>)> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    paths.sort();
    paths.into_iter().map(|path| {
        let source = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        (name, ChatTemplate::new(&source, "<s>", "</s>", Vec::new()))
    })
}
