//! What expressions say of messages (C6), by example, by rules that hold for all of them, and for any text whatever.

use proptest::prelude::*;
use shards::limits::{FILTER_DEPTH_MAX, FILTER_EXPRESSION_BYTES_MAX, FILTER_TERMS_MAX};
use shards::message_store::FilterSteps;

use super::Judgement::{False, Mismatch, Null, True};
use super::{Expression, ExpressionError, Judgement};

/// `a=1 b=x`, as a message has it.
fn encoded(pairs: &str) -> Vec<u8> {
    let pair = |pair: &str| pair.replace('=', "\u{1}") + "\u{2}";
    pairs.split_whitespace().map(pair).collect::<String>().into_bytes()
}

fn judge(expression: &str, properties: &str) -> Judgement {
    let compiled = Expression::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    compiled.judge(&encoded(properties), &mut FilterSteps::default())
}

fn error(expression: &str) -> ExpressionError {
    match Expression::compile(expression) {
        Ok(compiled) => panic!("{expression} is {compiled:?}"),
        Err(error) => error,
    }
}

#[test]
fn expressions_say_of_messages_what_rocketmq_says() {
    let rows = [
        // The example of the documentation.
        ("a BETWEEN 1 AND 5 AND b IS NOT NULL", "a=1 b=x", True),
        ("a BETWEEN 1 AND 5 AND b IS NOT NULL", "a=5 b=x", True),
        ("a BETWEEN 1 AND 5 AND b IS NOT NULL", "a=6 b=x", False),
        ("a BETWEEN 1 AND 5 AND b IS NOT NULL", "a=5", False),
        ("a BETWEEN 1 AND 5 AND b IS NOT NULL", "b=x", Null),
        ("a NOT BETWEEN 1 AND 5", "a=0", True),
        ("a NOT BETWEEN 5 AND 1", "a=3", True),
        ("a NOT BETWEEN 1 AND 5", "a=3", False),
        ("a NOT BETWEEN 1 AND b", "a=3", Null),
        ("a NOT BETWEEN 1 AND b", "a=0", True),
        ("a BETWEEN b AND c", "a=2 b=1.5 c=1e1", True),
        ("5 BETWEEN 1 AND a", "a=9", True),
        // Numbers, read as the literal's kind.
        ("a > 5", "a=6", True),
        ("a > 5", "a=+6", True),
        ("a > 5", "a=5.5", Mismatch),
        ("a > 5", "a=x", Mismatch),
        ("a > 5", "a=3000000000", Mismatch),
        ("a > 3000000000", "a=3000000001", True),
        ("a > 5.0", "a=3000000000", True),
        ("a > 5L", "a=3000000000", Mismatch),
        ("a >= -5", "a=-5", True),
        ("-a >= 5", "a=6", Null),
        ("- 5 < 5", "", True),
        ("a = 5", "a=05", True),
        ("a = 5.0", "a=5", True),
        ("a = 5.0", "a=5d", True),
        ("a = 5.0", "a=inf", Mismatch),
        ("a > 5.0", "a=Infinity", True),
        ("a > 5.0", "a=NaN", True),
        ("a > b", "a=10 b=9", True),
        ("a > b", "a=x b=9", Mismatch),
        ("a > b", "a=10", Null),
        ("1 = 1.0", "", True),
        ("9007199254740993 = 9007199254740992.0", "", True),
        // Texts.
        ("a = 'x'", "a=x", True),
        ("a = 'x'", "a=y", False),
        ("a = 'x'", "A=x", Null),
        ("a <> 'x'", "a=y", True),
        ("a <> 'x'", "", Null),
        ("a = 'it''s'", "a=it's", True),
        ("a = '标签'", "a=标签", True),
        ("TAGS = 't' AND KEYS IN ('k')", "TAGS=t KEYS=k", True),
        ("a IN ('x', 'y')", "a=y", True),
        ("a IN ('x', 'y')", "a=z", False),
        ("a NOT IN ('x', 'y')", "a=z", True),
        ("a NOT IN ('x', 'y')", "", Null),
        ("(a) IN ('x')", "a=x", True),
        ("a CONTAINS 'b'", "a=abc", True),
        ("a NOT CONTAINS 'b'", "a=abc", False),
        ("a NOT CONTAINS 'b'", "a=xyz", True),
        ("a NOT CONTAINS 'b'", "", False),
        ("a CONTAINS ''", "a=abc", False),
        ("a NOT CONTAINS ''", "a=abc", False),
        ("a STARTSWITH 'ab'", "a=abc", True),
        ("a NOT STARTSWITH 'ab'", "a=abc", False),
        ("a ENDSWITH 'bc'", "a=abc", True),
        ("a NOT ENDSWITH 'bc'", "a=abd", True),
        ("'abc' CONTAINS 'b'", "", True),
        ("5 CONTAINS '5'", "", False),
        // What is missing.
        ("a IS NULL", "", True),
        ("a IS NULL", "a=x", False),
        ("a IS NOT NULL", "a=x", True),
        ("(a = 1) IS NULL", "", True),
        ("a = b", "", True),
        ("a <> b", "", False),
        ("a = b", "a=1", False),
        ("a = b", "b=1", Null),
        ("1 = a", "", False),
        ("1 <> a", "", True),
        ("a = 1 OR b = 1", "b=1", True),
        ("a = 1 OR b = 2", "b=1", Null),
        ("a = 1 AND b = 2", "b=1", False),
        ("NOT (a = 1)", "", Null),
        // A mismatch decides unless what stands before has decided.
        ("a > 5 OR b = 'x'", "a=x b=x", Mismatch),
        ("b = 'x' OR a > 5", "a=x b=x", True),
        ("b = 'y' AND a > 5", "a=x b=x", False),
        ("NOT (a > 5)", "a=x", Mismatch),
        // Conditions.
        ("TRUE", "", True),
        ("false", "", False),
        ("NULL", "", Null),
        ("a", "a=true", False),
        ("a", "", Null),
        ("NOT a", "a=true", True),
        ("a = TRUE", "a=True", True),
        ("a = TRUE", "a=yes", False),
        ("a = TRUE", "", Null),
        ("TRUE = a", "a=true", Mismatch),
        ("1 = TRUE", "", False),
        ("(a = 1) = (b = 2)", "a=0 b=0", True),
        ("a = 1 = TRUE", "a=1", True),
        // Precedence: NOT before =, AND before OR.
        ("NOT a = 1", "a=2", False),
        ("TRUE OR TRUE AND FALSE", "", True),
        ("(TRUE OR TRUE) AND FALSE", "", False),
        // How it is written.
        ("a=1aNd b=2", "a=1 b=2", True),
        ("a = 1 -- one\nAND b = 2", "a=1 b=3", False),
        ("a = 1 /* one * / **/ AND b = 2", "a=1 b=3", False),
        ("a = 1 what follows (", "a=1", True),
        ("a = 1 --AND b = 2", "a=1", True),
        ("a + 1 = 2 )(", "a=1", False),
        ("a LIKE 5 = (", "", Null),
        ("a = 'x' 'y''", "a=x", True),
        ("a = 007", "a=0", True),
        ("a = .5", "a=0.5", True),
        ("a = 5.", "a=5", True),
        ("a = 5e1", "a=50", True),
        ("$a_1 = + + 1", "$a_1=1", True),
        ("+a CONTAINS 'x'", "a=x", True),
    ];
    for (expression, properties, expected) in rows {
        assert_eq!(judge(expression, properties), expected, "{expression} of {properties:?}");
    }
}

#[test]
fn what_rocketmq_does_not_take_is_refused_with_the_place() {
    let rows = [
        "",
        " ",
        "(",
        "a =",
        "= a",
        "a AND",
        "a IN",
        "a IN ()",
        "a IN (1)",
        "a IN ('x'",
        "5 IN ('x')",
        "NOT a IN ('x')",
        "a CONTAINS b",
        "a CONTAINS 5",
        "a NOT b",
        "a NOT = 1",
        "a IS 5",
        "a IS NOT 5",
        "a BETWEEN 1",
        "a BETWEEN 1 OR 2",
        "a BETWEEN 5 AND 1",
        "a BETWEEN 'x' AND 'y'",
        "a BETWEEN 1 AND NULL",
        "a > 'x'",
        "'x' < a",
        "a > TRUE",
        "a > NULL",
        "a > (b = 1)",
        "NOT a > 1",
        "a = NULL",
        "NULL <> a",
        "TRUE = 1",
        "FALSE = 'x'",
        "5",
        "'x'",
        "-a",
        "a AND 5",
        "NOT 5",
        "a = 'x",
        "a = 'it''s",
        "a # 1",
        "a = 1 #",
        "a != 1",
        "a == 1",
        "a = \"x\"",
        "a = 1 /* open",
        "标签 = 1",
        "a = .",
        "a = 0.0",
        "a = 1e999",
        "a = 9223372036854775808",
        "a = -9223372036854775808",
    ];
    for expression in rows {
        let compiled = Expression::compile(expression);
        assert!(compiled.is_err(), "{expression}: {compiled:?}");
    }
    assert_eq!(error("a BETWEEN 1 OR 2").to_string(), "found OR at byte 12 of the expression, expected AND");
    assert_eq!(error("a =").to_string().split(',').next(), Some("found the end at byte 3 of the expression"));
    assert_eq!(
        error("a = 'x").to_string(),
        "no word, number, text or operator begins at byte 4 of the expression"
    );
}

#[test]
fn every_limit_is_told_and_kept() {
    let long = format!("a = '{}'", "x".repeat(FILTER_EXPRESSION_BYTES_MAX));
    assert_eq!(error(&long), ExpressionError::TooLong { bytes: long.len() });
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Expression::compile(&nested(FILTER_DEPTH_MAX)).is_ok());
    assert!(matches!(error(&nested(FILTER_DEPTH_MAX + 1)), ExpressionError::TooDeep { .. }));
    for (prefix, repeated) in
        [("", "NOT "), ("a = ", "- "), ("a = ", "+ "), ("a = 1", " = 1"), ("a", " IS NULL")]
    {
        let text = match prefix {
            "a" | "a = 1" => prefix.to_owned() + &repeated.repeat(1000),
            _ => format!("{prefix}{}a", repeated.repeat(1000)),
        };
        assert!(matches!(error(&text), ExpressionError::TooDeep { .. }), "{repeated:?}");
    }
    let many = vec!["a = 1"; FILTER_TERMS_MAX / 3 + 1].join(" OR ");
    assert_eq!(error(&many), ExpressionError::TooManyTerms);
    let fewer = vec!["a = 1"; FILTER_TERMS_MAX / 3 - 1].join(" OR ");
    assert_eq!(judge(&fewer, "a=1"), True, "a long row of conditions is not a deep one");
    let texts: Vec<_> = (0..2000).map(|number| format!("'{number}'")).collect();
    assert_eq!(judge(&format!("a IN ({})", texts.join(",")), "a=1999"), True);
}

#[test]
fn steps_count_what_is_looked_at() {
    let compiled = Expression::compile("a CONTAINS 'x' AND b CONTAINS 'x'").expect("an expression");
    let mut steps = FilterSteps::default();
    let properties = encoded(&format!("a={} b={}", "x".repeat(6400), "x".repeat(6400)));
    assert_eq!(compiled.judge(&properties, &mut steps), True);
    assert!((400..450).contains(&steps.get()), "{steps:?}");
}

#[test]
fn of_several_values_the_last_counts_and_bytes_that_are_no_text_are_no_property() {
    let compiled = Expression::compile("a = 'two'").expect("an expression");
    let judge = |properties: &[u8]| compiled.judge(properties, &mut FilterSteps::default());
    assert_eq!(judge(b"a\x01one\x02a\x01two"), True);
    assert_eq!(judge(b"a\x01two\x02a\x01\xFF\x02"), True);
    assert_eq!(judge(b"\x02\x01\x02a\x02\x01two"), Null);
    assert_eq!(judge(b""), Null);
}

/// Pieces of expressions, and of what is none.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "a",
        "b",
        "1",
        "2.5",
        "'x'",
        "''",
        "'",
        "(",
        ")",
        ",",
        "=",
        "<>",
        "<",
        ">=",
        "+",
        "-",
        "--",
        "/*",
        "*/",
        "NOT",
        "AND",
        "OR",
        "BETWEEN",
        "IN",
        "IS",
        "NULL",
        "TRUE",
        "CONTAINS",
        "STARTSWITH",
        "ENDSWITH",
        "\n",
        "消",
        "9999999999",
        "1e9",
        ".",
        "$",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    /// Failures print their seed (and are kept beside this file).
    #[test]
    fn no_text_panics_and_every_judgement_ends(
        pieces in prop::collection::vec(piece(), 0..60),
        properties in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        for text in [pieces.concat(), pieces.join(" ")] {
            let Ok(compiled) = Expression::compile(&text) else { continue };
            for properties in [&properties[..], &encoded("a=1 b=x"), &encoded("a=2.5")] {
                let mut steps = FilterSteps::default();
                let _ = compiled.judge(properties, &mut steps);
                let steps_max = (FILTER_TERMS_MAX * 4 * (1 + properties.len() / 64)) as u64;
                prop_assert!(steps.get() <= steps_max, "{steps:?} for {text:?}");
            }
        }
    }

    /// Of any two conditions: negation, and what AND and OR make of them.
    #[test]
    fn conditions_are_joined_by_the_tables_of_three_values(left in 0..3, right in 0..3) {
        let text = |which| ["TRUE", "FALSE", "NULL"][which as usize];
        let value = |which| [Some(true), Some(false), None][which as usize];
        let said = |judgement| match judgement {
            True => Some(true),
            False => Some(false),
            Null | Mismatch => None,
        };
        let (left_value, right_value) = (value(left), value(right));
        let (left, right) = (text(left), text(right));
        let and = match (left_value, right_value) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
        let or = match (left_value, right_value) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        };
        prop_assert_eq!(said(judge(&format!("{left} AND {right}"), "")), and);
        prop_assert_eq!(said(judge(&format!("{left} OR {right}"), "")), or);
        prop_assert_eq!(said(judge(&format!("NOT {left}"), "")), left_value.map(|value: bool| !value));
    }
}
