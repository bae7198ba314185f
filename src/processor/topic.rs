//! Topics: made on the first send, or by tools.
