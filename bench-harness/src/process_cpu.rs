//! Processor time and memory of processes, from `/proc`, and which process listens on a port.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;

/// Clock ticks per second of `/proc/PID/stat`: fixed at 100 on every Linux that user programs see.
const TICKS_PER_SECOND: f64 = 100.0;
/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// What a set of processes has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            resident_bytes: self.resident_bytes + other.resident_bytes,
        }
    }
}

/// Sums over the processes; those that are gone count nothing.
pub fn usage_of(pids: &[u32]) -> Usage {
    pids.iter().filter_map(|pid| usage(&pid.to_string())).fold(Usage::default(), Usage::and)
}

/// Of this process itself.
pub fn own_usage() -> Usage {
    usage("self").unwrap_or_default()
}

fn usage(process: &str) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    Some(Usage { cpu_seconds: cpu_seconds(&stat)?, resident_bytes: resident_bytes(&status) })
}

/// User and system time of a `/proc/PID/stat` line. The name in it may hold spaces and brackets: fields count from the last bracket.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: Option<u64> = line.and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// The process that listens on a port of this machine; `None` when the address is elsewhere or the process is not ours to see.
pub fn listener_of(addr: SocketAddr) -> Option<u32> {
    if !addr.ip().is_loopback() && !is_own_address(addr) {
        return None;
    }
    let sockets: HashSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, addr.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let open = fs::read_dir(entry.path().join("fd")).ok()?;
        let holds = open.flatten().any(|fd| {
            fs::read_link(fd.path())
                .is_ok_and(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
        });
        holds.then_some(pid)
    })
}

/// Whether an address is one of this machine: only then can a socket be bound to it.
fn is_own_address(addr: SocketAddr) -> bool {
    std::net::UdpSocket::bind((addr.ip(), 0)).is_ok()
}

/// The inodes of the sockets that listen on `port`, out of `/proc/net/tcp` or `tcp6`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTEN;
            listens.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn reads_times_behind_a_name_with_brackets() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 4 0 99 1000 50";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("nothing"), None);
    }

    #[test]
    fn finds_the_process_that_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener_of(listener.local_addr().unwrap()), Some(std::process::id()));
    }

    #[test]
    fn own_usage_is_visible() {
        assert!(own_usage().resident_bytes > 0);
    }
}
