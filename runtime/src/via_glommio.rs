//! The backend over glommio, for kernels without what [`crate::ring`] needs, and to compare with.

pub(crate) mod executor;
pub(crate) mod file;
pub(crate) mod socket;
