//! Requests that tools send.
