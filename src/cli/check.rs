//! `ringmq check`: whether this host can run a node well, and the cure for what it lacks.
//!
//! Each part below looks at one side of the host. What is read is judged by pure functions, tested there.

mod cpu;
mod disk;
mod kernel;
mod memory;
mod network;
mod store;

use std::path::PathBuf;

use runtime::executor::Backend;
use runtime::host;
use serde::Serialize;

use super::serve::{Overrides, read_config};
use super::{Output, machine};
use crate::config::{Config, ConfigError};

/// Checks what a node needs of this host; each finding comes with its cure.
///
/// Reads the same configuration as `ringmq serve`: ports, data folder, runtime. Exits with 1 when something is missing that
/// `ringmq serve` cannot do without, and with --strict also when there are warnings.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE", env = "RINGMQ_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Warnings, too, make it exit with 1.
    #[arg(long)]
    strict: bool,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// It runs, slower or with less than it could.
    Warning,
    /// It does not run.
    Missing,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, found: found.into(), cure: None }
    }

    fn warning(what: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Warning, found: found.into(), cure: Some(cure.into()) }
    }

    fn missing(what: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Missing, found: found.into(), cure: Some(cure.into()) }
    }
}

/// Something is missing.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("this host cannot run a node; see the cures above")]
    Missing,
    #[error("there are warnings; see the cures above")]
    Warnings,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Checks and prints.
///
/// # Errors
/// Something is missing, the configuration does not resolve, or the system does not answer.
pub fn run(args: Args) -> Result<(), CheckError> {
    let text = read_config(args.config, args.overrides)?;
    let cpus = host::allowed_cpus()?;
    let data = text.data_or_default();
    let folder = machine::nearest_folder(&data);
    let store = store::Look::at(&data);
    let shards = store.shards().or(text.wanted_shards()).unwrap_or_else(|| text.default_shards(&cpus));
    let config = Config::resolve(text, shards, &cpus)?;

    let mut findings = kernel::findings(config.runtime)?;
    let backend = config.runtime.unwrap_or_else(Backend::best);
    findings.extend(memory::findings(backend, config.cores.len())?);
    findings.extend(cpu::findings(&cpus));
    findings.extend(disk::findings(folder)?);
    findings.extend(store.findings(folder, &config)?);
    findings.extend(network::findings(&config, store.is_in_use()));
    if args.output == Output::Json {
        println!("{}", serde_json::to_string(&findings).expect("findings are plain text"));
    } else {
        print(&findings);
    }
    let has = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    match (has(Verdict::Missing), args.strict && has(Verdict::Warning)) {
        (true, _) => Err(CheckError::Missing),
        (false, true) => Err(CheckError::Warnings),
        (false, false) => Ok(()),
    }
}

fn print(findings: &[Finding]) {
    for Finding { what, verdict, found, cure } in findings {
        let mark = match verdict {
            Verdict::Good => "ok  ",
            Verdict::Warning => "warn",
            Verdict::Missing => "FAIL",
        };
        println!("{mark}  {what:<16} {found}");
        if let Some(cure) = cure {
            println!("      {:<16} cure: {cure}", "");
        }
    }
}

/// The choice in brackets of a list such as `none [mq-deadline] kyber`.
fn chosen(list: &str) -> &str {
    let bracketed = list.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    bracketed.map_or(list.trim(), |(choice, _)| choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("none\n"), "none");
    }
}
