//! A stock Java broker with its name server, from Maven's public artefacts, on a store of the test's choice.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::java::Java;
use super::program::{run, up_to_date};
use super::server::free_ports;
use super::{await_until, disk_dir, source};

/// How long a start or a stop may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const HELP: &str =
    "The stock broker needs a JDK (11 or newer) and Maven; `make tools` installs or names what is missing.";

/// How to start it.
pub(crate) struct StockSettings<'a> {
    pub(crate) broker_name: &'a str,
    pub(crate) namesrv_port: u16,
    /// Its `storePathRootDir`.
    pub(crate) store: &'a Path,
    /// Size of a CommitLog file, MiB.
    pub(crate) segment_mib: u32,
}

/// A running broker. Dropping it kills it; a failing test shows the end of what it said.
pub(crate) struct StockBroker {
    process: Option<Child>,
    home: PathBuf,
}

impl StockBroker {
    /// Starts it, with what it writes besides the store below `scratch`, and waits until both have said that they run.
    pub(crate) fn start(java: &Java, scratch: &Path, settings: &StockSettings<'_>) -> Self {
        let home = scratch.join("stock");
        std::fs::create_dir_all(&home).expect("make a folder");
        let StockSettings { broker_name, namesrv_port, store, segment_mib } = settings;
        let namesrv_conf = home.join("namesrv.conf");
        std::fs::write(&namesrv_conf, format!("listenPort={namesrv_port}\nbindAddress=127.0.0.1\n"))
            .expect("write a configuration");
        // It takes the port before last of its own, and the next.
        let port = free_ports(4) + 2;
        let broker_conf = home.join("broker.conf");
        let text = format!(
            "brokerClusterName=DefaultCluster\nbrokerName={broker_name}\nbrokerId=0\nbrokerIP1=127.0.0.1\nbindAddress=127.0.0.1\n\
             listenPort={port}\nnamesrvAddr=127.0.0.1:{namesrv_port}\nstorePathRootDir={store}\nstorePathCommitLog={store}/commitlog\n\
             mappedFileSizeCommitLog={bytes}\nflushDiskType=ASYNC_FLUSH\nautoCreateTopicEnable=true\nwaitTimeMillsInSendQueue=20000\n\
             osPageCacheBusyTimeOutMills=20000\ndiskMaxUsedSpaceRatio=95\nfileReservedTime=720\ntransactionCheckInterval=2000\n\
             transactionCheckMax=1000\n",
            store = store.display(),
            bytes = u64::from(*segment_mib) << 20,
        );
        std::fs::write(&broker_conf, text).expect("write a configuration");
        let said = File::create(home.join("out")).expect("create a file");
        let errors = said.try_clone().expect("a second handle");
        let process = Command::new("java")
            .args(["-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .args([
                "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
                "--add-opens=java.base/java.nio=ALL-UNNAMED",
            ])
            .arg("--add-opens=java.base/sun.nio.ch=ALL-UNNAMED")
            .arg(format!("-Duser.home={}", home.display()))
            .arg(format!("-Drocketmq.home.dir={}", home.display()))
            .arg("-cp")
            .arg(format!("{}:{}", java.programs().display(), jars()))
            .arg("clients.StockBroker")
            .args([&namesrv_conf, &broker_conf])
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(errors)
            .spawn()
            .expect("start java");
        let mut broker = Self { process: Some(process), home };
        await_until("the stock broker to run", PATIENCE, || {
            let is_running = broker.is_running();
            assert!(is_running, "the stock broker ended:\n{}", broker.said());
            broker.said().matches("boot success").count() == 2
        });
        broker
    }

    fn is_running(&mut self) -> bool {
        let process = self.process.as_mut().expect("started");
        process.try_wait().expect("ask for its state").is_none()
    }

    /// What it printed, without what its logging says of its own start.
    fn said(&self) -> String {
        let text = std::fs::read_to_string(self.home.join("out")).unwrap_or_default();
        text.lines().filter(|line| !line.contains("|-INFO")).map(|line| format!("{line}\n")).collect()
    }

    /// SIGTERM, as its own scripts end it, until it is gone.
    pub(crate) fn stop(mut self) {
        let process = self.process.as_ref().expect("started");
        run(Command::new("kill").args(["-s", "TERM", &process.id().to_string()]), "");
        await_until("the stock broker to end", PATIENCE, || !self.is_running());
        self.process = None;
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        let mut process = self.process.take().expect("started");
        process.kill().expect("kill");
        process.wait().expect("wait for the end");
    }
}

impl Drop for StockBroker {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("what the stock broker said:\n{}", self.said());
        }
    }
}

/// The class path of the stock programs; fetched once.
fn jars() -> String {
    static MAVEN: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let pom = source("bench-harness/peers/java/pom.xml");
    let list = disk_dir().join("stock-broker.classpath");
    let read = || std::fs::read_to_string(&list).unwrap_or_default().trim().to_owned();
    let are_there = |jars: &str| jars.split(':').all(|jar| Path::new(jar).exists());
    if !up_to_date(&list, &pom) || !are_there(&read()) {
        let maven = |options: &[&str]| {
            let mut command = Command::new("mvn");
            command.args(["--quiet", "--batch-mode", "dependency:build-classpath", "-f"]).arg(&pom);
            command.arg(format!("-Dmdep.outputFile={}", list.display())).args(options);
            command
        };
        // What was fetched before is enough: without a network the tests still run.
        let offline = maven(&["--offline"]).output();
        if !offline.is_ok_and(|done| done.status.success()) {
            run(&mut maven(&[]), HELP);
        }
    }
    read()
}
