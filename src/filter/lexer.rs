//! Cuts an expression into tokens, one at a time: what is never asked for is never looked at. The longest token wins.

use super::ExpressionError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'t> {
    End,
    Name(&'t str),
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
    /// `42`, `42L`
    Decimal(&'t str),
    /// `5.5`, `5.`, `.5`, `5E10`
    Float(&'t str),
    /// What stands between the quotes, quotes in it still doubled.
    Text(&'t str),
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Plus,
    Minus,
    Comma,
    Open,
    Close,
}

const WORDS: [(&str, Token<'static>); 12] = [
    ("NOT", Token::Not),
    ("AND", Token::And),
    ("OR", Token::Or),
    ("BETWEEN", Token::Between),
    ("IN", Token::In),
    ("TRUE", Token::True),
    ("FALSE", Token::False),
    ("NULL", Token::Null),
    ("IS", Token::Is),
    ("CONTAINS", Token::Contains),
    ("STARTSWITH", Token::StartsWith),
    ("ENDSWITH", Token::EndsWith),
];
/// Longer ones before those that they begin with.
const SYMBOLS: [(&str, Token<'static>); 11] = [
    ("<>", Token::NotEqual),
    ("<=", Token::LessOrEqual),
    (">=", Token::GreaterOrEqual),
    ("=", Token::Equal),
    ("<", Token::Less),
    (">", Token::Greater),
    ("+", Token::Plus),
    ("-", Token::Minus),
    (",", Token::Comma),
    ("(", Token::Open),
    (")", Token::Close),
];

#[derive(Clone, Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    /// Where the next token is looked for.
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// The next token and where it begins, in bytes.
    ///
    /// # Errors
    /// Nothing that there is begins like this.
    pub(super) fn next(&mut self) -> Result<(Token<'t>, usize), ExpressionError> {
        self.skip_blanks_and_comments();
        let (at, rest) = (self.at, &self.text[self.at..]);
        let Some(first) = rest.bytes().next() else { return Ok((Token::End, at)) };
        let (token, length) = match first {
            b'\'' => {
                let length = quoted_length(rest).ok_or(ExpressionError::NoToken { at })?;
                (Token::Text(&rest[1..length - 1]), length)
            }
            b'0'..=b'9' | b'.' => number(rest).ok_or(ExpressionError::NoToken { at })?,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => word(rest),
            _ => {
                let symbol = SYMBOLS.iter().find(|(symbol, _)| rest.starts_with(symbol));
                let (symbol, token) = symbol.ok_or(ExpressionError::NoToken { at })?;
                (*token, symbol.len())
            }
        };
        self.at += length;
        Ok((token, at))
    }

    /// Where the next token is looked for, in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// A comment counts only when it is closed: `--` by the end of its line, `/*` by `*/`.
    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let skipped = if rest.starts_with("--") {
                rest.find(['\n', '\r']).map(|end| end + 1)
            } else if rest.starts_with("/*") {
                rest[2..].find("*/").map(|end| end + 4)
            } else {
                rest.starts_with([' ', '\t', '\n', '\r', '\x0c']).then_some(1)
            };
            match skipped {
                Some(skipped) => self.at += skipped,
                None => return,
            }
        }
    }
}

fn word(rest: &str) -> (Token<'_>, usize) {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$';
    let length = run_of(rest, is_part);
    let name = &rest[..length];
    let reserved = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(name));
    (reserved.map_or(Token::Name(name), |(_, token)| *token), length)
}

fn number(rest: &str) -> Option<(Token<'_>, usize)> {
    let float = float_length(rest).unwrap_or(0);
    let decimal = decimal_length(rest).unwrap_or(0);
    match float.max(decimal) {
        0 => None,
        length if length == decimal => Some((Token::Decimal(&rest[..length]), length)),
        length => Some((Token::Float(&rest[..length]), length)),
    }
}

/// A number does not begin with 0, unless it is 0: `007` is three.
fn decimal_length(rest: &str) -> Option<usize> {
    let digits = digits(rest);
    match rest.as_bytes()[0] {
        b'0' => Some(1),
        b'1'..=b'9' => Some(digits + usize::from(rest[digits..].starts_with(['l', 'L']))),
        _ => None,
    }
}

fn float_length(rest: &str) -> Option<usize> {
    let whole = digits(rest);
    let Some(fraction) = rest[whole..].strip_prefix('.') else {
        return exponent_length(&rest[whole..]).map(|exponent| whole + exponent);
    };
    let places = digits(fraction);
    if whole == 0 && places == 0 {
        return None;
    }
    let mantissa = whole + 1 + places;
    Some(mantissa + exponent_length(&rest[mantissa..]).unwrap_or(0))
}

fn exponent_length(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix(['e', 'E'])?;
    let unsigned = after.strip_prefix(['+', '-']).unwrap_or(after);
    let digits = digits(unsigned);
    (digits > 0).then(|| rest.len() - unsigned.len() + digits)
}

fn digits(rest: &str) -> usize {
    run_of(rest, |byte| byte.is_ascii_digit())
}

/// How many bytes at the start of `rest` are of a kind.
fn run_of(rest: &str, is_one: impl Fn(u8) -> bool) -> usize {
    rest.bytes().position(|byte| !is_one(byte)).unwrap_or(rest.len())
}

/// The length of the text literal at the start of `rest`, with its quotes; `None` when it is not closed. Of a doubled quote the first may
/// close it, if nothing else does.
fn quoted_length(rest: &str) -> Option<usize> {
    let (mut at, mut closed) = (1, None);
    while let Some(quote) = rest[at..].find('\'') {
        at += quote + 1;
        if !rest[at..].starts_with('\'') {
            return Some(at);
        }
        closed = Some(at);
        at += 1;
    }
    closed
}
