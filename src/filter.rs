//! SQL92 filters: which messages a consumer wants, as an expression over their properties, in RocketMQ's dialect.
//!
//! Pure: text in, an [`Expression`] out, which judges encoded property strings. Nothing here panics or recurses deeper than
//! [`FILTER_DEPTH_MAX`], whatever a client wrote, and what is judged takes no more steps than the expression has terms, each over one
//! property. The dialect has surprises that consumers may rely on, so that they are kept:
//!
//! - Three values: a comparison with a missing property is NULL, and only TRUE lets a message through. `a = b` is TRUE where both are
//!   missing, `1 = a` is FALSE where `a` is.
//! - A property is text. Beside a number it is read as one of the literal's kind; where it cannot be (`a > 5` with `a` = `5.5` or `x`) the
//!   message is not wanted, whatever the rest of the expression says. `<` and the like take no text literals.
//! - NOT binds closer than `=`. What follows a complete expression is not looked at.

mod evaluation;
mod lexer;
mod number;
mod parser;
#[cfg(test)]
mod tests;

use shards::limits::{FILTER_DEPTH_MAX, FILTER_EXPRESSION_BYTES_MAX, FILTER_TERMS_MAX};
use shards::message_store::{FilterSteps, PropertyTest};
use shards::record::properties::Properties;
use smallvec::SmallVec;

use evaluation::Evaluation;
pub use evaluation::Judgement;
use parser::Names;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expression {
    root: Node,
    names: Names,
}

/// Why a text is no expression, for the client to read. Status SUBSCRIPTION_PARSE_FAILED.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    #[error("the expression has {bytes} bytes, the most is {FILTER_EXPRESSION_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("the expression has more than {FILTER_TERMS_MAX} terms")]
    TooManyTerms,
    #[error("the expression is nested deeper than {FILTER_DEPTH_MAX} at byte {at}")]
    TooDeep { at: usize },
    #[error("no word, number, text or operator begins at byte {at} of the expression")]
    NoToken { at: usize },
    #[error("found {found} at byte {at} of the expression, expected {expected}")]
    Unexpected { at: usize, found: String, expected: &'static str },
    #[error("the number {text} at byte {at} of the expression is out of range")]
    NumberOutOfRange { at: usize, text: String },
    #[error("before byte {at} of the expression: {problem}")]
    Meaningless { at: usize, problem: &'static str },
}

/// A part of an expression. Those of them that can only be TRUE, FALSE or NULL are its conditions.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Null,
    Boolean(bool),
    /// RocketMQ tells small numbers from large ones, and reads properties beside them accordingly.
    Int(i32),
    Long(i64),
    Double(f64),
    Text(Box<str>),
    Property(usize),
    Negated(Box<Node>),
    /// A property where a condition is wanted: never TRUE, as properties are text.
    Condition(usize),
    Not(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
    Equal(Box<[Node; 2]>),
    IsNull(Box<Node>),
    Compared(Comparison, Box<[Node; 2]>),
    /// A value and the two that bound it.
    Between {
        inside: bool,
        parts: Box<[Node; 3]>,
    },
    Searched {
        search: Search,
        negated: bool,
        operand: Box<Node>,
        pattern: Box<str>,
    },
    /// The texts are sorted.
    In {
        property: usize,
        negated: bool,
        texts: Vec<Box<str>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

impl Expression {
    /// Compiles a text.
    ///
    /// # Errors
    /// It is none, or exceeds a limit.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > FILTER_EXPRESSION_BYTES_MAX {
            return Err(ExpressionError::TooLong { bytes: text.len() });
        }
        let (root, names) = parser::parse(text)?;
        Ok(Self { root, names })
    }

    /// What the expression says of a message with these properties.
    pub fn judge(&self, properties: &[u8], steps: &mut FilterSteps) -> Judgement {
        // Of several values the last one counts, as for a Java broker that fills a map.
        let mut values: SmallVec<[Option<&str>; 8]> = SmallVec::from_elem(None, self.names.len());
        if !self.names.is_empty() {
            steps.add(properties.len());
            for (name, value) in Properties::new(properties) {
                if let Ok(index) = self.names.binary_search_by(|(known, _)| (**known).cmp(name)) {
                    values[self.names[index].1] = Some(value);
                }
            }
        }
        Evaluation { values: &values, steps }.judge(&self.root)
    }
}

impl PropertyTest for Expression {
    fn matches(&self, properties: &[u8], steps: &mut FilterSteps) -> bool {
        self.judge(properties, steps) == Judgement::True
    }
}

impl Node {
    /// Whether it can only be TRUE, FALSE or NULL.
    fn is_condition(&self) -> bool {
        !matches!(
            self,
            Self::Int(_)
                | Self::Long(_)
                | Self::Double(_)
                | Self::Text(_)
                | Self::Property(_)
                | Self::Negated(_)
        )
    }
}
