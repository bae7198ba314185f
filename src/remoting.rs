//! The remoting protocol of RocketMQ: bytes in, values out, and back. No socket, no clock, no state; imports nothing of ours
//! but limits, so it may run on any core.
//!
//! ```text
//! stream ── frame::split_frame ──► Frame ── Request::decode ──► code, opaque, ExtFields, body
//!                               flat_json | json_header | binary_header          │
//!                       header::*Header::parse(&request) ◄──── fields ───────────┤
//!                       body::*::decode(request.body)    ◄──── body ─────────────┘
//! stream ◄── response::write_response_head / write_request ◄── what a processor answers
//! ```
//!
//! Decoders are total: whatever a peer sends gives a value or an error with its numbers, in memory proportional to what
//! was sent.

mod binary_header;
pub mod body;
pub mod code;
pub mod fastjson;
pub mod field_text;
mod flat_json;
pub mod frame;
pub mod header;
mod json_header;
pub mod request;
pub mod response;
