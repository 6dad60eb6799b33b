//! What starts a run from outside: who may ask, how that becomes a job, and what makes it happen once.

pub mod auth;
pub mod claim;
pub mod desk;
pub mod dispatched;
pub mod ending;
pub mod event;
pub mod execution;
pub mod http;
pub mod limit;
pub mod once;
pub mod order;
pub mod pull;
