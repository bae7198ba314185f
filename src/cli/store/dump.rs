//! `ringmq store dump`: prints the records of a store, in the order of its logs.

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use shards::commit_log::scan::{Damage, ScanError, ScanLog, Scanned, scan, torn_window_bytes};
use shards::io::disk::StdDisk;
use shards::record::properties::{CRC32, KEYS, Properties, TAGS, UNIQ_KEY};
use shards::record::{RecordView, SYS_FLAG_COMPRESSED};
use shards::recovery::durable_to;
use shards::segment::{SegmentError, list_segments};
use shards::store_dir::StoreDir;

use crate::cli::{Output, slow};

/// Prints the messages in the store of a stopped node, in the order of its logs.
///
/// Changes nothing. Damaged places are printed where they are, with what can be told of them; they have no message that filters could let
/// through, so that they are always shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:

  ringmq store dump data --topic orders --queue 3 --from 1200 --to 1300
  ringmq store dump data --key order-17 --body hex
  ringmq store dump data --since 1767225600000 -o json | jq -r .body")]
pub(super) struct Args {
    /// Folder of the store.
    #[arg(value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    filter: Filter,
    /// Only this shard.
    #[arg(long)]
    shard: Option<u32>,
    /// End after so many messages.
    #[arg(long, value_name = "MESSAGES")]
    limit: Option<u64>,
    /// How bodies are printed.
    #[arg(long, value_enum, default_value_t)]
    body: BodyForm,
    /// Most bytes of a body that are printed.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    body_bytes: usize,
    /// `json` for scripts: one line for each message.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Which messages.
#[derive(Debug, Default, clap::Args)]
struct Filter {
    /// Only messages of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only messages of this queue.
    #[arg(long)]
    queue: Option<u32>,
    /// First queue offset.
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Last queue offset.
    #[arg(long, value_name = "OFFSET")]
    to: Option<u64>,
    /// Only messages with this key or unique key.
    #[arg(long)]
    key: Option<String>,
    /// Only messages stored at this time or later, milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    since: Option<i64>,
    /// Only messages stored at this time or earlier, milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    until: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum BodyForm {
    /// As text, with what is no text escaped.
    #[default]
    Text,
    Hex,
    None,
}

impl Filter {
    fn matches(&self, record: &RecordView<'_>) -> bool {
        let (offset, stored_ms) = (record.queue_offset().get(), record.store_timestamp_ms());
        self.topic.as_deref().is_none_or(|topic| topic == record.topic())
            && self.queue.is_none_or(|queue| queue == record.queue_id())
            && self.from.is_none_or(|from| offset >= from)
            && self.to.is_none_or(|to| offset <= to)
            && self.since.is_none_or(|since| stored_ms >= since)
            && self.until.is_none_or(|until| stored_ms <= until)
            && self.key.as_deref().is_none_or(|key| has_key(record, key))
    }
}

fn has_key(record: &RecordView<'_>, key: &str) -> bool {
    Properties::new(record.properties()).any(|(name, value)| match name {
        KEYS => value.split(' ').any(|one| one == key),
        UNIQ_KEY => value == key,
        _ => false,
    })
}

/// Why printing ended early.
#[derive(Debug, thiserror::Error)]
enum DumpError {
    #[error(transparent)]
    Log(#[from] ScanError),
    #[error(transparent)]
    Segments(#[from] SegmentError),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
    /// As many as were asked for.
    #[error("the limit is reached")]
    Enough,
}

/// Prints.
///
/// # Errors
/// The store is in use, or the disk refuses.
pub(super) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let store = StoreDir::open_existing(&args.data)?;
    let mut printer = Printer { args, out: BufWriter::new(io::stdout().lock()), printed: 0 };
    let shards = (0..store.shards()).filter(|shard| args.shard.is_none_or(|wanted| wanted == *shard));
    for shard in shards {
        match printer.shard(shard, &store.shard_dir(shard), store.segment_bytes()) {
            Ok(()) => {}
            Err(DumpError::Enough) => break,
            // Who reads has had enough.
            Err(DumpError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    match printer.out.flush() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        flushed => Ok(flushed?),
    }
}

struct Printer<'a, W: Write> {
    args: &'a Args,
    out: W,
    printed: u64,
}

impl<W: Write> Printer<'_, W> {
    fn shard(&mut self, shard: u32, dir: &Path, segment_bytes: u64) -> Result<(), DumpError> {
        let log_dir = dir.join("commitlog");
        let segments = list_segments(&StdDisk, &log_dir, segment_bytes)?;
        let log = ScanLog {
            dir: &log_dir,
            segments: &segments,
            segment_bytes,
            torn_window_bytes: torn_window_bytes(&StdDisk, dir)?,
            durable_to: durable_to(&StdDisk, dir)?,
            is_in_use: false,
        };
        let start = segments.first().copied().unwrap_or_default();
        scan(&StdDisk, &log, start, &mut |scanned| {
            if self.args.limit.is_some_and(|limit| self.printed >= limit) {
                return Err(DumpError::Enough);
            }
            match scanned {
                Scanned::Record(record) if self.args.filter.matches(&record) => {
                    self.printed += 1;
                    self.record(shard, &record)?;
                }
                Scanned::Record(_) => {}
                Scanned::Damaged(damage) => self.damaged(shard, &damage)?,
            }
            Ok::<(), DumpError>(())
        })?;
        Ok(())
    }

    fn record(&mut self, shard: u32, record: &RecordView<'_>) -> io::Result<()> {
        let properties: Vec<_> =
            Properties::new(record.properties()).filter(|(name, _)| *name != CRC32).collect();
        let body = self.args.body.shown(record, self.args.body_bytes);
        if self.args.output == Output::Json {
            let properties: serde_json::Map<_, _> =
                properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
            let line = serde_json::json!({
                "shard": shard, "physical_offset": record.physical_offset().get(), "bytes": record.total_size(),
                "topic": record.topic(), "queue": record.queue_id(), "queue_offset": record.queue_offset().get(),
                "store_timestamp_ms": record.store_timestamp_ms(), "born_timestamp_ms": record.born_timestamp_ms(),
                "born_host": record.born_host(), "store_host": record.store_host(), "flag": record.flag(),
                "sys_flag": record.sys_flag(), "reconsume_times": record.reconsume_times(),
                "prepared_transaction_offset": record.prepared_transaction_offset(),
                "properties": properties, "body_bytes": record.body().len(), "body": body,
            });
            return writeln!(self.out, "{line}");
        }
        if self.printed == 1 {
            writeln!(
                self.out,
                "{:<5} {:>14} {:>8} {:<23} {:>5} {:>10}  topic, keys, tags, body",
                "shard", "log offset", "bytes", "stored (UTC)", "queue", "offset"
            )?;
        }
        let value_of = |wanted: &str| {
            let found = properties.iter().find(|(name, _)| *name == wanted);
            found.map_or_else(|| "-".to_owned(), |(_, value)| one_line(value))
        };
        writeln!(
            self.out,
            "{shard:<5} {:>14} {:>8} {:<23} {:>5} {:>10}  {}, {}, {}, {}",
            record.physical_offset(),
            record.total_size(),
            slow::time_of_day(record.store_timestamp_ms()),
            record.queue_id(),
            record.queue_offset(),
            one_line(record.topic()),
            value_of(KEYS),
            value_of(TAGS),
            body.as_deref().unwrap_or("-")
        )
    }

    fn damaged(&mut self, shard: u32, damage: &Damage<'_>) -> io::Result<()> {
        let Damage { range, reason, resembles } = damage;
        if self.args.output == Output::Json {
            let resembles = resembles.map(|record| {
                serde_json::json!({
                    "topic": record.topic(), "queue": record.queue_id(), "queue_offset": record.queue_offset().get(),
                })
            });
            let line = serde_json::json!({
                "shard": shard, "damaged": { "physical_offset": range.from.get(), "bytes": range.bytes(),
                "reason": reason, "resembles": resembles },
            });
            return writeln!(self.out, "{line}");
        }
        write!(self.out, "{shard:<5} {:>14} {:>8} DAMAGED: {reason}", range.from, range.bytes())?;
        if let Some(record) = resembles {
            let (offset, queue) = (record.queue_offset(), record.queue_id());
            write!(
                self.out,
                "; looks like message {offset} of queue {queue} of {}",
                one_line(record.topic())
            )?;
        }
        writeln!(self.out)
    }
}

impl BodyForm {
    /// The first bytes of a body, on one line.
    fn shown(self, record: &RecordView<'_>, bytes_max: usize) -> Option<String> {
        let body = record.body();
        let part = &body[..body.len().min(bytes_max)];
        let mut shown = match self {
            Self::None => return None,
            Self::Hex => part.iter().map(|byte| format!("{byte:02x}")).collect(),
            Self::Text => one_line(&String::from_utf8_lossy(part)),
        };
        if part.len() < body.len() {
            shown += &format!("… ({} bytes)", body.len());
        }
        if record.sys_flag() & SYS_FLAG_COMPRESSED != 0 {
            shown += " (compressed)";
        }
        Some(shown)
    }
}

/// The text with everything escaped that would move a cursor.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use shards::append::Placement;
    use shards::position::{PhysicalOffset, QueueOffset};
    use shards::record::{RecordFields, place};

    use super::*;

    fn record(body: &[u8]) -> BytesMut {
        let host = "127.0.0.1:1".parse().unwrap();
        let mut record = BytesMut::new();
        let fields = RecordFields {
            topic: "orders",
            queue_id: 3,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            properties: b"KEYS\x01k1 k2\x02UNIQ_KEY\x01u\x02",
        };
        fields.encode(&mut record).unwrap();
        let placement = Placement {
            queue_offset: QueueOffset::new(7),
            physical_offset: PhysicalOffset::new(1000),
            store_timestamp_ms: 50_000,
        };
        place(&mut record, &placement);
        record
    }

    #[test]
    fn filters_let_through_what_they_name() {
        let bytes = record(b"body");
        let record = RecordView::parse(&bytes).unwrap();
        let text = |text: &str| Some(text.to_owned());
        for (filter, expected) in [
            (Filter::default(), true),
            (Filter { topic: text("orders"), queue: Some(3), ..Filter::default() }, true),
            (Filter { topic: text("order"), ..Filter::default() }, false),
            (Filter { queue: Some(2), ..Filter::default() }, false),
            (Filter { from: Some(7), to: Some(7), ..Filter::default() }, true),
            (Filter { from: Some(8), ..Filter::default() }, false),
            (Filter { to: Some(6), ..Filter::default() }, false),
            (Filter { key: text("k2"), ..Filter::default() }, true),
            (Filter { key: text("u"), ..Filter::default() }, true),
            (Filter { key: text("k"), ..Filter::default() }, false),
            (Filter { since: Some(50_000), until: Some(50_000), ..Filter::default() }, true),
            (Filter { until: Some(49_999), ..Filter::default() }, false),
        ] {
            assert_eq!(filter.matches(&record), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_body_stays_on_its_line_and_within_its_length() {
        let bytes = record(b"a\n\x1b[2Jb\xFF");
        let record = RecordView::parse(&bytes).unwrap();
        assert_eq!(BodyForm::Text.shown(&record, 100).unwrap(), "a\\n\\u{1b}[2Jb\u{FFFD}");
        assert_eq!(BodyForm::Hex.shown(&record, 2).unwrap(), "610a… (8 bytes)");
        assert_eq!(BodyForm::None.shown(&record, 2), None);
    }
}
