//! The examples of the README, word for word, against a running server.

use std::process::Command;

use crate::support::java::Java;
use crate::support::program::run;
use crate::support::server::{Server, Settings};
use crate::support::{beside_others, source};

#[test]
fn the_commands_of_the_readme_send_and_receive() {
    let _guard = beside_others();
    let readme = std::fs::read_to_string(source("README.md")).expect("read the README");
    let server = Server::start(Settings::default());
    let mut printed = String::new();
    for line in readme.lines().filter_map(|line| line.strip_prefix("    target/release/ringmq ")) {
        let command = format!("'{}' {line} --namesrv {}", env!("CARGO_BIN_EXE_ringmq"), server.namesrv());
        let output =
            run(Command::new("sh").args(["-c", &command]), "The README's commands must work as they stand.");
        printed += &String::from_utf8_lossy(&output.stdout);
    }
    assert!(printed.contains("Hello RingMQ"), "{printed}");
}

#[test]
fn the_example_of_the_readme_sends_and_receives() {
    let _guard = beside_others();
    let readme = std::fs::read_to_string(source("README.md")).expect("read the README");
    let (_, after) = readme.split_once("```java\n").expect("the README has a Java example");
    let (example, _) = after.split_once("```").expect("the example has an end");
    let server = Server::start(Settings::default());
    let example = example.replace("localhost:9876", &server.namesrv());
    let folder = server.scratch().join("example");
    std::fs::create_dir(&folder).expect("make a folder");
    let file = folder.join("Hello.java");
    std::fs::write(&file, example).expect("write the example");
    let java = Java::with_client("5.5.0");
    java.compile(&file, &folder);
    let class_path = format!("{}:{}", folder.display(), java.class_path());
    let mut command = Command::new("timeout");
    command.arg("60").arg("java").arg(format!("-Duser.home={}", folder.display()));
    command.args(["-cp", &class_path, "Hello"]);
    let output = run(&mut command, "The README's example must work as it stands.");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("sent") && printed.contains("received: Hello RingMQ"), "{printed}");
}
