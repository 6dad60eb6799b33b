//! From requests to runs: what waits, what shares a run, what runs here or in a Cloud Run job, and how each request is answered.

pub mod answer;
pub mod dispatch;
pub mod queue;
pub mod remote_worker;
pub mod rules;
pub mod runner;
pub mod stats;
