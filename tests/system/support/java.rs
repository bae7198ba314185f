//! The Java client programs: built by Maven once per client version, from Maven Central.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::program::{run, up_to_date};
use super::{disk_dir, source};

const HELP: &str =
    "The Java tests need a JDK (11 or newer) and Maven; `make tools` installs or names what is missing.";

/// A client version, compiled against.
#[derive(Clone, Debug)]
pub(crate) struct Java {
    output: PathBuf,
}

impl Java {
    /// Builds the programs for this client version if that was not done before.
    pub(crate) fn with_client(version: &str) -> Self {
        static MAVEN: Mutex<()> = Mutex::new(());
        let _one_at_a_time = MAVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let project = source("tests/clients/java");
        let output = disk_dir().join(format!("java-{version}"));
        let stamp = output.join("built");
        if !up_to_date(&stamp, &project) {
            // What was fetched before is enough: without a network the tests still run.
            let offline = maven(&project, version, &output).arg("--offline").output();
            if !offline.is_ok_and(|done| done.status.success()) {
                run(&mut maven(&project, version, &output), HELP);
            }
            std::fs::write(&stamp, version).expect("write the stamp");
        }
        Self { output }
    }

    /// `java` with the programs and the client on its class path; files that the client writes go below `home`.
    pub(crate) fn command(&self, home: &Path) -> Command {
        let mut command = Command::new("java");
        command
            .args(["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg(format!("-Duser.home={}", home.display()))
            .arg(format!("-Drocketmq.client.localOffsetStoreDir={}", home.join("offsets").display()))
            .arg("-cp")
            .arg(self.class_path());
        command
    }

    /// Compiles one source file into `output`.
    pub(crate) fn compile(&self, file: &Path, output: &Path) {
        run(Command::new("javac").arg("-cp").arg(self.class_path()).arg("-d").arg(output).arg(file), HELP);
    }

    pub(crate) fn class_path(&self) -> String {
        format!("{}:{}/*", self.programs().display(), self.output.join("lib").display())
    }

    /// The folder of the programs' own classes.
    pub(crate) fn programs(&self) -> PathBuf {
        self.output.join("classes")
    }
}

fn maven(project: &Path, version: &str, output: &Path) -> Command {
    let mut command = Command::new("mvn");
    command
        .current_dir(project)
        .args(["--quiet", "--batch-mode", "process-classes"])
        .arg(format!("-Drocketmq.version={version}"))
        .arg(format!("-Doutput={}", output.display()));
    command
}
