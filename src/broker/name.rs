//! Which names topics and groups may have, and which are the broker's own. RocketMQ's rules and texts.

use shards::limits::{GROUP_BYTES_MAX, RETRY_TOPIC_BYTES_MAX, TOPIC_BYTES_MAX};

pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DLQ_PREFIX: &str = "%DLQ%";
/// The topic from which others are made automatically.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Delayed messages wait here, one queue for each level.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
pub const TRANS_HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
pub const TRANS_OP_HALF_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
pub const TRANS_CHECK_MAX_TIME_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
pub const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
pub const OFFSET_MOVED_TOPIC: &str = "OFFSET_MOVED_EVENT";
pub const BENCHMARK_TOPIC: &str = "BenchmarkTest";
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
pub const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";
/// Groups with this prefix belong to brokers.
pub const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";

const SYSTEM_TOPICS: [&str; 10] = [
    AUTO_CREATE_TOPIC,
    SCHEDULE_TOPIC,
    BENCHMARK_TOPIC,
    TRANS_HALF_TOPIC,
    TRACE_TOPIC,
    TRANS_OP_HALF_TOPIC,
    TRANS_CHECK_MAX_TIME_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_TOPIC,
    "CHECKPOINT_TOPIC",
];

/// Why a name cannot be. Status INVALID_PARAMETER for a topic; a group with such a name does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("The specified {what} is blank.")]
    Blank { what: &'static str },
    #[error("The specified {what}: {name}, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    Characters { what: &'static str, name: String },
    #[error("The specified {what}: {name}, is longer than {what} max length: {bytes_max}")]
    Length { what: &'static str, name: String, bytes_max: usize },
}

/// # Errors
/// A name that no topic may have.
pub fn check_topic(name: &str) -> Result<(), NameError> {
    let is_of_group = name.starts_with(RETRY_PREFIX) || name.starts_with(DLQ_PREFIX);
    check("topic", name, if is_of_group { RETRY_TOPIC_BYTES_MAX } else { TOPIC_BYTES_MAX })
}

/// # Errors
/// A name that no group may have.
pub fn check_group(name: &str) -> Result<(), NameError> {
    check("group", name, GROUP_BYTES_MAX)
}

fn check(what: &'static str, name: &str, bytes_max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank { what });
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-');
    if !name.bytes().all(is_allowed) {
        return Err(NameError::Characters { what, name: name.to_owned() });
    }
    if name.len() > bytes_max {
        return Err(NameError::Length { what, name: name.to_owned(), bytes_max });
    }
    Ok(())
}

/// Whether a group is a broker's or a tool's own, however it is written.
pub fn is_system_group(name: &str) -> bool {
    name.get(..SYSTEM_GROUP_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(SYSTEM_GROUP_PREFIX))
}

/// Whether a topic is a broker's own whatever the broker is called; [`super::topic_table::TopicTable::is_system`] knows the rest.
pub fn is_system_topic(name: &str) -> bool {
    SYSTEM_TOPICS.contains(&name) || name.starts_with(SYSTEM_TOPIC_PREFIX)
}

/// Whether clients may not send to a topic: the broker writes there itself.
pub fn is_send_forbidden(topic: &str) -> bool {
    matches!(
        topic,
        SCHEDULE_TOPIC
            | TRANS_HALF_TOPIC
            | TRANS_OP_HALF_TOPIC
            | TRANS_CHECK_MAX_TIME_TOPIC
            | SELF_TEST_TOPIC
            | OFFSET_MOVED_TOPIC
    )
}

/// The topic through which a group's failed messages come back.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// The topic where a group's messages end that failed too often.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_for_characters_and_length() {
        for good in ["T", "%RETRY%g", "a|b-c_9", &"x".repeat(127)] {
            assert_eq!(check_topic(good), Ok(()), "{good}");
        }
        assert_eq!(check_topic(" "), Err(NameError::Blank { what: "topic" }));
        for bad in ["a b", "a.b", "日本", "a@b", "a\u{1}"] {
            assert!(matches!(check_topic(bad), Err(NameError::Characters { .. })), "{bad}");
        }
        assert_eq!(
            check_topic(&"x".repeat(128)).unwrap_err().to_string(),
            format!("The specified topic: {}, is longer than topic max length: 127", "x".repeat(128))
        );
    }

    #[test]
    fn topics_of_groups_may_be_longer() {
        assert_eq!(check_topic(&retry_topic(&"g".repeat(248))), Ok(()));
        assert!(check_topic(&dlq_topic(&"g".repeat(251))).is_err());
        assert_eq!(check_group(&"g".repeat(120)), Ok(()));
        assert!(check_group(&"g".repeat(121)).is_err());
    }

    #[test]
    fn the_brokers_own_topics_are_known() {
        assert!(is_system_topic("TBW102") && is_system_topic("rmq_sys_x") && !is_system_topic("Orders"));
        assert!(is_send_forbidden(SCHEDULE_TOPIC) && !is_send_forbidden(AUTO_CREATE_TOPIC));
    }
}
