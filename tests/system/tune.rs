//! `ringmq tune` on this machine: the broker takes what it proposes, and nothing stays behind, on Ctrl-C neither.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::program::run;
use crate::support::server::free_ports;
use crate::support::{await_until, beside_others, disk_dir};

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("list a folder");
    entries.map(|entry| entry.expect("list a folder").file_name().to_string_lossy().into_owned()).collect()
}

fn tune(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.arg("tune").arg("--data").arg(folder.join("data"));
    command
}

fn signal(process: &Child, name: &str) {
    run(Command::new("kill").args(["-s", name, &process.id().to_string()]), "kill is part of procps.");
}

#[test]
fn the_broker_takes_the_configuration_that_was_measured() {
    let _guard = beside_others();
    let folder = tempfile::tempdir_in(disk_dir()).expect("make a folder");
    let config = folder.path().join("tuned.toml");
    let output = run(
        tune(folder.path()).args(["--quick", "-o", "json", "--write"]).arg(&config),
        "It needs 400 MiB of disk space.",
    );
    assert!(output.stderr.is_empty(), "a pipe gets no progress: {}", String::from_utf8_lossy(&output.stderr));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let written = std::fs::read_to_string(&config).expect("the configuration was written");
    assert_eq!(printed["toml"], written);
    for figure in printed["measured"]["disk"].as_array().expect("figures of the disk") {
        assert!(figure["per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{figure}");
    }
    assert_eq!(entries(folder.path()), ["tuned.toml"], "scratch files stay behind");

    let ports = free_ports(1 + 64);
    let mut serve = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    serve.arg("serve").arg("--config").arg(&config).env("RINGMQ_MAPPED_FILE_SIZE_COMMIT_LOG", "16MiB");
    serve.args(["--namesrv-port", &ports.to_string(), "--port", &(ports + 1).to_string()]);
    let mut process = serve
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start ringmq with what was proposed");
    let mut ready = String::new();
    let stdout = process.stdout.as_mut().expect("standard output is a pipe");
    BufReader::new(stdout).read_line(&mut ready).expect("read what it says");
    signal(&process, "TERM");
    let output = process.wait_with_output().expect("wait for ringmq");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(ready.starts_with("ready ") && output.status.success(), "{ready}{log}");
    assert!(folder.path().join("data").is_dir(), "the data is where it was measured");
    let again = tune(folder.path()).arg("--write").arg(&config).output().expect("run ringmq");
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("is there already"),
        "a file is never overwritten"
    );
}

#[test]
fn an_interrupted_measurement_leaves_nothing_behind() {
    let _guard = beside_others();
    let folder = tempfile::tempdir_in(disk_dir()).expect("make a folder");
    let process =
        tune(folder.path()).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start ringmq");
    await_until("the scratch files", Duration::from_secs(20), || !entries(folder.path()).is_empty());
    signal(&process, "INT");
    let output = process.wait_with_output().expect("wait for ringmq");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("interrupted"), "{error}");
    assert_eq!(entries(folder.path()), [""; 0]);
}
