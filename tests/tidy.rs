//! What no reader should have to check by eye: who imports whom, where `unsafe` and the runtime are named, heads of files, documents
//! that name missing files, and paths of somebody's own machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";
/// Longest source file, lines: beyond it there is a second noun in it.
const LINES_MAX: usize = 900;
/// Names that say nothing about what is in the file.
const EMPTY_NAMES: [&str; 7] = ["common", "util", "utils", "helper", "helpers", "base", "misc"];

#[test]
fn modules_import_only_what_the_architecture_allows() {
    let document = read(ARCHITECTURE);
    let mut tables = import_tables(&document).into_iter();
    let root = tables.next().expect("a table for the root package");
    let engine = tables.next().expect("a table for the engine");
    let mut wrong = check_imports("src", &root);
    wrong += &check_imports("shards/src", &engine);
    assert_clean("imports that docs/ARCHITECTURE.md does not allow", &wrong);
}

#[test]
fn the_architecture_has_layers_and_no_cycle() {
    for law in import_tables(&read(ARCHITECTURE)) {
        assert_clean(
            "rows of docs/ARCHITECTURE.md that import what is not below them",
            &upward_imports(&law),
        );
    }
}

#[test]
fn unsafe_stands_only_where_the_kernel_and_raw_memory_are_and_says_why_it_is_sound() {
    let mut wrong = String::new();
    for file in rust_files() {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if !words(&code_of(line)).any(|word| word == "unsafe") {
                continue;
            }
            if !file.starts_with("shards/src/io/") && !file.starts_with("runtime/src/") {
                note(&mut wrong, &file, index, "`unsafe` outside of shards/src/io/ and runtime/src/");
            }
            let reasons = lines[index.saturating_sub(8)..=index].iter();
            if !reasons.into_iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
                note(&mut wrong, &file, index, "`unsafe` without a SAFETY line");
            }
        }
    }
    assert_clean("unsafe code", &wrong);
}

#[test]
fn the_backends_of_the_runtime_are_named_only_in_its_crate() {
    let mut wrong = String::new();
    for file in rust_files() {
        for (index, line) in read(&file).lines().enumerate() {
            let named = |name: &str| words(&code_of(line)).any(|word| word == name);
            if !file.starts_with("runtime/src/") && (named("glommio") || code_of(line).contains("io_uring::"))
            {
                note(&mut wrong, &file, index, "names glommio or io_uring");
            }
        }
    }
    assert_clean("the runtime outside of its modules", &wrong);
}

#[test]
fn every_file_has_a_head_a_telling_name_and_one_noun() {
    let mut wrong = String::new();
    for file in rust_files() {
        let text = read(&file);
        if !text.starts_with("//!") {
            note(
                &mut wrong,
                &file,
                0,
                "does not open with `//!`: what it owns, where it lives, what it promises",
            );
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            note(&mut wrong, &file, LINES_MAX, &format!("has {lines} lines; look for its second noun"));
        }
        let stem = Path::new(&file).file_stem().expect("a file has a name").to_string_lossy().into_owned();
        if EMPTY_NAMES.contains(&stem.as_str()) {
            note(&mut wrong, &file, 0, "has a name that says nothing");
        }
        for (index, line) in text.lines().enumerate() {
            if words(line).any(|word| word == concat!("TO", "DO") || word == concat!("FIX", "ME")) {
                note(&mut wrong, &file, index, "leaves work for later");
            }
        }
    }
    assert_clean("files", &wrong);
}

#[test]
fn documents_name_files_that_exist() {
    let mut wrong = String::new();
    for file in files_with(&["md"]) {
        let folder = Path::new(&file).parent().expect("a file has a folder").to_path_buf();
        for (index, line) in read(&file).lines().enumerate() {
            for path in in_backticks(line).filter(|text| looks_like_a_path(text)) {
                if !root().join(path).exists() {
                    note(&mut wrong, &file, index, &format!("names `{path}`, which is not there"));
                }
            }
            for target in links(line) {
                if !root().join(&folder).join(target).exists() {
                    note(&mut wrong, &file, index, &format!("links to {target}, which is not there"));
                }
            }
        }
    }
    assert_clean("documents", &wrong);
}

#[test]
fn no_file_names_a_folder_of_somebodys_machine() {
    let places =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/", "wt"), concat!("/tmp/", "ref")];
    let mut wrong = String::new();
    for file in
        files_with(&["rs", "toml", "md", "java", "go", "mod", "sum", "xml", "sh", "json", "hex", "txt", ""])
    {
        for (index, line) in read(&file).lines().enumerate() {
            if let Some(place) = places.iter().find(|place| line.contains(**place)) {
                note(&mut wrong, &file, index, &format!("names {place}"));
            }
        }
    }
    assert_clean("paths", &wrong);
}

#[test]
fn what_only_tests_may_do_is_in_no_program() {
    let mut wrong = String::new();
    for file in files_with(&["toml"]) {
        let mut section = String::new();
        for (index, line) in read(&file).lines().enumerate() {
            if line.starts_with('[') {
                section = line.to_owned();
            }
            let is_switched_on = line.contains("features") && line.contains("fault-injection");
            if is_switched_on && section != "[dev-dependencies]" {
                note(&mut wrong, &file, index, "switches on `fault-injection` for more than tests");
            }
        }
    }
    assert_clean("switches of tests", &wrong);
}

/// The checks above would see what they look for.
#[test]
fn the_checks_see_what_they_look_for() {
    let table =
        "| module | may import |\n|---|---|\n| `low` | `shards::limits` |\n| `high` | `low`, `shards` |\n";
    let [law] = &import_tables(table)[..] else { panic!("one table") };
    assert!(allowed(law, "low", "shards::limits::X"));
    assert!(!allowed(law, "low", "shards::append"));
    assert!(!allowed(law, "low", "high"));
    assert!(
        allowed(law, "high", "low::deep")
            && allowed(law, "high", "shards::append")
            && allowed(law, "high", "high")
    );
    assert!(!allowed(law, "unlisted", "low"));
    assert_eq!(upward_imports(law), "");
    let cycle = "| module | may import |\n| `low` | `high::deep` |\n| `high` | `low`, `shards` |\n";
    let [law] = &import_tables(cycle)[..] else { panic!("one table") };
    assert_eq!(upward_imports(law), "`low` may import `high::deep`, which has no row above it\n");
    assert_eq!(imports_of("use crate::low::{a, b}; // crate::not", "x"), ["low::"]);
    assert_eq!(imports_of("fn f(x: shards::append::B)", "x"), ["shards::append::B"]);
    assert_eq!(code_of("a(\"unsafe // \\\" b\"); // unsafe").trim(), "a();");
    assert_eq!(imports_of("use crate::{low, high::H};", "x"), ["low", "high::H"]);
    assert!(
        looks_like_a_path("src/x.rs") && !looks_like_a_path("spread/co") && !looks_like_a_path("a b/c.rs")
    );
}

/// A row of a table: a module, and what it may import.
type Row = (String, Vec<String>);
/// The rows of a table, in its order.
type Law = Vec<Row>;

/// The tables whose head is `| module | may import |`.
fn import_tables(document: &str) -> Vec<Law> {
    let mut tables = Vec::new();
    let mut current: Option<Law> = None;
    for line in document.lines() {
        if line.starts_with("| module | may import |") {
            current = Some(Law::new());
        } else if !line.starts_with('|') {
            tables.extend(current.take());
        } else if let (Some(law), false) = (&mut current, line.starts_with("|-")) {
            let mut columns = line.split('|').skip(1);
            let names = |column: Option<&str>| {
                column
                    .map(|text| in_backticks(text).map(str::to_owned).collect::<Vec<_>>())
                    .unwrap_or_default()
            };
            let module = names(columns.next()).remove(0);
            law.push((module, names(columns.next())));
        }
    }
    tables.extend(current);
    tables
}

fn check_imports(folder: &str, law: &[Row]) -> String {
    let mut wrong = String::new();
    let mut seen = Vec::new();
    for file in rust_files().into_iter().filter(|file| file.starts_with(&format!("{folder}/"))) {
        let inside = file.strip_prefix(&format!("{folder}/")).expect("filtered so");
        let module = inside.split('/').next().expect("never empty").trim_end_matches(".rs").to_owned();
        if module == "lib" || inside.ends_with("tests.rs") {
            continue;
        }
        if row(law, &module).is_none() {
            note(&mut wrong, &file, 0, &format!("`{module}` has no row in {ARCHITECTURE}"));
            continue;
        }
        let text = read(&file);
        let own_code = text.split("#[cfg(test)]\nmod ").next().expect("split gives at least one part");
        for (index, line) in own_code.lines().enumerate() {
            for import in imports_of(line, &module) {
                if !allowed(law, &module, &import) {
                    note(&mut wrong, &file, index, &format!("`{module}` may not import `{import}`"));
                }
            }
        }
        seen.push(module);
    }
    for (module, _) in law.iter().filter(|(module, _)| !seen.contains(module)) {
        let _ = writeln!(wrong, "{ARCHITECTURE}: `{module}` has a row but no file in {folder}");
    }
    wrong
}

/// Imports of modules of the same package whose rows do not stand above the importing one. Without them the table has no cycle.
fn upward_imports(law: &[Row]) -> String {
    let mut wrong = String::new();
    for (index, (module, imports)) in law.iter().enumerate() {
        for import in imports {
            let path = import.strip_prefix("ringmq::").unwrap_or(import);
            let imported = path.split("::").next().expect("split gives a part");
            if !["runtime", "shards"].contains(&imported) && row(&law[..index], imported).is_none() {
                let _ = writeln!(wrong, "`{module}` may import `{import}`, which has no row above it");
            }
        }
    }
    wrong
}

fn row<'a>(rows: &'a [Row], module: &str) -> Option<&'a [String]> {
    rows.iter().find(|(name, _)| name == module).map(|(_, imports)| imports.as_slice())
}

fn allowed(law: &[Row], module: &str, import: &str) -> bool {
    let begins = |allowed: &str| {
        import.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let Some(row) = row(law, module) else { return false };
    begins(module) || row.iter().any(|allowed| begins(allowed))
}

/// Paths of ours that a line of code names: below `crate::`, `runtime::`, `shards::` or, in the program, `ringmq::`.
fn imports_of(line: &str, module: &str) -> Vec<String> {
    let code = code_of(line);
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for (prefix, kept) in
        [("crate::", ""), ("runtime::", "runtime::"), ("shards::", "shards::"), ("ringmq::", "ringmq::")]
    {
        if prefix == "ringmq::" && module != "main" {
            continue;
        }
        for (at, _) in code.match_indices(prefix) {
            if code[..at].chars().next_back().is_some_and(is_path) {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            let items: Vec<&str> = match rest.strip_prefix('{') {
                Some(list) => {
                    list.split('}').next().expect("split gives a part").split(',').map(str::trim).collect()
                }
                None => vec![rest],
            };
            for item in items {
                let path: String = item.chars().take_while(|&c| is_path(c)).collect();
                if !path.is_empty() {
                    found.push(format!("{kept}{path}"));
                }
            }
        }
    }
    found
}

/// The line without its comment and without what stands in string literals.
fn code_of(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let (mut in_text, mut before) = (false, ' ');
    for c in line.chars() {
        match c {
            '"' if before != '\\' && before != '\'' => in_text = !in_text,
            '/' if !in_text && before == '/' => {
                code.pop();
                break;
            }
            _ if in_text => {}
            _ => code.push(c),
        }
        before = if before == '\\' && c == '\\' { ' ' } else { c };
    }
    code
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn in_backticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://"))
}

fn looks_like_a_path(text: &str) -> bool {
    let known = [".rs", ".md", ".toml", ".java", ".go"].iter().any(|end| text.ends_with(end));
    let below = ["src/", "shards/", "bench-harness/", "simulator/", "tests/", "docs/"]
        .iter()
        .any(|start| text.starts_with(start));
    !text.contains(' ') && !text.contains('<') && text.contains('/') && (known || below)
}

fn rust_files() -> Vec<String> {
    files_with(&["rs"])
}

/// Files with one of these endings, from the root of the repository, sorted.
fn files_with(endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    collect(&root(), endings, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no files with {endings:?}");
    found
}

fn collect(folder: &Path, endings: &[&str], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("list a folder") {
        let path = entry.expect("list a folder").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        let is_ours = name == ".ci"
            || !name.starts_with('.') && !["target", "data", "node_modules"].contains(&name.as_str());
        if !is_ours {
            continue;
        }
        if path.is_dir() {
            collect(&path, endings, found);
        } else if endings.contains(&path.extension().unwrap_or_default().to_string_lossy().as_ref()) {
            let inside = path.strip_prefix(root()).expect("found below the root");
            found.push(inside.to_string_lossy().into_owned());
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(root().join(file)).expect("read a file of ours")).into_owned()
}

fn note(wrong: &mut String, file: &str, index: usize, what: &str) {
    let _ = writeln!(wrong, "{file}:{}: {what}", index + 1);
}

fn assert_clean(what: &str, wrong: &str) {
    assert!(wrong.is_empty(), "{what}:\n{wrong}");
}
