//! A `ringmq serve` process: started, stopped, killed and started again on one store.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringmq::client::{Client, Queue, TopicSpec};
use tempfile::TempDir;

use super::{await_until, disk_dir};

/// How long a start or a stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ports are looked for from here on: below those that the system gives to outgoing connections.
const PORTS_FROM: u16 = 12_000;
const PORTS_TO: u16 = 32_000;

/// How to start it. Two shards on two cores unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) shards: u32,
    /// `spread` or `co-located`.
    pub(crate) placement: &'static str,
    /// `ring` or `glommio`.
    pub(crate) runtime: &'static str,
    /// `sync` or `async`.
    pub(crate) flush: &'static str,
    /// Size of a CommitLog file, MiB: small, so that tests cross from file to file.
    pub(crate) segment_mib: u32,
    /// Time for one check of all that is stored; 0 for never.
    pub(crate) scrub_interval_s: u64,
    /// Time after which a connection is closed on which nothing moves.
    pub(crate) idle_close_s: u64,
    /// Whether [`Server::set_disk_faults`] has an effect.
    pub(crate) disk_faults: bool,
    /// How full the disk may be, as lines of the configuration. The machine of a test may have a full disk.
    pub(crate) disk_limits: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shards: 2,
            placement: "spread",
            runtime: "ring",
            flush: "sync",
            segment_mib: 16,
            scrub_interval_s: 0,
            idle_close_s: 120,
            disk_faults: false,
            disk_limits: "diskSpaceWarningLevelRatio = 100",
        }
    }
}

impl Settings {
    pub(crate) const fn co_located(mut self) -> Self {
        self.placement = "co-located";
        self
    }

    pub(crate) const fn on_glommio(mut self) -> Self {
        self.runtime = "glommio";
        self
    }
}

/// A running server. Dropping it kills it; a failing test shows the end of its log first.
pub(crate) struct Server {
    settings: Settings,
    dir: TempDir,
    port: u16,
    namesrv_port: u16,
    metrics_port: u16,
    process: Option<Child>,
    starts: u32,
}

impl Server {
    /// Starts a server with an empty store and waits until it is ready.
    pub(crate) fn start(settings: Settings) -> Self {
        Self::start_in(disk_dir(), settings)
    }

    /// The same with its store in a new folder below `parent`.
    pub(crate) fn start_in(parent: &Path, settings: Settings) -> Self {
        let mut server = Self::not_started(parent, settings);
        server.start_again(settings);
        server
    }

    /// A server that has folder and ports, and is not started yet.
    pub(crate) fn not_started(parent: &Path, settings: Settings) -> Self {
        let dir = tempfile::Builder::new().prefix("ringmq-").tempdir_in(parent).expect("make a folder");
        let ports = free_ports(u16::try_from(settings.shards).expect("a few shards") + 2);
        Self {
            settings,
            dir,
            port: ports + 2,
            namesrv_port: ports,
            metrics_port: ports + 1,
            process: None,
            starts: 0,
        }
    }

    /// Starts it on the store and the ports that it had, perhaps with other settings.
    pub(crate) fn start_again(&mut self, settings: Settings) {
        let mut process = self.spawn(settings);
        let stdout = process.stdout.take().expect("standard output is a pipe");
        self.process = Some(process);
        self.await_ready(stdout);
    }

    /// The same when it has reason not to start: waits for its end, and returns the end of its log.
    pub(crate) fn refused_start(&mut self, settings: Settings) -> String {
        self.process = Some(self.spawn(settings));
        await_until("the end of a start that cannot be", PATIENCE, || !self.is_running());
        let status = self.process.take().expect("started").wait().expect("it has ended");
        assert!(!status.success(), "it should have refused");
        self.log_end()
    }

    fn spawn(&mut self, settings: Settings) -> Child {
        assert!(self.process.is_none(), "the server runs already");
        self.settings = settings;
        self.starts += 1;
        let config = self.dir.path().join("ringmq.toml");
        let mut text = String::new();
        writeln!(text, "placement = \"{}\"", settings.placement).expect("writing to a string");
        writeln!(text, "runtime = \"{}\"", settings.runtime).expect("writing to a string");
        writeln!(text, "mappedFileSizeCommitLog = \"{}MiB\"", settings.segment_mib)
            .expect("writing to a string");
        writeln!(text, "scrub_interval_s = {}", settings.scrub_interval_s).expect("writing to a string");
        writeln!(text, "serverChannelMaxIdleTimeSeconds = {}", settings.idle_close_s)
            .expect("writing to a string");
        text.push_str(settings.disk_limits);
        std::fs::write(&config, text).expect("write the configuration");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("open the log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
        if settings.disk_faults {
            command.env("DISK_FAULTS", self.disk_faults());
        }
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--data")
            .arg(self.data())
            .args(["--host", "127.0.0.1"])
            .args(["--port", &self.port.to_string()])
            .args(["--namesrv-port", &self.namesrv_port.to_string()])
            .args(["--metrics-port", &self.metrics_port.to_string()])
            .args(["--shards", &settings.shards.to_string()])
            .args(["--flush", settings.flush])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start ringmq")
    }

    /// The line `ready …` promises that connections are accepted.
    fn await_ready(&mut self, stdout: impl std::io::Read + Send + 'static) {
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens any more once the first line was seen; the pipe is still emptied.
                let _ = ready.send(line);
            }
        });
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match is_ready.recv_timeout(left) {
                Ok(line) if line.starts_with("ready") => return,
                Ok(_) => {}
                Err(error) => panic!("the server did not get ready ({error}); its log:\n{}", self.log_end()),
            }
        }
    }

    /// Address of the name server.
    pub(crate) fn namesrv(&self) -> String {
        format!("127.0.0.1:{}", self.namesrv_port)
    }

    pub(crate) fn namesrv_port(&self) -> u16 {
        self.namesrv_port
    }

    /// Address of the metrics page.
    pub(crate) fn metrics(&self) -> String {
        format!("127.0.0.1:{}", self.metrics_port)
    }

    /// What its metrics page answers.
    pub(crate) fn http_body(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics()).expect("connect to the metrics page");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let text = format!("{request} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.metrics());
        stream.write_all(text.as_bytes()).expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        body.to_owned()
    }

    /// A metric, summed over its labels.
    ///
    /// # Panics
    /// When the page has no metric of this name.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.http_body("GET /metrics");
        let mut of_name = text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).peekable();
        assert!(of_name.peek().is_some(), "the metrics page has no {name}:\n{text}");
        of_name.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number")).sum()
    }

    /// What `ringmq check` says beside it.
    pub(crate) fn check(&self) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_ringmq"))
            .args(["check", "--data"])
            .arg(self.data())
            .output()
            .expect("run ringmq check");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Addresses of the shards, joined by commas.
    pub(crate) fn brokers(&self) -> String {
        let addresses: Vec<_> = (0..self.settings.shards).map(|shard| self.broker(shard)).collect();
        addresses.join(",")
    }

    /// Address of one shard.
    pub(crate) fn broker(&self, shard: u32) -> String {
        format!("127.0.0.1:{}", u32::from(self.port) + shard)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.namesrv()).with_timeout(PATIENCE)
    }

    /// Makes a topic with `queues` queues on each shard; all of them, when the name server lists them.
    pub(crate) fn create_topic(&self, name: &str, queues: u32) -> Vec<Queue> {
        let mut client = self.client();
        client.create_topic(TopicSpec { name, queues }).expect("create a topic");
        let mut listed = Vec::new();
        await_until("a route of the topic", PATIENCE, || {
            listed = client.publish_route(name).expect("ask for a route").write_queues();
            listed.len() == (queues * self.settings.shards) as usize
        });
        listed
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder of this test for whatever it needs besides.
    pub(crate) fn scratch(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }

    /// The file of what is wrong with the disk: see `shards/src/io/fault.rs`.
    pub(crate) fn disk_faults(&self) -> PathBuf {
        self.dir.path().join("disk-faults")
    }

    /// From its next look at the disk on, the server has these faults and no others, counted from now on.
    pub(crate) fn set_disk_faults(&self, rules: &str) {
        assert!(self.settings.disk_faults, "the server has none");
        let beside = self.dir.path().join("disk-faults.new");
        std::fs::write(&beside, rules).expect("write the faults");
        std::fs::rename(&beside, self.disk_faults()).expect("put the faults in their place");
    }

    /// Memory that it has resident, bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("read its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kib * 1024
    }

    pub(crate) fn is_running(&mut self) -> bool {
        let process = self.process.as_mut().expect("started");
        process.try_wait().expect("ask for its state").is_none()
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut process = self.process.take().expect("started");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.try_wait().expect("ask for its state") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = process.kill();
                panic!("SIGTERM did not end the server; its log:\n{}", self.log_end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL: no chance to write anything any more.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("started");
        process.kill().expect("kill");
        process.wait().expect("wait for the end");
    }

    /// SIGSTOP: it does nothing until [`Self::resume`].
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    pub(crate) fn log_end(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(6000)..]).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("ringmq.log")
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().expect("started").id()
    }

    /// By the program `kill`: the tests, too, have no `unsafe`.
    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("run kill");
        assert!(status.success(), "kill -s {name} failed");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("end of the server's log after {} starts:\n{}", self.starts, self.log_end());
        }
    }
}

/// The first of `count` consecutive ports on which nobody listens. Different processes start at different places, and one
/// process never looks at a port twice.
pub(crate) fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS_TO - PORTS_FROM;
    let start = u16::try_from(std::process::id() * 97 % u32::from(span)).expect("below a u16");
    for _ in 0..1000 {
        let step = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = PORTS_FROM + start.wrapping_add(step) % (span - count);
        let listeners: Vec<_> =
            (0..count).map_while(|i| TcpListener::bind(("127.0.0.1", first + i)).ok()).collect();
        if listeners.len() == usize::from(count) {
            return first;
        }
    }
    panic!("no {count} free ports between {PORTS_FROM} and {PORTS_TO}");
}
