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

/// Whoever follows the map has to arrive.
#[test]
fn every_path_that_the_architecture_names_is_there() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let folders = ["crates/", "tests/", "docs/", "docker/", "config/"];
    let paths = text.split('`').skip(1).step_by(2);
    let paths = paths.filter(|path| folders.iter().any(|folder| path.starts_with(folder)));
    let paths: Vec<&str> = paths.filter(|path| !path.contains([' ', '*', '{'])).collect();
    assert!(paths.len() > 60, "{}", paths.len());
    let lost: Vec<&&str> = paths.iter().filter(|path| !root().join(path).exists()).collect();
    assert!(lost.is_empty(), "{lost:?}");
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
