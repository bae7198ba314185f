//! The result of `ringmq-bench profile`, and its tables for people. Everything is per message unless its name says otherwise; a message
//! counts as acknowledged in the pass at hand.

use std::fmt::Write as _;

use ringmq::metrics::http::CoreStages;
use serde::Serialize;

use super::cores::Cores;
use super::perf::{Functions, SystemCalls};
use super::threads::ThreadWork;
use crate::machine::Machine;
use crate::report::{Report, grouped_rate};

/// Functions in the table for people; the file has them all.
const FUNCTIONS_SHOWN: usize = 25;

/// What `PREFIX.json` holds.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    pub command_line: Vec<String>,
    pub machine: Machine,
    pub profiles: Vec<Profile>,
}

/// One step of a workload on one broker.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    pub broker: String,
    /// `durable, SYNC_FLUSH`
    pub name: String,
    pub settings: serde_json::Value,
    pub passes: Vec<Pass>,
    pub cores: Part<Cores>,
    pub stages: Part<Vec<CoreStages>>,
    pub threads: Part<Vec<ThreadWork>>,
    pub functions: Part<Functions>,
    pub system_calls: Part<SystemCalls>,
}

/// Something that was found, or why it was not: `{"skipped": "perf is not installed"}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Part<T> {
    Found(T),
    Skipped { skipped: String },
}

impl<T> Part<T> {
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::Skipped { skipped: reason.into() }
    }
}

impl<T> From<Result<T, String>> for Part<T> {
    fn from(result: Result<T, String>) -> Self {
        result.map_or_else(Self::skipped, Self::Found)
    }
}

/// The load while something was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Pass {
    pub name: &'static str,
    pub messages_per_second: f64,
    pub broker_cpu_seconds_per_million: Option<f64>,
    pub own_cpu_seconds_per_million: f64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
}

impl Pass {
    pub fn of(name: &'static str, report: &Report) -> Self {
        let result = &report.result;
        let latency = result.send_latency_us.as_ref();
        Self {
            name,
            messages_per_second: result.messages_per_second,
            broker_cpu_seconds_per_million: result.broker_cpu_seconds_per_million,
            own_cpu_seconds_per_million: result.own_cpu_seconds_per_million,
            p50_us: latency.map(|latency| latency.p50),
            p99_us: latency.map(|latency| latency.p99),
        }
    }
}

/// A table with a title, or a line that says why there is none.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub title: String,
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    /// Below the table.
    pub note: String,
}

impl Table {
    fn of<T>(title: &str, part: &Part<T>, fill: impl FnOnce(&T, &mut Self)) -> Self {
        let mut table = Self { title: title.to_owned(), ..Self::default() };
        match part {
            Part::Found(found) => fill(found, &mut table),
            Part::Skipped { skipped } => table.note = format!("left out: {skipped}"),
        }
        table
    }

    fn text(&self) -> String {
        let mut out = format!("\n{}\n", self.title);
        let head: Vec<String> = self.head.iter().map(|&cell| cell.to_owned()).collect();
        let lines = || std::iter::once(&head).chain(&self.rows).filter(|line| !line.is_empty());
        let width = |column: usize| {
            lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for line in lines() {
            let mut text = String::from(" ");
            for (cell, (index, width)) in line.iter().zip(widths.iter().enumerate()) {
                // Names to the left, numbers to the right.
                let is_name =
                    cell.is_empty() || !cell.starts_with(|c: char| c.is_ascii_digit()) || index == 0;
                let pad = " ".repeat(width - cell.chars().count());
                text += &if is_name { format!(" {cell}{pad}") } else { format!(" {pad}{cell}") };
            }
            writeln!(out, "{}", text.trim_end()).expect("writing to a string");
        }
        if !self.note.is_empty() {
            writeln!(out, "  {}", self.note).expect("writing to a string");
        }
        out
    }
}

impl Profile {
    /// The tables for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.broker, self.name);
        self.tables().iter().for_each(|table| text += &table.text());
        text
    }

    /// Everything but the shapes of the stages' distributions.
    pub fn tables(&self) -> Vec<Table> {
        vec![
            self.pass_table(),
            self.core_table(),
            self.stage_table(),
            self.thread_table(),
            self.call_table(),
            self.function_table(),
        ]
    }

    fn pass_table(&self) -> Table {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(String::new, |value| format!("{value:.digits$}"))
        };
        let row = |pass: &Pass| {
            vec![
                pass.name.to_owned(),
                grouped_rate(pass.messages_per_second),
                number(pass.broker_cpu_seconds_per_million, 2),
                number(Some(pass.own_cpu_seconds_per_million), 2),
                number(pass.p50_us, 0),
                number(pass.p99_us, 0),
            ]
        };
        Table {
            title: "passes".to_owned(),
            head: vec!["looked at with", "msg/s", "broker CPU s/M", "harness CPU s/M", "p50 us", "p99 us"],
            rows: self.passes.iter().map(row).collect(),
            note: "the difference to the first is what looking cost, and the spread of the machine"
                .to_owned(),
        }
    }

    fn core_table(&self) -> Table {
        Table::of("cores, per message", &self.cores, |cores, table| {
            table.head = vec!["core", "busy us", "ring entries", "allocations", "allocated bytes"];
            let rows = cores.cores.iter().map(|core| {
                let mut row = vec![core.core.to_string()];
                row.extend([core.busy_us, core.kernel_entries, core.allocations].map(small));
                row.push(format!("{:.0}", core.allocated_bytes));
                row
            });
            table.rows = rows.collect();
            table.rows.push(vec![
                "all".to_owned(),
                small(cores.sum(|core| core.busy_us)),
                small(cores.sum(|core| core.kernel_entries)),
                small(cores.sum(|core| core.allocations)),
                format!("{:.0}", cores.sum(|core| core.allocated_bytes)),
            ]);
            table.note = cores.flush_note();
        })
    }

    fn stage_table(&self) -> Table {
        Table::of("stages, microseconds", &self.stages, |cores, table| {
            table.head = vec!["core", "stage", "requests", "mean", "p50", "p90", "p99", "p99.9", "max"];
            for core in cores {
                for stage in &core.stages {
                    let mut row =
                        vec![core.core.to_string(), stage.stage.clone(), stage.requests.to_string()];
                    let times = [
                        stage.mean_us,
                        stage.p50_us,
                        stage.p90_us,
                        stage.p99_us,
                        stage.p999_us,
                        stage.max_us,
                    ];
                    row.extend(times.map(|us| format!("{us:.1}")));
                    table.rows.push(row);
                }
            }
        })
    }

    fn thread_table(&self) -> Table {
        Table::of("threads, per message", &self.threads, |threads, table| {
            table.head = vec!["thread", "CPU us", "waits (voluntary switches)", "pushed off (involuntary)"];
            let row = |thread: &ThreadWork| {
                let mut row = vec![thread.name.clone()];
                row.extend(
                    [thread.cpu_us, thread.voluntary_switches, thread.involuntary_switches].map(small),
                );
                row
            };
            table.rows = threads.iter().map(row).collect();
        })
    }

    fn call_table(&self) -> Table {
        Table::of("system calls, per message", &self.system_calls, |calls, table| {
            table.head = vec!["call", "per message"];
            table.rows = calls.calls.iter().map(|(name, count)| vec![name.clone(), small(*count)]).collect();
            table.rows.push(vec!["all".to_owned(), small(calls.all)]);
            let [switches, migrations, faults] =
                [calls.context_switches, calls.migrations, calls.page_faults].map(small);
            table.note = format!(
                "context switches {switches}, moves to another CPU {migrations}, page faults {faults}"
            );
        })
    }

    fn function_table(&self) -> Table {
        Table::of("CPU by function", &self.functions, |functions, table| {
            table.head = vec!["share", "us per message", "thread", "function", "in"];
            let shown = functions.functions.iter().take(FUNCTIONS_SHOWN).map(|function| {
                vec![
                    format!("{:.1} %", function.percent),
                    format!("{:.3}", function.us_per_message),
                    function.thread.clone(),
                    function.function.clone(),
                    function.object.clone(),
                ]
            });
            table.rows = shown.collect();
            let more = functions.functions.len().saturating_sub(FUNCTIONS_SHOWN);
            table.note = format!("{more} more in the file; sampled on {}", functions.event);
        })
    }
}

/// A number per message, with the digits that it has.
fn small(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_says_why() {
        let reason = "perf is not installed".to_owned();
        let part: Part<Functions> = Part::from(Err(reason));
        assert_eq!(serde_json::to_string(&part).unwrap(), r#"{"skipped":"perf is not installed"}"#);
        let table = Table::of("functions", &part, |_, _| ());
        assert_eq!(table.text(), "\nfunctions\n  left out: perf is not installed\n");
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let table = Table {
            title: "t".to_owned(),
            head: vec!["name", "count"],
            rows: vec![vec!["a".to_owned(), "7".to_owned()], vec!["longer".to_owned(), "12".to_owned()]],
            note: String::new(),
        };
        assert_eq!(table.text(), "\nt\n  name   count\n  a          7\n  longer    12\n");
    }
}
