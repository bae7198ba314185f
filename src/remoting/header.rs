//! Typed headers: what each request says in its `extFields`, one struct per shape, one file per family of requests.
//!
//! Every header is built by `XHeader::parse(&request)`, borrows its strings from the request, and knows nothing of what the
//! broker thinks of the values: only that they are there and of their type. Fields that no processor asks for are not read.

pub mod admin;
pub mod client;
pub mod name_server;
pub mod offset;
pub mod pull;
pub mod query;
pub mod send;

/// Declares a header and its `parse`. Each row is `field: type = how(key)`, where `how` is
/// `text` / `text_or_none` for strings, `value` / `value_or_none` / `value_or(key, default)` for numbers and booleans.
macro_rules! header {
    ($(#[$about:meta])* $name:ident<$r:lifetime> {
        $($(#[$doc:meta])* $field:ident: $type:ty = $how:ident($($key:expr),+),)*
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name<$r> {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl<$r> $name<$r> {
            /// Reads the header's fields.
            ///
            /// # Errors
            /// A field is missing or not of its type.
            pub fn parse(request: &$r $crate::remoting::request::Request<'_>)
                -> Result<Self, $crate::remoting::request::HeaderError>
            {
                let ext = &request.ext;
                Ok(Self { $($field: $crate::remoting::header::field!(ext, $how($($key),+)),)* })
            }
        }
    };
}

/// One row of [`header!`].
macro_rules! field {
    ($ext:ident, text($key:expr)) => {
        $ext.required($key)?
    };
    ($ext:ident, text_or_none($key:expr)) => {
        $ext.get($key)
    };
    ($ext:ident, value($key:expr)) => {
        $ext.parse($key)?
    };
    ($ext:ident, value_or_none($key:expr)) => {
        $ext.parse_optional($key)?
    };
    ($ext:ident, value_or($key:expr, $default:expr)) => {
        $ext.parse_or($key, $default)?
    };
}

use {field, header};

#[cfg(test)]
mod tests;
