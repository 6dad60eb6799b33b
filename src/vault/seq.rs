//! The sequence numbers of snapshots, which put them in order.
//!
//! A number has 64 bits. The upper 32 are the *epoch*. The lower 32 are the time in seconds since 1970, or one more
//! than the greatest number known in that epoch if that is greater. Two vaults that cannot ask each other give numbers
//! that agree with the order of time, and one vault's numbers grow whatever its clocks say.

use jiff::{SignedDuration, Timestamp};

/// The number of every imported snapshot: time and id put them in order, and all others come after them.
pub const IMPORTED: u64 = 0;
/// The number of bits below the epoch.
const BITS: u32 = 32;
/// The greatest number within an epoch.
const LAST: u64 = (1 << BITS) - 1;
/// The greatest number that a clock gives within an epoch, in seconds since 1970: a time in August 2105. One machine
/// with a wrong clock must not use up the epoch, after which no snapshot could be taken: 16 million numbers are left
/// above it.
const LAST_OF_CLOCK: u64 = LAST - (1 << 24);
/// How far ahead of the clock a number may lie: one that is further in the future was given by a wrong clock.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// Returns the number of a new snapshot: greater than `known`, the greatest that there is (0 if there is none), and in
/// the same epoch. `None` if the epoch has no greater number. It never continues in the next epoch, which would be
/// another instance's.
pub fn next(known: u64, clock: Timestamp) -> Option<u64> {
    next_in(epoch(known), Some(known), clock)
}

/// Returns the epoch of a number.
pub fn epoch(seq: u64) -> u32 {
    (seq >> BITS) as u32
}

/// As [`next`], for a snapshot in a given epoch; `known` are the numbers that there are, in whatever epoch.
pub fn next_in(in_epoch: u32, known: impl IntoIterator<Item = u64>, clock: Timestamp) -> Option<u64> {
    let low = known.into_iter().filter(|seq| epoch(*seq) == in_epoch).map(|seq| seq & LAST).max().unwrap_or(0);
    let seconds = u64::try_from(clock.as_second()).unwrap_or(0).min(LAST_OF_CLOCK);
    let next = seconds.max(low + 1);
    (next <= LAST).then_some(u64::from(in_epoch) << BITS | next)
}

/// Returns the time that a number stands for, if that is so far ahead of `clock` that a wrong clock gave the number, or
/// another number that this one had to exceed.
pub fn ahead(seq: u64, clock: Timestamp) -> Option<Timestamp> {
    let time = Timestamp::from_second(i64::try_from(seq & LAST).unwrap_or(i64::MAX)).ok()?;
    (time.duration_since(clock) > AHEAD).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_number_is_a_time_and_greater_than_all_that_are_known() {
        const NOW: i64 = 1_790_000_000;
        let epoch = |n: u64| n << 32;
        let cases = [
            ("a new vault", 0, NOW, Some(1_790_000_000)),
            ("a vault of a program that counted", 7, NOW, Some(1_790_000_000)),
            ("the clock has gone on", 1_789_999_999, NOW, Some(1_790_000_000)),
            ("the same second", 1_790_000_000, NOW, Some(1_790_000_001)),
            ("the clock was put back", 1_790_000_500, NOW, Some(1_790_000_501)),
            ("before 1970", 3, -5, Some(4)),
            ("before 1970, in a new vault", 0, -5, Some(1)),
            ("an epoch stays", epoch(3) + 5, NOW, Some(epoch(3) + 1_790_000_000)),
            ("an epoch that has begun", epoch(3), NOW, Some(epoch(3) + 1_790_000_000)),
            ("the same second in an epoch", epoch(3) + 1_790_000_000, NOW, Some(epoch(3) + 1_790_000_001)),
            ("a clock in the year 9999", 1, 253_402_207_200, Some(LAST_OF_CLOCK)),
            ("again", LAST_OF_CLOCK, 253_402_207_200, Some(LAST_OF_CLOCK + 1)),
            ("the clock is right again", LAST_OF_CLOCK + 1, NOW, Some(LAST_OF_CLOCK + 2)),
            ("the last number", LAST - 1, NOW, Some(LAST)),
            ("no number is left", LAST, NOW, None),
            ("no number is left in an epoch", epoch(3) + LAST, NOW, None),
            ("the last one of all", u64::MAX - 1, NOW, Some(u64::MAX)),
            ("none at all is left", u64::MAX, NOW, None),
        ];
        for (what, known, clock, expected) in cases {
            assert_eq!(next(known, at(clock)), expected, "{what}");
            if let Some(next) = expected {
                assert!(next > known && next >> 32 == known >> 32, "{what}");
            }
        }
    }

    #[test]
    fn an_epoch_goes_on_from_its_own_numbers() {
        const NOW: i64 = 1_790_000_000;
        let number = |epoch: u64, low: i64| epoch << 32 | low as u64;
        let known = [number(0, NOW + 9), number(3, NOW + 5), number(3, 7), number(5, NOW + 50)];
        for (epoch, expected) in [(0, NOW + 10), (2, NOW), (3, NOW + 6), (5, NOW + 51), (u32::MAX, NOW)] {
            let next = next_in(epoch, known, at(NOW)).unwrap();
            assert_eq!((next, super::epoch(next)), (number(epoch.into(), expected), epoch));
        }
        assert_eq!(next_in(3, [number(3, LAST as i64), 8], at(NOW)), None);
    }

    #[test]
    fn programs_that_count_and_programs_that_tell_the_time_agree() {
        let count = |known: u64, _| Some(known + 1);
        let (mut known, mut clock) = (12, 1_790_000_000);
        for round in 0..100 {
            let given = if round % 3 == 1 { next } else { count }(known, at(clock)).unwrap();
            assert!(given > known, "{round}");
            (known, clock) = (given, clock + 700 - 250 * (round % 5));
        }
        assert!(known >= 1_790_000_000);
    }

    #[test]
    fn a_number_in_the_future_is_told() {
        let now = at(1_790_000_000);
        assert_eq!(ahead(1_790_000_300, now), None);
        assert_eq!(ahead(1_790_000_301, now), Some(at(1_790_000_301)));
        assert_eq!(ahead((5 << 32) + 1_790_009_999, now), Some(at(1_790_009_999)));
        assert_eq!(ahead(7, now), None);
        assert!(ahead(u64::MAX, now).is_some());
    }
}
