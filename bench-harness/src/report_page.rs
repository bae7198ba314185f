//! `ringmq-bench report`: results as one HTML page with percentile curves, time series and ratios. Everything is in the page, the charts'
//! library (uPlot, see `report/README.md`) too: it opens without a network.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::comparison::{ComparedStep, Comparison};
use crate::error::BenchError;
use crate::latency::Latency;
use crate::report::{Report, grouped_rate, print, time, write_file};
use crate::series::Interval;

const PAGE: &str = include_str!("../report/page.html");
const CSS: &str = include_str!("../report/page.css");
const JS: &str = include_str!("../report/page.js");
const UPLOT_JS: &str = include_str!("../report/uPlot.iife.min.js");
const UPLOT_CSS: &str = include_str!("../report/uPlot.min.css");

/// Points of a percentile curve for each nine, and nines that are drawn.
const POINTS_PER_NINE: u32 = 10;
const NINES_MAX: u32 = 6;

/// Make one page of results.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  ringmq-bench report results/*.json -o report.html

Files that `--json`, `run --results` or `compare` wrote. Results of the same step share their charts.")]
pub struct PageArgs {
    /// Results of ringmq-bench, JSON
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to write the page
    #[arg(long, short, default_value = "report.html", value_name = "FILE")]
    pub output: PathBuf,
    /// Its title
    #[arg(long, default_value = "ringmq-bench")]
    pub title: String,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or is no result.
pub fn run(args: &PageArgs) -> Result<(), BenchError> {
    let reports: Result<Vec<Report>, _> = args.files.iter().map(|path| Report::read(path)).collect();
    write_file(&args.output, &page(&args.title, &reports?))?;
    print(&format!("{}\n", args.output.display()));
    Ok(())
}

/// What the page's script reads.
#[derive(Serialize)]
struct PageData {
    machine: Vec<[String; 2]>,
    /// The curves' places: 1 is 90 %, 2 is 99 % …
    nines: Vec<f64>,
    steps: Vec<PageStep>,
}

#[derive(Serialize)]
struct PageStep {
    name: String,
    settings: String,
    comparison: Option<PageTable>,
    runs: Vec<PageRun>,
}

#[derive(Serialize)]
struct PageTable {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    ratios_from: usize,
}

#[derive(Serialize)]
struct PageRun {
    name: String,
    peer: String,
    round: u32,
    figures: Vec<String>,
    errors: Option<String>,
    /// Milliseconds at each of the page's nines.
    send_curve: Vec<f64>,
    e2e_curve: Vec<f64>,
    /// Second, messages per second, p50, p99 and longest in milliseconds.
    series: Vec<PagePoint>,
    receipts: Vec<PagePoint>,
    /// Second and milliseconds of each stall of the disk.
    stalls: Vec<(f64, f64)>,
}

type PagePoint = (f64, f64, Option<f64>, Option<f64>, Option<f64>);

/// The page.
pub fn page(title: &str, reports: &[Report]) -> String {
    let mut names: Vec<String> = Vec::new();
    for name in reports.iter().map(Report::step_name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let comparison = Comparison::of(reports);
    let steps = names.into_iter().map(|name| {
        let runs: Vec<&Report> = reports.iter().filter(|report| report.step_name() == name).collect();
        let compared = comparison.steps.iter().find(|step| step.name == name);
        page_step(name, &runs, compared.filter(|step| step.peers.len() > 1))
    });
    let data = PageData {
        machine: reports.first().map(machine_rows).unwrap_or_default(),
        nines: nines().collect(),
        steps: steps.collect(),
    };
    // No text in it may end the element that it stands in.
    let data = serde_json::to_string(&data).expect("plain data").replace('<', "\\u003c");
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let parts = [
        ("{{title}}", title.as_str()),
        ("{{uplot_css}}", UPLOT_CSS),
        ("{{css}}", CSS),
        ("{{uplot_js}}", UPLOT_JS),
        ("{{js}}", JS),
        // Last: what it holds is not looked at again.
        ("{{data}}", &data),
    ];
    parts.iter().fold(PAGE.to_owned(), |page, (name, text)| page.replace(name, text))
}

fn nines() -> impl Iterator<Item = f64> {
    (0..=NINES_MAX * POINTS_PER_NINE).map(|point| f64::from(point) / f64::from(POINTS_PER_NINE))
}

fn machine_rows(report: &Report) -> Vec<[String; 2]> {
    let machine = &report.machine;
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row("processor", format!("{}, {} cores", machine.cpu_model, machine.cores)),
        row("memory", format!("{:.1} GiB", machine.memory_bytes as f64 / f64::from(1 << 30))),
        row("kernel", machine.kernel.clone()),
        row("commit", machine.commit.clone().unwrap_or_default()),
        row("command", report.command_line.join(" ")),
    ];
    if let Some(system) = &machine.file_system {
        let text = format!("{} on {}, {}", system.kind, system.device, system.options);
        rows.insert(3, row("file system", text));
    }
    rows
}

fn page_step(name: String, runs: &[&Report], compared: Option<&ComparedStep>) -> PageStep {
    let settings = runs.first().map(|run| run.settings.to_string()).unwrap_or_default();
    let comparison = compared.map(|step| {
        let (head, rows) = step.cells();
        PageTable { head, rows, ratios_from: step.peers.len() + 1 }
    });
    PageStep { name, settings, comparison, runs: runs.iter().map(|run| page_run(run)).collect() }
}

fn page_run(report: &Report) -> PageRun {
    let place = report.place.clone().unwrap_or_default();
    let round = place.round.unwrap_or(1);
    let peer = place.peer.unwrap_or_else(|| report.label.clone().unwrap_or_else(|| report.command.clone()));
    let name = if place.round.is_some() { format!("{peer} {round}") } else { peer.clone() };
    let result = &report.result;
    let latency = result.send_latency_us.as_ref().or(result.end_to_end_latency_us.as_ref());
    let mut figures = vec![
        name.clone(),
        grouped_rate(result.messages_per_second),
        result.broker_cpu_seconds_per_million.map_or_else(String::new, |seconds| format!("{seconds:.2}")),
    ];
    let shown = |us: Option<f64>| us.map(time).unwrap_or_default();
    figures.extend([
        shown(latency.map(|latency| latency.p50)),
        shown(latency.map(|latency| latency.p99)),
        shown(latency.map(|latency| latency.p99_9)),
        shown(latency.map(|latency| latency.max)),
    ]);
    let errors: Vec<String> = result
        .errors
        .iter()
        .map(|(kind, counted)| format!("{} x {kind}: {}", counted.count, counted.first))
        .collect();
    let stalls = report.disk_probe.iter().flat_map(|probe| &probe.stalls);
    PageRun {
        name,
        peer,
        round,
        figures,
        errors: (!errors.is_empty()).then(|| errors.join("; ")),
        send_curve: curve(result.send_histogram.as_deref()),
        e2e_curve: curve(result.end_to_end_histogram.as_deref()),
        series: points(&result.series),
        receipts: points(&result.receipts),
        stalls: stalls.map(|stall| (stall.at_seconds, stall.milliseconds)).collect(),
    }
}

/// Milliseconds at each of the page's nines, as far as there are messages for it. A histogram that cannot be read draws no curve.
fn curve(histogram: Option<&str>) -> Vec<f64> {
    let Some(latency) = histogram.and_then(|text| Latency::from_base64(text).ok()) else { return Vec::new() };
    let messages = latency.percentiles().count as f64;
    let drawn = nines().take_while(|nines| 10_f64.powf(*nines) <= messages);
    drawn.map(|nines| latency.at_quantile_us(1.0 - 10_f64.powf(-nines)) / 1000.0).collect()
}

fn points(series: &[Interval]) -> Vec<PagePoint> {
    // All but the last have the same length; a single one is taken for a second.
    let length = series.windows(2).map(|pair| pair[1].at_seconds - pair[0].at_seconds).next().unwrap_or(1.0);
    // The last is cut short by the end of the run: its rate would be none.
    let whole = &series[..series.len().saturating_sub(1).max(series.len().min(1))];
    let point = |one: &Interval| {
        let ms = |of: fn(&crate::latency::Percentiles) -> f64| {
            one.latency_us.as_ref().map(|latency| of(latency) / 1e3)
        };
        (
            one.at_seconds,
            one.messages as f64 / length,
            ms(|latency| latency.p50),
            ms(|latency| latency.p99),
            ms(|latency| latency.max),
        )
    };
    whole.iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk_probe::{ProbeSummary, Stall};
    use crate::report::Place;
    use crate::series::Recorder;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn report(peer: &str, peer_rank: u32) -> Report {
        let mut recorder = Recorder::new(Duration::from_secs(1));
        (0..3000_u64).for_each(|index| recorder.record(index * SECOND / 1000, 1, Some((index + 1) * 1000)));
        let recording = recorder.finish();
        let mut report = Report::sample();
        report.result.series = recording.intervals();
        report.result.send_latency_us = Some(recording.total.percentiles());
        report.result.send_histogram = Some(recording.total.to_base64());
        report.result.messages_per_second = 1000.0;
        report.disk_probe = Some(ProbeSummary {
            stalls: vec![Stall { at_seconds: 1.25, milliseconds: 321.5 }],
            ..ProbeSummary::default()
        });
        report.at(Place {
            workload: "steady".to_owned(),
            step: "</script>".to_owned(),
            peer: Some(peer.to_owned()),
            peer_rank,
            round: Some(1),
        })
    }

    /// The data that the page's script would read.
    fn data_of(page: &str) -> serde_json::Value {
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn a_page_holds_everything_and_asks_nobody() {
        let page = page("a <title>", &[report("ours", 0), report("theirs", 1)]);
        assert!(
            page.contains("<title>a &lt;title></title>") && !page.contains("{{"),
            "every part is filled in"
        );
        for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        let data = data_of(&page);
        let step = &data["steps"][0];
        assert_eq!(step["runs"].as_array().unwrap().len(), 2);
        assert_eq!(step["comparison"]["head"][3], "ours / theirs");
        let run = &step["runs"][0];
        // The whole intervals of three: the last is not drawn.
        assert_eq!(run["series"].as_array().unwrap().len(), 2);
        assert_eq!(run["series"][1][1], 1000.0);
        assert_eq!(run["stalls"], serde_json::json!([[1.25, 321.5]]));
    }

    #[test]
    fn a_curve_ends_where_there_are_no_messages_for_it() {
        let data = data_of(&page("x", &[report("ours", 0)]));
        let curve = data["steps"][0]["runs"][0]["send_curve"].as_array().unwrap().clone();
        // 3,000 messages: 99.9 % is told, 99.99 % is not.
        assert_eq!(curve.len(), 35);
        let at = |index: usize| curve[index].as_f64().unwrap();
        assert!((2.68..2.72).contains(&at(10)), "90 % is 2.7 ms: {}", at(10));
        assert!(curve.windows(2).all(|pair| pair[0].as_f64() <= pair[1].as_f64()));
        assert_eq!(data["steps"][0]["comparison"], serde_json::Value::Null, "one peer has no ratio");
    }

    #[test]
    fn a_result_is_read_back_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, output) = (dir.path().join("run.json"), dir.path().join("report.html"));
        report("ours", 0).write_json(&path).unwrap();
        let args = PageArgs { files: vec![path.clone()], output: output.clone(), title: "t".to_owned() };
        run(&args).unwrap();
        assert_eq!(
            data_of(&std::fs::read_to_string(output).unwrap())["steps"][0]["runs"][0]["name"],
            "ours 1"
        );
        std::fs::write(&path, "{}").unwrap();
        assert!(run(&args).unwrap_err().to_string().contains("run.json is not a result"));
    }
}
