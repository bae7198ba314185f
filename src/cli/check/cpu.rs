//! CPUs: how many, how much of their time, at which clock, on how many memory nodes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::Finding;
use crate::cli::machine;

/// Clock sources that are read without a system call. A virtual machine's own are of them.
const QUICK_CLOCKS: [&str; 5] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "xen"];

pub(super) fn findings(cpus: &[usize]) -> Vec<Finding> {
    let cpu = |cpu: usize| Path::new("/sys/devices/system/cpu").join(format!("cpu{cpu}"));
    let governors: BTreeSet<_> =
        cpus.iter().filter_map(|&index| machine::read(cpu(index).join("cpufreq/scaling_governor"))).collect();
    let nodes = cpus.iter().filter_map(|&index| node_of(&cpu(index))).collect();
    let clock = machine::read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let mut findings = vec![count(cpus), quota(machine::cpu_quota(), cpus.len()), governor(&governors)];
    findings.extend(clock.map(|clock| clock_source(&clock)));
    findings.push(memory_nodes(&nodes));
    findings
}

fn count(cpus: &[usize]) -> Finding {
    let found = format!("{} ({cpus:?})", cpus.len());
    if cpus.len() < 2 {
        return Finding::warning(
            "CPUs",
            found,
            "allow two or more, so that clients and the broker do not share one",
        );
    }
    Finding::good("CPUs", found)
}

fn quota(quota: Option<f64>, cpus: usize) -> Finding {
    let Some(quota) = quota else { return Finding::good("CPU quota", "none") };
    let found = format!("{quota:.1} CPUs' worth of time for {cpus} CPUs");
    if quota < cpus as f64 {
        let cure = format!(
            "start with `--cores {}`, or raise the quota (CPUQuota=, --cpus): a core that is throttled stalls for tens of milliseconds",
            (1..=cpus).rev().find(|&cores| cores as f64 <= quota).unwrap_or(1)
        );
        return Finding::warning("CPU quota", found, cure);
    }
    Finding::good("CPU quota", found)
}

fn governor(governors: &BTreeSet<String>) -> Finding {
    let names: Vec<_> = governors.iter().map(String::as_str).collect();
    match names[..] {
        [] => Finding::good("CPU governor", "none: the host or the hardware decides"),
        ["performance"] => Finding::good("CPU governor", "performance"),
        _ => Finding::warning(
            "CPU governor",
            names.join(", "),
            "`cpupower frequency-set -g performance`: a core that wakes at a low clock answers late",
        ),
    }
}

fn clock_source(clock: &str) -> Finding {
    if QUICK_CLOCKS.contains(&clock) {
        return Finding::good("clock source", clock);
    }
    Finding::warning(
        "clock source",
        format!("{clock}: every look at the time is a system call or a slow read of a device"),
        "boot with clocksource=tsc tsc=reliable where the hardware has an invariant TSC",
    )
}

fn memory_nodes(nodes: &BTreeSet<String>) -> Finding {
    if nodes.len() > 1 {
        let names: Vec<_> = nodes.iter().map(String::as_str).collect();
        return Finding::warning(
            "NUMA",
            format!("the CPUs are on {} nodes ({})", nodes.len(), names.join(", ")),
            "run one node of RingMQ per NUMA node (numactl --cpunodebind=N --membind=N), or give a shard's `log` and `serve` CPUs of one",
        );
    }
    Finding::good("NUMA", "one node")
}

/// `node0`, as the CPU's folder names it.
fn node_of(cpu: &Path) -> Option<String> {
    let names = fs::read_dir(cpu).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.into_iter().find(|name| {
        name.strip_prefix("node").is_some_and(|digits| digits.chars().all(|c| c.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_quota_below_the_cpus_names_the_cores_that_fit() {
        assert_eq!(quota(None, 4).verdict, Verdict::Good);
        assert_eq!(quota(Some(4.0), 4).verdict, Verdict::Good);
        assert!(quota(Some(2.5), 4).cure.is_some_and(|cure| cure.contains("--cores 2`")));
        assert!(quota(Some(0.5), 4).cure.is_some_and(|cure| cure.contains("--cores 1`")));
    }

    #[test]
    fn governors_clocks_and_nodes_are_judged() {
        assert_eq!(governor(&set(&[])).verdict, Verdict::Good);
        assert_eq!(governor(&set(&["performance"])).verdict, Verdict::Good);
        assert_eq!(governor(&set(&["performance", "powersave"])).verdict, Verdict::Warning);
        assert_eq!(clock_source("tsc").verdict, Verdict::Good);
        assert_eq!(clock_source("hpet").verdict, Verdict::Warning);
        assert_eq!(memory_nodes(&set(&["node0"])).verdict, Verdict::Good);
        assert_eq!(memory_nodes(&set(&["node0", "node1"])).verdict, Verdict::Warning);
        assert_eq!(count(&[3]).verdict, Verdict::Warning);
    }
}
