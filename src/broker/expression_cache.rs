//! Compiled SQL92 expressions by their text: all pulls with the same expression share one, however they name it. Serve core.

use std::collections::HashMap;
use std::rc::Rc;

use shards::limits::{FILTERS_KEPT_BYTES_MAX, FILTERS_KEPT_MAX};
use shards::message_store::PropertyFilter;

use crate::filter::{Expression, ExpressionError};

/// The expressions that were used last, up to [`FILTERS_KEPT_MAX`] and [`FILTERS_KEPT_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct ExpressionCache {
    by_text: HashMap<String, Kept>,
    text_bytes: usize,
    /// Grows with every use.
    now: u64,
}

#[derive(Debug)]
struct Kept {
    filter: PropertyFilter,
    last_used: u64,
}

impl ExpressionCache {
    /// The filter that an expression stands for.
    ///
    /// # Errors
    /// The text is no expression, or exceeds a limit. Nothing is kept of it.
    pub fn filter(&mut self, text: &str) -> Result<PropertyFilter, ExpressionError> {
        self.now += 1;
        if let Some(kept) = self.by_text.get_mut(text) {
            kept.last_used = self.now;
            return Ok(kept.filter.clone());
        }
        let filter = PropertyFilter::new(Rc::new(Expression::compile(text)?));
        self.make_room(text.len());
        self.text_bytes += text.len();
        let kept = Kept { filter: filter.clone(), last_used: self.now };
        self.by_text.insert(text.to_owned(), kept);
        Ok(filter)
    }

    /// Looks at all for each that goes, which costs less than what is about to be compiled for it.
    fn make_room(&mut self, text_bytes: usize) {
        while self.by_text.len() >= FILTERS_KEPT_MAX || self.text_bytes + text_bytes > FILTERS_KEPT_BYTES_MAX
        {
            let oldest = self.by_text.iter().min_by_key(|(_, kept)| kept.last_used);
            let Some(oldest) = oldest.map(|(text, _)| text.clone()) else { return };
            self.by_text.remove(&oldest);
            self.text_bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_compiled_once_and_a_bad_one_is_not_kept() {
        let mut cache = ExpressionCache::default();
        let first = cache.filter("a = 1").expect("an expression");
        assert_eq!(cache.filter("a = 1").expect("the same"), first);
        assert_ne!(cache.filter("a = 2").expect("another"), first);
        assert!(cache.filter("a =").is_err());
        assert_eq!((cache.by_text.len(), cache.text_bytes), (2, 10));
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let mut cache = ExpressionCache::default();
        let kept = cache.filter("kept = 1").expect("an expression");
        for number in 0..2 * FILTERS_KEPT_MAX {
            cache.filter(&format!("a = {number}")).expect("an expression");
            assert_eq!(cache.filter("kept = 1").expect("used all the time"), kept);
        }
        assert_eq!(cache.by_text.len(), FILTERS_KEPT_MAX);
        for number in 0..100 {
            let long = format!("a = '{}{number:03}'", "x".repeat(30_000));
            cache.filter(&long).expect("an expression");
            assert!(cache.text_bytes <= FILTERS_KEPT_BYTES_MAX);
        }
        assert_eq!(cache.text_bytes, cache.by_text.keys().map(String::len).sum::<usize>());
    }
}
