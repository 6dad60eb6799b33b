//! Arguments of `pin`, `unpin` and `prune`.

use clap::Args;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use lastgood::retention::policy::Policy;
use lastgood::retention::span::Span;

/// Arguments of `pin`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # the state before a migration, for three months
  lastgood pin latest --for 90d --why 'before the migration'
  # for good
  lastgood pin 5f0c

A pin only extends: what a snapshot is pinned for already stays. Pins of 90 days and less lie below pins/ in the vault, where a \
backup's identity may create them. Longer ones, and those without end, lie below holds/, where in a bucket only the keeper or a person \
may. With several vaults, the snapshot is pinned in each.")]
pub struct PinArgs {
    /// Which snapshot: latest, an id or the beginning of one, or a day or time in UTC
    pub snapshot: String,
    /// Until when: a day in UTC, to its end, or a time such as 2027-01-31T12:00:00Z [default: without end]
    #[arg(long, value_name = "DATE", value_parser = until)]
    pub until: Option<Timestamp>,
    /// For how long, such as 12h, 30d or 52w
    #[arg(long = "for", value_name = "DURATION", value_parser = span, conflicts_with = "until")]
    pub length: Option<Span>,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub why: String,
}

/// Arguments of `unpin`.
#[derive(Debug, Args)]
#[command(
    after_help = "What takes a pin back lies below unpins/ in the vault, where in a bucket only the keeper or a person may create \
                        objects. Nothing is deleted: the pins stay as objects and no longer count. With several vaults, it is taken \
                        back in each."
)]
pub struct UnpinArgs {
    /// Which snapshot: latest, an id or the beginning of one, or a day or time in UTC
    pub snapshot: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub why: String,
}

/// The policy that says which snapshots are kept.
#[derive(Debug, Args)]
pub struct KeepFlags {
    /// The policy: rules with commas between them, such as last=10,within=48h,daily=30,monthly=12; the keys are last, within, hourly,
    /// daily, weekly, monthly, yearly, critical, bad and zone [default: everything is kept; for a vault in a folder, last=N where
    /// MAX_LOCAL_BACKUPS is N]
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    pub keep: Option<Policy>,
}

/// Arguments of `prune`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # what a policy would let go, and what that frees
  lastgood prune --dry-run --keep last=10,within=48h,daily=30,monthly=12

This version of lastgood deletes nothing yet: --dry-run shows the plan, and without it the command fails.")]
pub struct PruneArgs {
    /// Show which snapshots the policy would keep and let go, and why, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub policy: KeepFlags,
}

fn policy(text: &str) -> Result<Policy, String> {
    text.parse().map_err(|why: lastgood::retention::policy::PolicyError| why.to_string())
}

fn span(text: &str) -> Result<Span, String> {
    match text.parse()? {
        Span::ZERO => Err("it must be longer than 0".into()),
        span => Ok(span),
    }
}

fn until(text: &str) -> Result<Timestamp, String> {
    let is_day = text.len() == "2027-01-31".len();
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let end = || is_day.then(|| text.parse::<Date>().ok())??.checked_add(1.day()).ok()?.to_zoned(TimeZone::UTC).ok();
    end()
        .map(|end| end.timestamp())
        .ok_or_else(|| "it is neither a day such as 2027-01-31 nor a time such as 2027-01-31T12:00:00Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_meant_to_its_end_in_utc() {
        assert_eq!(until("2027-01-31"), Ok("2027-02-01T00:00:00Z".parse().unwrap()));
        assert_eq!(until("2027-01-31T12:00:00+01:00"), Ok("2027-01-31T11:00:00Z".parse().unwrap()));
        for wrong in ["2027-02-30", "tomorrow", "", "2027-01-31T12:00:00"] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
        assert!(span("0").is_err() && span("1y").is_err());
        assert_eq!(span("2w"), Ok(Span::days(14)));
    }
}
