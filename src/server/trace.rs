//! The trace that a request belongs to, for the log.

use http::HeaderMap;

/// A trace, and the span in it that sent the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace's id: 32 hex digits.
    pub trace: String,
    /// The span's id: 16 hex digits.
    pub span: String,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads the trace from `traceparent` (<https://www.w3.org/TR/trace-context/>), else from `X-Cloud-Trace-Context`
    /// (<https://docs.cloud.google.com/trace/docs/trace-context>). `None` if neither is valid.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        get("traceparent").and_then(w3c).or_else(|| get("x-cloud-trace-context").and_then(cloud))
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit()) && text.bytes().any(|b| b != b'0')
}

fn w3c(text: &str) -> Option<TraceContext> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = version.len() == 2 && version != "ff" && is_hex(trace, 32) && is_hex(span, 16);
    let flags = u8::from_str_radix(flags, 16).ok().filter(|_| known)?;
    Some(TraceContext { trace: trace.to_ascii_lowercase(), span: span.to_ascii_lowercase(), sampled: flags & 1 == 1 })
}

/// Parses `TRACE/SPAN;o=OPTIONS`, with the span as a decimal number.
fn cloud(text: &str) -> Option<TraceContext> {
    let (trace, rest) = text.trim().split_once('/')?;
    let (span, options) = rest.split_once(';').unwrap_or((rest, ""));
    let span: u64 = span.parse().ok().filter(|span| *span != 0 && is_hex(trace, 32))?;
    Some(TraceContext { trace: trace.to_ascii_lowercase(), span: format!("{span:016x}"), sampled: options == "o=1" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_neither() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let of = |name: &'static str, value: String| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            TraceContext::of(&headers).map(|told| (told.trace, told.span, told.sampled))
        };
        let told = |span: &str, sampled| Some((id.to_owned(), span.to_owned(), sampled));
        assert_eq!(of("traceparent", format!("00-{id}-b7ad6b7169203331-01")), told("b7ad6b7169203331", true));
        assert_eq!(of("traceparent", format!("00-{id}-b7ad6b7169203331-00")), told("b7ad6b7169203331", false));
        assert_eq!(of("x-cloud-trace-context", format!("{id}/255;o=1")), told("00000000000000ff", true));
        assert_eq!(of("x-cloud-trace-context", format!("{id}/255")), told("00000000000000ff", false));
        for wrong in ["", "00", &format!("00-{id}-0000000000000000-01"), &format!("ff-{id}-b7ad6b7169203331-01")] {
            assert_eq!(of("traceparent", wrong.to_owned()), None, "{wrong}");
        }
        for wrong in [id, &format!("{id}/x"), "short/1"] {
            assert_eq!(of("x-cloud-trace-context", wrong.to_owned()), None, "{wrong}");
        }
    }
}
