//! The Go client program: built once, its modules from the Go proxy as `go.sum` pins them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::{run, up_to_date};
use super::{disk_dir, source};

const HELP: &str = "The Go tests need Go (1.18 or newer); `make tools` installs or names what is missing.";

/// The program, with files that the client writes below `home`.
pub(crate) fn command(home: &Path) -> Command {
    let mut command = Command::new(built());
    command.env("HOME", home);
    command
}

fn built() -> PathBuf {
    let project = source("tests/clients/go");
    let program = disk_dir().join("go-clients");
    if !up_to_date(&program, &project) {
        run(Command::new("go").current_dir(&project).args(["build", "-o"]).arg(&program).arg("."), HELP);
    }
    program
}
