//! Imports go where CONTRIBUTING.md says, and in no circle.
//!
//! A folder and its own files are one unit, and may import each other. Between the units of a folder no imports go in a
//! circle. What is compiled for tests only is not looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility, visit::Visit};

/// The crates, and the files that their modules begin with.
const CRATES: [(&str, &str); 5] = [
    ("agent", "lib.rs"),
    ("common", "lib.rs"),
    ("ebpf", "main.rs"),
    ("tests", "lib.rs"),
    ("xtask", "main.rs"),
];

/// Circles that are there still: the folder, the units in it, and why. It must get shorter: a circle that is open is to be
/// removed from it.
const KNOWN: &[(&str, &[&str], &str)] = &[
    (
        "agent/src/api",
        &["rows", "services"],
        "a service's row has a sum of flows, the status has sums of services: rows get a file each",
    ),
    (
        "agent/src/datapath",
        &["access", "pins", "services", "tables", "xdp"],
        "`pins` knows which tables and links are pinned: the list belongs into a file of its own",
    ),
    (
        "agent/src/datapath",
        &["attach", "load"],
        "the loaded programs are attached by a method of theirs",
    ),
    (
        "agent/src/discovery/names",
        &["dns", "lookup"],
        "two ways of looking up names become one",
    ),
    (
        "agent/src/discovery/model",
        &["merge", "snapshot", "source"],
        "a source writes into the snapshot that is made of its reports",
    ),
    (
        "common/src/wire",
        &["flow", "frame", "pattern", "stream"],
        "`flow` names the steps of the engine, and `frame` the recipients of a flow",
    ),
    (
        "common/src/wire/relay",
        &["java", "message"],
        "messages have objects of Java inside, and those have messages inside",
    ),
    (
        "common/src/wire/stream",
        &["front", "job", "undo"],
        "a job calls its parts, which have the job as an argument",
    ),
    (
        "common/src/wire/stream",
        &["head", "place", "rest"],
        "parts of one walk, which goes back when a guess was wrong",
    ),
    (
        "ebpf/src",
        &["events", "maps", "nat", "packet", "rpc"],
        "the scratch memory of `maps` has the structures of all stages",
    ),
    (
        "ebpf/src/nat",
        &[
            "allocate",
            "conntrack",
            "entry",
            "forward",
            "icmp",
            "icmp_error",
            "receive",
            "room",
            "stages",
            "xdp",
        ],
        "`stages` has the global functions of all: each belongs beside what it wraps",
    ),
    (
        "ebpf/src/packet",
        &["fragment", "headers"],
        "a fragment is looked up while headers are read, and has some of them",
    ),
    ("ebpf/src/rpc", &["stages", "translate"], "as in `nat`"),
];

/// A module: the names from the crate's root.
type Module = Vec<String>;

/// What the files of a crate say.
#[derive(Default)]
struct Crate {
    modules: BTreeSet<Module>,
    /// What a module imports, as it is written, beginning at the crate's root.
    imports: Vec<(Module, Module)>,
    /// What a module hands on under a name of its own.
    exports: BTreeMap<Module, Module>,
}

impl Crate {
    fn read(name: &str, file: &str) -> Self {
        let directory = repository().join(name).join("src");
        let mut read = Self::default();
        read.file(&directory.join(file), &directory, Vec::new());
        read
    }

    fn file(&mut self, path: &Path, children: &Path, module: Module) {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.module(&file.items, children, module);
    }

    fn module(&mut self, items: &[Item], children: &Path, module: Module) {
        let declared: BTreeSet<String> = items
            .iter()
            .filter_map(|item| match item {
                Item::Mod(inner) => Some(inner.ident.to_string()),
                _ => None,
            })
            .collect();
        let mut reader = Reader {
            read: self,
            children,
            module: module.clone(),
            declared,
        };
        for item in items {
            reader.visit_item(item);
        }
        self.modules.insert(module);
    }

    /// The module that has what a path leads to.
    fn home(&self, path: &[String]) -> Module {
        let module = (0..=path.len())
            .rev()
            .map(|length| &path[..length])
            .find(|module| self.modules.contains(*module))
            .unwrap_or_default();
        let exported = path
            .get(..=module.len())
            .and_then(|name| Some((name, self.exports.get(name)?)));
        match exported {
            Some((name, to)) if to.as_slice() != name => {
                self.home(&[to.as_slice(), &path[name.len()..]].concat())
            }
            _ => module.to_vec(),
        }
    }

    /// The imports between the units of each folder.
    fn folders(&self) -> BTreeMap<Module, Graph> {
        let mut folders: BTreeMap<Module, Graph> = BTreeMap::new();
        for (from, path) in &self.imports {
            let to = self.home(path);
            let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(unit), Some(other)) = (from.get(shared), to.get(shared)) {
                let folder = folders.entry(from[..shared].to_vec()).or_default();
                folder
                    .entry(unit.clone())
                    .or_default()
                    .insert(other.clone());
            }
        }
        folders
    }
}

/// Which units a unit imports.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// All units that a unit imports, directly or not.
fn reachable<'g>(graph: &'g Graph, from: &str) -> BTreeSet<&'g str> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = vec![from];
    while let Some(unit) = next.pop() {
        for other in graph.get(unit).into_iter().flatten() {
            if seen.insert(other.as_str()) {
                next.push(other);
            }
        }
    }
    seen
}

/// The largest sets of units that import each other.
fn circles(graph: &Graph) -> BTreeSet<BTreeSet<&str>> {
    graph
        .keys()
        .map(|unit| {
            let others = reachable(graph, unit).into_iter();
            others
                .filter(|other| reachable(graph, other).contains(unit.as_str()))
                .collect::<BTreeSet<&str>>()
        })
        .filter(|circle| circle.len() > 1)
        .collect()
}

/// Reads the items of one module.
struct Reader<'c> {
    read: &'c mut Crate,
    children: &'c Path,
    module: Module,
    /// The modules in it.
    declared: BTreeSet<String>,
}

impl Reader<'_> {
    /// A path from the crate's root, if it leads into this crate.
    fn absolute(&self, path: &[String]) -> Option<Module> {
        let ups = path.iter().take_while(|name| *name == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([&self.module, &path[1..]].concat()),
            "super" => {
                let parent = self.module.len().checked_sub(ups)?;
                Some([&self.module[..parent], &path[ups..]].concat())
            }
            name if self.declared.contains(name) => Some([&self.module, path].concat()),
            _ => None,
        }
    }

    fn import(&mut self, path: &[String]) {
        if let Some(path) = self.absolute(path) {
            self.read.imports.push((self.module.clone(), path));
        }
    }

    fn tree(&mut self, tree: &UseTree, before: &[String], exported: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let (path, name) = match tree {
            UseTree::Path(path) => return self.tree(&path.tree, &with(&path.ident), exported),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before, exported);
                }
                return;
            }
            UseTree::Name(name) if name.ident == "self" => {
                (before.to_vec(), before.last().cloned())
            }
            UseTree::Name(name) => (with(&name.ident), Some(name.ident.to_string())),
            UseTree::Rename(rename) => (with(&rename.ident), Some(rename.rename.to_string())),
            UseTree::Glob(_) => (before.to_vec(), None),
        };
        self.import(&path);
        if let (true, Some(name), Some(path)) = (exported, name, self.absolute(&path)) {
            let own = [self.module.as_slice(), &[name]].concat();
            self.read.exports.insert(own, path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, inner: &'ast ItemMod) {
        if is_test(&inner.attrs) {
            return;
        }
        let name = inner.ident.to_string();
        let module = [self.module.as_slice(), std::slice::from_ref(&name)].concat();
        let children = self.children.join(&name);
        match &inner.content {
            Some((_, items)) => self.read.module(items, &children, module),
            None => {
                let files = [children.with_extension("rs"), children.join("mod.rs")];
                let file = files.iter().find(|file| file.is_file());
                let file = file.unwrap_or_else(|| panic!("{} is nowhere", children.display()));
                self.read.file(file, &children, module);
            }
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_test(&item.attrs) {
            let exported = !matches!(item.vis, Visibility::Inherited);
            self.tree(&item.tree, &[], exported);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if names.len() > 1 {
            self.import(&names);
        }
        syn::visit::visit_path(self, path);
    }
}

/// Is an item compiled for tests only?
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|only| only == "test")
    })
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn contributing() -> String {
    fs::read_to_string(repository().join("CONTRIBUTING.md")).unwrap()
}

/// The words between backticks in a text.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn no_imports_go_in_a_circle() {
    let mut wrong = Vec::new();
    let mut open: BTreeSet<usize> = (0..KNOWN.len()).collect();
    for (name, file) in CRATES {
        for (folder, graph) in Crate::read(name, file).folders() {
            let folder = [&[format!("{name}/src")], folder.as_slice()]
                .concat()
                .join("/");
            for circle in circles(&graph) {
                let known = KNOWN.iter().position(|(known, units, _)| {
                    *known == folder && circle.iter().all(|unit| units.contains(unit))
                });
                match known {
                    Some(known) => drop(open.remove(&known)),
                    None => {
                        wrong.push(format!("{folder}: {circle:?} import each other: {graph:?}"))
                    }
                }
            }
        }
    }
    for known in open {
        let (folder, units, _) = KNOWN[known];
        wrong.push(format!(
            "{folder}: {units:?} is no circle any more: remove it from KNOWN"
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(KNOWN.iter().all(|(_, _, reason)| !reason.is_empty()));
}

#[test]
fn imports_of_the_agent_go_down() {
    let text = contributing();
    let floors: Vec<BTreeSet<String>> = text
        .lines()
        .skip_while(|line| !line.contains("floors of the agent"))
        .skip_while(|line| !line.starts_with("1. "))
        .take_while(|line| line.starts_with(|c: char| c.is_ascii_digit()))
        .map(quoted)
        .collect();
    assert!(floors.len() > 3, "CONTRIBUTING.md does not list the floors");
    let floor = |unit: &str| floors.iter().position(|floor| floor.contains(unit));
    let agent = Crate::read("agent", "lib.rs");
    let mut wrong = Vec::new();
    for unit in agent.modules.iter().filter(|module| module.len() == 1) {
        if floor(&unit[0]).is_none() {
            wrong.push(format!("{} is on no floor of CONTRIBUTING.md", unit[0]));
        }
    }
    for (unit, others) in agent.folders().remove(&Vec::new()).unwrap_or_default() {
        for other in others {
            if floor(&unit) >= floor(&other) {
                wrong.push(format!("{unit} imports {other}, which is not below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_use_what_they_may() {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]);
    let output = cargo.current_dir(repository()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = contributing();
    for package in metadata["packages"].as_array().unwrap() {
        let folder = |path: &Value| {
            let path = Path::new(path.as_str().unwrap());
            path.file_name().unwrap().to_string_lossy().into_owned()
        };
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let own = manifest
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_string_lossy();
        let uses: BTreeSet<String> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["path"].is_string())
            .map(|dependency| folder(&dependency["path"]))
            .collect();
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| `{own}` |")));
        let row = row.unwrap_or_else(|| panic!("CONTRIBUTING.md has no row for {own}"));
        let may = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        assert_eq!(uses, quoted(may), "what {own} uses, and what it may use");
    }
}

#[test]
fn circles_are_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph
                .entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
        }
        graph
    };
    assert!(circles(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    let found = graph(&[
        ("a", "b"),
        ("b", "c"),
        ("c", "b"),
        ("d", "e"),
        ("e", "f"),
        ("f", "d"),
    ]);
    let expected = [BTreeSet::from(["b", "c"]), BTreeSet::from(["d", "e", "f"])];
    assert_eq!(circles(&found), BTreeSet::from(expected));
}
