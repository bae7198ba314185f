//! SQL92 expressions (C6): conditions whose value a plain model knows, written in many ways; and what becomes of changed ones.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use ringmq::filter::{Expression, Judgement};
use shards::limits::FILTER_TERMS_MAX;
use shards::message_store::FilterSteps;

use crate::fuzzing::{mutate, text};

/// The properties of the messages: whole numbers, each of which a message has or not.
const NAMES: [&str; 4] = ["a", "b", "Long_name", "$d"];

/// A condition as text, and what it says of the message: `None` for NULL.
struct Written {
    text: String,
    value: Option<bool>,
}

/// What the message has under [`NAMES`].
type Values = [Option<i32>; 4];

pub(crate) fn expressions(random: &mut StdRng) {
    let values: Values = std::array::from_fn(|_| random.random_bool(0.7).then(|| random.random_range(-3..4)));
    let mut properties = String::new();
    for (name, value) in NAMES.iter().zip(values) {
        if let Some(value) = value {
            properties += &format!("{name}\u{1}{value}\u{2}");
        }
    }
    let written = condition(random, &values, 4);
    let compiled =
        Expression::compile(&written.text).unwrap_or_else(|error| panic!("{}: {error}", written.text));
    let expected = match written.value {
        Some(true) => Judgement::True,
        Some(false) => Judgement::False,
        None => Judgement::Null,
    };
    let judged = compiled.judge(properties.as_bytes(), &mut FilterSteps::default());
    assert_eq!(judged, expected, "{} of {values:?}", written.text);

    let mut changed = written.text.into_bytes();
    for _ in 0..random.random_range(1..4) {
        mutate(random, &mut changed);
    }
    let mut changed = String::from_utf8_lossy(&changed).into_owned();
    changed += &text(random, 3);
    if let Ok(compiled) = Expression::compile(&changed) {
        let mut steps = FilterSteps::default();
        let _ = compiled.judge(properties.as_bytes(), &mut steps);
        assert!(steps.get() <= 4 * FILTER_TERMS_MAX as u64, "{changed}");
    }
}

fn condition(random: &mut StdRng, values: &Values, depth: u32) -> Written {
    let kind = if depth == 0 { random.random_range(0..4) } else { random.random_range(0..8) };
    let blank = blank(random);
    match kind {
        0 => compared(random, values),
        1 => {
            let index = random.random_range(0..NAMES.len());
            let (not, is_not) = negation(random);
            Written {
                text: format!("{}{blank}IS {not}NULL", NAMES[index]),
                value: Some(values[index].is_none() != is_not),
            }
        }
        2 => {
            let index = random.random_range(0..NAMES.len());
            let (not, is_not) = negation(random);
            let list: Vec<i32> = (0..random.random_range(1..7)).map(|_| random.random_range(-3..4)).collect();
            let texts: Vec<_> = list.iter().map(|number| format!("'{number}'")).collect();
            Written {
                text: format!("{}{blank}{not}in ({})", NAMES[index], texts.join(",")),
                value: values[index].map(|value| list.contains(&value) != is_not),
            }
        }
        3 => {
            let index = random.random_range(0..NAMES.len());
            let (not, is_not) = negation(random);
            let low = random.random_range(0..3);
            let high = random.random_range(low..4);
            Written {
                text: format!("{}{blank}{not}BETWEEN {low}{blank}and {high}", NAMES[index]),
                value: values[index].map(|value| (low..=high).contains(&value) != is_not),
            }
        }
        4 => {
            let inner = condition(random, values, depth - 1);
            Written { text: format!("NOT{blank}({})", inner.text), value: inner.value.map(|value| !value) }
        }
        _ => {
            let (word, decisive) = if random.random() { ("AND", false) } else { ("or", true) };
            let parts: Vec<Written> =
                (0..random.random_range(2..4)).map(|_| condition(random, values, depth - 1)).collect();
            let texts: Vec<_> = parts.iter().map(|part| format!("({})", part.text)).collect();
            let value = if parts.iter().any(|part| part.value == Some(decisive)) {
                Some(decisive)
            } else if parts.iter().any(|part| part.value.is_none()) {
                None
            } else {
                Some(!decisive)
            };
            Written { text: texts.join(&format!("{blank}{word}{blank}")), value }
        }
    }
}

fn compared(random: &mut StdRng, values: &Values) -> Written {
    let index = random.random_range(0..NAMES.len());
    let number = random.random_range(-3..4);
    let value = values[index];
    let (sign, holds) = match random.random_range(0..6) {
        0 => ("=", value.map(|value| value == number)),
        1 => ("<>", value.map(|value| value != number)),
        2 => ("<", value.map(|value| value < number)),
        3 => ("<=", value.map(|value| value <= number)),
        4 => (">", value.map(|value| value > number)),
        _ => (">=", value.map(|value| value >= number)),
    };
    // A sign of its own, not the beginning of a comment.
    let blank = blank(random);
    Written { text: format!("{}{blank}{sign} {number}", NAMES[index]), value: holds }
}

fn negation(random: &mut StdRng) -> (&'static str, bool) {
    if random.random() { ("NOT ", true) } else { ("", false) }
}

fn blank(random: &mut StdRng) -> &'static str {
    [" ", "\t", "\n ", " /* why */ ", " -- why\r\n"].choose(random).expect("not empty")
}
