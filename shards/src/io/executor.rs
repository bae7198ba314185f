//! Starts one pinned executor per core.
