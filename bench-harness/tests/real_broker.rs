//! `ringmq-bench` against a real node: this program is the node, too, when it is called as `ringmq` is, so that the peer's script
//! starts it. Without perf, or the right to use it, what perf would tell is left out with its reason, which is printed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use runtime::allocation::Counting;
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: Counting<std::alloc::System> = Counting(std::alloc::System);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|verb| verb == "serve") {
        return ringmq::cli::Cli::parse().run();
    }
    let tests: [(&str, fn()); 2] = [
        ("a_profile_tells_what_a_message_costs", a_profile_tells_what_a_message_costs),
        (
            "somebody_elses_client_is_measured_by_what_arrives",
            somebody_elses_client_is_measured_by_what_arrives,
        ),
    ];
    for (name, test) in tests {
        println!("test {name} ...");
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// A folder on the disk that the build is on: a temporary one of the system may be in memory, where there is no direct I/O.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder")
}

/// The script of RingMQ as a peer, with this program as the broker.
fn peer() -> String {
    let program = std::env::current_exe().expect("this program has a path");
    format!("ringmq={}/peers/ringmq --bin {}", env!("CARGO_MANIFEST_DIR"), program.display())
}

fn bench(arguments: &[&str], dir: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringmq-bench"))
        .args(arguments)
        .current_dir(dir)
        .env("TMPDIR", dir)
        .output()
        .expect("ringmq-bench runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}");
    assert!(
        output.status.success(),
        "{}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn json(path: &PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a result")).expect("JSON")
}

fn number(value: &Value, pointer: &str) -> f64 {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("{pointer} is no number in {value:#}"))
}

fn a_profile_tells_what_a_message_costs() {
    let dir = folder();
    bench(
        &["profile", "durable", "--duration", "3s", "--warmup", "1s", "--peer", &peer(), "-o", "p"],
        dir.path(),
    );
    let document = json(&dir.path().join("p.json"));
    let profile = &document["profiles"][0];
    assert_eq!(profile["name"], "durable, SYNC_FLUSH");

    // A send takes memory somewhere, enters a ring, and its flush takes a time.
    let sum = |field: &str| -> f64 {
        let cores = profile["cores"]["cores"].as_array().expect("cores answered");
        cores.iter().map(|core| number(core, &format!("/{field}"))).sum()
    };
    for field in ["busy_us", "kernel_entries", "allocations", "allocated_bytes"] {
        assert!(sum(field) > 0.0, "{field}: {profile:#}");
    }
    let stages: Vec<&Value> = profile["stages"]
        .as_array()
        .expect("stages were measured")
        .iter()
        .flat_map(|core| core["stages"].as_array().expect("a list"))
        .collect();
    for name in ["decode", "queue", "hop", "place", "flush", "ack_hop", "reply"] {
        let of_name = stages.iter().filter(|stage| stage["stage"] == name);
        let (mut requests, mut in_buckets) = (0, 0);
        for stage in of_name {
            requests += stage["requests"].as_u64().expect("a count");
            let buckets = stage["buckets"].as_array().expect("a list");
            in_buckets += buckets.iter().map(|pair| pair[1].as_u64().expect("a count")).sum::<u64>();
        }
        assert!(requests > 0, "{name}: {profile:#}");
        assert_eq!(requests, in_buckets, "{name}: every request is in a bucket");
    }
    let threads = profile["threads"].as_array().expect("the node runs here");
    assert!(threads.iter().any(|thread| number(thread, "/cpu_us") > 0.0), "{profile:#}");
    for (part, list) in [("functions", "functions"), ("system_calls", "calls")] {
        match profile[part]["skipped"].as_str() {
            Some(reason) => println!("{part} are not tested here: {reason}"),
            None => {
                assert!(!profile[part][list].as_array().expect("a list").is_empty(), "{part}: {profile:#}")
            }
        }
    }
    let page = std::fs::read_to_string(dir.path().join("p.html")).expect("a page");
    assert!(page.contains("flush") && page.contains("<svg") && page.ends_with("</html>\n"));
}

fn somebody_elses_client_is_measured_by_what_arrives() {
    let dir = folder();
    // A client that sends with the harness's own generator and claims something else.
    let script = dir.path().join("client");
    let text = format!(
        "#!/bin/sh\n{} produce --namesrv $2 --topic $4 --rate 200 --duration 60s >/dev/null &\nsender=$!\n\
         trap 'kill $sender' EXIT TERM\n\
         while kill -0 $sender; do echo 'Send TPS: 7 | Max RT(ms): 9 | Average RT(ms): 0.5 | Send Failed: 0 | Response Failed: 0'; sleep 0.2; done\n",
        env!("CARGO_BIN_EXE_ringmq-bench")
    );
    std::fs::write(&script, text).expect("a script");
    let mut mode = std::fs::metadata(&script).expect("it is there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(&script, mode).expect("it is ours");
    let workload = dir.path().join("theirs.toml");
    std::fs::write(
        &workload,
        "about = \"x\"\nduration = \"3s\"\nwarmup = \"2s\"\n[send]\nclient = \"./client\"\nin_flight = 4\n",
    )
    .expect("a workload");
    bench(
        &[
            "compare",
            "--workload",
            "theirs.toml",
            "--rounds",
            "1",
            "--warm-start",
            "0s",
            "--peer",
            &peer(),
            "--results",
            "r",
            "--label",
            "l",
            "--dir",
            ".",
        ],
        dir.path(),
    );
    let result = json(&dir.path().join("r/l-theirs-sync-ringmq-1.json"));
    let rate = number(&result, "/result/messages_per_second");
    assert!((100.0..300.0).contains(&rate), "the client sends 200 a second, not {rate}");
    assert_eq!(number(&result, "/result/client/send_tps"), 7.0);
    assert!(number(&result, "/result/broker_cpu_seconds_per_million") > 0.0);
    assert!(result["result"]["series"].as_array().expect("a list").len() >= 4);
}
