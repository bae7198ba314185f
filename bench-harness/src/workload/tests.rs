//! Workload files: those that come with the program, and what is said of wrong ones.

use std::collections::BTreeSet;

use super::*;

const HEAD: &str = "about = \"x\"\nduration = \"10s\"\nwarmup = \"1s\"\n";

fn parse(text: &str) -> Result<Workload, String> {
    Workload::parse("mine", "mine.toml", &format!("{HEAD}{text}")).map_err(|error| error.to_string())
}

fn names(workload: &Workload) -> Vec<&str> {
    workload.steps.iter().map(|step| step.name.as_str()).collect()
}

#[test]
fn every_file_in_the_folder_is_built_in_and_reads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (name, _) in BUILT_IN {
        let workload = Workload::load(name).unwrap();
        assert!(!workload.steps.is_empty() && !workload.about.is_empty(), "{name}");
        for step in &workload.steps {
            let scenario = workload.scenario(step, "127.0.0.1:9876", &[]);
            assert!(scenario.target.topic.len() < 100, "{}", scenario.target.topic);
        }
    }
}

#[test]
fn lists_make_every_combination_and_single_values_no_name() {
    let workload = parse("[send]\nsize = [128, 1024]\nin_flight = [16, 64]\nbatch = 2\n").unwrap();
    assert_eq!(
        names(&workload),
        [
            "in-flight-16-size-128",
            "in-flight-16-size-1024",
            "in-flight-64-size-128",
            "in-flight-64-size-1024"
        ]
    );
    let last = &workload.steps[3];
    assert_eq!((last.load.in_flight, last.load.size, last.load.batch), (Some(64), 1024, 2));
    assert_eq!(last.load.duration, Some(Duration::from_secs(10)));
    let single = parse("[send]\nrate = 3000\n[receive]\n").unwrap();
    assert_eq!(names(&single), [""]);
    assert_eq!(single.steps[0].load.rate, Some(3000.0));
    assert_eq!(single.steps[0].receive.as_ref().map(|receive| receive.groups), Some(1));
    assert_eq!(single.step_name(&single.steps[0]), "mine");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
    let error = parse("[send]\nsize = 128\ninflight = 5\n").unwrap_err();
    assert_eq!(error, "mine.toml:6: unknown key `inflight`; did you mean `in_flight`?");
    let error = parse("durations = \"1s\"\n[send]\n").unwrap_err();
    assert_eq!(error, "mine.toml:4: unknown key `durations`; did you mean `duration`?");
}

#[test]
fn a_value_that_cannot_be_meant_is_named_with_its_line() {
    for (text, line, part) in [
        ("[send]\nsize = \"big\"\n", 5, "a value, or a list of values"),
        ("[send]\nin_flight = []\n", 5, "an empty list makes no step"),
        ("flush = \"SOMETIMES\"\n[send]\n", 4, "a value, or a list of values"),
        ("[send]\n[ladder]\np99_max = \"5 parsecs\"\n", 6, "5 parsecs"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("mine.toml:{line}: ")) && error.contains(part), "{error}");
    }
    let error = parse("[send]\nsize = 3\n").unwrap_err();
    assert!(error.starts_with("mine.toml: --size"), "{error}");
}

#[test]
fn a_name_that_is_neither_known_nor_a_file_says_where_to_look() {
    let error = Workload::load("one-sendr").unwrap_err().to_string();
    assert!(error.contains("one-sendr") && error.contains("ringmq-bench list"), "{error}");
}
