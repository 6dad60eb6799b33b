//! The runner's answers as HTTP replies.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::answer::{self, Reply, ReplyBody};
use crate::report::{EncodedReport, Outcome, RunId};
use crate::runner::runner::Answer;

/// The recipient of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipient {
    /// A service that delivers events: it delivers an event again unless the status is 2xx, so only an event that may succeed
    /// then gets another status.
    Deliverer,
    /// A client that asks, and sees by the status whether it was done.
    Asker,
}

/// Returns the runner's answer as an HTTP reply.
pub fn reply_for(answer: &Answer, recipient: Recipient) -> Reply {
    match answer {
        Answer::Done { retry: true, report, .. } => answer::report(StatusCode::SERVICE_UNAVAILABLE, report),
        Answer::Done { outcome, report, .. } => {
            let status = match outcome {
                _ if recipient == Recipient::Deliverer || report.error().is_none() => StatusCode::OK,
                Outcome::Refused => StatusCode::CONFLICT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            answer::report(status, report)
        }
        Answer::Before(report) => answer::report(StatusCode::OK, report),
        Answer::Elsewhere(after) => {
            let body = json!({ "error": "another run serves it", "status": "elsewhere" });
            answer::later(StatusCode::CONFLICT, &body, *after)
        }
        Answer::Later(why, after) => {
            answer::later(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": why, "status": "later" }), *after)
        }
        Answer::Refused(why) if recipient == Recipient::Deliverer => {
            tracing::error!("an event is refused: {why}");
            answer::json(StatusCode::OK, &json!({ "status": "refused", "why": why }))
        }
        Answer::Refused(why) => answer::error(StatusCode::CONFLICT, why),
    }
}

/// Returns the result of a run that is over, for a client that polls.
pub fn over(run: RunId, answer: &Answer) -> Reply {
    let seconds = |after: &Duration| after.as_secs().max(1);
    let told = match answer {
        Answer::Done { retry, report, .. } => return reported(run, *retry, report),
        Answer::Before(report) => return reported(run, false, report),
        Answer::Elsewhere(after) => {
            json!({ "run": run, "status": "elsewhere", "retry_after_seconds": seconds(after) })
        }
        Answer::Later(why, after) => {
            json!({ "run": run, "status": "later", "why": why, "retry_after_seconds": seconds(after) })
        }
        Answer::Refused(why) => json!({ "run": run, "status": "refused", "why": why }),
    };
    answer::json(StatusCode::OK, &told)
}

/// Returns the same from the run's report, of which no copy is made.
pub fn reported(run: RunId, retry: bool, report: &EncodedReport) -> Reply {
    let before = format!("{{\"run\":\"{run}\",\"status\":\"over\",\"retry\":{retry},\"report\":");
    let content = ReplyBody::parts([before.into(), report.json().clone(), "}".into()]);
    answer::reply(StatusCode::OK, "application/json", content)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn a_report_is_sent_to_many_without_a_copy_for_each() {
        let report = EncodedReport::read(br#"{"result":"failed","action":"backup"}"#.to_vec()).unwrap();
        let run = crate::vault::hex::Hex([1; 8]);
        let answer = Answer::Done { outcome: Outcome::Failed, retry: true, report: report.clone() };
        let mut parts = Vec::new();
        let mut body = over(run, &answer).into_body();
        while let Some(part) = body.frame().await {
            parts.push(part.unwrap().into_data().unwrap());
        }
        assert!(parts.iter().any(|part| part.as_ptr() == report.json().as_ptr()));
        let told: Value = serde_json::from_slice(&parts.concat()).unwrap();
        let expected = json!({ "run": run, "status": "over", "retry": true, "report": report.value() });
        assert_eq!(told, expected);
    }

    #[test]
    fn a_status_tells_a_deliverer_whether_to_come_again_and_an_asker_whether_it_was_done() {
        let report = |value: Value| EncodedReport::read(value.to_string().into()).unwrap();
        let done =
            |outcome, retry, error: Value| Answer::Done { outcome, retry, report: report(json!({ "error": error })) };
        for (answer, deliverer, asker) in [
            (done(Outcome::Complete, false, Value::Null), 200, 200),
            (done(Outcome::Damaged, false, Value::Null), 200, 200),
            (done(Outcome::Damaged, false, json!({})), 200, 500),
            (done(Outcome::Refused, false, json!({})), 200, 409),
            (done(Outcome::Failed, true, json!({})), 503, 503),
            (Answer::Before(report(json!({}))), 200, 200),
            (Answer::Elsewhere(Duration::from_secs(5)), 409, 409),
            (Answer::Later("full".into(), Duration::ZERO), 503, 503),
            (Answer::Refused("no".into()), 200, 409),
        ] {
            assert_eq!(reply_for(&answer, Recipient::Deliverer).status(), deliverer, "{answer:?}");
            assert_eq!(reply_for(&answer, Recipient::Asker).status(), asker, "{answer:?}");
        }
    }
}
