//! Reads Google's errors: the meaning of an answer that is no success, by its status, reason and words.
//!
//! The reasons are those of <https://docs.cloud.google.com/storage/docs/json_api/v1/status-codes>. They are not enough: an
//! organisation policy that is violated and a precondition that is not met have the same status and the same reason. So known
//! causes are recognized by words anywhere in the answer, and an object is said to exist only after it was looked up.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;

use crate::error::Code;

/// A cause that Google describes in its own words, and what to do about it.
struct KnownCause {
    /// One of these is in the answer; upper and lower case are the same.
    words: &'static [&'static str],
    hint: &'static str,
}

/// The known causes; the first that fits counts.
const CAUSES: &[KnownCause] = &[
    KnownCause {
        words: &["requester pays", "userprojectmissing"],
        hint: "Whoever uses this bucket pays for it: name the project that is billed (`--user-project PROJECT`, \
               LASTGOOD_USER_PROJECT). The account needs roles/serviceusage.serviceUsageConsumer on that project.",
    },
    KnownCause {
        words: &["userprojectaccessdenied", "user_project_denied", "serviceusage.services.use", "userprojectinvalid"],
        hint: "The account may not bill that project, or there is no such project. Grant it \
               roles/serviceusage.serviceUsageConsumer there, or name another project (`--user-project`, or the quota project of the \
               login: GOOGLE_CLOUD_QUOTA_PROJECT, `gcloud auth application-default set-quota-project`).",
    },
    KnownCause {
        words: &[
            "billing account",
            "billing disabled",
            "configured billing",
            "to be billed",
            "accountdisabled",
            "userprojectaccountproblem",
        ],
        hint: "Cloud Storage serves nothing of a project whose billing is off. Check the project's billing account in the console, soon: \
               the objects are still there, and are deleted if it stays so.",
    },
    KnownCause {
        words: &["accessnotconfigured", "service_disabled", "has not been used in project", "it is disabled"],
        hint: "The API is not enabled in the project: `gcloud services enable storage.googleapis.com --project=PROJECT`.",
    },
    KnownCause {
        words: &[
            "vpcservicecontrols",
            "vpc service controls",
            "security_policy_violated",
            "prohibited by organization's policy",
        ],
        hint: "A service perimeter (VPC Service Controls) does not let this machine or this account in. Its administrator finds the \
               request by the identifier above, and can add a rule for it.",
    },
    KnownCause {
        words: &["kms key", "cloudkms", "cryptokey", "customer-managed"],
        hint: "The key that the bucket is encrypted with cannot be used. Is it enabled, and may Cloud Storage's own service account use \
               it? `gcloud storage service-agent --project=PROJECT --authorize-cmek=KEY` permits it.",
    },
    KnownCause {
        words: &["violates constraint", "constraints/", "orgpolicyconstraint"],
        hint: "An organisation policy forbids it, in this project or for this bucket. Its administrator can allow it; another bucket \
               may comply with it.",
    },
    KnownCause {
        words: &["quotaexceeded", "dailylimitexceeded", "resource_exhausted", "quota exceeded"],
        hint: "A quota of the project is used up. The console shows which (IAM & Admin, Quotas), and can raise it; it is \
               renewed after its period.",
    },
];

/// Returns what to do about an error that says `text`; `None` if its cause is not known.
pub fn hint(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let fits = |cause: &&KnownCause| cause.words.iter().any(|word| text.contains(word));
    CAUSES.iter().find(fits).map(|cause| cause.hint)
}

/// Returns the code of a refusal with this status, which says `text`.
pub fn code(status: StatusCode, text: &str) -> Code {
    match status {
        StatusCode::FORBIDDEN => Code::AccessDenied,
        StatusCode::UNAUTHORIZED => Code::NoCredentials,
        // Each of the known causes is something that Google does not permit, whatever the status.
        _ if hint(text).is_some() => Code::AccessDenied,
        _ => Code::Failed,
    }
}

/// Whether an answer to an upload says that an object of that name exists already, or something else that is said in the same
/// way.
pub fn says_it_exists(status: StatusCode, text: &str) -> bool {
    // An account that may not delete may not replace: no other request that is made here needs that permission. And an object
    // that is held cannot be replaced.
    let marks = ["storage.objects.delete", "retentionPolicyNotMet", "objectUnderActiveHold"];
    let words = ["retention policy", "under active"];
    match status {
        StatusCode::PRECONDITION_FAILED => true,
        StatusCode::FORBIDDEN => marks.iter().chain(&words).any(|mark| text.contains(mark)),
        _ => false,
    }
}

/// Returns the status of an error that came with a head that says 200, since some proxy lost the status. `None` if the answer is
/// no error.
pub fn in_disguise(text: &str) -> Option<StatusCode> {
    #[derive(Deserialize)]
    struct Disguised {
        error: DisguisedError,
    }
    #[derive(Deserialize)]
    struct DisguisedError {
        code: Option<u16>,
    }
    // A body without `"error"`, such as a long listing, is not parsed twice.
    let parsed: Option<Disguised> = text.contains("\"error\"").then(|| serde_json::from_str(text).ok()).flatten();
    let code = parsed?.error.code.and_then(|code| StatusCode::from_u16(code).ok());
    Some(code.filter(|code| !code.is_success()).unwrap_or(StatusCode::BAD_GATEWAY))
}

/// Texts of the layers of an HTTP client, which say nothing where there is a cause behind them.
const LAYERS: [&str; 6] = [
    "error sending request",
    "client error (Connect)",
    "client error (SendRequest)",
    "tcp connect error",
    "connection error",
    "error resolving DNS",
];

/// Returns an error's text with its causes. In Google's crates the outermost text says only that something failed. A layer that says
/// no more than that something failed below it is left out: `Connection refused (os error 111)` is all that there is to know.
pub fn with_causes(why: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut cause = Some(why);
    while let Some(inner) = cause {
        texts.push(inner.to_string());
        cause = inner.source();
    }
    let last = texts.len() - 1;
    let mut all = String::new();
    for (at, text) in texts.into_iter().enumerate() {
        if all.contains(&text) && !all.is_empty() || at < last && LAYERS.contains(&text.as_str()) {
            continue;
        }
        all = if all.is_empty() { text } else { format!("{all}: {text}") };
    }
    all
}

/// The longest time to wait that is taken from an answer, 365 days: whatever an answer says, such a time can be added to others.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Returns how long `Retry-After` asks to wait; its value is in seconds, or a point in time.
pub fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let then = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(then.duration_since(Timestamp::now())).unwrap_or_default().min(LONGEST))
}

/// Returns the message of an error's body: that of the API's JSON, or the text, on one line of at most 400 characters.
pub fn message(body: &str) -> Option<String> {
    let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let text = json.as_ref().and_then(|json| json.get("error")?.get("message")?.as_str()).unwrap_or(body);
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with a cause.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn layers_that_say_nothing_are_left_out() {
        for (texts, told) in [
            (
                &["error sending request", "client error (Connect)", "tcp connect error", "Connection refused"][..],
                "Connection refused",
            ),
            (&["error sending request", "client error (Connect)"], "client error (Connect)"),
            (
                &["error sending request", "client error (Connect)", "dns error", "error resolving DNS", "no name"],
                "dns error: no name",
            ),
            (&["the token: no", "no"], "the token: no"),
            (&["error sending request"], "error sending request"),
            (&[""], ""),
        ] {
            let layer = |below, text: &&'static str| Some(Box::new(Layer(text, below)));
            let error = texts.iter().rev().fold(None, layer).unwrap();
            assert_eq!(with_causes(&*error), told, "{texts:?}");
        }
    }

    #[test]
    fn causes_are_known_by_googles_words() {
        for (text, told) in [
            ("Bucket is requester pays bucket but no user project provided.", "--user-project"),
            (r#"{"error":{"code":403,"errors":[{"reason":"UserProjectAccessDenied"}]}}"#, "serviceUsageConsumer"),
            ("The billing account for the owning project is disabled in state absent", "billing is off"),
            (r#"{"error":{"errors":[{"reason":"accountDisabled","message":"Forbidden"}]}}"#, "billing is off"),
            ("The project to be billed is associated with a closed billing account.", "billing is off"),
            (
                "Cloud Storage JSON API has not been used in project 7 before or it is disabled.",
                "gcloud services enable storage.googleapis.com",
            ),
            (
                "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: eYhDkfYCu",
                "VPC Service Controls",
            ),
            (
                "Permission denied on Cloud KMS key. Please ensure that your Cloud Storage service account",
                "--authorize-cmek",
            ),
            ("Request violates constraint 'constraints/storage.uniformBucketLevelAccess'", "An organisation policy"),
            ("Quota exceeded for quota metric 'Write requests'", "A quota"),
        ] {
            assert!(hint(text).is_some_and(|hint| hint.contains(told)), "{text}: {:?}", hint(text));
            assert_eq!(code(StatusCode::BAD_REQUEST, text), Code::AccessDenied, "{text}");
        }
        let text = "w@p.iam.gserviceaccount.com does not have storage.objects.get access";
        assert_eq!(code(StatusCode::FORBIDDEN, text), Code::AccessDenied);
        assert_eq!(code(StatusCode::BAD_REQUEST, "Invalid bucket name: 'B'"), Code::Failed);
        assert_eq!(hint(text), None);
    }

    #[test]
    fn an_error_is_one_whatever_the_head_says() {
        for (text, status) in [
            (r#"{"error":{"code":503,"message":"x"}}"#, Some(StatusCode::SERVICE_UNAVAILABLE)),
            (r#"{"error":{"message":"x"}}"#, Some(StatusCode::BAD_GATEWAY)),
            (r#"{"error":{"code":200}}"#, Some(StatusCode::BAD_GATEWAY)),
            (r#"{"kind":"storage#objects"}"#, None),
            (r#"{"items":[{"name":"error","size":"1"}]}"#, None),
            ("<html>\"error\"</html>", None),
        ] {
            assert_eq!(in_disguise(text), status, "{text}");
        }
    }
}
