//! Peers: brokers that a comparison starts on a fresh store and stops again, each through a script of its own. `peers/README.md` has the
//! contract; [`RunningPeer`] is what a script's `start` printed.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use ringmq::client::Client;
use serde::Serialize;

use crate::error::BenchError;
use crate::workload::FlushMode;

/// Ports that a peer may use, from the first one on: its name server's, then its broker's with a few on either side.
const PORTS: u16 = 16;
const PORTS_FROM: u16 = 21_000;
const BROKER_PORT: u16 = 4;
/// How long a broker that says it is ready may take until its name server knows of it.
const REGISTRATION_WAIT: Duration = Duration::from_secs(30);

/// Somebody to be measured: `NAME=SCRIPT [OPTIONS]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    pub name: String,
    /// The script and the options that each `start` gets.
    pub command: Vec<String>,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: say NAME=SCRIPT, such as ringmq=bench-harness/peers/ringmq");
        let (name, command) = text.split_once('=').ok_or_else(wrong)?;
        let command: Vec<String> = command.split_ascii_whitespace().map(str::to_owned).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(plain) || command.is_empty() {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), command })
    }
}

/// How a peer is driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By this harness, through the name server at this address.
    RocketMq { namesrv: String },
    /// By its own tool, through the script's `load`.
    Own,
}

/// A peer that has been started. Stopped when dropped.
#[derive(Debug)]
pub struct RunningPeer {
    pub peer: Peer,
    pub dir: PathBuf,
    pub protocol: Protocol,
    pub broker_pids: Vec<u32>,
    /// Its metrics page, when it is a RingMQ.
    pub metrics: Option<SocketAddr>,
}

impl Peer {
    /// Starts it with its data in `dir`, which does not exist yet.
    ///
    /// # Errors
    /// The script fails, or what it prints is not as agreed: with its output.
    pub fn start(&self, dir: &Path, flush: FlushMode) -> Result<RunningPeer, BenchError> {
        let ports =
            free_ports().ok_or_else(|| self.failed("start", "no 16 free ports in a row on 127.0.0.1"))?;
        let mut command = self.verb("start");
        command.args(&self.command[1..]).args(["--flush", flush.name()]);
        command.args(["--namesrv-port", &ports.to_string()]);
        command.args(["--port", &(ports + BROKER_PORT).to_string()]).arg("--dir").arg(dir);
        // From here on it is stopped, whatever it has started until then.
        let mut running = RunningPeer {
            peer: self.clone(),
            dir: dir.to_owned(),
            protocol: Protocol::Own,
            broker_pids: Vec::new(),
            metrics: None,
        };
        let output = run_script(&mut command).map_err(|problem| self.failed("start", &problem))?;
        let ready = last_line(&output, "ready").ok_or_else(|| {
            self.failed("start", &format!("it did not print a line that begins with `ready`:\n{output}"))
        })?;
        running.broker_pids = numbers(&ready, "broker_pid");
        running.metrics = ready.get("metrics").and_then(|address| address.parse().ok());
        running.protocol = match (ready.get("protocol").map(String::as_str), ready.get("namesrv")) {
            (None | Some("rocketmq"), Some(namesrv)) => Protocol::RocketMq { namesrv: namesrv.clone() },
            (Some("own"), _) => Protocol::Own,
            _ => return Err(self.failed("start", &format!("neither namesrv= nor protocol=own in {ready:?}"))),
        };
        running.wait_until_registered()?;
        Ok(running)
    }

    fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.arg(verb).stdin(Stdio::null());
        command
    }

    fn failed(&self, verb: &'static str, problem: &str) -> BenchError {
        BenchError::Peer { peer: self.name.clone(), verb, problem: problem.to_owned() }
    }
}

/// What a peer's own tool is to do.
#[derive(Clone, Copy, Debug)]
pub struct OwnLoad {
    pub size: usize,
    pub in_flight: usize,
    pub rate: Option<f64>,
    pub seconds: f64,
}

impl RunningPeer {
    /// A stock broker is up a little before its name server knows of it.
    fn wait_until_registered(&self) -> Result<(), BenchError> {
        let Protocol::RocketMq { namesrv } = &self.protocol else { return Ok(()) };
        let deadline = Instant::now() + REGISTRATION_WAIT;
        loop {
            let masters = Client::new(namesrv).cluster().map(|cluster| cluster.masters().len());
            match masters {
                Ok(1..) => return Ok(()),
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
                Ok(_) => return Err(self.peer.failed("start", "no broker registered within 30 s")),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Runs the peer's own tool; returns what the `result` line of its script holds.
    ///
    /// # Errors
    /// The tool fails or cannot do this: with its output.
    pub fn load(&self, load: OwnLoad) -> Result<BTreeMap<String, String>, BenchError> {
        let mut command = self.peer.verb("load");
        command.arg("--dir").arg(&self.dir).args(["--size", &load.size.to_string()]);
        command.args(["--in-flight", &load.in_flight.to_string(), "--seconds", &load.seconds.to_string()]);
        if let Some(rate) = load.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let output = run_script(&mut command).map_err(|problem| self.peer.failed("load", &problem))?;
        last_line(&output, "result").ok_or_else(|| {
            self.peer.failed("load", &format!("it did not print a line that begins with `result`:\n{output}"))
        })
    }
}

impl Drop for RunningPeer {
    fn drop(&mut self) {
        let mut command = self.peer.verb("stop");
        if let Err(problem) = run_script(command.arg("--dir").arg(&self.dir)) {
            eprintln!("ringmq-bench: {}", self.peer.failed("stop", &problem));
        }
    }
}

/// Runs a script to its end; what it printed, or why it failed.
fn run_script(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("cannot run {program}: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(format!("{}\n{printed}{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()))
}

/// The `key=value` pairs of the last line that begins with `word`.
fn last_line(output: &str, word: &str) -> Option<BTreeMap<String, String>> {
    let line = output.lines().rev().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))?;
    let pairs = line.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
    Some(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

fn numbers(pairs: &BTreeMap<String, String>, key: &str) -> Vec<u32> {
    let text = pairs.get(key).map(String::as_str).unwrap_or_default();
    text.split(',').filter_map(|number| number.parse().ok()).collect()
}

/// The first of a row of ports on loopback that nobody listens on.
fn free_ports() -> Option<u16> {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut rows = (PORTS_FROM..32_000).step_by(PORTS.into());
    rows.find(|first| (*first..first + PORTS).all(is_free))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A peer whose script is this text.
    fn scripted(dir: &Path, script: &str) -> Peer {
        let path = dir.join("script");
        std::fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        format!("mine={} --heap 1g", path.display()).parse().unwrap()
    }

    #[test]
    fn a_peer_is_a_name_and_a_command() {
        let peer: Peer = "java=peers/rocketmq-java --heap 2g".parse().unwrap();
        assert_eq!(
            (peer.name.as_str(), &peer.command[1..]),
            ("java", &["--heap".to_owned(), "2g".to_owned()][..])
        );
        for text in ["java", "=x", "java=", "ja/va=x"] {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_peer_with_its_own_tool_is_started_loaded_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = format!(
            "echo \"$@\" >>{}\ncase $1 in\nstart) echo noise; echo ready protocol=own broker_pid=7,8 ;;\n\
             load) echo result messages=100 seconds=2.5 ;;\nesac\n",
            log.display()
        );
        let running =
            scripted(dir.path(), &script).start(&dir.path().join("data"), FlushMode::Async).unwrap();
        assert_eq!((&running.protocol, &running.broker_pids[..]), (&Protocol::Own, &[7, 8][..]));
        let found = running.load(OwnLoad { size: 9, in_flight: 3, rate: None, seconds: 2.0 }).unwrap();
        assert_eq!(found.get("messages").map(String::as_str), Some("100"));
        drop(running);
        let log = std::fs::read_to_string(log).unwrap();
        let verbs: Vec<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(verbs, ["start", "load", "stop"]);
        assert!(log.starts_with("start --heap 1g --flush ASYNC_FLUSH --namesrv-port "), "{log}");
        assert!(log.contains("--size 9 --in-flight 3 --seconds 2"), "{log}");
    }

    #[test]
    fn a_peer_that_does_not_start_is_stopped_and_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let stopped = dir.path().join("stopped");
        let script = format!("[ $1 = stop ] && touch {}\necho no java here >&2\nexit 1\n", stopped.display());
        let error =
            scripted(dir.path(), &script).start(&dir.path().join("data"), FlushMode::Sync).unwrap_err();
        assert!(error.to_string().contains("no java here"), "{error}");
        assert!(stopped.exists());
    }
}
