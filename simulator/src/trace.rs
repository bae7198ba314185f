//! What happened, event by event: as a hash always, as text when somebody wants to read it.

use std::fmt::{self, Write as _};

/// The history of one run. Two runs that did the same have the same hash.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    line: String,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// `keeps_lines`: the text is kept too.
    pub fn new(keeps_lines: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            line: String::new(),
            lines: keeps_lines.then(Vec::new),
        }
    }

    /// Notes that `what` happened at `at_us`.
    pub fn note(&mut self, at_us: u64, what: fmt::Arguments<'_>) {
        self.line.clear();
        write!(self.line, "{:>12} ms  {what}", Millis(at_us)).expect("text can always be written to");
        self.events += 1;
        for byte in self.line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(self.line.clone());
        }
    }

    /// FNV-1a over all lines.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events were noted.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines, if they were kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// Microseconds, shown as milliseconds with three digits after the point.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:03}", self.0 / 1000, self.0 % 1000))
    }
}
