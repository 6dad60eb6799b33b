//! Limits how much freed memory the program keeps.
//!
//! glibc's allocator gives nearly every thread a heap of its own, and each of them keeps, for good, about what its thread had
//! at most. Frames and reads are of some MiB, made by one thread and freed by another, so that with many reads and uploads
//! under way twice as much is kept as is in use. Two heaps serve all threads as well: measured on 725 MB of an app's data with
//! eight at a time, a backup took 82 MiB in place of 118, a restore 83 in place of 138, `verify --read-data` 95 in place of
//! 171, an export 89 in place of 126, each with no more time of the processor. (Mapping every large buffer by itself takes less
//! still, but fresh pages cost up to half of that time again.)

/// The number of heaps for all threads together.
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 2;

/// Sets the number of heaps; it must be called before there are threads. Other allocators than glibc's stay as they are.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers, and may be called at any time.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) } == 0 {
        tracing::debug!("the allocator does not take the number of its heaps");
    }
}
