//! What the kernel knows of threads and of the process: read from `/proc` by the side thread, so that it costs the cores nothing.

use std::fs;

/// The processor time of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ThreadTime {
    /// Time on a CPU, nanoseconds.
    pub cpu_ns: u64,
    /// Time ready to run while something else had the CPU, nanoseconds.
    pub queued_ns: u64,
}

/// The folder of the thread that calls, below `/proc`; empty where there is none.
pub fn this_thread() -> String {
    let link = fs::read_link("/proc/thread-self").unwrap_or_default();
    link.to_string_lossy().into_owned()
}

/// The time of the thread at this folder; `None` when it has ended or the kernel does not tell.
pub fn of_thread(thread: &str) -> Option<ThreadTime> {
    parse_schedstat(&fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?)
}

fn parse_schedstat(text: &str) -> Option<ThreadTime> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (cpu_ns, queued_ns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(ThreadTime { cpu_ns, queued_ns })
}

/// Memory of this process that is in RAM, bytes.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_finds_its_own_time() {
        let thread = this_thread();
        let before = of_thread(&thread).expect("this thread runs");
        let mut sum = 0u64;
        while of_thread(&thread).expect("it still runs").cpu_ns == before.cpu_ns {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(resident_bytes().expect("a process has memory") > 1 << 20);
        assert_eq!(of_thread("1/task/0"), None);
        assert_eq!(parse_schedstat("12 x"), None);
    }
}
