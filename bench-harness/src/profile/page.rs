//! `PREFIX.html`: a profile as one page that opens without a network: the tables, and the distribution of each stage on each core.

use std::fmt::Write as _;

use super::document::{Document, Part, Profile, Table};
use crate::report::time;

const CSS: &str = include_str!("../../report/page.css");
/// Beside the style of the other pages: bars of the distributions.
const BARS: &str =
    ".bars{display:flex;flex-wrap:wrap;gap:1.5em}.bars div{font-size:12px}.bars svg{display:block}";
/// Of one distribution, pixels.
const WIDTH: usize = 240;
const HEIGHT: usize = 60;
/// The distributions' axis: powers of two nanoseconds, from 128 ns to a second.
const POWER_MIN: usize = 7;
const POWER_MAX: usize = 30;

/// The page.
pub fn page(document: &Document) -> String {
    let mut body = String::new();
    let machine = &document.machine;
    let head = format!(
        "{}, {} cores, kernel {}, commit {}; {}",
        machine.cpu_model,
        machine.cores,
        machine.kernel,
        machine.commit.as_deref().unwrap_or("unknown"),
        document.command_line.join(" ")
    );
    write!(body, "<p class=\"note\">{}</p>", escaped(&head)).expect("writing to a string");
    for profile in &document.profiles {
        write!(body, "<h2>{}: {}</h2>", escaped(&profile.broker), escaped(&profile.name))
            .expect("writing to a string");
        for table in profile.tables() {
            write_table(&mut body, &table);
            if table.title.starts_with("stages") {
                write_distributions(&mut body, profile);
            }
        }
        write!(body, "<p class=\"settings\">{}</p>", escaped(&profile.settings.to_string()))
            .expect("writing to a string");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>profile</title>\n\
         <style>{CSS}{BARS}</style>\n</head>\n<body>\n<h1>What a message costs</h1>\n{body}\n</body>\n</html>\n"
    )
}

fn write_table(out: &mut String, table: &Table) {
    write!(out, "<h3>{}</h3>", escaped(&table.title)).expect("writing to a string");
    if !table.head.is_empty() {
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect::<String>()
        };
        let head = cells("th", &mut table.head.iter().copied());
        write!(out, "<table><tr>{head}</tr>").expect("writing to a string");
        for row in &table.rows {
            write!(out, "<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str)))
                .expect("writing to a string");
        }
        out.push_str("</table>");
    }
    if !table.note.is_empty() {
        write!(out, "<p class=\"note\">{}</p>", escaped(&table.note)).expect("writing to a string");
    }
}

/// One picture a core and stage: how many requests took how long.
fn write_distributions(out: &mut String, profile: &Profile) {
    let Part::Found(cores) = &profile.stages else { return };
    out.push_str("<div class=\"bars\">");
    for core in cores {
        for stage in &core.stages {
            let title = format!("core {} {}, {} requests", core.core, stage.stage, stage.requests);
            write!(out, "<div>{}{}</div>", escaped(&title), bars(&stage.buckets))
                .expect("writing to a string");
        }
    }
    out.push_str("</div>");
}

fn bars(buckets: &[(f64, u64)]) -> String {
    let width = WIDTH / (POWER_MAX - POWER_MIN + 1);
    let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let mut shapes = String::new();
    for (end_us, count) in buckets {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a power of two of a time"
        )]
        let power = (end_us * 1000.0).max(1.0).log2().round() as usize;
        let x = (power.clamp(POWER_MIN, POWER_MAX) - POWER_MIN) * width;
        let height = (HEIGHT as f64 * *count as f64 / most as f64).max(1.0);
        write!(
            shapes,
            "<rect x=\"{x}\" y=\"{:.1}\" width=\"{}\" height=\"{height:.1}\" fill=\"#0969da\"><title>up to {}: {count}</title></rect>",
            HEIGHT as f64 - height,
            width - 1,
            time(*end_us)
        )
        .expect("writing to a string");
    }
    format!(
        "<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">{shapes}</svg>from 128 ns to 1 s, each bar twice the one before"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
