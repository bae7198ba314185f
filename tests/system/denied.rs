//! Hosts that deny what a node needs: it says so with the cure, at the start and in `ringmq check`. And the container profile that is
//! delivered denies nothing that it needs.

use std::process::{Command, Output, Stdio};

use seccompiler::{BpfProgram, apply_filter, compile_from_json};
use serde_json::{Value, json};

use crate::support::server::{Server, Settings, free_ports};
use crate::support::{beside_others, disk_dir, source};

/// A filter: all calls of these names end with `then`, all others with `otherwise`.
fn filter(names: &[String], then: &Value, otherwise: &Value) -> BpfProgram {
    compiled(names, then, otherwise).expect("every name is a system call")
}

fn compiled(names: &[String], then: &Value, otherwise: &Value) -> Result<BpfProgram, seccompiler::Error> {
    let rules: Vec<_> = names.iter().map(|name| json!({ "syscall": name })).collect();
    let text = json!({ "all": { "mismatch_action": otherwise, "match_action": then, "filter": rules } });
    let arch = std::env::consts::ARCH.try_into().expect("one of the architectures that we build for");
    let mut programs = compile_from_json(text.to_string().as_bytes(), arch)?;
    Ok(programs.remove("all").expect("it was named so"))
}

/// Runs `act` on a thread under a filter, which the processes that it starts inherit.
fn under<T: Send>(filter: &BpfProgram, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            apply_filter(filter).expect("apply the filter");
            act()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ringmq(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.args(arguments).args(["--data".as_ref(), disk_dir().join("denied").as_os_str()]);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// It ended with a failure, and said on standard error what to do about it.
fn assert_tells(output: &Output, told: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for told in told {
        assert!(error.contains(told), "`{told}` is not in: {error}");
    }
}

#[test]
fn a_host_that_denies_io_uring_is_told_the_cure() {
    let _guard = beside_others();
    let allow = json!("allow");
    let denied = filter(&["io_uring_setup".to_owned()], &json!({ "errno": 1 }), &allow);
    let told = ["io_uring is disabled or blocked", "kernel.io_uring_disabled=0", "seccomp profile"];
    for command in ["serve", "tune"] {
        assert_tells(&under(&denied, || ringmq(&[command]).output().expect("run ringmq")), &told);
    }
    let check = under(&denied, || ringmq(&["check", "-o", "json"]).output().expect("run ringmq"));
    assert_tells(&check, &["cannot run a node"]);
    let findings: Vec<Value> = serde_json::from_slice(&check.stdout).expect("findings in JSON");
    let of_rings = findings.iter().find(|finding| finding["what"] == "io_uring").expect("a finding");
    assert_eq!(of_rings["verdict"], "missing");
    assert!(of_rings["cure"].as_str().is_some_and(|cure| cure.contains("seccomp profile")), "{of_rings}");
}

/// A limit on locked memory counts for root only where the runtime looks at it itself.
#[test]
fn a_host_that_denies_locked_memory_is_told_the_cure() {
    let _guard = beside_others();
    let data = tempfile::tempdir_in(disk_dir()).expect("make a folder");
    let port = free_ports(2);
    let mut command = Command::new("prlimit");
    command.arg("--memlock=0:0").arg(env!("CARGO_BIN_EXE_ringmq")).args(["serve", "--runtime", "glommio"]);
    command.arg("--data").arg(data.path()).args(["--shards", "1", "--port", &port.to_string()]);
    command.args(["--namesrv-port", &(port + 1).to_string()]);
    assert_tells(
        &command.output().expect("run prlimit"),
        &["not enough lockable memory", "LimitMEMLOCK=infinity"],
    );
}

#[test]
fn a_node_runs_under_the_delivered_seccomp_profile() {
    let _guard = beside_others();
    let profile = std::fs::read(source("packaging/seccomp.json")).expect("read the profile");
    let profile: Value = serde_json::from_slice(&profile).expect("the profile is JSON");
    assert_eq!(
        (&profile["defaultAction"], &profile["defaultErrnoRet"]),
        (&json!("SCMP_ACT_ERRNO"), &json!(1))
    );
    let groups = profile["syscalls"].as_array().expect("a list of groups").iter();
    let names = groups.flat_map(|group| group["names"].as_array().expect("a list of names"));
    let mut names: Vec<_> = names.map(|name| name.as_str().expect("a name").to_owned()).collect();
    if cfg!(not(target_arch = "x86_64")) {
        // Other architectures have fewer.
        names.retain(|name| {
            compiled(std::slice::from_ref(name), &json!("allow"), &json!({ "errno": 1 })).is_ok()
        });
    }
    let allowed = filter(&names, &json!("allow"), &json!({ "errno": 1 }));
    let settings = Settings::default().co_located();
    let mut server = under(&allowed, || Server::start(settings));
    for settings in [settings, settings.on_glommio()] {
        let body = format!("on {}", settings.runtime);
        for arguments in [&["send", "profile", &body][..], &["receive", "profile"][..]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
            command.args(arguments).args(["--namesrv", &server.namesrv()]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let process = under(&allowed, || command.spawn().expect("start ringmq"));
            let output = process.wait_with_output().expect("wait for ringmq");
            assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
            assert!(
                arguments[0] == "send" || text(&output.stdout).contains(&body),
                "{}",
                text(&output.stdout)
            );
        }
        assert!(server.stop().success(), "a clean stop");
        if settings.runtime == "ring" {
            under(&allowed, || server.start_again(settings.on_glommio()));
        }
    }
}
