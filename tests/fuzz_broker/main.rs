//! Seeded fuzzing of what a broker reads behind the frame: the fields of each request, batches, properties and filters of messages,
//! and its files. Each target knows what should come out, by a plain model or by reading back.

#[path = "../fuzzing/mod.rs"]
mod fuzzing;

mod expressions;
mod files;
mod messages;
mod requests;

use fuzzing::{ROUNDS, Target, assert_the_canary_is_seen_to_fail, run_all};

const TARGETS: [Target; 15] = [
    Target { name: "request_fields", round: requests::fields },
    Target { name: "json_headers", round: requests::json_headers },
    Target { name: "binary_headers", round: requests::binary_headers },
    Target { name: "dialect", round: requests::dialect },
    Target { name: "batches", round: messages::batches },
    Target { name: "properties", round: messages::properties },
    Target { name: "property_strings", round: messages::property_strings },
    Target { name: "stored_properties", round: messages::stored },
    Target { name: "filters", round: messages::filters },
    Target { name: "expressions", round: expressions::expressions },
    Target { name: "records", round: messages::records },
    Target { name: "consumer_offsets", round: files::consumer_offsets },
    Target { name: "delay_offsets", round: files::delay_offsets },
    Target { name: "tables", round: files::tables },
    Target { name: "configuration", round: files::configuration },
];

#[test]
fn what_a_broker_reads_is_what_was_written_or_is_refused() {
    run_all(&TARGETS, ROUNDS);
}

#[test]
fn the_version_before_takes_the_place_of_a_damaged_file() {
    // These write files.
    run_all(&[Target { name: "versions_before", round: files::versions_before }], ROUNDS / 10);
}

#[test]
fn the_canary_is_seen_to_fail() {
    assert_the_canary_is_seen_to_fail();
}
