//! Checks of a vault in a bucket: the credentials, whether the bucket answers, and what may be done in it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use super::check::{CheckStatus, DoctorCheck, span};
use super::grants::{self, Member};
use super::lifecycle;
use super::network::{NetworkProblem, Proxy, network_problem};
use super::running::CheckRecorder;
use super::vault;
use crate::gcp::cloud::Cloud;
use crate::gcp::credentials::{self, CredentialSource};
use crate::gcp::error_text;
use crate::gcp::http_client::origin;
use crate::retry::{Backoff, Fault};
use crate::store::gcs::{GcsBucket, RequestTimeouts};
use crate::store::requests::Requests;
use crate::store::retrying::RetryStore;
use crate::vault::root::SNAPSHOTS;

/// A request is given up after this time without progress.
const STALL: Duration = Duration::from_secs(5);
/// A request that fails sooner is retried for this time.
const AGAIN: Duration = Duration::from_secs(3);
/// The longest wait for a token.
const TOKEN: Duration = Duration::from_secs(7);
/// A clock that is off by more than this gets a warning: it will be too far off soon.
const OFF: Duration = Duration::from_secs(60);

/// The input of the checks of a bucket.
pub struct BucketCheckInput {
    pub vault: vault::VaultCheckInput,
    pub bucket: String,
    pub prefix: String,
    pub cloud: Cloud,
    pub proxy: Option<Proxy>,
}

/// Runs the checks.
pub fn check_bucket(input: &BucketCheckInput, recorder: &CheckRecorder, stop: &Arc<AtomicBool>) {
    let skip_rest = |why: &str| {
        recorder
            .add(DoctorCheck::skipped("the rest", format!("bucket, permissions, vault: not checked, because {why}")))
    };
    let found = match credentials::find(&input.cloud) {
        Ok(found) => found,
        Err(fault) => {
            let (why, hint) = reason_and_hint(fault);
            recorder.add(
                DoctorCheck::problem("credentials", why).advice(relative_path_advice(&input.cloud).unwrap_or(hint)),
            );
            return skip_rest("there are no credentials that can be used");
        }
    };
    let limits = RequestTimeouts { stall: STALL, answer: STALL * 2 };
    let bucket = match GcsBucket::new(&input.cloud, &input.bucket, &input.prefix, limits, stop.clone()) {
        Ok(bucket) => bucket,
        Err(why) => {
            recorder.add(DoctorCheck::problem("network", why.what()).advice(why.advice().unwrap_or_default()));
            return skip_rest("the bucket cannot be reached");
        }
    };
    let (credentials, account) = credentials(input, &bucket, &found);
    let usable = credentials.outcome == CheckStatus::Ok;
    recorder.add(credentials);
    recorder.add(match &input.cloud.project {
        Some(project) => DoctorCheck::ok("project", project),
        None => {
            DoctorCheck::skipped("project", "none is named (GOOGLE_CLOUD_PROJECT, GCP_PROJECT_ID), and none is needed")
        }
    });
    if let Some(failed) = network(input, &bucket) {
        recorder.add(failed);
        return skip_rest("the bucket cannot be reached");
    }
    recorder.add(DoctorCheck::ok("network", format!("{} answers", origin(input.cloud.base()))));
    recorder.add(clock(bucket.ahead(), bucket.time().err()));
    if !usable {
        return skip_rest("there are no credentials that can be used");
    }
    if found != CredentialSource::Emulator {
        if let Err(fault) = retried(|| bucket.sign_in(TOKEN)) {
            recorder.add(no_token(&found, fault));
            return skip_rest("there is no token");
        }
        recorder.add(DoctorCheck::ok("token", "one was obtained"));
    }
    let member = Member::of(&found, account.as_deref());
    if !check_access(input, &bucket, &found, &member, recorder) {
        return;
    }
    let pace = Backoff {
        first: Duration::from_millis(200),
        longest: Duration::from_secs(1),
        patience: input.cloud.patience.min(AGAIN),
    };
    vault::check_vault(Box::new(RetryStore::new(bucket, pace, stop.clone())), &input.vault, recorder, stop);
}

/// Says which credentials were found, and whose they are. The metadata server, which is in this machine or nowhere, is asked
/// whether it is there.
fn credentials(
    input: &BucketCheckInput,
    bucket: &GcsBucket,
    found: &CredentialSource,
) -> (DoctorCheck, Option<String>) {
    let name = "credentials";
    let CredentialSource::Metadata { host } = found else {
        return (DoctorCheck::ok(name, found.to_string()), bucket.account());
    };
    let failed = match retried(|| bucket.sign_in(TOKEN)) {
        Ok(()) => {
            let account = bucket.account();
            let named = account.as_deref().unwrap_or("without a name");
            let found = format!("the attached service account, {named}, from the metadata server {host}");
            return (DoctorCheck::ok(name, found), account);
        }
        Err(fault) => {
            let check = DoctorCheck::problem(name, reason_and_hint(fault).0);
            match input.cloud.in_cloud_run {
                true => check.advice(
                    "Is a service account attached (`gcloud run services describe NAME` or `gcloud run jobs describe NAME` \
                     shows it), and is it enabled?",
                ),
                false => check
                    .advice(
                        "On a laptop log in, or let GOOGLE_APPLICATION_CREDENTIALS name a key file. In Cloud Run and on \
                         Google's machines an attached service account is enough.",
                    )
                    .run("gcloud auth application-default login"),
            }
        }
    };
    (failed, None)
}

/// Checks the bucket and what may be done in it; returns whether a vault can be looked for.
fn check_access(
    input: &BucketCheckInput,
    bucket: &GcsBucket,
    found: &CredentialSource,
    member: &Member,
    recorder: &CheckRecorder,
) -> bool {
    let name = "bucket";
    let page = retried(|| bucket.page(SNAPSHOTS, "", None));
    let forbidden = match page {
        Ok(_) => {
            recorder.add(DoctorCheck::ok(name, format!("gs://{} exists and can be listed", input.bucket)));
            None
        }
        Err(fault) => {
            let (failed, may_be_there) = unlisted(input, fault, found);
            if !may_be_there {
                recorder.add(failed);
                recorder.add(DoctorCheck::skipped(
                    "the rest",
                    "permissions, vault: not checked, because the bucket cannot be used",
                ));
                return false;
            }
            Some(failed)
        }
    };
    let permissions = permissions(input, bucket, found, member);
    let usable = !permissions.iter().any(|check| check.outcome == CheckStatus::Problem);
    match forbidden {
        // In this case one permission is missing, and is named once.
        Some(failed) if !usable => recorder.add(DoctorCheck::skipped(name, failed.found)),
        Some(failed) => recorder.add(failed),
        None => {}
    }
    permissions.into_iter().for_each(|check| recorder.add(check));
    if !usable {
        recorder.add(DoctorCheck::skipped("vault", "not looked for, because nothing may be read"));
    }
    usable
}

/// Makes a request, and repeats it, though not for long, if its fault may pass.
fn retried<T>(once: impl Fn() -> Result<T, Fault>) -> Result<T, Fault> {
    let began = Instant::now();
    let mut renewed = false;
    loop {
        match once() {
            Err(Fault::Passing { .. }) if began.elapsed() < AGAIN => std::thread::sleep(Duration::from_millis(300)),
            Err(Fault::Token { .. }) if !renewed => renewed = true,
            done => return done,
        }
    }
}

/// Returns why a request failed, and what to do.
fn reason_and_hint(fault: Fault) -> (String, String) {
    match fault {
        Fault::Refused { why, hint, .. } => (why, hint),
        Fault::Passing { why, .. } | Fault::Token { why } => (why, String::new()),
        Fault::NotFound => ("404 Not Found".into(), String::new()),
        Fault::Stopped => ("its time was up before it answered".into(), "Run it again.".into()),
        other => (format!("an answer that makes no sense: {other:?}"), String::new()),
    }
}

/// Returns what to do about a credentials file that is not where a relative path says.
fn relative_path_advice(cloud: &Cloud) -> Option<String> {
    let path: &Path = cloud.credentials.as_deref().filter(|path| path.is_relative() && !path.exists())?;
    let at = std::path::absolute(path).ok()?;
    let cloud_run = if cloud.in_cloud_run { "Or unset it: inside Cloud Run none is needed." } else { "" };
    Some(format!(
        "The path is relative, so that it depends on where the program is started: here it is {}. Set \
         GOOGLE_APPLICATION_CREDENTIALS to the whole path. {cloud_run}",
        at.display()
    ))
}

fn network(input: &BucketCheckInput, bucket: &GcsBucket) -> Option<DoctorCheck> {
    let fault = retried(|| bucket.reach()).err()?;
    let (why, hint) = reason_and_hint(fault.clone());
    if !matches!(fault, Fault::Passing { .. }) {
        return Some(DoctorCheck::problem("network", why).advice(hint));
    }
    let NetworkProblem { found, advice } =
        network_problem(&why, &origin(input.cloud.base()), input.cloud.emulator.is_some(), input.proxy.as_ref());
    Some(DoctorCheck::problem("network", found).advice(advice))
}

/// Checks how far the clock is off; `wrong` is the fault if the store refuses its time.
fn clock(ahead: Option<SignedDuration>, wrong: Option<Fault>) -> DoctorCheck {
    let name = "clock";
    if let Some(fault) = wrong {
        let (why, hint) = reason_and_hint(fault);
        return DoctorCheck::problem(name, why).advice(hint);
    }
    let Some(ahead) = ahead else {
        return DoctorCheck::skipped(name, "the answer has no Date to compare with");
    };
    let off = ahead.unsigned_abs();
    let direction = if ahead.is_positive() { "ahead of" } else { "behind" };
    // The store's time is in whole seconds.
    if off < Duration::from_secs(2) {
        return DoctorCheck::ok(name, "the same as the store's");
    }
    let found = format!("{} {direction} the store's", span(off));
    if off <= OFF {
        return DoctorCheck::ok(name, found);
    }
    DoctorCheck::warning(name, format!("{found}; from 5 min on, nothing works"))
        .advice("Set it, and keep it right (`timedatectl set-ntp true`, here or on the host).")
}

/// Returns the check for credentials without a token, with what to do.
fn no_token(found: &CredentialSource, fault: Fault) -> DoctorCheck {
    let passes = matches!(fault, Fault::Passing { .. });
    let (why, hint) = reason_and_hint(fault);
    // The report has named the file already.
    let reason = why.strip_prefix(&format!("no token with {found}: ")).unwrap_or(&why);
    let problem = DoctorCheck::problem("token", format!("none could be obtained: {reason}"));
    let CredentialSource::File { path, r#type, account } = found else { return problem.advice(hint) };
    let path = path.display();
    let account = account.as_deref().unwrap_or("ACCOUNT");
    if passes {
        return problem.advice(
            "The bucket's server answers, the one that gives tokens does not: is oauth2.googleapis.com (sts.googleapis.com, \
             iamcredentials.googleapis.com) let through here?",
        );
    }
    match r#type.as_str() {
        "authorized_user" => problem
            .advice("Has the login expired, or was it revoked? Log in again:")
            .run("gcloud auth application-default login"),
        "service_account" => problem
            .advice(format!(
                "Is {path} the whole file that Google made? One that was filled in by hand from a sample, or cut short, \
                 cannot sign. This makes a new one:"
            ))
            .run(format!("gcloud iam service-accounts keys create FILE --iam-account={account}")),
        "impersonated_service_account" => problem
            .advice(format!(
                "Whoever acts as {account} needs roles/iam.serviceAccountTokenCreator on it, and a login that has not expired:"
            ))
            .run(format!("gcloud auth application-default login --impersonate-service-account={account}")),
        "external_account" => problem.advice(format!(
            "{path} names where the workload's own token comes from, the pool and the provider: do they exist, and does the \
             provider's condition let this token pass?"
        )),
        _ => problem.advice(hint),
    }
}

/// Returns the check for a bucket that cannot be listed, and whether the bucket may be there all the same.
fn unlisted(input: &BucketCheckInput, fault: Fault, found: &CredentialSource) -> (DoctorCheck, bool) {
    let name = "bucket";
    let bucket = &input.bucket;
    let project = input.cloud.project.as_deref();
    if let Fault::Token { why } = &fault {
        let advice = match found {
            CredentialSource::File { r#type, account, .. } if r#type == "service_account" => format!(
                "Is the key deleted, or the account disabled? `gcloud iam service-accounts keys list --iam-account={}` lists \
                 the keys that are good. A wrong clock has the same effect.",
                account.as_deref().unwrap_or("ACCOUNT")
            ),
            _ => "Are the credentials revoked, or is the account disabled? Log in again, or make a new key.".into(),
        };
        return (DoctorCheck::problem(name, format!("the token is refused: {why}")).advice(advice), false);
    }
    if let Fault::Passing { why, .. } = &fault {
        let NetworkProblem { found, advice } =
            network_problem(why, &origin(input.cloud.base()), input.cloud.emulator.is_some(), input.proxy.as_ref());
        return (DoctorCheck::problem(name, found).advice(advice), false);
    }
    let (why, hint) = reason_and_hint(fault);
    let has = |word: &str| why.contains(word);
    let check = DoctorCheck::problem(name, &why);
    if has("there is no bucket") {
        let of = project.map(|project| format!(" --project={project}")).unwrap_or_default();
        let check = DoctorCheck::problem(name, format!("gs://{bucket} does not exist"))
            .advice("Is the name right? These list the buckets that there are, and make this one:")
            .run(format!("gcloud storage ls{of}"))
            .run(format!("gcloud storage buckets create gs://{bucket} --uniform-bucket-level-access{of}"));
        return (check, false);
    }
    if !why.starts_with("403") {
        return (check.advice(hint), false);
    }
    if has("has not been used in project") || has("it is disabled") {
        let of = project.map(|project| format!(" --project={project}")).unwrap_or_default();
        let advice = "The API is not enabled in the project:";
        return (check.advice(advice).run(format!("gcloud services enable storage.googleapis.com{of}")), false);
    }
    if let Some(hint) = error_text::hint(&why) {
        return (check.advice(hint), false);
    }
    let found = format!("gs://{bucket} may not be listed, or is another's: names are shared by everybody");
    (DoctorCheck::problem(name, found).advice(format!("Is the name right? {why}")), true)
}

fn permissions(
    input: &BucketCheckInput,
    bucket: &GcsBucket,
    found: &CredentialSource,
    member: &Member,
) -> Vec<DoctorCheck> {
    let name = "permissions";
    if *found == CredentialSource::Emulator {
        return vec![DoctorCheck::skipped(name, "cannot be asked here: an emulator has none")];
    }
    match retried(|| bucket.test_permissions(&grants::asked())) {
        Ok(held) => {
            let mut checks = grants::judge(&held, &input.bucket, member, input.cloud.project.as_deref());
            checks.push(rules(input, bucket, held.iter().any(|held| held == lifecycle::MAY_ASK)));
            checks
        }
        Err(Fault::NotFound) => vec![DoctorCheck::skipped(name, "cannot be asked here: the server does not know how")],
        Err(fault) => {
            let (why, hint) = reason_and_hint(fault);
            vec![DoctorCheck::warning(name, format!("not known: {why}")).advice(hint)]
        }
    }
}

/// Checks the bucket's lifecycle rules, if they may be asked for.
fn rules(input: &BucketCheckInput, bucket: &GcsBucket, may_ask: bool) -> DoctorCheck {
    if !may_ask {
        return lifecycle::unasked();
    }
    let answer = retried(|| bucket.describe_bucket(lifecycle::FIELDS)).map_err(|fault| reason_and_hint(fault).0);
    let prefix = input.prefix.trim_end_matches('/');
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    lifecycle::judge(answer, &input.bucket, &prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_right_a_bit_off_or_wrong() {
        for (ahead, outcome, found) in [
            (0, CheckStatus::Ok, "as the store's"),
            (-30, CheckStatus::Ok, "30 s behind"),
            (90, CheckStatus::Warning, "1 min ahead of"),
        ] {
            let said = clock(Some(SignedDuration::from_secs(ahead)), None);
            assert!(said.outcome == outcome && said.found.contains(found), "{said:?}");
        }
        assert_eq!(clock(None, None).outcome, CheckStatus::Skipped);
        let wrong = clock(Some(SignedDuration::from_mins(10)), Some(Fault::refused("10m ahead", "Set it.")));
        assert_eq!((wrong.outcome, wrong.advice.as_deref()), (CheckStatus::Problem, Some("Set it.")));
    }

    #[test]
    fn refusals_of_a_bucket_are_told_apart() {
        let input = BucketCheckInput {
            vault: vault::VaultCheckInput {
                name: "gs://b-1/x".into(),
                max_age: Duration::from_secs(60),
                made_unasked: false,
            },
            bucket: "b-1".into(),
            prefix: "x".into(),
            cloud: Cloud { project: Some("p-1".into()), ..Cloud::default() },
            proxy: None,
        };
        let found = CredentialSource::Metadata { host: "m".into() };
        for (fault, answers, advice, command) in [
            (Fault::refused("there is no bucket b-1", ""), false, "Is the name right", "buckets create gs://b-1"),
            (
                Fault::refused("403 Forbidden: w does not have storage.objects.list access", ""),
                true,
                "storage.objects.list",
                "",
            ),
            (
                Fault::refused("403 Forbidden: Cloud Storage JSON API has not been used in project 7 before", ""),
                false,
                "not enabled",
                "services enable storage.googleapis.com --project=p-1",
            ),
            (
                Fault::refused("403 Forbidden: The billing account for the owning project is disabled", ""),
                false,
                "billing",
                "",
            ),
            (
                Fault::refused("403 Forbidden: Request is prohibited by organization's policy", ""),
                false,
                "perimeter",
                "",
            ),
            (
                Fault::refused("403 Forbidden: Permission denied on Cloud KMS key. Please ensure", ""),
                false,
                "--authorize-cmek",
                "",
            ),
            (Fault::Token { why: "401 Unauthorized".into() }, false, "revoked", ""),
            (Fault::passing("503 Service Unavailable"), false, "outages", ""),
        ] {
            let (check, there) = unlisted(&input, fault.clone(), &found);
            assert!(check.outcome == CheckStatus::Problem && there == answers, "{fault:?}: {check:?}");
            assert!(check.advice.as_ref().unwrap().contains(advice), "{fault:?}: {check:?}");
            assert!(command.is_empty() || check.commands.iter().any(|c| c.contains(command)), "{fault:?}: {check:?}");
        }
    }
}
