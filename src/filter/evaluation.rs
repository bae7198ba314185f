//! What an expression says of one message.

use std::cmp::Ordering;

use shards::message_store::FilterSteps;

use super::number::java_double;
use super::{Comparison, Node, Search};

/// What an expression says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    True,
    False,
    Null,
    /// Text met a number that it cannot be read as, or the like. RocketMQ logs an error; the message is not wanted.
    Mismatch,
}

/// Values that cannot be compared.
#[derive(Clone, Copy, Debug)]
struct Mismatch;

#[derive(Clone, Copy, Debug)]
enum Value<'v> {
    Null,
    Boolean(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(&'v str),
}

/// TRUE, FALSE or NULL.
type Condition = Option<bool>;

/// An expression with the properties of a message.
#[derive(Debug)]
pub(super) struct Evaluation<'v> {
    /// By the numbers of the expression's names.
    pub(super) values: &'v [Option<&'v str>],
    pub(super) steps: &'v mut FilterSteps,
}

impl<'v> Evaluation<'v> {
    pub(super) fn judge(&mut self, root: &'v Node) -> Judgement {
        match self.condition(root) {
            Ok(Some(true)) => Judgement::True,
            Ok(Some(false)) => Judgement::False,
            Ok(None) => Judgement::Null,
            Err(Mismatch) => Judgement::Mismatch,
        }
    }

    fn value(&mut self, node: &'v Node) -> Result<Value<'v>, Mismatch> {
        Ok(match node {
            Node::Int(number) => Value::Int(*number),
            Node::Long(number) => Value::Long(*number),
            Node::Double(number) => Value::Double(*number),
            Node::Text(text) => Value::Text(text),
            Node::Property(place) => self.values[*place].map_or(Value::Null, Value::Text),
            Node::Negated(operand) => match self.value(operand)? {
                Value::Int(number) => Value::Int(number.wrapping_neg()),
                Value::Long(number) => Value::Long(number.wrapping_neg()),
                Value::Double(number) => Value::Double(-number),
                Value::Null | Value::Boolean(_) | Value::Text(_) => Value::Null,
            },
            _ => self.condition(node)?.map_or(Value::Null, Value::Boolean),
        })
    }

    fn condition(&mut self, node: &'v Node) -> Result<Condition, Mismatch> {
        self.steps.add(0);
        Ok(match node {
            Node::Null => None,
            Node::Boolean(value) => Some(*value),
            Node::Condition(place) => self.values[*place].map(|_| false),
            Node::Not(operand) => self.condition(operand)?.map(|value| !value),
            Node::All(operands) => self.first_that_decides(operands, false)?,
            Node::Any(operands) => self.first_that_decides(operands, true)?,
            Node::Equal(operands) => {
                let [left, right] = &**operands;
                let (left, right) = (self.value(left)?, self.value(right)?);
                self.equal(left, right)?
            }
            Node::IsNull(operand) => Some(matches!(self.value(operand)?, Value::Null)),
            Node::Compared(comparison, operands) => {
                let [left, right] = &**operands;
                let left = self.value(left)?;
                self.compared(*comparison, left, right)?
            }
            Node::Between { inside, parts } => {
                let [operand, low, high] = &**parts;
                let operand = self.value(operand)?;
                self.between(*inside, operand, [low, high])?
            }
            Node::Searched { search, negated, operand, pattern } => {
                Some(self.searched(*search, operand, pattern)?.is_some_and(|found| found != *negated))
            }
            Node::In { property, negated, texts } => self.values[*property].map(|value| {
                self.steps.add(value.len());
                texts.binary_search_by(|text| (**text).cmp(value)).is_ok() != *negated
            }),
            Node::Int(_)
            | Node::Long(_)
            | Node::Double(_)
            | Node::Text(_)
            | Node::Property(_)
            | Node::Negated(_) => {
                unreachable!("the parser puts conditions where they are wanted")
            }
        })
    }

    /// `decisive` as soon as an operand is it; otherwise NULL when one is NULL.
    fn first_that_decides(&mut self, operands: &'v [Node], decisive: bool) -> Result<Condition, Mismatch> {
        let mut so_far = Some(!decisive);
        for operand in operands {
            match self.condition(operand)? {
                Some(value) if value == decisive => return Ok(Some(decisive)),
                Some(_) => {}
                None => so_far = None,
            }
        }
        Ok(so_far)
    }

    /// NULL only where the left side alone is NULL: that is how RocketMQ has it.
    fn equal(&mut self, left: Value<'v>, right: Value<'v>) -> Result<Condition, Mismatch> {
        Ok(match (left, right) {
            (Value::Null, Value::Null) => Some(true),
            (Value::Null, _) => None,
            (_, Value::Null) => Some(false),
            (Value::Text(left), Value::Text(right)) => {
                self.steps.add(left.len().min(right.len()));
                Some(left == right)
            }
            _ => Some(self.order(left, right)? == Ordering::Equal),
        })
    }

    fn compared(
        &mut self,
        comparison: Comparison,
        left: Value<'v>,
        right: &'v Node,
    ) -> Result<Condition, Mismatch> {
        if matches!(left, Value::Null) {
            return Ok(None);
        }
        let order = match (left, self.value(right)?) {
            (_, Value::Null) => return Ok(None),
            // Two properties: both must be numbers.
            (Value::Text(left), Value::Text(right)) => self.double(left)?.total_cmp(&self.double(right)?),
            (left, right) => self.order(left, right)?,
        };
        Ok(Some(match comparison {
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }))
    }

    /// The value is at or above the first bound and at or below the second; or it is below the first or above the second.
    fn between(
        &mut self,
        inside: bool,
        value: Value<'v>,
        [low, high]: [&'v Node; 2],
    ) -> Result<Condition, Mismatch> {
        let [at_low, at_high] = match inside {
            true => [Comparison::GreaterOrEqual, Comparison::LessOrEqual],
            false => [Comparison::Less, Comparison::Greater],
        };
        let decisive = !inside;
        let first = self.compared(at_low, value, low)?;
        if first == Some(decisive) {
            return Ok(first);
        }
        let second = self.compared(at_high, value, high)?;
        Ok(if second == Some(decisive) || first.is_some() { second } else { None })
    }

    /// Whether it is there; `None` where nothing can be: in what is not text, or for an empty text.
    fn searched(
        &mut self,
        search: Search,
        operand: &'v Node,
        pattern: &str,
    ) -> Result<Option<bool>, Mismatch> {
        if pattern.is_empty() {
            return Ok(None);
        }
        let Value::Text(text) = self.value(operand)? else { return Ok(None) };
        self.steps.add(text.len());
        Ok(Some(match search {
            Search::Contains => text.contains(pattern),
            Search::StartsWith => text.starts_with(pattern),
            Search::EndsWith => text.ends_with(pattern),
        }))
    }

    /// How two values lie, neither of them NULL and not both text. Text is read as a value of the other's kind. What has no order counts
    /// as less.
    fn order(&mut self, left: Value<'v>, right: Value<'v>) -> Result<Ordering, Mismatch> {
        use Value as V;
        Ok(match (left, right) {
            (V::Text(left), right) => {
                let left = self.read_as(left, right)?;
                self.order(left, right)?
            }
            // RocketMQ tries to read the boolean as text, and fails.
            (V::Boolean(_), V::Text(_)) => return Err(Mismatch),
            (left, V::Text(right)) => {
                let right = self.read_as(right, left)?;
                self.order(left, right)?
            }
            (V::Boolean(left), V::Boolean(right)) => left.cmp(&right),
            (V::Double(left), right) => {
                double_of(right).map_or(Ordering::Less, |right| left.total_cmp(&right))
            }
            (left, V::Double(right)) => double_of(left).map_or(Ordering::Less, |left| left.total_cmp(&right)),
            (left, right) => match (long_of(left), long_of(right)) {
                (Some(left), Some(right)) => left.cmp(&right),
                _ => Ordering::Less,
            },
        })
    }

    /// The text as a value of the same kind as `other`.
    fn read_as(&mut self, text: &'v str, other: Value<'v>) -> Result<Value<'v>, Mismatch> {
        self.steps.add(text.len());
        match other {
            Value::Boolean(_) => Ok(Value::Boolean(text.eq_ignore_ascii_case("true"))),
            Value::Int(_) => text.parse().map(Value::Int).map_err(|_| Mismatch),
            Value::Long(_) => text.parse().map(Value::Long).map_err(|_| Mismatch),
            Value::Double(_) => self.double(text).map(Value::Double),
            Value::Null | Value::Text(_) => unreachable!("compared before"),
        }
    }

    fn double(&mut self, text: &str) -> Result<f64, Mismatch> {
        self.steps.add(text.len());
        java_double(text).ok_or(Mismatch)
    }
}

fn long_of(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Int(number) => Some(number.into()),
        Value::Long(number) => Some(number),
        Value::Null | Value::Boolean(_) | Value::Double(_) | Value::Text(_) => None,
    }
}

/// Large numbers lose their last digits, as in Java.
fn double_of(value: Value<'_>) -> Option<f64> {
    match value {
        Value::Int(number) => Some(number.into()),
        Value::Long(number) => Some(number as f64),
        Value::Double(number) => Some(number),
        Value::Null | Value::Boolean(_) | Value::Text(_) => None,
    }
}
