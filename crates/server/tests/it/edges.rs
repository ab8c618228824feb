//! Which source file may use which: no import circle inside a crate, and no use of what a layer must
//! not know. Read from the sources themselves; test code is left out.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use self::source::{Source, Target};

const CRATES: [&str; 5] = ["protocol", "scheduler", "chat", "engine", "server"];

/// Import circles that are still there: a crate, and the files of one circle, sorted.
///
/// This list only ever shrinks, and it is exact: when you break a circle, delete its entry; when you
/// make it smaller or rename a file of it, replace the entry by the one that the failing test prints.
/// `cargo test --release --locked -p forebay-server --features forebay-engine/scripted --test it -- edges`
const KNOWN: &[(&str, &[&str])] = &[
    ("protocol", &["chat.rs", "completion.rs"]),
    (
        "scheduler",
        &[
            "call_costs.rs",
            "generation.rs",
            "generation/fairness.rs",
            "generation/sequence.rs",
            "queue.rs",
            "step.rs",
            "step_budget.rs",
        ],
    ),
    ("scheduler", &["cost.rs", "learned_costs.rs"]),
    ("scheduler", &["kv.rs", "kv/host.rs", "kv/long.rs"]),
    ("chat", &["argument.rs", "parameters.rs"]),
    (
        "chat",
        &[
            "calls.rs",
            "calls/named.rs",
            "calls/object.rs",
            "calls/spelling.rs",
            "channels.rs",
            "dialect.rs",
            "dialect/learn.rs",
            "pattern.rs",
            "template.rs",
            "thoughts.rs",
        ],
    ),
    ("chat", &["rewriting.rs", "template/limits.rs"]),
    (
        "engine",
        &[
            "compiler.rs",
            "costs.rs",
            "deadlines.rs",
            "draw.rs",
            "embed.rs",
            "events.rs",
            "grammar.rs",
            "grammar/kept.rs",
            "grammar/lark_cost.rs",
            "grammar/limits.rs",
            "grammar/number_bound.rs",
            "grammar/schema_cost.rs",
            "handle.rs",
            "host.rs",
            "hub.rs",
            "layout.rs",
            "lib.rs",
            "llama.rs",
            "llama/embedding.rs",
            "llama/generation.rs",
            "llama/gpus.rs",
            "llama/header.rs",
            "llama/metadata.rs",
            "llama/place.rs",
            "logprobs.rs",
            "long.rs",
            "lookup.rs",
            "message.rs",
            "model.rs",
            "process.rs",
            "process/child.rs",
            "process/ledger.rs",
            "process/parent.rs",
            "process/remote.rs",
            "process/running.rs",
            "request.rs",
            "sampling.rs",
            "scripted.rs",
            "sequence.rs",
            "status.rs",
            "thinking.rs",
            "vocab.rs",
            "worker.rs",
            "worker/cost_reports.rs",
        ],
    ),
    (
        "server",
        &[
            "background.rs",
            "conversation.rs",
            "convert.rs",
            "convert/grammar.rs",
            "convert/metadata.rs",
            "convert/prepare.rs",
            "convert/prompt.rs",
            "convert/sampling.rs",
            "convert/schema.rs",
            "convert/schema/closing.rs",
            "convert/schema/relax.rs",
            "convert/schema/rewrite.rs",
            "convert/tokens.rs",
            "convert/tools.rs",
            "cost.rs",
            "dialects/chat/encode.rs",
            "dialects/chat/request.rs",
            "dialects/messages/encode.rs",
            "dialects/messages/request.rs",
            "dialects/responses/encode.rs",
            "dialects/responses/encode/event.rs",
            "dialects/responses/encode/item.rs",
            "dialects/responses/encode/object.rs",
            "dialects/responses/items.rs",
            "error.rs",
            "extract.rs",
            "generations.rs",
            "metrics.rs",
            "observe.rs",
            "origin.rs",
            "pool.rs",
            "registry.rs",
            "reply.rs",
            "routes/chat.rs",
            "routes/messages.rs",
            "sse.rs",
            "state.rs",
            "store.rs",
            "work.rs",
        ],
    ),
    ("server", &["cli.rs", "lib.rs", "shutdown.rs"]),
    ("server", &["listen.rs", "listen/connection.rs"]),
];

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
    ("server", &["conversation", "convert", "dialects", "reply", "store"], HTTP),
    ("server", &["conversation", "convert", "dialects", "reply", "store"], &["crate::routes"]),
];
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

/// Forbidden uses that are still there: a crate, a file, and the forbidden path. Exact, and shrinks
/// as `KNOWN` does.
const OFFENDERS: &[(&str, &str, &str)] = &[
    ("server", "convert.rs", "axum"),
    ("server", "convert/completion.rs", "axum"),
    ("server", "convert/prepare.rs", "axum"),
    ("server", "convert/schema/not_enforced.rs", "axum"),
    ("server", "store.rs", "axum"),
];

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
    let (mut problems, mut files) = (String::new(), 0);
    for name in CRATES {
        let source = Source::read(&folder(name));
        files += source.files().len();
        let edges = edges(&source);
        let circles = circles(&edges);
        let known = KNOWN.iter().filter(|(of, _)| *of == name);
        let known: BTreeSet<Vec<String>> =
            known.map(|(_, files)| files.iter().map(|&file| file.to_owned()).collect()).collect();
        for circle in circles.difference(&known) {
            let ties = ties(circle, &edges);
            writeln!(problems, "not in KNOWN:\n(\"{name}\", &{circle:?}),\n{ties}").unwrap();
        }
        for circle in known.difference(&circles) {
            writeln!(problems, "no longer there, remove it:\n(\"{name}\", &{circle:?}),").unwrap();
        }
    }
    assert!(files > 150, "only {files} files were read");
    assert!(problems.is_empty(), "{problems}");
}

/// Whether `path` is `prefix`, or something in it.
fn is_within(path: &str, prefix: &str, separator: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
}

/// The forbidden uses of a crate, as in `OFFENDERS`.
fn offenders(name: &'static str) -> BTreeSet<(&'static str, String, &'static str)> {
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
        offenders.extend(found.map(|&forbidden| (name, file.to_owned(), forbidden)));
    }
    offenders
}

#[test]
fn no_layer_uses_what_it_must_not_know() {
    let found: BTreeSet<_> = CRATES.into_iter().flat_map(offenders).collect();
    let listed: BTreeSet<_> =
        OFFENDERS.iter().map(|&(name, file, path)| (name, file.to_owned(), path)).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    assert!(new.is_empty(), "must not be used there: {new:#?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "no longer there, remove it from OFFENDERS: {gone:#?}");
}
