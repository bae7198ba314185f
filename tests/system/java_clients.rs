//! Unmodified Java clients, 4.9.8 and 5.5.0, the latter also with RocketMQ's binary headers. After a restart of the broker in
//! between, the same process goes on.

use std::process::Command;

use crate::support::beside_others;
use crate::support::java::Java;
use crate::support::scenarios::Scenarios;
use crate::support::server::{Server, Settings};

const SCENARIOS: [&str; 17] = [
    "send_sync",
    "send_async",
    "send_oneway",
    "send_batch",
    "send_largest_body",
    "refusals",
    "queries",
    "push_group",
    "push_tags",
    "push_wakes",
    "broadcasting",
    "orderly",
    "lite_assign",
    "lite_subscribe",
    "retry",
    "delay",
    "before_restart",
];

#[test]
fn java_client_4_9_8_sends_and_receives() {
    play("Java 4.9.8", "4.9.8", Settings::default(), |_| {});
}

#[test]
fn java_client_5_5_0_sends_and_receives() {
    play("Java 5.5.0", "5.5.0", Settings::default().co_located(), |_| {});
}

#[test]
fn java_client_5_5_0_with_binary_headers_sends_and_receives() {
    play("Java 5.5.0, binary headers", "5.5.0", Settings::default(), |command| {
        command.arg("-Drocketmq.serialize.type=ROCKETMQ");
    });
}

fn play(who: &'static str, client: &str, settings: Settings, options: impl Fn(&mut Command)) {
    let _guard = beside_others();
    let java = Java::with_client(client);
    let mut server = Server::start(settings);
    let mut command = java.command(server.scratch());
    options(&mut command);
    command.args(["clients.Driver", &server.namesrv(), "java"]);
    let mut scenarios = Scenarios::start(who, command, server.scratch());
    scenarios.play(&SCENARIOS);
    let status = server.stop();
    assert!(status.success(), "SIGTERM: {status}");
    server.start_again(settings);
    scenarios.play(&["after_restart"]);
    scenarios.finish();
    assert!(server.stop().success(), "second SIGTERM");
}
