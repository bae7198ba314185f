//! The network: whether the ports are free and stay so, and how many connections may wait.

use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use super::Finding;
use crate::cli::machine;
use crate::config::Config;

const BACKLOG_GOOD: u32 = 1024;

pub(super) fn findings(config: &Config, is_in_use: bool) -> Vec<Finding> {
    let name_server = SocketAddr::new(config.host, config.namesrv_port);
    let addresses: Vec<_> =
        (0..config.shards).map(|shard| config.shard_address(shard)).chain([name_server]).collect();
    let mut findings = Vec::new();
    // The node that runs has them.
    if !is_in_use {
        let taken = addresses
            .iter()
            .filter_map(|&address| Some((address, TcpListener::bind(address).err()?.to_string())));
        findings.push(free(&addresses, &taken.collect::<Vec<_>>()));
    }
    let range = machine::read("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| parse_range(&text));
    let reserved = machine::read("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    findings.extend(range.map(|range| outgoing(&addresses, &range, &reserved)));
    let backlog = machine::read("/proc/sys/net/core/somaxconn").and_then(|text| text.parse().ok());
    findings.extend(backlog.map(accept_queue));
    findings
}

fn free(addresses: &[SocketAddr], taken: &[(SocketAddr, String)]) -> Finding {
    let list = |addresses: &mut dyn Iterator<Item = String>| addresses.collect::<Vec<_>>().join(", ");
    if taken.is_empty() {
        return Finding::good("ports", list(&mut addresses.iter().map(ToString::to_string)) + ": free");
    }
    Finding::missing(
        "ports",
        list(&mut taken.iter().map(|(address, error)| format!("{address}: {error}"))),
        "stop what listens there, or choose others with --port, --namesrv-port and --host",
    )
}

fn outgoing(addresses: &[SocketAddr], range: &RangeInclusive<u16>, reserved: &str) -> Finding {
    let reserved: Vec<_> = reserved.split(',').filter_map(parse_reserved).collect();
    let is_reserved = |port: u16| reserved.iter().any(|range| range.contains(&port));
    let mut inside =
        addresses.iter().map(SocketAddr::port).filter(|port| range.contains(port) && !is_reserved(*port));
    let told = format!("{} to {}", range.start(), range.end());
    match inside.next() {
        None => Finding::good("outgoing ports", format!("{told}: apart from ours")),
        Some(port) => Finding::warning(
            "outgoing ports",
            format!("{told}: an outgoing connection may take {port} before a start"),
            format!(
                "`sysctl net.ipv4.ip_local_reserved_ports={port}` with all of ours, or choose others with --port"
            ),
        ),
    }
}

fn accept_queue(backlog: u32) -> Finding {
    let found = format!("net.core.somaxconn={backlog}");
    if backlog < BACKLOG_GOOD {
        let cure = format!(
            "`sysctl net.core.somaxconn={BACKLOG_GOOD}`: when all clients come back at once, some are turned away"
        );
        return Finding::warning("accept queue", found, cure);
    }
    Finding::good("accept queue", found)
}

/// `32768 60999`
fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

/// `10911-10920` or `9876`
fn parse_reserved(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

    #[test]
    fn a_port_in_the_range_of_outgoing_connections_must_be_reserved() {
        let addresses = [10_911, 40_000].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let range = parse_range("32768\t60999").unwrap();
        assert_eq!(outgoing(&addresses[..1], &range, "").verdict, Verdict::Good);
        assert_eq!(outgoing(&addresses, &range, "1-5,39999").verdict, Verdict::Warning);
        assert_eq!(outgoing(&addresses, &range, "9876,39999-40001").verdict, Verdict::Good);
        assert_eq!(parse_range("no range"), None);
    }

    #[test]
    fn ports_in_use_and_short_queues_are_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = TcpListener::bind(address).unwrap_err().to_string();
        let finding = free(&[address], &[(address, error)]);
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(finding.found.contains(&address.port().to_string()), "{finding:?}");
        assert_eq!(free(&[address], &[]).verdict, Verdict::Good);
        assert_eq!(accept_queue(128).verdict, Verdict::Warning);
        assert_eq!(accept_queue(4096).verdict, Verdict::Good);
    }
}
