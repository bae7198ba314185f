//! The generator against a fake broker on loopback.

use std::time::Instant;

use super::*;
use crate::acks::{AcksHead, read_acks};
use crate::fake_broker::{Behaviour, start};
use crate::payload::RunId;
use crate::series::Interval;

fn plan(behaviour: Behaviour, pace: Pace) -> LoadPlan {
    let addr = start(behaviour).to_string();
    LoadPlan {
        topic: "t".into(),
        brokers: vec![BrokerTarget { name: "b".into(), addr, queue_ids: vec![0, 1, 2] }],
        connections: 4,
        in_flight: 8,
        threads: 2,
        batch: 1,
        delay_level: 0,
        pace,
        warmup: Duration::ZERO,
        interval: Duration::from_millis(100),
        end: None,
        messages_max: None,
        patience: Duration::from_secs(10),
        until_disconnect: false,
        payload: Payload::new(RunId::random(), 64),
        acks: None,
    }
}

fn run(plan: LoadPlan) -> Sent {
    Prepared::open(plan).unwrap().go(RunClock::starting_at(Instant::now())).join().unwrap()
}

fn max_us(interval: &Interval) -> f64 {
    interval.latency_us.as_ref().map_or(0.0, |latency| latency.max)
}

#[test]
fn a_stall_shows_up_in_the_percentiles_of_an_open_loop() {
    // 1.5 s at 2000/s; from 0.5 s on the broker is silent for half a second. 1000 of the 3000 messages are due in that time: the first
    // waits 500 ms, the last nothing, though only 8 can be under way. A generator that counted from the moment of sending would
    // see 8 slow ones.
    let stall = Some((Duration::from_millis(500), Duration::from_millis(500)));
    let mut plan =
        plan(Behaviour { stall, ..Behaviour::default() }, Pace::Open { messages_per_second: 2000.0 });
    plan.end = Some(Duration::from_millis(1500));
    let sent = run(plan);
    let found = sent.recording.total.percentiles();
    assert_eq!(sent.errors.total(), 0, "{:?}", sent.errors);
    assert_eq!(found.count, 3000, "every message that was due counts");
    assert_eq!(sent.acknowledged + sent.missed, 3000);
    assert!(found.p90 > 250_000.0, "{found:?}");
    assert!(found.max > 450_000.0, "{found:?}");
    assert!(sent.late > 700, "{} late", sent.late);

    // The series shows when it was: nothing for about half a second, then all at once with what it had waited.
    let intervals = sent.recording.intervals();
    assert_eq!(intervals.iter().map(|interval| interval.messages).sum::<u64>(), sent.acknowledged);
    let silent: Vec<f64> = intervals
        .iter()
        .filter(|interval| interval.messages == 0)
        .map(|interval| interval.at_seconds)
        .collect();
    assert!((3..=5).contains(&silent.len()) && silent[0] >= 0.5, "{silent:?}");
    let slowest = intervals.iter().max_by(|a, b| max_us(a).total_cmp(&max_us(b))).unwrap();
    assert!(slowest.at_seconds >= 0.9 && max_us(slowest) > 450_000.0, "{slowest:?}");
}

#[test]
fn sends_that_never_leave_are_missed_and_measured() {
    // Silent from the start until long after the end of the schedule.
    let stall = Some((Duration::ZERO, Duration::from_millis(1500)));
    let mut plan =
        plan(Behaviour { stall, ..Behaviour::default() }, Pace::Open { messages_per_second: 1000.0 });
    plan.end = Some(Duration::from_millis(1000));
    let sent = run(plan);
    assert_eq!((sent.acknowledged, sent.missed), (8, 992));
    let found = sent.recording.total.percentiles();
    assert_eq!(found.count, 1000);
    assert!(found.p50 > 400_000.0, "{found:?}");
}

#[test]
fn a_closed_loop_sends_exactly_as_many_as_asked_and_records_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acks");
    let mut plan = plan(Behaviour::default(), Pace::Closed);
    plan.messages_max = Some(9_000);
    plan.batch = 3;
    let head = AcksHead { topic: "t".into(), run: plan.payload.run().0, size: 64, brokers: vec!["b".into()] };
    plan.acks = Some(Arc::new(AckWriter::create(&path, &head).unwrap()));
    let sent = run(plan);
    assert_eq!((sent.acknowledged, sent.errors.total(), sent.unanswered), (9_000, 0, 0));
    assert_eq!(sent.recording.total.percentiles().count, 9_000);
    let mut sequences: Vec<u64> = read_acks(&path).unwrap().1.iter().map(|ack| ack.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (0..9_000).collect::<Vec<_>>());
}

#[test]
fn refusals_are_counted_by_code() {
    let mut plan = plan(Behaviour { refuse_every: Some(10), ..Behaviour::default() }, Pace::Closed);
    plan.messages_max = Some(1_000);
    let sent = run(plan);
    assert_eq!((sent.acknowledged, sent.errors.total()), (900, 100));
    let (kind, counted) = sent.errors.iter().next().unwrap();
    assert_eq!((kind, counted.first.as_str()), ("code 2 SYSTEM_BUSY", "busy"));
}

#[test]
fn a_lost_connection_is_an_error_unless_it_is_expected() {
    for until_disconnect in [false, true] {
        let mut plan = plan(Behaviour { close_at: Some(500), ..Behaviour::default() }, Pace::Closed);
        plan.messages_max = Some(10_000);
        plan.until_disconnect = until_disconnect;
        let sent = run(plan);
        assert!(sent.acknowledged < 500);
        assert!(sent.unanswered > 0);
        assert_eq!(sent.errors.total() == 0, until_disconnect, "{:?}", sent.errors);
    }
}

#[test]
fn a_silent_broker_ends_the_run_after_a_while() {
    let stall = Some((Duration::ZERO, Duration::from_secs(3600)));
    let mut plan = plan(Behaviour { stall, ..Behaviour::default() }, Pace::Closed);
    plan.messages_max = Some(100);
    plan.patience = Duration::from_millis(300);
    let sent = run(plan);
    assert_eq!((sent.acknowledged, sent.unanswered), (0, 8));
    assert_eq!(sent.errors.total(), 8);
}

/// As a sender does who goes from broker to broker.
#[test]
fn one_request_under_way_goes_to_the_brokers_in_turn() {
    let one_sender = |behaviour| {
        let mut plan = plan(behaviour, Pace::Closed);
        let addr = start(behaviour).to_string();
        plan.brokers.push(BrokerTarget { name: "c".into(), addr, queue_ids: vec![0] });
        (plan.in_flight, plan.threads, plan.messages_max) = (1, 1, Some(100));
        plan
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acks");
    let mut answered = one_sender(Behaviour::default());
    let brokers = vec!["b".into(), "c".into()];
    let head = AcksHead { topic: "t".into(), run: answered.payload.run().0, size: 64, brokers };
    answered.acks = Some(Arc::new(AckWriter::create(&path, &head).unwrap()));
    assert_eq!(run(answered).acknowledged, 100);
    for ack in read_acks(&path).unwrap().1 {
        assert_eq!(u64::from(ack.broker), ack.sequence % 2, "sequence {}", ack.sequence);
    }

    let mut silent = one_sender(Behaviour {
        stall: Some((Duration::ZERO, Duration::from_secs(3600))),
        ..Behaviour::default()
    });
    silent.patience = Duration::from_millis(300);
    assert_eq!(run(silent).unanswered, 1);
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let mut plan = plan(Behaviour::default(), Pace::Closed);
    plan.brokers[0].addr = "127.0.0.1:1".into();
    let error = Prepared::open(plan).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains("broker b"), "{error}");
}
