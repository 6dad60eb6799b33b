//! Lengths of time in a policy, as people write them: `48h`, `30d`, `1w2d`.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;

/// A length of time in whole seconds, 0 or longer and at most a hundred years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(i64);

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// The longest one, in seconds: a hundred years.
const LONGEST: i64 = 100 * 365 * DAY;

/// The units, and how many seconds each has. A week can be written, and is shown as 7 days.
const UNITS: [(&str, i64); 5] = [("w", 7 * DAY), ("d", DAY), ("h", HOUR), ("m", 60), ("s", 1)];

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// So many hours.
    pub const fn hours(hours: u32) -> Self {
        Span(hours as i64 * HOUR)
    }

    /// So many days of 24 hours.
    pub const fn days(days: u32) -> Self {
        Span(days as i64 * DAY)
    }

    /// Returns it as what times are reckoned with.
    pub fn duration(self) -> SignedDuration {
        SignedDuration::from_secs(self.0)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a length of time such as 36h, 7d or 1d12h");
        if text == "0" {
            return Ok(Span::ZERO);
        }
        let (mut seconds, mut rest) = (0i64, text);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: i64 = rest[..end].parse().map_err(|_| wrong())?;
            let after = &rest[end..];
            let unit = &after[..after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len())];
            let (_, each) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| match unit {
                "y" | "mo" | "M" | "month" | "months" | "year" | "years" => {
                    format!("{text:?}: months and years differ in length; give days, as in 365d")
                }
                _ => wrong(),
            })?;
            seconds = number.checked_mul(*each).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
            rest = &after[unit.len()..];
        }
        match text.is_empty() {
            true => Err(wrong()),
            false if seconds > LONGEST => Err(format!("{text:?} is longer than a hundred years")),
            false => Ok(Span(seconds)),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0");
        }
        let mut left = self.0;
        for (name, each) in &UNITS[1..] {
            if left >= *each {
                write!(f, "{}{name}", left / each)?;
                left %= each;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_read_and_shown_in_one_way() {
        for (text, shown) in [
            ("0", "0"),
            ("0s", "0"),
            ("48h", "2d"),
            ("36h", "1d12h"),
            ("1w2d", "9d"),
            ("90m", "1h30m"),
            ("61s", "1m1s"),
            ("36500d", "36500d"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), shown);
            assert_eq!(shown.parse(), Ok(span));
        }
        for (text, why) in [
            ("", "such as 36h"),
            ("7", "such as 36h"),
            ("d", "such as 36h"),
            ("-1d", "such as 36h"),
            ("7 d", "such as 36h"),
            ("7days", "such as 36h"),
            ("99999999999999999999d", "such as 36h"),
            ("9999999999999999w", "such as 36h"),
            ("36501d", "a hundred years"),
            ("1y", "give days"),
            ("2mo", "give days"),
        ] {
            assert!(text.parse::<Span>().is_err_and(|said| said.contains(why)), "{text}");
        }
    }
}
