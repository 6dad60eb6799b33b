//! The log: readable lines on a terminal, and in Cloud Run JSON that Cloud Logging understands.
//!
//! `tracing-stackdriver` 0.10, which does the latter, writes every key that it does not know in camel case, so that it cannot
//! carry `logging.googleapis.com/trace`, nor `@type` and `stack_trace`, by which Error Reporting finds errors. Hence this layer.
//! It follows <https://docs.cloud.google.com/logging/docs/structured-logging> (special fields) and
//! <https://docs.cloud.google.com/error-reporting/docs/formatting-error-messages>.
//!
//! Spans and events carry fields by these names:
//!
//! | field | becomes |
//! |---|---|
//! | `trace`, `span_id`, `trace_sampled` | the special fields; the trace needs the project, which is configured |
//! | `http.request_method`, `http.status`, … | members of `httpRequest`, in camel case |
//! | `run`, `action`, `result` | members of the payload, and labels, by which a log can be filtered |
//! | any other | a member of the payload |
//!
//! Each line has the label [`WRITER`], by which lastgood recognizes its own lines when they come back through a log sink.

use std::fmt::{self, Write as _};
use std::io::Write;

use jiff::Timestamp;
use lastgood::events::vocabulary::WRITER;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::{MakeVisitor, VisitFmt, VisitOutput};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

const LABELS: [&str; 3] = ["run", "action", "result"];
/// The value of the label [`WRITER`].
const VERSION: &str = concat!("lastgood ", env!("CARGO_PKG_VERSION"));
const ERROR_EVENT: &str = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent";

/// The time at the beginning of each line of text that no terminal shows: a file may have the lines of many runs.
pub struct LogTime;

impl LogTime {
    /// Returns the time as lines have it.
    pub fn now() -> String {
        Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
    }
}

impl FormatTime for LogTime {
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        line.write_str(&LogTime::now())
    }
}

/// Writes the fields of a line of text, but for `error`: why a run failed is told where its failure is, and once. The line that every
/// run has says with which code it ended.
#[derive(Default)]
pub struct TextFields(DefaultFields);

/// Passes on all fields that are written.
pub struct TextVisitor<'w>(DefaultVisitor<'w>);

impl<'w> MakeVisitor<Writer<'w>> for TextFields {
    type Visitor = TextVisitor<'w>;

    fn make_visitor(&self, line: Writer<'w>) -> TextVisitor<'w> {
        TextVisitor(self.0.make_visitor(line))
    }
}

impl Visit for TextVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "error" {
            self.0.record_debug(field, value);
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "error" {
            self.0.record_str(field, value);
        }
    }
}

impl VisitOutput<fmt::Result> for TextVisitor<'_> {
    fn finish(self) -> fmt::Result {
        self.0.finish()
    }
}

impl VisitFmt for TextVisitor<'_> {
    fn writer(&mut self) -> &mut dyn fmt::Write {
        self.0.writer()
    }
}

/// Writes events as lines of JSON.
pub struct CloudLog<W> {
    writer: W,
    /// The project, for the names of traces.
    project: Option<String>,
    /// The service or job, and its revision, for Error Reporting.
    service: Value,
}

impl<W> CloudLog<W> {
    /// Creates a layer that writes to `writer`.
    pub fn new(writer: W, project: Option<String>, service: Option<String>, revision: Option<String>) -> Self {
        let service = json!({ "service": service.unwrap_or_else(|| "lastgood".into()), "version": revision });
        CloudLog { writer, project, service }
    }

    fn line(&self, event: &Event, fields: Map<String, Value>) -> Value {
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let mut line = Map::new();
        line.insert("severity".into(), severity.into());
        line.insert("time".into(), Timestamp::now().to_string().into());
        let mut http = Map::new();
        let mut labels = Map::from_iter([(WRITER.to_owned(), VERSION.into())]);
        for (name, value) in fields {
            match name.as_str() {
                "trace" => {
                    if let (Some(project), Some(trace)) = (&self.project, value.as_str()) {
                        let trace = format!("projects/{project}/traces/{trace}");
                        line.insert("logging.googleapis.com/trace".into(), trace.into());
                    }
                }
                "span_id" => _ = line.insert("logging.googleapis.com/spanId".into(), value),
                "trace_sampled" => _ = line.insert("logging.googleapis.com/trace_sampled".into(), value),
                name if name.starts_with("http.") => _ = http.insert(camel_case(&name["http.".len()..]), value),
                name => {
                    if LABELS.contains(&name)
                        && let Some(text) = value.as_str().filter(|text| !text.is_empty())
                    {
                        labels.insert(name.into(), text.into());
                    }
                    line.insert(name.into(), value);
                }
            }
        }
        if !http.is_empty() {
            line.insert("httpRequest".into(), http.into());
        }
        line.insert("logging.googleapis.com/labels".into(), labels.into());
        if let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
            let place = json!({ "file": file, "line": number.to_string(), "function": metadata.target() });
            line.insert("logging.googleapis.com/sourceLocation".into(), place);
            if *metadata.level() == Level::ERROR {
                let message = line.get("message").and_then(Value::as_str).unwrap_or_default();
                let trace = format!("{message}\n    at {} ({file}:{number})", metadata.target());
                line.insert("stack_trace".into(), trace.into());
                line.insert("@type".into(), ERROR_EVENT.into());
                line.insert("serviceContext".into(), self.service.clone());
            }
        }
        line.into()
    }
}

/// The fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

struct FieldCollector<'m>(&'m mut Map<String, Value>);

impl Visit for FieldCollector<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string does not fail; a `Debug` that fails leaves what it wrote.
        let _ = write!(text, "{value:?}");
        self.0.insert(field.name().into(), text.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl<S, W> Layer<S> for CloudLog<W>
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes, id: &Id, context: Context<S>) {
        let mut fields = Map::new();
        attributes.record(&mut FieldCollector(&mut fields));
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record, context: Context<S>) {
        if let Some(span) = context.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut()
        {
            values.record(&mut FieldCollector(fields));
        }
    }

    fn on_event(&self, event: &Event, context: Context<S>) {
        let mut fields = Map::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(SpanFields(of_span)) = span.extensions().get() {
                fields.extend(of_span.clone());
            }
        }
        event.record(&mut FieldCollector(&mut fields));
        let line = format!("{}\n", self.line(event, fields));
        // If the log cannot be written, there is nowhere to say so.
        let _ = self.writer.make_writer().write_all(line.as_bytes());
    }
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name + letters.as_str()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(work: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = CloudLog::new(
            move || writer.clone(),
            Some("my-project".into()),
            Some("app".into()),
            Some("app-00007".into()),
        );
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let bytes = lines.0.lock().unwrap();
        bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
    }

    #[test]
    fn what_cloud_logging_knows_has_the_names_that_it_knows() {
        let lines = logged(|| {
            let request = tracing::info_span!(
                "request",
                trace = "0af7651916cd43dd8448eb211c80319c",
                span_id = "b7ad6b7169203331",
                trace_sampled = true,
                http.request_method = "POST",
                http.status = tracing::field::Empty,
            );
            let _entered = request.enter();
            request.record("http.status", 200u64);
            tracing::info!(run = "0123", action = "backup", seconds = 1.5, "a \"quoted\"\nmessage");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(line["severity"], "INFO");
        assert_eq!(line["message"], "a \"quoted\"\nmessage");
        assert!(line["time"].as_str().unwrap().parse::<Timestamp>().is_ok());
        assert_eq!(line["logging.googleapis.com/trace"], "projects/my-project/traces/0af7651916cd43dd8448eb211c80319c");
        assert_eq!(line["logging.googleapis.com/spanId"], "b7ad6b7169203331");
        assert_eq!(line["logging.googleapis.com/trace_sampled"], true);
        assert_eq!(line["httpRequest"], json!({ "requestMethod": "POST", "status": 200 }));
        let labels = json!({ "run": "0123", "action": "backup", WRITER: VERSION });
        assert_eq!(line["logging.googleapis.com/labels"], labels);
        assert_eq!((&line["run"], &line["seconds"]), (&json!("0123"), &json!(1.5)));
        assert!(line.get("@type").is_none() && line.get("stack_trace").is_none());
    }

    #[test]
    fn errors_are_what_error_reporting_looks_for() {
        let lines = logged(|| {
            tracing::error!("could not commit");
            tracing::warn!("it is slow");
        });
        assert_eq!(lines[0]["@type"], ERROR_EVENT);
        assert!(lines[0]["stack_trace"].as_str().unwrap().starts_with("could not commit\n    at "));
        assert_eq!(lines[0]["serviceContext"], json!({ "service": "app", "version": "app-00007" }));
        assert_eq!((&lines[1]["severity"], lines[1].get("@type")), (&json!("WARNING"), None));
        assert!(lines.iter().all(|line| line["logging.googleapis.com/labels"] == json!({ WRITER: VERSION })));
    }

    #[test]
    fn names_in_camel_case() {
        for (name, camel) in [("status", "status"), ("request_method", "requestMethod"), ("remote_ip", "remoteIp")] {
            assert_eq!(camel_case(name), camel);
        }
    }
}
