//! The shape of the workspace: which crate may know which, how long files may be, and that every
//! file says what it is for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which of our crates each may depend on.
const EDGES: [(&str, &[&str]); 5] = [
    ("protocol", &[]),
    ("scheduler", &[]),
    ("chat", &["protocol"]),
    ("engine", &["scheduler"]),
    ("server", &["protocol", "chat", "engine"]),
];
/// What must not be in a crate, whoever brings it.
const ABSENT: [(&str, &[&str]); 3] = [
    ("protocol", &["axum", "tokio", "forebay-engine"]),
    ("scheduler", &["tokio", "rand_chacha", "serde_json", "llama-cpp-2"]),
    ("chat", &["tokio", "axum", "llama-cpp-2"]),
];
const MAX_LINES: usize = 600;
/// Documents that name files, beside the decisions.
const GUIDES: [&str; 6] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "README.md",
    "docs/clients.md",
    "docs/operations.md",
    "docs/performance.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn dependencies(name: &str) -> BTreeMap<String, toml::Value> {
    let path = root().join("crates").join(name).join("Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let table = manifest.get("dependencies").and_then(|table| table.as_table());
    table.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[test]
fn crates_know_only_whom_they_may() {
    for (name, allowed) in EDGES {
        let ours = dependencies(name);
        let ours = ours.keys().filter_map(|key| key.strip_prefix("forebay-"));
        for other in ours {
            assert!(allowed.contains(&other), "{name} must not depend on {other}");
        }
    }
    for (name, absent) in ABSENT {
        let all = dependencies(name);
        assert!(absent.iter().all(|a| !all.contains_key(*a)), "{name}: {:?}", all.keys());
    }
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    assert!(files.len() > 40, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines", file.display());
        let tests = file.file_name().is_some_and(|name| name == "tests.rs");
        assert!(tests || text.starts_with("//! "), "{} has no head", file.display());
    }
}

#[test]
fn one_module_names_llama_cpp_and_one_file_holds_what_is_unsafe() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    for file in files.into_iter().filter(|file| !file.ends_with("engine/src/llama.rs")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let within = file.parent().is_some_and(|folder| folder.ends_with("engine/src/llama"));
        for line in code.filter(|_| !file.ends_with("structure.rs")) {
            assert!(within || !line.contains("llama_cpp_2::"), "{}: {line}", file.display());
            assert!(
                !line.contains("unsafe {") && !line.contains("unsafe fn"),
                "{}: {line}",
                file.display()
            );
        }
    }
}

/// `UPDATE_OPENAPI=1 cargo test` writes the files anew.
#[track_caller]
fn check_written(name: &str, made: &str) {
    let path = root().join(name);
    if std::env::vars().any(|(name, _)| name == "UPDATE_OPENAPI") {
        std::fs::write(&path, made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "{name} is not what the code writes; UPDATE_OPENAPI=1 rewrites it");
}

/// The documents that name files of this repository, each with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let decisions = std::fs::read_dir(root().join("docs/decisions")).unwrap();
    let mut paths: Vec<PathBuf> = decisions.map(|entry| entry.unwrap().path()).collect();
    paths.extend(GUIDES.map(|name| root().join(name)));
    let read = |path: PathBuf| (path.clone(), std::fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// What stands between backticks in a text, code blocks aside.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

/// Whether a quoted text is a path from the root of the repository.
fn is_path(quoted: &str) -> bool {
    let folders = ["crates/", "tests/", "docs/", "docker/", "config/"];
    folders.iter().any(|folder| quoted.starts_with(folder))
        && !quoted.contains([' ', '\n', '*', '{', '<'])
}

#[test]
fn every_file_that_the_documents_name_is_there() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    let mut lost = Vec::new();
    for (document, text) in documents() {
        for name in quoted(&text) {
            let is_there = if is_path(name) {
                root().join(name).exists()
            } else {
                let is_source = name.ends_with(".rs") && !name.contains([' ', '\n']);
                !is_source || files.iter().any(|file| file.ends_with(name))
            };
            if !is_there {
                lost.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(lost.is_empty(), "{lost:#?}");
}

#[test]
fn the_architecture_is_a_map_that_leads_to_functions() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.split_whitespace().count() <= 1_200, "it is a map");
    assert!(quoted(&text).filter(|name| is_path(name)).count() >= 25, "too few places");
    let section =
        text.split("\n## Where to find\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let ways: Vec<&str> =
        section.unwrap().lines().filter(|line| line.starts_with("| Where")).collect();
    assert_eq!(ways.len(), 4, "{ways:?}");
    for way in ways {
        let (file, function) = {
            let mut names = quoted(way);
            (names.next().unwrap(), names.next().unwrap())
        };
        let source = std::fs::read_to_string(root().join(file)).unwrap();
        assert!(source.contains(&format!("fn {function}(")), "no function {function} in {file}");
    }
}

#[test]
fn the_openapi_file_is_what_is_served() {
    check_written("openapi.yaml", &forebay_server::openapi().to_yaml().unwrap());
}

#[test]
fn the_reference_is_what_is_served() {
    let reference = forebay_server::reference();
    for field in ["`top_logprobs`", "`previous_response_id`", "`modalities`", "`tool_call_id`"] {
        assert!(reference.contains(field), "{field} is missing");
    }
    check_written("docs/api.md", &reference);
}

#[test]
fn the_example_configuration_is_what_the_tables_write() {
    check_written("config/forebay.toml", &forebay_server::config::example_file());
}
