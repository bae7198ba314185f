//! The unmodified Go client, v2.1.2, and a restart of the broker in between.

use crate::support::beside_others;
use crate::support::go;
use crate::support::scenarios::Scenarios;
use crate::support::server::{Server, Settings};

const SCENARIOS: [&str; 13] = [
    "send_sync",
    "send_async",
    "send_oneway",
    "send_batch",
    "send_largest_body",
    "push_group",
    "push_tags",
    "broadcasting",
    "orderly",
    "pull_from",
    "retry",
    "delay",
    "before_restart",
];

#[test]
fn go_client_sends_and_receives() {
    let _guard = beside_others();
    let settings = Settings::default();
    let mut server = Server::start(settings);
    let mut command = go::command(server.scratch());
    command.args([&server.namesrv(), &server.brokers(), "go"]);
    let mut scenarios = Scenarios::start("Go v2.1.2", command, server.scratch());
    scenarios.play(&SCENARIOS);
    let status = server.stop();
    assert!(status.success(), "SIGTERM: {status}");
    server.start_again(settings.co_located().on_glommio());
    scenarios.play(&["after_restart"]);
    scenarios.finish();
    assert!(server.stop().success(), "second SIGTERM");
}
