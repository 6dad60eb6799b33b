//! Which snapshots a policy keeps and which it lets go: so far, the policy.

pub mod bucket;
pub mod policy;
pub mod span;
