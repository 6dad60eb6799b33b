//! The time of an archive, as its name tells it.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::TimeZone;
use regex::Regex;

/// A day and a time of day, with or without something between the numbers: `20250115_143022`, `2025-01-15T14-30-22`.
static DATE: LazyLock<Regex> = LazyLock::new(|| {
    let text = r"(?:^|[^0-9])((?:19|20)[0-9]{2})[-_.]?([0-9]{2})[-_.]?([0-9]{2})(?:[T_ .-]?([0-9]{2})[-_:.]?([0-9]{2})(?:[-_:.]?([0-9]{2}))?)?(?:Z|[^0-9]|$)";
    // The pattern is constant, and a test uses it.
    #[expect(clippy::unwrap_used, reason = "a constant pattern, which tests use")]
    Regex::new(text).unwrap()
});
/// Seconds since 1970, in years from 2001 to 2286.
static SECONDS: LazyLock<Regex> = LazyLock::new(|| {
    #[expect(clippy::unwrap_used, reason = "a constant pattern, which tests use")]
    Regex::new(r"(?:^|[^0-9])([1-9][0-9]{9})(?:[^0-9]|$)").unwrap()
});

/// Returns the time that an archive's name tells, in UTC: a day, with a time of day or without, or seconds since 1970. `None` if it
/// tells none.
pub fn in_name(name: &str) -> Option<Timestamp> {
    let found = DATE.captures_iter(name).find_map(|found| {
        let number = |at: usize| found.get(at).map_or(Some(0), |text| text.as_str().parse::<i8>().ok());
        let year = found.get(1)?.as_str().parse().ok()?;
        let [month, day, hour, minute, second] = [2, 3, 4, 5, 6].map(number);
        let at = civil::DateTime::new(year, month?, day?, hour?, minute?, second?, 0).ok()?;
        Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
    });
    found.or_else(|| {
        let seconds = SECONDS.captures(name)?.get(1)?.as_str().parse().ok()?;
        Timestamp::from_second(seconds).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_archives_tell_their_times() {
        for (name, expected) in [
            ("backup_20250115_143022.tar.gz", Some("2025-01-15T14:30:22Z")),
            ("backup-2025-01-15T14-30-22.tar.gz", Some("2025-01-15T14:30:22Z")),
            ("backup-20250115T143022Z.zip", Some("2025-01-15T14:30:22Z")),
            ("20250115143022.tar", Some("2025-01-15T14:30:22Z")),
            ("shop_2025-01-15_14.30.tar", Some("2025-01-15T14:30:00Z")),
            ("shop.2025-01-15.tar.zst", Some("2025-01-15T00:00:00Z")),
            ("v2-db-20250115.tgz", Some("2025-01-15T00:00:00Z")),
            ("backup_1736951422.tar.gz", Some("2025-01-15T14:30:22Z")),
            // No month 13, and not 24 hours either.
            ("backup_20251301_000000.tar", None),
            ("backup_20250115_250000.tar", None),
            ("backup_20250230.tar", None),
            ("order-48820250115.tar", None),
            ("backup.tar.gz", None),
            ("", None),
        ] {
            assert_eq!(in_name(name), expected.map(|time| time.parse().unwrap()), "{name}");
        }
    }
}
