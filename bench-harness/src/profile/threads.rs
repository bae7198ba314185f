//! What the kernel counts of each thread of the brokers: CPU time and context switches, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

/// One thread at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadSample {
    /// Of the process and of the thread.
    ids: (u32, u32),
    name: String,
    cpu_ns: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

/// The threads of one name, per message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ThreadWork {
    pub name: String,
    pub cpu_us: f64,
    /// It had nothing to do, or waited for the kernel.
    pub voluntary_switches: f64,
    /// Something else got its CPU.
    pub involuntary_switches: f64,
}

/// All threads of these processes; those that end meanwhile are left out.
pub fn read(pids: &[u32]) -> Vec<ThreadSample> {
    let mut threads = Vec::new();
    for &pid in pids {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        threads.extend(entries.flatten().filter_map(|entry| sample(pid, &entry.path())));
    }
    threads
}

fn sample(pid: u32, folder: &Path) -> Option<ThreadSample> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let status = read("status")?;
    let switches = |name: &str| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    Some(ThreadSample {
        ids: (pid, folder.file_name()?.to_str()?.parse().ok()?),
        name: read("comm")?.trim_end().to_owned(),
        cpu_ns: read("schedstat")?.split_whitespace().next()?.parse().ok()?,
        voluntary_switches: switches("voluntary_ctxt_switches:")?,
        involuntary_switches: switches("nonvoluntary_ctxt_switches:")?,
    })
}

/// What the threads did between the two moments, in which `messages` were acknowledged; the busiest name first.
/// Threads of one name are taken together.
pub fn work(before: &[ThreadSample], after: &[ThreadSample], messages: f64) -> Vec<ThreadWork> {
    let mut sums: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for now in after {
        let earlier = before.iter().find(|one| one.ids == now.ids);
        let since = |of: fn(&ThreadSample) -> u64| of(now).saturating_sub(earlier.map_or(0, of));
        let sum = sums.entry(now.name.clone()).or_default();
        sum.0 += since(|thread| thread.cpu_ns);
        sum.1 += since(|thread| thread.voluntary_switches);
        sum.2 += since(|thread| thread.involuntary_switches);
    }
    let per_message = |amount: u64| if messages > 0.0 { amount as f64 / messages } else { 0.0 };
    let mut work: Vec<ThreadWork> = sums
        .into_iter()
        .filter(|(_, (cpu_ns, ..))| *cpu_ns > 0)
        .map(|(name, (cpu_ns, voluntary, involuntary))| ThreadWork {
            name,
            cpu_us: per_message(cpu_ns) / 1000.0,
            voluntary_switches: per_message(voluntary),
            involuntary_switches: per_message(involuntary),
        })
        .collect();
    work.sort_by(|one, other| other.cpu_us.total_cmp(&one.cpu_us));
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_name_are_taken_together() {
        let thread = |id, name: &str, cpu_ns, voluntary_switches| ThreadSample {
            ids: (7, id),
            name: name.to_owned(),
            cpu_ns,
            voluntary_switches,
            involuntary_switches: 0,
        };
        let before = [thread(1, "core-0", 1_000_000, 10), thread(2, "io", 0, 0)];
        // Thread 3 is new.
        let after =
            [thread(1, "core-0", 5_000_000, 30), thread(2, "io", 1_000, 1), thread(3, "io", 1_000, 1)];
        let work = work(&before, &after, 1000.0);
        let found: Vec<(&str, f64, f64)> = work
            .iter()
            .map(|thread| (thread.name.as_str(), thread.cpu_us, thread.voluntary_switches))
            .collect();
        assert_eq!(found, [("core-0", 4.0, 0.02), ("io", 0.002, 0.002)]);
    }

    #[test]
    fn own_threads_are_visible() {
        assert!(!read(&[std::process::id()]).is_empty());
        assert_eq!(read(&[0]), []);
    }
}
