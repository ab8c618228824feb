//! Which source file may use which: no import circle inside a crate, and no use of what a layer must
//! not know. Read from the sources themselves; test code is left out.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use self::source::{Source, Target};

const CRATES: [&str; 5] = ["protocol", "scheduler", "chat", "engine", "server"];

/// Uses that are forbidden: a crate, the modules concerned (`""` is all of the crate), and the paths
/// that they must not use, of other crates or of their own (`crate::routes`).
const FORBIDDEN: &[(&str, &[&str], &[&str])] = &[
    ("protocol", &[""], &["axum", "http", "tokio", "std::thread", "std::fs", "std::net"]),
    ("scheduler", &[""], CLOCKS),
    ("scheduler", &[""], THREADS),
    ("scheduler", &[""], RANDOM),
    ("chat", &[""], &["std::time::Instant", "tokio"]),
    ("chat", &[""], HTTP),
    ("engine", &[""], &["axum", "http", "hyper"]),
    ("server", BELOW_HTTP, HTTP),
    ("server", BELOW_HTTP, &["crate::routes"]),
];
const BELOW_HTTP: &[&str] = &["conversation", "convert", "dialects", "reply", "response_store"];
const CLOCKS: &[&str] = &["std::time::Instant", "std::time::SystemTime", "tokio"];
const THREADS: &[&str] = &[
    "std::thread",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::OnceLock",
    "std::sync::LazyLock",
    "std::sync::mpsc",
    "std::sync::atomic",
];
/// The order of a hash table differs from run to run.
const RANDOM: &[&str] = &[
    "rand",
    "rand_core",
    "rand_chacha",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::hash::RandomState",
];
const HTTP: &[&str] = &["axum", "http", "http_body_util", "hyper", "hyper_util", "tower"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src")
}

/// From each file to the files that it uses, with the names that it takes from them.
type Edges = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn edges(source: &Source) -> Edges {
    let mut edges = Edges::new();
    for (from, target) in source.references() {
        if let Target::Item { file, path } = target
            && file != from
        {
            edges.entry(from.to_owned()).or_default().entry(file).or_default().insert(path);
        }
    }
    edges
}

/// The files that `from` leads to.
fn reach(edges: &Edges, from: &str) -> BTreeSet<String> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(file) = open.pop() {
        let next = edges.get(&file).into_iter().flat_map(BTreeMap::keys);
        open.extend(next.filter(|next| reached.insert((*next).clone())).cloned());
    }
    reached
}

/// Files that lead to each other, each circle sorted.
fn circles(edges: &Edges) -> BTreeSet<Vec<String>> {
    let reached: BTreeMap<_, _> = edges.keys().map(|file| (file, reach(edges, file))).collect();
    let leads = |from: &String, to: &String| reached.get(from).is_some_and(|r| r.contains(to));
    let circle = |file: &&String| {
        let peers = edges.keys().filter(|other| leads(file, other) && leads(other, file));
        peers.cloned().collect::<Vec<_>>()
    };
    edges.keys().filter(|file| leads(file, file)).map(|file| circle(&file)).collect()
}

/// What ties the files of a circle together.
fn ties(circle: &[String], edges: &Edges) -> String {
    let mut text = String::new();
    for from in circle {
        let within = edges[from].iter().filter(|(to, _)| circle.contains(to));
        for (to, names) in within {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            writeln!(text, "    {from} uses {to}: {}", names.join(", ")).unwrap();
        }
    }
    text
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let mut files = 0;
    for name in CRATES {
        let source = Source::read(&folder(name));
        files += source.files().len();
        let edges = edges(&source);
        let ties: Vec<String> = circles(&edges).iter().map(|circle| ties(circle, &edges)).collect();
        assert!(ties.is_empty(), "{name} has {} circles:\n{}", ties.len(), ties.join("\n"));
    }
    assert!(files > 150, "only {files} files were read");
}

/// Whether `path` is `prefix`, or something in it.
fn is_within(path: &str, prefix: &str, separator: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
}

/// The forbidden uses of a crate: file and path.
fn offenders(name: &str) -> BTreeSet<(String, &'static str)> {
    let source = Source::read(&folder(name));
    let mut offenders = BTreeSet::new();
    for (file, target) in source.references() {
        let (Target::Item { path, .. } | Target::External(path)) = target else { continue };
        let module = file.trim_end_matches(".rs");
        let rules = FORBIDDEN.iter().filter(|(of, modules, _)| {
            *of == name && modules.iter().any(|prefix| is_within(module, prefix, "/"))
        });
        let forbidden = rules.flat_map(|(_, _, paths)| *paths);
        let found = forbidden.filter(|forbidden| is_within(&path, forbidden, "::"));
        offenders.extend(found.map(|&forbidden| (file.to_owned(), forbidden)));
    }
    offenders
}

/// A rule for a module that was renamed would hold nothing.
#[test]
fn every_module_of_the_rules_exists() {
    for (name, modules, _) in FORBIDDEN {
        for module in modules.iter().filter(|module| !module.is_empty()) {
            let path = folder(name).join(module).with_extension("rs");
            assert!(path.exists(), "{} does not exist", path.display());
        }
    }
}

#[test]
fn no_layer_uses_what_it_must_not_know() {
    for name in CRATES {
        let found = offenders(name);
        assert!(found.is_empty(), "{name}: must not be used there: {found:#?}");
    }
}
