//! The house as `ARCHITECTURE.md` draws it: imports point down `src/lib.rs`, no two files need each other, and the engine knows
//! neither HTTP nor Google.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::support::rust::{Source, Token, tokens};

/// Folders that turn files into snapshots and back. They know no HTTP, no command line and no Google; `store/gcs` and
/// `store/open.rs` are where buckets begin.
const ENGINE: [&str; 13] = [
    "vault",
    "store",
    "sqlite",
    "source",
    "backup",
    "restore",
    "retention",
    "verify",
    "inspect",
    "export",
    "replicas",
    "epochs",
    "parallel",
];
/// Files of the engine that may.
const BUCKETS: [&str; 2] = ["store::gcs", "store::open"];
/// Names that the format's code does without: it reads no clock and no environment, and starts no thread.
const NOT_IN_VAULT: [&str; 6] = ["thread", "SystemTime", "Instant", "env", "tokio", "reqwest"];

/// A module of the library, without its tests.
struct Module {
    /// Its path, `backup::parent`.
    path: Vec<String>,
    /// Declared with `pub`: one that is not belongs to its parent's file, over which it spreads.
    public: bool,
    /// Whether its file is a folder's `mod.rs`, or the crate's root.
    is_folder: bool,
    source: Source,
}

/// Returns every module of the library that is compiled without tests.
fn modules() -> Vec<Module> {
    let mut found = Vec::new();
    let mut left = vec![(PathBuf::from("src/lib.rs"), Vec::new(), true)];
    while let Some((file, path, public)) = left.pop() {
        let source = Source::read(&file);
        let is_folder = matches!(file.file_name().and_then(|name| name.to_str()), Some("mod.rs" | "lib.rs"));
        let beside = if is_folder { file.parent().unwrap().to_path_buf() } else { file.with_extension("") };
        for (name, public) in source.children() {
            let flat = beside.join(format!("{name}.rs"));
            let file = if flat.exists() { flat } else { beside.join(&name).join("mod.rs") };
            left.push((file, [path.clone(), vec![name]].concat(), public));
        }
        found.push(Module { path, public, is_folder, source });
    }
    assert!(found.len() > 200, "only {} modules were found", found.len());
    found
}

/// Returns the modules that each module names, but for what it only passes on with `pub use`.
fn imports(modules: &[Module]) -> BTreeMap<&[String], BTreeSet<&[String]>> {
    let known: BTreeSet<&[String]> = modules.iter().map(|module| &*module.path).collect();
    let of = |module: &Module| {
        let named = module.source.paths(&module.path);
        let nearest = |path: &Vec<String>| (0..=path.len()).rev().find_map(|n| known.get(&path[..n]).copied());
        named.iter().filter_map(nearest).filter(|other| !other.is_empty() && *other != &*module.path).collect()
    };
    modules.iter().map(|module| (&*module.path, of(module))).collect()
}

#[test]
fn imports_point_down_the_list_of_modules() {
    let modules = modules();
    let root = modules.iter().find(|module| module.path.is_empty()).unwrap();
    let order: Vec<String> = root.source.children().into_iter().map(|(name, _)| name).collect();
    let rank = |path: &[String]| order.iter().position(|name| *name == path[0]).unwrap();
    let mut up = Vec::new();
    for (from, to) in imports(&modules).iter().filter(|(from, _)| !from.is_empty()) {
        up.extend(to.iter().filter(|to| rank(to) < rank(from)).map(|to| [from.join("::"), to.join("::")].join(" → ")));
    }
    assert!(up.is_empty(), "these imports point up the list in src/lib.rs:\n{}", up.join("\n"));
}

#[test]
fn no_two_files_need_each_other() {
    let modules = modules();
    // A file and its private modules are one: an `impl` may be spread over them.
    let unit = |path: &[String]| {
        let mut path = path.to_vec();
        while let Some(module) = modules.iter().find(|module| module.path == path)
            && let Some(parent) = modules.iter().find(|parent| parent.path == path[..path.len().saturating_sub(1)])
            && !module.public
            && !parent.is_folder
        {
            path.pop();
        }
        path
    };
    let mut needs: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (from, to) in imports(&modules) {
        for to in to {
            let (one, other) = match unit(from) == unit(to) {
                // A part needs the whole that it is of, but its parts do not need each other in a circle.
                true if from.starts_with(to) || to.starts_with(from) => continue,
                true => (from.to_vec(), to.to_vec()),
                false => (unit(from), unit(to)),
            };
            needs.entry(one).or_default().insert(other);
        }
    }
    let circles = circles(&needs);
    assert!(circles.is_empty(), "these need each other:\n{}", circles.join("\n"));
}

/// Returns the nodes that lie on a circle, each with what it needs on its way round.
fn circles(needs: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    let reach = |from: &Vec<String>| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(node) = left.pop() {
            left.extend(needs.get(node).into_iter().flatten().filter(|next| seen.insert((*next).clone())));
        }
        seen
    };
    let reached: BTreeMap<_, _> = needs.keys().map(|node| (node, reach(node))).collect();
    let mut found = Vec::new();
    for (node, next) in needs {
        let back = next.iter().filter(|next| reached.get(next).is_some_and(|seen| seen.contains(node)));
        found.extend(back.map(|next| [node.join("::"), next.join("::")].join(" → ")));
    }
    found
}

#[test]
fn the_engine_knows_no_http_no_command_line_and_no_google() {
    for module in modules().iter().filter(|module| module.path.first().is_some_and(|top| ENGINE.contains(&&**top))) {
        let name = module.path.join("::");
        if BUCKETS.iter().any(|bucket| name == *bucket || name.starts_with(&format!("{bucket}::"))) {
            continue;
        }
        let bad =
            |word: &str| matches!(word, "http" | "hyper" | "reqwest" | "clap" | "gcp") || word.starts_with("google_");
        let found: Vec<String> = module.source.words().filter(|word| bad(word)).collect();
        assert!(found.is_empty(), "{name} names {found:?}");
    }
}

#[test]
fn the_format_reads_no_clock_and_no_environment_and_starts_no_thread() {
    for module in modules().iter().filter(|module| module.path.first().is_some_and(|top| top == "vault")) {
        let found: Vec<String> = module.source.words().filter(|word| NOT_IN_VAULT.contains(&&**word)).collect();
        assert!(found.is_empty(), "{} names {found:?}", module.path.join("::"));
    }
}

#[test]
fn the_map_shows_every_module() {
    let map = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let names = |file: &str| Source::read(Path::new(file)).children();
    for (name, _) in [names("src/lib.rs"), names("src/main.rs")].concat() {
        let is_there = tokens(&map).iter().any(|token| matches!(token, Token::Word(word) if *word == name));
        assert!(is_there, "ARCHITECTURE.md does not show {name}");
    }
}
