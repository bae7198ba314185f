//! From the properties that a producer sends to those that are stored. The broker adds MSG_REGION, TRACE_ON, CLUSTER and, if
//! it is missing, UNIQ_KEY; a delayed message keeps its real place in REAL_TOPIC and REAL_QID; what only brokers may set goes.

use shards::limits::PROPERTIES_BYTES_MAX;
use shards::record::properties::{self, NAME_VALUE_SEPARATOR, PROPERTY_SEPARATOR, Properties};

/// A POP consumer's handle on a message; only the broker makes it.
const POP_CK: &str = "POP_CK";

/// What a producer's properties say that matters to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes<'p> {
    /// The client's own id of the message.
    pub unique_key: Option<&'p str>,
    pub delay_level: Option<&'p str>,
    pub is_transaction: bool,
    /// It is one of those that are kept in order by a key.
    pub is_ordered: bool,
    /// It asks for a time of delivery in place of a level.
    pub is_timer: bool,
    /// It says that it holds several messages.
    pub is_inner_batch: bool,
    /// Something in it is no pair, or only brokers may set it.
    is_to_be_cleaned: bool,
}

impl<'p> Wishes<'p> {
    pub fn read(sent: &'p str) -> Self {
        let mut wishes = Self::default();
        let mut pairs_bytes = 0;
        for (name, value) in Properties::of_text(sent) {
            pairs_bytes += name.len() + value.len() + 2;
            match name {
                properties::UNIQ_KEY => wishes.unique_key = Some(value),
                properties::DELAY => wishes.delay_level = Some(value),
                properties::TRANSACTION_PREPARED => {
                    wishes.is_transaction = value.eq_ignore_ascii_case("true");
                }
                properties::TIMER_DELAY_SEC | properties::TIMER_DELAY_MS | properties::TIMER_DELIVER_MS => {
                    wishes.is_timer = true;
                }
                properties::SHARDING_KEY => wishes.is_ordered = true,
                properties::INNER_NUM => wishes.is_inner_batch = true,
                name if is_of_brokers(name) => wishes.is_to_be_cleaned = true,
                _ => {}
            }
        }
        // A separator too many could make up for the last one that is missing.
        let is_closed = sent.is_empty() || sent.as_bytes().last() == Some(&PROPERTY_SEPARATOR);
        wishes.is_to_be_cleaned |= !is_closed || pairs_bytes != sent.len();
        wishes
    }
}

/// What the broker stores besides what was sent.
#[derive(Clone, Copy, Debug)]
pub struct Additions<'a> {
    pub region: &'a str,
    pub cluster: &'a str,
    /// Set when the producer sent none.
    pub unique_key: Option<&'a str>,
    /// Where a delayed message goes in the end.
    pub real_place: Option<(&'a str, u32)>,
    /// Replaces the level that was sent.
    pub delay_level: Option<i32>,
}

/// Makes `out` the properties to store for those that were `sent` and whose `wishes` were read.
pub fn encode(out: &mut Vec<u8>, sent: &str, wishes: &Wishes<'_>, add: &Additions<'_>) {
    out.clear();
    // What one odd request needed is not kept for good.
    out.shrink_to(PROPERTIES_BYTES_MAX);
    if wishes.is_to_be_cleaned || add.real_place.is_some() || add.delay_level.is_some() {
        for (name, value) in Properties::of_text(sent) {
            if !is_replaced(name, add) {
                put(out, name, value);
            }
        }
    } else {
        out.extend_from_slice(sent.as_bytes());
    }
    put(out, properties::MSG_REGION, add.region);
    put(out, properties::TRACE_ON, "true");
    if let Some(unique_key) = add.unique_key {
        put(out, properties::UNIQ_KEY, unique_key);
    }
    if let Some(level) = add.delay_level {
        put(out, properties::DELAY, &level.to_string());
    }
    put(out, properties::CLUSTER, add.cluster);
    if let Some((topic, queue_id)) = add.real_place {
        put(out, properties::REAL_TOPIC, topic);
        put(out, properties::REAL_QUEUE_ID, itoa::Buffer::new().format(queue_id));
    }
}

/// Whether a property is one that the broker sets anew or that nobody else may set.
fn is_of_brokers(name: &str) -> bool {
    matches!(
        name,
        properties::MSG_REGION | properties::TRACE_ON | properties::CLUSTER | properties::CRC32 | POP_CK
    )
}

fn is_replaced(name: &str, add: &Additions<'_>) -> bool {
    match name {
        properties::UNIQ_KEY => add.unique_key.is_some(),
        properties::DELAY => add.delay_level.is_some(),
        // A level goes before a time.
        properties::REAL_TOPIC
        | properties::REAL_QUEUE_ID
        | properties::TIMER_DELAY_SEC
        | properties::TIMER_DELAY_MS
        | properties::TIMER_DELIVER_MS => add.real_place.is_some(),
        name => is_of_brokers(name),
    }
}

fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(NAME_VALUE_SEPARATOR);
    out.extend_from_slice(value.as_bytes());
    out.push(PROPERTY_SEPARATOR);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: Additions<'_> =
        Additions { region: "R", cluster: "C", unique_key: None, real_place: None, delay_level: None };

    fn encoded(text: &str, add: &Additions<'_>) -> Vec<u8> {
        let mut out = b"of the message before".to_vec();
        encode(&mut out, text, &Wishes::read(text), add);
        out
    }

    fn readable(encoded: &[u8]) -> String {
        String::from_utf8_lossy(encoded).replace('\u{1}', "=").replace('\u{2}', ";")
    }

    fn sent(text: &str) -> String {
        text.replace('=', "\u{1}").replace(';', "\u{2}")
    }

    #[test]
    fn what_was_sent_is_kept_and_the_brokers_own_is_added() {
        let expected = "KEYS=a b;UNIQ_KEY=U;日本=é;TAGS=t;MSG_REGION=R;TRACE_ON=true;CLUSTER=C;";
        for text in [
            "KEYS=a b;UNIQ_KEY=U;日本=é;TAGS=t;",
            "KEYS=a b;UNIQ_KEY=U;日本=é;TAGS=t",
            "x;KEYS=a b;UNIQ_KEY=U;日本=é;=;TAGS=t;y=;",
        ] {
            assert_eq!(readable(&encoded(&sent(text), &ADD)), expected);
        }
    }

    /// The lengths added up, and the broker's first property became a part of the producer's last value.
    #[test]
    fn a_separator_too_many_does_not_make_up_for_the_last_one() {
        let expected = "A=1;B=2;MSG_REGION=R;TRACE_ON=true;CLUSTER=C;";
        assert_eq!(readable(&encoded(&sent("A=1;;B=2"), &ADD)), expected);
    }

    #[test]
    fn what_only_brokers_may_set_is_dropped() {
        let text = sent("POP_CK=x;POP_CKX=y;CLUSTER=Z;MSG_REGION=q;TRACE_ON=false;__CRC32#=1234567890;A=1;");
        let add = Additions { unique_key: Some("NEW"), ..ADD };
        let expected = "POP_CKX=y;A=1;MSG_REGION=R;TRACE_ON=true;UNIQ_KEY=NEW;CLUSTER=C;";
        assert_eq!(readable(&encoded(&text, &add)), expected);
    }

    #[test]
    fn a_delayed_message_keeps_its_real_place_and_no_earlier_one() {
        let text = sent("DELAY=3;REAL_TOPIC=old;REAL_QID=9;TIMER_DELAY_SEC=5;");
        let add = Additions { real_place: Some(("T", 2)), ..ADD };
        let expected = "DELAY=3;MSG_REGION=R;TRACE_ON=true;CLUSTER=C;REAL_TOPIC=T;REAL_QID=2;";
        assert_eq!(readable(&encoded(&text, &add)), expected);
        let add = Additions { delay_level: Some(-1), ..ADD };
        assert!(readable(&encoded(&text, &add)).contains("TRACE_ON=true;DELAY=-1;"));
    }

    #[test]
    fn wishes_are_read() {
        let text = sent("UNIQ_KEY=U;DELAY=3;TRAN_MSG=TRUE;TIMER_DELIVER_MS=5;INNER_NUM=2;bad;=;x=;");
        let wishes = Wishes::read(&text);
        assert_eq!((wishes.unique_key, wishes.delay_level), (Some("U"), Some("3")));
        assert!(wishes.is_transaction && wishes.is_timer && wishes.is_inner_batch);
        assert_eq!(Wishes::read(""), Wishes::default());
    }
}
