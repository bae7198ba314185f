//! Stock Java producers and push consumers that go on whatever becomes of the server (`Enduring.java`), and what they told.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::java::Java;
use super::load::{Id, Ledger};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crew {
    pub(crate) senders: u32,
    /// Members of the group, each with a client of its own.
    pub(crate) members: u32,
}

/// A message at its place, as an answer or a consumer told it.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) broker_name: String,
    pub(crate) queue_id: u32,
    pub(crate) offset: u64,
    pub(crate) id: Id,
}

/// What the program said.
#[derive(Debug, Default)]
struct Told {
    acknowledged: Vec<Placed>,
    consumed: Vec<Placed>,
    /// Sent, and not answered or refused.
    in_flight: Vec<Id>,
    /// The last line.
    end: String,
}

/// The running program.
pub(crate) struct Enduring {
    process: Child,
    input: Option<ChildStdin>,
    told: Option<JoinHandle<Told>>,
    acknowledged: Arc<AtomicU64>,
    consumed: Arc<AtomicU64>,
}

impl Enduring {
    /// Starts senders to the ledger's topic, and a group that consumes it from its beginning.
    pub(crate) fn start(java: &Java, namesrv: &str, ledger: &Ledger, crew: Crew, scratch: &Path) -> Self {
        let errors = File::create(scratch.join("enduring.log")).expect("create the client's log");
        let mut command = java.command(scratch);
        command
            .args(["clients.Enduring", namesrv, &ledger.topic[0].topic, "enduring"])
            .args([crew.senders.to_string(), crew.members.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut process = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let output = process.stdout.take().expect("standard output is a pipe");
        let input = process.stdin.take();
        let (acknowledged, consumed) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let counts = (Arc::clone(&acknowledged), Arc::clone(&consumed));
        let told = std::thread::spawn(move || listen(output, &counts.0, &counts.1));
        Self { process, input, told: Some(told), acknowledged, consumed }
    }

    /// Messages acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Messages consumed so far, each time again.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// Ends the sending, waits until the group has consumed all that was acknowledged, and enters everything.
    ///
    /// # Panics
    /// When the group does not get to the end.
    pub(crate) fn enter_into(mut self, ledger: &mut Ledger) {
        writeln!(self.input.as_mut().expect("not finished"), "end").expect("the client program has ended");
        let told = self.told.take().expect("not finished").join().expect("the client's lines were read");
        assert_eq!(told.end, "E", "the group has not consumed all that was acknowledged");
        ledger.enter_in_flight(told.in_flight);
        for placed in &told.acknowledged {
            ledger.enter_acknowledged(placed);
        }
        for placed in &told.consumed {
            ledger.enter_read(placed);
        }
    }
}

impl Drop for Enduring {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn listen(output: ChildStdout, acknowledged: &AtomicU64, consumed: &AtomicU64) -> Told {
    let mut told = Told::default();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("A", rest)) => {
                told.acknowledged.push(placed(rest).unwrap_or_else(|| panic!("not understood: {line}")));
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Some(("C", rest)) => {
                told.consumed.push(placed(rest).unwrap_or_else(|| panic!("not understood: {line}")));
                consumed.fetch_add(1, Ordering::Relaxed);
            }
            Some(("F", rest)) => {
                told.in_flight.push(id(rest).unwrap_or_else(|| panic!("not understood: {line}")));
            }
            _ => told.end = line,
        }
    }
    told
}

fn placed(text: &str) -> Option<Placed> {
    let mut words = text.splitn(4, ' ');
    Some(Placed {
        broker_name: words.next()?.to_owned(),
        queue_id: words.next()?.parse().ok()?,
        offset: words.next()?.parse().ok()?,
        id: id(words.next()?)?,
    })
}

fn id(text: &str) -> Option<Id> {
    let (sender, number) = text.split_once(' ')?;
    Some(Id { sender: sender.parse().ok()?, number: number.parse().ok()? })
}
