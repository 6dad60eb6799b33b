//! Buckets: the hours, days, weeks, months and years of a time zone, of each of which a policy keeps one snapshot.

use std::cmp::Reverse;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Every {
    /// An hour on the clock.
    Hour,
    /// A day in the calendar.
    Day,
    /// A week, from Monday to Sunday.
    Week,
    /// A month in the calendar.
    Month,
    /// A year in the calendar.
    Year,
}

impl Every {
    /// All of them, the shortest first.
    pub const ALL: [Every; 5] = [Every::Hour, Every::Day, Every::Week, Every::Month, Every::Year];

    /// Returns its key in a policy.
    pub fn key(self) -> &'static str {
        match self {
            Every::Hour => "hourly",
            Every::Day => "daily",
            Every::Week => "weekly",
            Every::Month => "monthly",
            Every::Year => "yearly",
        }
    }

    /// Returns what people call one.
    pub fn noun(self) -> &'static str {
        match self {
            Every::Hour => "hour",
            Every::Day => "day",
            Every::Week => "week",
            Every::Month => "month",
            Every::Year => "year",
        }
    }

    /// Returns the bucket that a time falls into.
    pub fn bucket(self, time: Timestamp, zone: &TimeZone) -> Bucket {
        let at = zone.to_datetime(time);
        let (year, month) = (i64::from(at.year()), i64::from(at.month()));
        let date = (year, month, i64::from(at.day()));
        match self {
            // When clocks are put back, an hour comes twice. The first one is farther ahead of UTC.
            Every::Hour => Bucket(date, i64::from(at.hour()), Reverse(zone.to_offset(time).seconds())),
            Every::Day => Bucket(date, 0, Reverse(0)),
            Every::Week => {
                let week = at.date().iso_week_date();
                Bucket((i64::from(week.year()), i64::from(week.week()), 0), 0, Reverse(0))
            }
            Every::Month => Bucket((year, month, 0), 0, Reverse(0)),
            Every::Year => Bucket((year, 0, 0), 0, Reverse(0)),
        }
    }
}

/// One bucket; a later one is greater than an earlier one of the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket((i64, i64, i64), i64, Reverse<i32>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_buckets_of_their_zone() {
        let same = |every: Every, zone: &str, one: &str, other: &str| {
            let zone = TimeZone::get(zone).unwrap();
            every.bucket(one.parse().unwrap(), &zone).cmp(&every.bucket(other.parse().unwrap(), &zone))
        };
        use std::cmp::Ordering::{Equal, Less};
        for (every, zone, one, other, expected) in [
            (Every::Hour, "UTC", "2026-11-30T10:00:00Z", "2026-11-30T10:59:59Z", Equal),
            (Every::Hour, "UTC", "2026-11-30T10:59:59Z", "2026-11-30T11:00:00Z", Less),
            (Every::Hour, "UTC", "2026-11-29T10:00:00Z", "2026-11-30T10:00:00Z", Less),
            // Clocks in Berlin go from 3 back to 2 at 01:00 UTC.
            (Every::Hour, "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", Less),
            (Every::Day, "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", Equal),
            (Every::Day, "UTC", "2026-11-30T22:30:00Z", "2026-11-30T23:30:00Z", Equal),
            (Every::Day, "Europe/Berlin", "2026-11-30T22:30:00Z", "2026-11-30T23:30:00Z", Less),
            (Every::Week, "UTC", "2026-11-23T00:00:00Z", "2026-11-29T23:59:59Z", Equal),
            (Every::Week, "UTC", "2026-11-29T23:59:59Z", "2026-11-30T00:00:00Z", Less),
            // A week that two years share.
            (Every::Week, "UTC", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z", Equal),
            (Every::Month, "UTC", "2026-11-01T00:00:00Z", "2026-11-30T23:59:59Z", Equal),
            (Every::Month, "UTC", "2025-12-01T00:00:00Z", "2026-11-30T23:59:59Z", Less),
            (Every::Year, "UTC", "2026-01-01T00:00:00Z", "2026-12-31T23:59:59Z", Equal),
            (Every::Year, "America/New_York", "2026-12-31T23:59:59Z", "2027-01-01T04:59:59Z", Equal),
            (Every::Year, "America/New_York", "2027-01-01T04:59:59Z", "2027-01-01T05:00:00Z", Less),
        ] {
            assert_eq!(same(every, zone, one, other), expected, "{every:?} in {zone}: {one} and {other}");
        }
    }
}
