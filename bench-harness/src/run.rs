//! `ringmq-bench run` and `ringmq-bench list`: the steps of workloads, one after the other, against brokers that are there already.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::disk_probe::DiskProbe;
use crate::error::BenchError;
use crate::knee::Knee;
use crate::options::{ReportOptions, parse_duration};
use crate::report::{Place, print};
use crate::workload::{BUILT_IN, Step, Workload};

/// Run workloads against the brokers of a name server.
#[derive(Args, Clone, Debug)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  Every combination of a workload, a result file for each:
    ringmq-bench run in-flight sizes --results results --flush SYNC_FLUSH
  The highest rate that the broker holds:
    ringmq-bench run ladder
  A workload of your own, quickly:
    ringmq-bench run my.toml --duration 2s --warmup 0s

`ringmq-bench list` names the workloads that come with the program.
Exit status: 0 when all went well; 1 when any run had an error."
)]
pub struct RunArgs {
    /// Names, or files
    #[arg(required = true, value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// Name server, HOST:PORT; several joined by `;`
    #[arg(long, short, default_value = "127.0.0.1:9876", env = "RINGMQ_NAMESRV", value_name = "ADDR")]
    pub namesrv: String,
    /// Process of the broker, for its CPU time; found by its port when it runs here
    #[arg(long, value_name = "PID")]
    pub broker_pid: Vec<u32>,
    #[command(flatten)]
    pub choice: StepChoice,
    /// Write each run's result as JSON into this folder
    #[arg(long, value_name = "DIR")]
    pub results: Option<PathBuf>,
    /// Begin the files' names with this
    #[arg(long, default_value = "run")]
    pub label: String,
    /// The brokers' flush mode, kept in the results (the harness cannot see it)
    #[arg(long, value_name = "SYNC_FLUSH|ASYNC_FLUSH")]
    pub flush: Option<String>,
    /// The brokers' data folder: names its file system in the results, and a probe of the disk writes beside it
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A line of progress each second, even when standard error is not a terminal
    #[arg(long)]
    pub progress: bool,
}

/// Which steps of a workload, and for how long.
#[derive(Args, Clone, Debug, Default)]
pub struct StepChoice {
    /// Only steps whose name has this in it
    #[arg(long, value_name = "TEXT")]
    pub step: Option<String>,
    /// Measure for this long instead of what the workload says
    #[arg(long, short, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Warm up for this long instead of what the workload says
    #[arg(long, short, value_parser = parse_duration, value_name = "TIME")]
    pub warmup: Option<Duration>,
}

impl StepChoice {
    /// Reads workloads and leaves what was chosen of them.
    ///
    /// # Errors
    /// A workload cannot be read, or no step is left of it.
    pub fn load(&self, names: &[String]) -> Result<Vec<Workload>, BenchError> {
        names.iter().map(|name| self.apply(Workload::load(name)?)).collect()
    }

    fn apply(&self, workload: Workload) -> Result<Workload, BenchError> {
        let wanted = |step: &Step| self.step.as_ref().is_none_or(|text| step.name.contains(text.as_str()));
        let all: Vec<String> = workload.steps.iter().map(|step| step.name.clone()).collect();
        let mut steps: Vec<Step> = workload.steps.into_iter().filter(wanted).collect();
        if steps.is_empty() {
            let problem =
                format!("no step of {} has it in its name; they are {}", workload.name, all.join(", "));
            return Err(BenchError::Option { option: "--step", problem });
        }
        for step in &mut steps {
            step.load.duration = self.duration.or(step.load.duration);
            step.load.warmup = self.warmup.unwrap_or(step.load.warmup);
        }
        Ok(Workload { steps, ..workload })
    }
}

/// Runs the command; prints a table for each step.
///
/// # Errors
/// A workload cannot be read, the brokers cannot be reached, or a run had errors.
pub fn run(args: &RunArgs) -> Result<(), BenchError> {
    let workloads = args.choice.load(&args.workloads)?;
    if let Some(dir) = &args.results {
        make_dir(dir)?;
    }
    let probe = args.data_dir.as_deref().map(DiskProbe::start).transpose()?;
    let mut errors = 0;
    for workload in &workloads {
        let mut knee = workload.ladder.map(Knee::new);
        for step in &workload.steps {
            let name = workload.step_name(step);
            let options = ReportOptions {
                label: Some(name.clone()),
                flush: args.flush.clone(),
                data_dir: args.data_dir.clone(),
                progress: args.progress,
                ..ReportOptions::default()
            };
            let scenario = workload.scenario(step, &args.namesrv, &args.broker_pid);
            let place =
                Place { workload: workload.name.clone(), step: step.name.clone(), ..Place::default() };
            if let Some(probe) = &probe {
                probe.reset();
            }
            let mut report = scenario.measure("run", &options)?.at(place);
            report.disk_probe = probe.as_ref().map(|probe| probe.summary(report.started_unix_ms));
            print(&report.text());
            errors += report.result.errors.total();
            if let Some(dir) = &args.results {
                report.write_json(&dir.join(format!("{}-{name}.json", args.label)))?;
            }
            if let Some(knee) = &mut knee {
                let disk_stalled = report.disk_probe.as_ref().is_some_and(|probe| probe.stall_count > 0);
                knee.add(step.load.rate, &report.result, disk_stalled);
                if knee.is_past() {
                    break;
                }
            }
        }
        if let Some(knee) = knee {
            print(&format!("{}: {knee}\n", workload.name));
        }
    }
    if errors > 0 { Err(BenchError::RunHadErrors { errors }) } else { Ok(()) }
}

/// Prints the workloads that come with the program.
///
/// # Errors
/// None that a test would not have found: one of them cannot be read.
pub fn list() -> Result<(), BenchError> {
    for (name, _) in BUILT_IN {
        let workload = Workload::load(name)?;
        let steps = match workload.steps.len() {
            1 => String::new(),
            count => format!(" ({count} steps)"),
        };
        print(&format!("{name:<14} {}{steps}\n", workload.about));
    }
    Ok(())
}

/// Makes a folder and those above it.
///
/// # Errors
/// It cannot be made.
pub fn make_dir(dir: &Path) -> Result<(), BenchError> {
    std::fs::create_dir_all(dir).map_err(|source| BenchError::File {
        doing: "create",
        path: dir.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_leaves_the_steps_that_it_names() {
        let choice = StepChoice {
            step: Some("in-flight-64".to_owned()),
            duration: Some(Duration::from_secs(2)),
            warmup: None,
        };
        let workloads = choice.load(&["in-flight".to_owned()]).unwrap();
        let [step] = &workloads[0].steps[..] else { panic!("one step has that name") };
        assert_eq!((step.load.in_flight, step.load.duration), (Some(64), Some(Duration::from_secs(2))));
        assert!(step.load.warmup > Duration::ZERO, "the workload's own");
    }

    #[test]
    fn a_step_that_is_not_there_is_answered_with_those_that_are() {
        let choice = StepChoice { step: Some("in-flight-65".to_owned()), ..StepChoice::default() };
        let error = choice.load(&["in-flight".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("in-flight-16, in-flight-64, in-flight-256"), "{error}");
    }
}
