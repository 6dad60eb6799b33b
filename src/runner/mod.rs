//! From requests to runs: what waits, what shares a run, what runs here or in a Cloud Run job, and how each request is answered.

pub mod answer;
pub mod beside;
pub mod dispatch;
pub mod queue;
pub mod remote_worker;
pub mod rules;
#[expect(clippy::module_inception, reason = "the runner, and the parts that it is made of")]
pub mod runner;
pub mod stats;
