//! A client that goes on sending and receiving while something else happens to the server, and tells how long it had to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringmq::client::{OutMessage, Pull};

use super::load::Ledger;
use super::server::Server;

/// The client, on a thread of its own until [`Witness::finish`].
pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Witness {
    pub(crate) fn start(server: &Server, ledger: &Ledger) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut client, queue, stopped) = (server.client(), ledger.topic[0].clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut messages, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let body = format!("witness {messages}");
                let message = OutMessage::new(&body, body.as_bytes());
                let receipt = client.send(&queue, "witness", &message, 0).expect("the witness sends");
                let pull = Pull {
                    group: "witness",
                    offset: receipt.queue_offset,
                    messages_max: 1,
                    subscription: "*",
                    hold: None,
                };
                let pulled = client.pull(&queue, &pull).expect("the witness pulls");
                let found = pulled.messages().next().expect("a message").expect("a readable message");
                assert_eq!(found.body, body.as_bytes());
                longest = longest.max(start.elapsed());
                messages += 1;
            }
            (messages, longest)
        });
        Self { stop, thread }
    }

    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (messages, longest) = self.thread.join().expect("the witness was disturbed");
        println!("the witness sent and received {messages} messages, the slowest took {longest:?}");
        assert!(
            messages > 0 && longest < Duration::from_secs(10),
            "the slowest of {messages} took {longest:?}"
        );
    }
}
