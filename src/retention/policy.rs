//! The policy as text: `last=10,within=48h,daily=30,monthly=12`.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;

use super::bucket::Every;
use super::span::Span;
use crate::text::nearest;
use crate::vault::hex::Hash;

/// What good snapshots are kept for besides the choice of `last` and of the buckets, unless a policy says otherwise.
pub const WITHIN: Span = Span::days(7);
/// The most snapshots or buckets that a rule may name.
const MOST: u32 = 1_000_000;
/// The keys that are not those of buckets.
const LAST: &str = "last";
const WITHIN_KEY: &str = "within";
const CRITICAL: &str = "critical";
const BAD: &str = "bad";
const ZONE: &str = "zone";

/// What is kept. The module's page says what each rule means. Without any rule everything is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How many of the newest good snapshots.
    pub last: Option<u32>,
    /// For how long every good snapshot, as it was written.
    pub within: Option<Span>,
    /// Of how many buckets of each length, in the order of [`Every::ALL`].
    pub buckets: [Option<u32>; 5],
    /// For how long what was taken at a critical event, at a shutdown or at a start.
    pub critical: Option<Span>,
    /// For how long partial, suspect and unsound ones.
    pub bad: Option<Span>,
    /// The time zone of the buckets.
    pub zone: TimeZone,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { last: None, within: None, buckets: [None; 5], critical: None, bad: None, zone: TimeZone::UTC }
    }
}

impl Policy {
    /// Whether it has no rule, and lets nothing go.
    pub fn is_empty(&self) -> bool {
        *self == Policy { zone: self.zone.clone(), ..Policy::default() }
    }

    /// Returns for how long every good snapshot is kept. `None`: no rule is about good snapshots, and all of them are kept.
    pub fn within(&self) -> Option<Span> {
        let chooses = self.last.is_some() || self.buckets.iter().any(Option::is_some);
        self.within.or(chooses.then_some(WITHIN))
    }

    /// Returns for how long what was taken at an event is kept. `None`: for good.
    pub fn critical(&self) -> Option<Span> {
        self.critical.or(self.within())
    }

    /// Returns for how long partial, suspect and unsound snapshots are kept. `None`: for good.
    pub fn bad(&self) -> Option<Span> {
        self.bad.or(self.within())
    }

    /// Returns the policy that `MAX_LOCAL_BACKUPS` stands for in a folder, where nothing else is set.
    ///
    /// # Errors
    /// It is not a number of snapshots.
    pub fn of_max_local_backups(value: &str) -> Result<Self, PolicyError> {
        let last = count("MAX_LOCAL_BACKUPS", value.trim())?;
        Ok(Policy { last: Some(last), ..Policy::default() })
    }

    /// Returns a hash that two policies share if they are the same.
    pub fn hash(&self) -> Hash {
        Hash::of(self.to_string().as_bytes())
    }
}

/// What is wrong with a policy's text, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}. {hint}")]
pub struct PolicyError {
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub hint: String,
}

fn error<T>(why: impl Into<String>, hint: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError { why: why.into(), hint: hint.into() })
}

/// Returns all keys, in the order in which they are shown.
fn keys() -> impl Iterator<Item = &'static str> {
    let buckets = Every::ALL.into_iter().map(Every::key);
    [LAST, WITHIN_KEY].into_iter().chain(buckets).chain([CRITICAL, BAD, ZONE])
}

fn count(key: &str, value: &str) -> Result<u32, PolicyError> {
    match value.parse() {
        Ok(0) => error(
            format!("{key}=0 would keep none"),
            format!("Leave {key} out to have no such rule, or give 1 or more."),
        ),
        Ok(number @ 1..=MOST) => Ok(number),
        _ if value.parse::<Span>().is_ok() => error(
            format!("{key}={value}: {key} takes a number, and not a length of time"),
            format!("`within={value}` keeps all good snapshots of that time."),
        ),
        _ => error(
            format!("{key}={value}: {value:?} is not a number from 1 to {MOST}"),
            format!("Give a number, as in `{key}=10`."),
        ),
    }
}

fn span(key: &str, value: &str) -> Result<Span, PolicyError> {
    let parsed: Result<Span, String> = value.parse();
    parsed.or_else(|why| {
        let hint = match value.parse::<u32>() {
            Ok(number) => format!("Name the unit: `{key}={number}d` are days, `{key}={number}h` hours."),
            Err(_) => format!("Units are w, d, h, m and s, as in `{key}=48h`."),
        };
        error(format!("{key}={value}: {why}"), hint)
    })
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        const EXAMPLE: &str = "An example: `last=10,within=48h,daily=30,monthly=12`.";
        let (mut policy, mut seen) = (Policy::default(), Vec::new());
        for part in text.split(',').map(str::trim) {
            let Some((key, value)) = part.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
                return match part.is_empty() {
                    true => error("a rule is missing: the text is empty, or has a comma too many", EXAMPLE),
                    false => error(format!("{part:?} is not a rule: a rule is a key, `=` and a value"), EXAMPLE),
                };
            };
            let Some(known) = keys().find(|known| *known == key) else {
                let plain = key.to_lowercase().replace('_', "-");
                let plain = plain.strip_prefix("keep-").unwrap_or(&plain);
                let noun = Every::ALL.into_iter().find(|every| plain.trim_end_matches('s') == every.noun());
                let near =
                    noun.map(|every| every.key().to_owned()).or_else(|| nearest(plain, keys().map(str::to_owned)));
                let all = keys().collect::<Vec<_>>().join(", ");
                return error(
                    format!("a policy has no key {key:?}"),
                    match near {
                        Some(near) => format!("Did you mean `{near}={value}`? The keys are {all}."),
                        None => format!("The keys are {all}."),
                    },
                );
            };
            if seen.contains(&known) {
                return error(format!("{known} is there twice"), "Give each key once.");
            }
            seen.push(known);
            match known {
                LAST => policy.last = Some(count(known, value)?),
                WITHIN_KEY => policy.within = Some(span(known, value)?),
                CRITICAL => policy.critical = Some(span(known, value)?),
                BAD => policy.bad = Some(span(known, value)?),
                ZONE => policy.zone = zone(value)?,
                _ => {
                    let at = Every::ALL.iter().position(|every| every.key() == known);
                    if let Some(place) = at.and_then(|at| policy.buckets.get_mut(at)) {
                        *place = Some(count(known, value)?);
                    }
                }
            }
        }
        match policy.is_empty() {
            true => error("the policy names a time zone and no rule", EXAMPLE),
            false => Ok(policy),
        }
    }
}

fn zone(value: &str) -> Result<TimeZone, PolicyError> {
    let hint = "Give a name of the IANA time zone database, as in `zone=Europe/Berlin`, or leave it out for UTC.";
    match TimeZone::get(value) {
        // `Etc/Unknown` is a name, too.
        Ok(zone) if !zone.is_unknown() => Ok(zone),
        _ => error(format!("zone={value}: there is no time zone of that name"), hint),
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = |key: &str, value: Option<String>| value.map(|value| format!("{key}={value}"));
        let mut rules = vec![
            rule(LAST, self.last.map(|last| last.to_string())),
            rule(WITHIN_KEY, self.within.map(|span| span.to_string())),
        ];
        for (every, count) in Every::ALL.into_iter().zip(self.buckets) {
            rules.push(rule(every.key(), count.map(|count| count.to_string())));
        }
        rules.push(rule(CRITICAL, self.critical.map(|span| span.to_string())));
        rules.push(rule(BAD, self.bad.map(|span| span.to_string())));
        let zone = self.zone.iana_name().filter(|_| self.zone != TimeZone::UTC);
        rules.push(rule(ZONE, zone.map(str::to_owned)));
        f.write_str(&rules.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Policy {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn a_policy_is_one_text_and_is_shown_in_one_way() {
        for (text, shown) in [
            ("last=10,within=48h,daily=30,monthly=12", "last=10,within=2d,daily=30,monthly=12"),
            (" monthly=12 , last = 3 ", "last=3,monthly=12"),
            ("zone=europe/berlin,yearly=5,weekly=8,hourly=24", "hourly=24,weekly=8,yearly=5,zone=Europe/Berlin"),
            ("bad=2w,critical=36h", "critical=1d12h,bad=14d"),
            ("within=0,last=5,zone=UTC", "last=5,within=0"),
        ] {
            assert_eq!(parsed(text).to_string(), shown);
            assert_eq!(parsed(shown), parsed(text));
            assert_eq!(parsed(shown).hash(), parsed(text).hash());
        }
        assert_eq!(parsed("last=7").hash().to_string(), Hash::of(b"last=7").to_string());
        for (one, other) in [("last=1", "last=2"), ("last=1", "daily=1"), ("daily=1", "daily=1,zone=Asia/Tokyo")] {
            assert_ne!(parsed(one).hash(), parsed(other).hash());
        }
    }

    #[test]
    fn what_a_policy_leaves_out_has_a_value_that_keeps_more() {
        let spans = |text: &str| {
            let policy = parsed(text);
            [policy.within(), policy.critical(), policy.bad()].map(|span| span.map(|span| span.to_string()))
        };
        let days = |[within, critical, bad]: [&str; 3]| {
            [within, critical, bad].map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()))
        };
        for (text, expected) in [
            ("last=10", ["7d", "7d", "7d"]),
            ("daily=10", ["7d", "7d", "7d"]),
            ("last=10,within=0", ["0", "0", "0"]),
            ("last=10,within=48h,critical=90d", ["2d", "90d", "2d"]),
            ("within=30d", ["30d", "30d", "30d"]),
            ("critical=5d", ["", "5d", ""]),
            ("bad=5d", ["", "", "5d"]),
        ] {
            assert_eq!(spans(text), days(expected), "{text}");
        }
        assert!(Policy::default().is_empty() && !parsed("bad=1d").is_empty());
    }

    #[test]
    fn an_error_names_what_is_wrong_and_what_to_do() {
        for (text, said) in [
            ("", "a rule is missing: the text is empty, or has a comma too many. An example: `last=10,"),
            ("last=10,", "a comma too many"),
            ("daily", "\"daily\" is not a rule: a rule is a key, `=` and a value"),
            ("dayly=30", "a policy has no key \"dayly\". Did you mean `daily=30`? The keys are last, within, hourly,"),
            ("keep-weekly=4", "Did you mean `weekly=4`?"),
            ("keep_daily=4", "Did you mean `daily=4`?"),
            ("Last=4", "Did you mean `last=4`?"),
            ("days=7", "Did you mean `daily=7`?"),
            ("crit=7d", "Did you mean `critical=7d`?"),
            ("xyzzy=7d", "no key \"xyzzy\". The keys are last,"),
            ("last=3,last=4", "last is there twice. Give each key once."),
            ("last=0", "last=0 would keep none. Leave last out"),
            ("last=-1", "\"-1\" is not a number from 1 to 1000000. Give a number, as in `last=10`."),
            ("daily=7d", "daily takes a number, and not a length of time. `within=7d` keeps all"),
            ("within=7", "Name the unit: `within=7d` are days, `within=7h` hours."),
            ("within=soon", "is not a length of time such as 36h, 7d or 1d12h. Units are w, d, h, m and s"),
            ("bad=1y", "months and years differ in length; give days, as in 365d"),
            ("daily=3,zone=Mars/Olympus", "there is no time zone of that name. Give a name of the IANA"),
            ("daily=3,zone=Etc/Unknown", "there is no time zone of that name"),
            ("zone=UTC", "names a time zone and no rule"),
        ] {
            let why = text.parse::<Policy>().unwrap_err().to_string();
            assert!(why.contains(said), "{text}: {why}");
        }
    }

    #[test]
    fn max_local_backups_is_last() {
        assert_eq!(Policy::of_max_local_backups(" 10 ").unwrap().to_string(), "last=10");
        for (value, said) in [("0", "MAX_LOCAL_BACKUPS=0 would keep none"), ("ten", "\"ten\" is not a number from 1")] {
            let why = Policy::of_max_local_backups(value).unwrap_err().to_string();
            assert!(why.contains(said), "{value}: {why}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(
            last in prop::option::of(1..=MOST),
            within in prop::option::of(0..4000u32),
            buckets in prop::array::uniform5(prop::option::of(1..=MOST)),
            critical in prop::option::of(0..4000u32),
            bad in prop::option::of(0..4000u32),
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"]),
        ) {
            let [within, critical, bad] = [within, critical, bad].map(|hours| hours.map(Span::hours));
            let zone = if zone == "UTC" { TimeZone::UTC } else { TimeZone::get(zone).unwrap() };
            let policy = Policy { last, within, buckets, critical, bad, zone };
            prop_assume!(!policy.is_empty());
            prop_assert_eq!(parsed(&policy.to_string()), policy);
        }

        #[test]
        fn no_text_makes_it_panic(text in "(last|daily|within|zone|[a-zé=, 0-9]{0,9}|=|,|[0-9]+[wdhms]?){0,9}") {
            if let Ok(policy) = text.parse::<Policy>() {
                prop_assert_eq!(parsed(&policy.to_string()), policy);
            }
        }
    }
}
