//! Reads the modules of a crate, and which files use names of which others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// A path, split at `::`: as written in the source, or of a module from the root of its crate.
type Names = Vec<String>;

/// The modules of a crate, test code left out.
#[derive(Default)]
pub(crate) struct Source {
    folder: PathBuf,
    modules: BTreeMap<Names, Module>,
}

#[derive(Default)]
struct Module {
    /// Relative to the folder of the crate's sources.
    file: String,
    /// What is defined here, modules aside.
    items: BTreeSet<String>,
    /// Names that `use` brings in, and the path of each.
    imports: BTreeMap<String, Names>,
    globs: Vec<Names>,
    /// Every path of two names or more.
    references: BTreeSet<Names>,
}

/// What a path leads to.
pub(crate) enum Target {
    Item { file: String, path: String },
    Module,
    External(String),
}

/// Where a module stands in the crate, and in the file system.
struct Place<'a> {
    module: &'a [String],
    file: &'a str,
    /// Where files of its submodules are.
    folder: &'a Path,
}

impl Source {
    /// Reads `lib.rs` in `folder` and every module that it declares.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut source = Self { folder: folder.to_owned(), ..Self::default() };
        source.read_file(&[], "lib.rs", folder);
        source
    }

    /// The files that were read.
    pub(crate) fn files(&self) -> BTreeSet<&str> {
        self.modules.values().map(|module| module.file.as_str()).collect()
    }

    /// Every path that a file uses, with what it leads to.
    pub(crate) fn references(&self) -> impl Iterator<Item = (&str, Target)> {
        self.modules.iter().flat_map(move |(at, module)| {
            let targets = module.references.iter().map(|path| self.resolve(at, path, 0));
            targets.map(|target| (module.file.as_str(), target))
        })
    }

    fn read_file(&mut self, module: &[String], file: &str, folder: &Path) {
        let text = std::fs::read_to_string(self.folder.join(file)).unwrap();
        let items = syn::parse_file(&text).unwrap().items;
        self.read_items(&Place { module, file, folder }, &items);
    }

    fn read_items(&mut self, place: &Place<'_>, items: &[syn::Item]) {
        let file = place.file.to_owned();
        let mut module = Module { file, ..Module::default() };
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            module.items.extend(name(item));
            module.visit_item(item);
            if let syn::Item::Mod(child) = item {
                self.read_module(place, child);
            }
        }
        self.modules.insert(place.module.to_owned(), module);
    }

    fn read_module(&mut self, parent: &Place<'_>, item: &syn::ItemMod) {
        let name = item.ident.to_string();
        let module = [parent.module, std::slice::from_ref(&name)].concat();
        let folder = parent.folder.join(&name);
        if let Some((_, items)) = &item.content {
            let place = Place { module: &module, file: parent.file, folder: &folder };
            return self.read_items(&place, items);
        }
        let files = [folder.with_extension("rs"), folder.join("mod.rs")];
        let file = files.into_iter().find(|file| file.exists()).unwrap();
        let file = file.strip_prefix(&self.folder).unwrap().display().to_string();
        self.read_file(&module, &file, &folder);
    }

    /// Follows `path` from module `from`, through re-exports, to the file that defines what it names.
    fn resolve(&self, from: &[String], path: &[String], depth: u32) -> Target {
        let external = || Target::External(path.join("::"));
        let (mut at, mut rest) = (from.to_vec(), path);
        match path[0].as_str() {
            "crate" => (at, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {}
            first if depth < 8 && self.knows(from, first) => {}
            _ => return external(),
        }
        while let Some((name, left)) = rest.split_first() {
            if name == "super" {
                at.pop();
            } else if self.modules.contains_key(&child(&at, name)) {
                at.push(name.clone());
            } else {
                return self.resolve_name(&at, rest, depth);
            }
            rest = left;
        }
        Target::Module
    }

    /// What the first of `path` is in the module `at`, which it is no submodule of.
    fn resolve_name(&self, at: &[String], path: &[String], depth: u32) -> Target {
        let (module, name) = (&self.modules[at], &path[0]);
        if module.items.contains(name) {
            return item(module, at, path);
        }
        if let Some(import) = module.imports.get(name) {
            return self.resolve(at, &[import, &path[1..]].concat(), depth + 1);
        }
        for glob in module.globs.iter().filter(|_| depth < 8) {
            let target = self.resolve(at, &[glob.as_slice(), path].concat(), depth + 1);
            if matches!(&target, Target::Item { file, .. } if *file != module.file) {
                return target;
            }
        }
        item(module, at, path)
    }

    /// Whether `name` is something of the module, rather than a crate.
    fn knows(&self, at: &[String], name: &str) -> bool {
        let module = &self.modules[at];
        module.items.contains(name)
            || module.imports.get(name).is_some_and(|path| path.len() > 1)
            || self.modules.contains_key(&child(at, name))
    }
}

fn item(module: &Module, at: &[String], path: &[String]) -> Target {
    let path = [&["crate".to_owned()], at, &path[..1]].concat().join("::");
    Target::Item { file: module.file.clone(), path }
}

fn child(module: &[String], name: &str) -> Names {
    let mut path = module.to_vec();
    path.push(name.to_owned());
    path
}

impl Module {
    fn import(&mut self, before: &[String], tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                self.import(&child(before, &path.ident.to_string()), &path.tree);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(before, tree));
            }
            syn::UseTree::Glob(_) => self.globs.push(before.to_vec()),
            syn::UseTree::Name(name) => self.import_name(before, &name.ident, &name.ident),
            syn::UseTree::Rename(name) => self.import_name(before, &name.ident, &name.rename),
        }
    }

    fn import_name(&mut self, before: &[String], name: &syn::Ident, here: &syn::Ident) {
        let path = if name == "self" { before.to_vec() } else { child(before, &name.to_string()) };
        let here = if here == "self" { path[path.len() - 1].clone() } else { here.to_string() };
        self.references.insert(path.clone());
        self.imports.insert(here, path);
    }

    /// Paths in tokens that are not parsed: arguments of macros and attributes.
    fn add_tokens(&mut self, tokens: &str) {
        let text = tokens.replace(" ::", "::").replace(":: ", "::");
        let paths = text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | ':'));
        for path in paths.filter(|path| path.contains("::")) {
            let names = path.split("::").filter(|name| !name.is_empty());
            self.add(names.map(str::to_owned).collect());
        }
    }

    fn add(&mut self, path: Names) {
        if path.len() > 1 {
            self.references.insert(path);
        }
    }
}

impl Visit<'_> for Module {
    fn visit_path(&mut self, path: &syn::Path) {
        self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.visit_path(&call.path);
        self.add_tokens(&call.tokens.to_string());
    }

    fn visit_attribute(&mut self, attribute: &syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.add_tokens(&list.tokens.to_string());
        }
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        self.import(&[], &item.tree);
    }

    /// It is read as a module of its own.
    fn visit_item_mod(&mut self, _: &syn::ItemMod) {}

    fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            syn::visit::visit_impl_item_fn(self, function);
        }
    }
}

/// Whether something is compiled for tests alone.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string().replace(' ', "");
            condition == "test" || condition.starts_with("all(test,")
        }
        _ => false,
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &syn::Item) -> Option<String> {
    let ident = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
