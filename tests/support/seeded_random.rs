//! Chance that is the same in every run.

/// Numbers that look random and are the same in every run of a test.
pub struct Dice(pub u64);

impl Dice {
    /// Returns a number from 0 to one less than `below`.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}
