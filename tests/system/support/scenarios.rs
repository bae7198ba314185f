//! A client program that plays scenarios: names in on standard input, one JSON line out for each (see `tests/clients`).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// Longer than the programs' own patience, so that they can say what they waited for.
const PATIENCE: Duration = Duration::from_secs(240);

#[derive(Deserialize)]
struct Answer {
    scenario: String,
    ok: bool,
    ms: u64,
    note: String,
}

/// A running client program.
pub(crate) struct Scenarios {
    who: &'static str,
    process: Child,
    input: Option<ChildStdin>,
    answers: Receiver<Answer>,
}

impl Scenarios {
    /// Starts it; what it says on standard error goes to a file in `scratch`.
    pub(crate) fn start(who: &'static str, mut command: Command, scratch: &Path) -> Self {
        let errors = File::create(scratch.join("client.log")).expect("create the client's log");
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let output = process.stdout.take().expect("standard output is a pipe");
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let answer = serde_json::from_str(&line);
                let sent = answer.map(|answer| sender.send(answer));
                if !matches!(sent, Ok(Ok(()))) {
                    eprintln!("{line}");
                }
            }
        });
        let input = process.stdin.take();
        Self { who, process, input, answers }
    }

    /// Plays these at the same time and waits for all of them.
    ///
    /// # Panics
    /// When one fails or does not answer: with what each of them said.
    pub(crate) fn play(&mut self, names: &[&str]) {
        let input = self.input.as_mut().expect("not finished");
        for name in names {
            writeln!(input, "{name}").expect("the client program has ended");
        }
        input.flush().expect("the client program has ended");
        let mut waiting: Vec<&str> = names.to_vec();
        let mut failures = String::new();
        let deadline = Instant::now() + PATIENCE;
        while !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(answer) = self.answers.recv_timeout(left) else {
                panic!("{}: no answer from {waiting:?}{failures}", self.who);
            };
            waiting.retain(|name| *name != answer.scenario);
            println!(
                "{} {}: {} after {} ms {}",
                self.who, answer.scenario, answer.ok, answer.ms, answer.note
            );
            if !answer.ok {
                failures += &format!("\n{} after {} ms: {}", answer.scenario, answer.ms, answer.note);
            }
        }
        assert!(failures.is_empty(), "{} failed:{failures}", self.who);
    }

    /// Ends the input and waits for the end of the program.
    pub(crate) fn finish(mut self) {
        self.input = None;
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait().expect("ask for its state").is_none() {
            assert!(Instant::now() < deadline, "{} does not end", self.who);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Scenarios {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
