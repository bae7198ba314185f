//! Makes an expression of tokens, by descent. From the loosest to the closest: OR, AND, equality and IS, comparisons, signs and NOT.

use shards::limits::{FILTER_DEPTH_MAX, FILTER_TERMS_MAX};

use super::lexer::{Lexer, Token};
use super::{Comparison, ExpressionError, Node, Search};

/// Most characters of the text that an error repeats.
const FOUND_CHARACTERS_MAX: usize = 40;

/// The properties that an expression names, sorted, with the number that its nodes know each by.
pub(super) type Names = Vec<(Box<str>, usize)>;

/// A node with the length of the longest way down from it.
#[derive(Debug)]
struct Tree {
    node: Node,
    height: usize,
}

#[derive(Debug)]
struct Parser<'t> {
    text: &'t str,
    lexer: Lexer<'t>,
    /// The next token and where it begins, once it was asked for.
    next: Option<(Token<'t>, usize)>,
    names: Names,
    terms: usize,
    /// Parentheses, signs and NOTs that are open here.
    nesting: usize,
}

/// Reads a condition from the start of the text, up to the first token that cannot belong to it.
pub(super) fn parse(text: &str) -> Result<(Node, Names), ExpressionError> {
    let mut parser =
        Parser { text, lexer: Lexer::new(text), next: None, names: Names::new(), terms: 0, nesting: 0 };
    let root = parser.any()?;
    let root = parser.condition(root)?;
    Ok((root.node, parser.names))
}

impl<'t> Parser<'t> {
    fn any(&mut self) -> Result<Tree, ExpressionError> {
        let first = self.all()?;
        if self.peek()? != Token::Or {
            return Ok(first);
        }
        let mut operands = vec![self.condition(first)?];
        while self.takes(Token::Or)? {
            let operand = self.all()?;
            operands.push(self.condition(operand)?);
        }
        self.list(operands, Node::Any)
    }

    fn all(&mut self) -> Result<Tree, ExpressionError> {
        let first = self.equality()?;
        if self.peek()? != Token::And {
            return Ok(first);
        }
        let mut operands = vec![self.condition(first)?];
        while self.takes(Token::And)? {
            let operand = self.equality()?;
            operands.push(self.condition(operand)?);
        }
        self.list(operands, Node::All)
    }

    fn equality(&mut self) -> Result<Tree, ExpressionError> {
        let mut left = self.comparison()?;
        loop {
            left = match self.peek()? {
                Token::Equal => {
                    self.advance()?;
                    let right = self.comparison()?;
                    self.equal(left, right)?
                }
                Token::NotEqual => {
                    self.advance()?;
                    let right = self.comparison()?;
                    let equal = self.equal(left, right)?;
                    self.around(equal, |operand| Node::Not(Box::new(operand)))?
                }
                Token::Is => {
                    self.advance()?;
                    let negated = self.takes(Token::Not)?;
                    self.expect(Token::Null, "NULL or NOT NULL")?;
                    let is_null = self.around(left, |operand| Node::IsNull(Box::new(operand)))?;
                    match negated {
                        true => self.around(is_null, |operand| Node::Not(Box::new(operand)))?,
                        false => is_null,
                    }
                }
                _ => return Ok(left),
            };
        }
    }

    fn equal(&mut self, left: Tree, right: Tree) -> Result<Tree, ExpressionError> {
        if left.node == Node::Null || right.node == Node::Null {
            return Err(self.meaningless("nothing equals NULL, IS NULL asks for it"));
        }
        let is_boolean = matches!(left.node, Node::Boolean(_));
        if is_boolean && !right.node.is_condition() && right.node.is_constant() {
            return Err(self.meaningless("TRUE and FALSE cannot be compared with a number or a text"));
        }
        self.pair(left, right, |operands| Node::Equal(Box::new(operands)))
    }

    fn comparison(&mut self) -> Result<Tree, ExpressionError> {
        let mut left = self.signed()?;
        loop {
            let comparison = match self.peek()? {
                Token::Less => Comparison::Less,
                Token::LessOrEqual => Comparison::LessOrEqual,
                Token::Greater => Comparison::Greater,
                Token::GreaterOrEqual => Comparison::GreaterOrEqual,
                Token::Not => {
                    self.advance()?;
                    left = self
                        .test(left, true)?
                        .map_err(|_| self.unexpected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH"))?;
                    continue;
                }
                _ => match self.test(left, false)? {
                    Ok(tested) => {
                        left = tested;
                        continue;
                    }
                    Err(untested) => return Ok(untested),
                },
            };
            self.advance()?;
            let right = self.signed()?;
            self.check_comparable(&left)?;
            self.check_comparable(&right)?;
            left = self.pair(left, right, |operands| Node::Compared(comparison, Box::new(operands)))?;
        }
    }

    /// What follows BETWEEN, IN, CONTAINS and the like; gives `left` back when none of these is next.
    fn test(&mut self, left: Tree, negated: bool) -> Result<Result<Tree, Tree>, ExpressionError> {
        let search = match self.peek()? {
            Token::Contains => Search::Contains,
            Token::StartsWith => Search::StartsWith,
            Token::EndsWith => Search::EndsWith,
            Token::Between => {
                self.advance()?;
                return self.between(left, !negated).map(Ok);
            }
            Token::In => {
                self.advance()?;
                return self.among(left, negated).map(Ok);
            }
            _ => return Ok(Err(left)),
        };
        self.advance()?;
        let pattern = self.text()?;
        let searched = self.around(left, |operand| Node::Searched {
            search,
            negated,
            operand: Box::new(operand),
            pattern,
        })?;
        Ok(Ok(searched))
    }

    fn between(&mut self, value: Tree, inside: bool) -> Result<Tree, ExpressionError> {
        let low = self.signed()?;
        self.expect(Token::And, "AND")?;
        let high = self.signed()?;
        for part in [&value, &low, &high] {
            self.check_comparable(part)?;
        }
        if inside && low.node.number().zip(high.node.number()).is_some_and(|(low, high)| high.is_below(low)) {
            return Err(self.meaningless("nothing lies between a number and a lower one"));
        }
        let height = value.height.max(low.height).max(high.height) + 1;
        let parts = Box::new([value.node, low.node, high.node]);
        self.tree(Node::Between { inside, parts }, height)
    }

    fn among(&mut self, left: Tree, negated: bool) -> Result<Tree, ExpressionError> {
        let Node::Property(property) = left.node else {
            return Err(self.meaningless("only a property can be IN a list"));
        };
        self.expect(Token::Open, "(")?;
        let mut texts = vec![self.text()?];
        while self.takes(Token::Comma)? {
            texts.push(self.text()?);
        }
        self.expect(Token::Close, ", or )")?;
        texts.sort_unstable();
        texts.dedup();
        self.tree(Node::In { property, negated, texts }, 1)
    }

    fn signed(&mut self) -> Result<Tree, ExpressionError> {
        match self.peek()? {
            Token::Plus => self.nested(Self::signed),
            Token::Minus => {
                let operand = self.nested(Self::signed)?;
                self.around(operand, |operand| Node::Negated(Box::new(operand)))
            }
            Token::Not => {
                let operand = self.nested(Self::signed)?;
                let operand = self.condition(operand)?;
                self.around(operand, |operand| Node::Not(Box::new(operand)))
            }
            Token::Open => {
                let inner = self.nested(Self::any)?;
                self.expect(Token::Close, ")")?;
                Ok(inner)
            }
            _ => self.operand(),
        }
    }

    fn operand(&mut self) -> Result<Tree, ExpressionError> {
        let node = match self.peek()? {
            Token::Text(_) => {
                let text = self.text()?;
                return self.tree(Node::Text(text), 1);
            }
            Token::Name(name) => Node::Property(self.property(name)),
            Token::Decimal(digits) => self.whole_number(digits)?,
            Token::Float(digits) => self.float(digits)?,
            Token::True => Node::Boolean(true),
            Token::False => Node::Boolean(false),
            Token::Null => Node::Null,
            _ => return Err(self.unexpected("a property, a literal, NOT, a sign or (")),
        };
        self.advance()?;
        self.tree(node, 1)
    }

    fn property(&mut self, name: &str) -> usize {
        match self.names.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(index) => self.names[index].1,
            Err(index) => {
                let number = self.names.len();
                self.names.insert(index, (name.into(), number));
                number
            }
        }
    }

    fn whole_number(&self, digits: &str) -> Result<Node, ExpressionError> {
        let number: i64 = digits
            .trim_end_matches(['l', 'L'])
            .parse()
            .map_err(|_| ExpressionError::NumberOutOfRange { at: self.at(), text: shortened(digits) })?;
        Ok(i32::try_from(number).map_or(Node::Long(number), Node::Int))
    }

    /// Zero is out of range: RocketMQ takes it for an underflow.
    fn float(&self, digits: &str) -> Result<Node, ExpressionError> {
        let number: f64 = digits.parse().unwrap_or(0.0);
        if number == 0.0 || number.is_infinite() {
            return Err(ExpressionError::NumberOutOfRange { at: self.at(), text: shortened(digits) });
        }
        Ok(Node::Double(number))
    }

    fn text(&mut self) -> Result<Box<str>, ExpressionError> {
        let Token::Text(quoted) = self.peek()? else { return Err(self.unexpected("a text in quotes")) };
        self.advance()?;
        Ok(quoted.replace("''", "'").into())
    }

    /// Where TRUE, FALSE or NULL is wanted.
    fn condition(&mut self, tree: Tree) -> Result<Tree, ExpressionError> {
        match tree.node {
            Node::Property(place) => Ok(Tree { node: Node::Condition(place), height: tree.height }),
            ref node if node.is_condition() => Ok(tree),
            _ => Err(self.meaningless("a number or a text stands where a condition is wanted")),
        }
    }

    fn check_comparable(&self, tree: &Tree) -> Result<(), ExpressionError> {
        if matches!(tree.node, Node::Text(_)) || tree.node.is_condition() {
            return Err(
                self.meaningless("only numbers and properties can be compared by <, <=, >, >= or BETWEEN")
            );
        }
        Ok(())
    }

    // ---- nodes ------------------------------------------------------------------------------------------------------------

    fn around(&mut self, operand: Tree, node: impl FnOnce(Node) -> Node) -> Result<Tree, ExpressionError> {
        self.tree(node(operand.node), operand.height + 1)
    }

    fn pair(
        &mut self,
        left: Tree,
        right: Tree,
        node: impl FnOnce([Node; 2]) -> Node,
    ) -> Result<Tree, ExpressionError> {
        let height = left.height.max(right.height) + 1;
        self.tree(node([left.node, right.node]), height)
    }

    fn list(&mut self, operands: Vec<Tree>, node: fn(Vec<Node>) -> Node) -> Result<Tree, ExpressionError> {
        let height = operands.iter().map(|operand| operand.height).max().unwrap_or(0) + 1;
        self.tree(node(operands.into_iter().map(|operand| operand.node).collect()), height)
    }

    fn tree(&mut self, node: Node, height: usize) -> Result<Tree, ExpressionError> {
        self.terms += 1;
        if self.terms > FILTER_TERMS_MAX {
            return Err(ExpressionError::TooManyTerms);
        }
        if height > FILTER_DEPTH_MAX {
            return Err(ExpressionError::TooDeep { at: self.at() });
        }
        Ok(Tree { node, height })
    }

    /// Goes on behind the next token, one level deeper.
    fn nested(
        &mut self,
        parse: fn(&mut Self) -> Result<Tree, ExpressionError>,
    ) -> Result<Tree, ExpressionError> {
        if self.nesting == FILTER_DEPTH_MAX {
            return Err(ExpressionError::TooDeep { at: self.at() });
        }
        self.advance()?;
        self.nesting += 1;
        let inner = parse(self);
        self.nesting -= 1;
        inner
    }

    // ---- tokens -----------------------------------------------------------------------------------------------------------

    fn peek(&mut self) -> Result<Token<'t>, ExpressionError> {
        let (token, at) = match self.next {
            Some(next) => next,
            None => self.lexer.next()?,
        };
        self.next = Some((token, at));
        Ok(token)
    }

    fn advance(&mut self) -> Result<(), ExpressionError> {
        self.peek()?;
        self.next = None;
        Ok(())
    }

    fn takes(&mut self, wanted: Token<'_>) -> Result<bool, ExpressionError> {
        let is_it = self.peek()? == wanted;
        if is_it {
            self.next = None;
        }
        Ok(is_it)
    }

    fn expect(&mut self, wanted: Token<'_>, expected: &'static str) -> Result<(), ExpressionError> {
        match self.takes(wanted)? {
            true => Ok(()),
            false => Err(self.unexpected(expected)),
        }
    }

    /// Where the token begins that was looked at last.
    fn at(&self) -> usize {
        self.next.map_or(self.lexer.at(), |(_, at)| at)
    }

    fn unexpected(&self, expected: &'static str) -> ExpressionError {
        let at = self.at();
        let found = match self.next {
            Some((Token::End, _)) | None => "the end".to_owned(),
            Some(_) => shortened(&self.text[at..self.lexer.at()]),
        };
        ExpressionError::Unexpected { at, found, expected }
    }

    fn meaningless(&self, problem: &'static str) -> ExpressionError {
        ExpressionError::Meaningless { at: self.at(), problem }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(FOUND_CHARACTERS_MAX).collect()
}

/// A number literal.
#[derive(Clone, Copy, Debug)]
enum Number {
    Whole(i64),
    Double(f64),
}

impl Number {
    fn is_below(self, other: Self) -> bool {
        match (self, other) {
            (Self::Whole(own), Self::Whole(other)) => own < other,
            _ => self.rounded() < other.rounded(),
        }
    }

    fn rounded(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Double(number) => number,
        }
    }
}

impl Node {
    fn is_constant(&self) -> bool {
        matches!(
            self,
            Self::Null | Self::Boolean(_) | Self::Int(_) | Self::Long(_) | Self::Double(_) | Self::Text(_)
        )
    }

    fn number(&self) -> Option<Number> {
        match self {
            Self::Int(number) => Some(Number::Whole((*number).into())),
            Self::Long(number) => Some(Number::Whole(*number)),
            Self::Double(number) => Some(Number::Double(*number)),
            _ => None,
        }
    }
}
