//! What `ringmq tune` prints: tables for people, and the proposal as a commented TOML file that `ringmq serve --config` takes.

use std::fmt::Write as _;
use std::path::Path;

use super::measurement::{DiskCell, DiskFigure, Extents, Measurements, Method};
use super::proposal::{Chosen, Proposal, flush_name, placement_name, size_text};

/// Width of the comments.
const COLUMNS: usize = 98;

/// Where and by what it was measured.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) data: &'a Path,
    pub(super) file_system: &'a str,
    pub(super) kernel: &'a str,
}

/// The figures, a table for each way of writing and one for the hops.
pub(super) fn tables(found: &Measurements) -> String {
    let mut text = String::new();
    let Some(first) = found.disk.first() else { return text };
    let mine: Vec<_> = found.disk.iter().filter(|figure| figure.backend == first.backend).collect();
    let mut depths: Vec<_> = mine.iter().map(|figure| figure.cell.in_flight).collect();
    depths.sort_unstable();
    depths.dedup();
    line(
        &mut text,
        format!("Writes, runtime {}: a second, and their p50 and p99 in microseconds", first.backend),
    );
    for extents in [Extents::Prewritten, Extents::Allocated] {
        for method in [Method::Dsync, Method::Fdatasync, Method::Plain] {
            let of_this: Vec<&DiskFigure> = mine
                .iter()
                .copied()
                .filter(|figure| (figure.cell.extents, figure.cell.method) == (extents, method))
                .collect();
            table(&mut text, &of_this, &depths, &format!("{}, {}", extents.title(), method.title()));
        }
    }
    for other in found.disk.iter().filter(|figure| figure.backend != first.backend) {
        let Cells { per_second, p50, p99 } = Cells::of(other);
        line(
            &mut text,
            format!(
                "\nRuntime {}, {}, {}, {}, 1 in flight: {per_second}/s, {p50}, {p99}",
                other.backend,
                other.cell.extents.title(),
                other.cell.method.title(),
                size_text(other.cell.bytes as u64),
            ),
        );
    }
    if !found.hops.is_empty() {
        line(&mut text, "\nMailbox round trip between two cores, microseconds".to_owned());
        line(&mut text, format!("  {:<10}{:>10}{:>10}{:>10}{:>10}", "runtime", "CPUs", "spin", "p50", "p99"));
    }
    for hop in &found.hops {
        line(
            &mut text,
            format!(
                "  {:<10}{:>10}{:>10}{:>10.1}{:>10.1}",
                hop.cell.backend.to_string(),
                format!("{}, {}", hop.cell.from_cpu, hop.cell.to_cpu),
                hop.cell.spin_us,
                hop.round_trip.p50_us,
                hop.round_trip.p99_us
            ),
        );
    }
    text
}

fn table(text: &mut String, figures: &[&DiskFigure], depths: &[usize], title: &str) {
    if figures.is_empty() {
        return;
    }
    let heads: String = depths.iter().map(|depth| format!("{:>22}", format!("{depth} in flight"))).collect();
    line(text, format!("\n{title}"));
    line(text, format!("  {:<8}{heads}", ""));
    let mut sizes: Vec<_> = figures.iter().map(|figure| figure.cell.bytes).collect();
    sizes.dedup();
    for bytes in sizes {
        let row: String = depths
            .iter()
            .map(|&in_flight| {
                let cell = DiskCell { bytes, in_flight, ..figures[0].cell };
                let figure = figures.iter().find(|figure| figure.cell == cell);
                figure.map_or(format!("{:>22}", "-"), |figure| {
                    let Cells { per_second, p50, p99 } = Cells::of(figure);
                    format!("{per_second:>9}{p50:>6}{p99:>7}")
                })
            })
            .collect();
        line(text, format!("  {:<8}{row}", size_text(bytes as u64)));
    }
}

/// The figures of one way of writing, as they are printed.
struct Cells {
    per_second: String,
    p50: String,
    p99: String,
}

impl Cells {
    fn of(figure: &DiskFigure) -> Self {
        let whole = |figure: f64| format!("{figure:.0}");
        Self {
            per_second: whole(figure.per_second),
            p50: whole(figure.latency.p50_us),
            p99: whole(figure.latency.p99_us),
        }
    }
}

/// The configuration.
pub(super) fn toml(proposal: &Proposal, place: &Place<'_>) -> String {
    let mut text = String::new();
    comment(
        &mut text,
        &format!(
            "Proposed by `ringmq tune` {} from what it measured on Linux {} in {} ({}). Above each key stands what speaks for it; without \
         the key its default holds.",
            env!("CARGO_PKG_VERSION"),
            place.kernel,
            place.data.display(),
            place.file_system
        ),
    );
    for remark in &proposal.remarks {
        line(&mut text, "#".to_owned());
        comment(&mut text, remark);
    }
    line(&mut text, String::new());
    let data = toml::Value::String(place.data.display().to_string());
    line(&mut text, format!("data = {data}\n"));
    key(&mut text, &proposal.runtime, |runtime| format!("runtime = \"{runtime}\""));
    key(&mut text, &proposal.placement, |&placement| {
        format!("placement = \"{}\"", placement_name(placement))
    });
    key(&mut text, &proposal.flush, |&flush| format!("flushDiskType = \"{}\"", flush_name(flush)));
    comment(&mut text, "What the keys of every core below were chosen by:");
    let block = size_of_key(proposal.block_bytes.value as u64);
    for (name, because) in [
        ("ring_depth", &proposal.ring_depth.because),
        ("write_buffers.size", &proposal.block_bytes.because),
        ("write_buffers.count", &proposal.blocks.because),
        ("hot_tail", &proposal.hot_tail_bytes.because),
        ("spin", &proposal.spin_us.because),
    ] {
        comment(&mut text, &format!("- {name}: {because}"));
    }
    for core in &proposal.cores {
        line(&mut text, format!("\n[[core]]\ncpu = {}", core.cpu));
        line(&mut text, format!("log = {:?}", core.log));
        line(&mut text, format!("serve = {:?}", core.serve));
        line(&mut text, format!("ring_depth = {}", proposal.ring_depth.value));
        line(
            &mut text,
            format!("write_buffers = {{ size = \"{block}\", count = {} }}", proposal.blocks.value),
        );
        if !core.serve.is_empty() {
            let bytes = proposal.hot_tail_bytes.value * core.serve.len() as u64;
            line(&mut text, format!("hot_tail = \"{}\"", size_of_key(bytes)));
        }
        line(&mut text, format!("spin = \"{}us\"", proposal.spin_us.value));
    }
    text
}

fn key<T>(text: &mut String, chosen: &Chosen<T>, write: impl Fn(&T) -> String) {
    comment(text, &chosen.because);
    line(text, write(&chosen.value) + "\n");
}

/// `64KiB`, as the configuration spells it.
fn size_of_key(bytes: u64) -> String {
    size_text(bytes).replace(' ', "")
}

/// Wraps into lines that begin with `# `.
fn comment(text: &mut String, sentence: &str) {
    let mut current = String::from("#");
    for word in sentence.split_whitespace() {
        if current.len() + 1 + word.len() > COLUMNS && current.len() > 1 {
            line(text, std::mem::replace(&mut current, String::from("#")));
        }
        current.push(' ');
        current += word;
    }
    line(text, current);
}

fn line(text: &mut String, line: String) {
    writeln!(text, "{line}").expect("writing to a string");
}
