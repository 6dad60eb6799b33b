//! Downloads of files of snapshots, and other answers that are sent while they are made.
//!
//! A thread makes the bytes, a bounded channel holds a few of them, and the connection takes them. A failure before the first
//! bytes is answered as any error; a later one ends the connection before its last chunk, so that the client sees that it does
//! not have everything.

use std::io::{self, Write};

use http::StatusCode;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::answer::{self, BodyChunk, Reply, ReplyBody};
use super::{Server, queries, routes};
use crate::error::{Code, Doing, Error, Result};
use crate::export::ArchiveFormat;
use crate::monitor::Context;
use crate::runner::runner::Runner;
use crate::vault::root::SnapshotName;
use crate::{export, inspect};

/// The bytes of a full chunk in the channel.
const CHUNK: usize = 64 << 10;
/// The most chunks in the channel.
const CHUNKS: usize = 4;

const SENDING: &str = "send what was asked for";

/// The writer for a body: a thread writes to it, and a client gets the bytes.
pub struct BodyWriter {
    to: mpsc::Sender<BodyChunk>,
    buffer: Vec<u8>,
}

impl BodyWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// The client has gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).doing(|| SENDING)
    }

    /// Adds a document.
    ///
    /// # Errors
    /// The client has gone.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(self, value).map_err(|why| Error::failed(SENDING, why))
    }

    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.to.blocking_send(Ok(Some(bytes.into()))).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(taken)
    }

    /// Does nothing: whole chunks are sent when they are full, and the rest at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Server {
    /// Answers with what `work` writes. A download brings its permit; any other stream counts as a listing.
    ///
    /// # Errors
    /// The answer that says what failed before there was anything to send.
    pub(super) async fn stream(
        &self,
        permit: Option<OwnedSemaphorePermit>,
        work: impl FnOnce(&Runner, &Context, &mut BodyWriter) -> Result<()> + Send + 'static,
    ) -> Result<Reply, Reply> {
        let permit = match permit {
            Some(permit) => Ok(permit),
            None => self.listings.clone().acquire_owned().await,
        };
        let (to, mut parts) = mpsc::channel(CHUNKS);
        let runner = self.runner.clone();
        tokio::task::spawn_blocking(move || {
            let mut out = BodyWriter { to, buffer: Vec::new() };
            let done = runner.context(|ctx| work(&runner, ctx, &mut out));
            let done = done.and_then(|()| if out.buffer.is_empty() { Ok(()) } else { out.send().doing(|| SENDING) });
            // This comes before the end is sent: a client that sends one request after the other never finds its own permit
            // taken.
            drop(permit);
            // A client that has gone does not receive it.
            let _ = out.to.blocking_send(done.map(|()| None));
        });
        match parts.recv().await {
            Some(Ok(Some(first))) => {
                Ok(answer::reply(StatusCode::OK, "application/json", ReplyBody::stream(first, parts)))
            }
            Some(Ok(None)) => Ok(answer::reply(StatusCode::OK, "application/json", ReplyBody::whole(""))),
            Some(Err(why)) => Err(answer::failed(&why)),
            None => Err(answer::failed(&Error::failed(SENDING, "a thread ended early").with_code(Code::Internal))),
        }
    }

    /// Takes a permit for a download.
    fn download(&self) -> Result<OwnedSemaphorePermit, Reply> {
        self.downloads.clone().try_acquire_owned().map_err(|_| {
            let body = serde_json::json!({ "error": "too many downloads are under way" });
            answer::later(StatusCode::SERVICE_UNAVAILABLE, &body, std::time::Duration::from_secs(10))
        })
    }

    /// `GET /backup/{id}/file`
    pub(super) async fn file(&self, id: String, query: Option<&str>) -> Reply {
        let Some(bytes) = routes::parameter(query, "path") else {
            return answer::error(StatusCode::BAD_REQUEST, "the query parameter `path` must name the file");
        };
        let send = async {
            let (path, permit) = (queries::path(bytes)?, self.download()?);
            let name =
                String::from_utf8_lossy(path.bytes().rsplit(|b| *b == b'/').next().unwrap_or_default()).into_owned();
            let write = move |runner: &Runner, ctx: &Context, out: &mut BodyWriter| {
                let (vault, root) = runner.vaults().find(&id, ctx)?;
                inspect::cat(&vault, &root, &path, out, ctx)
            };
            Ok(attachment(self.stream(Some(permit), write).await?, "application/octet-stream", &name))
        };
        send.await.unwrap_or_else(|reply| reply)
    }

    /// `GET /backup/{id}/archive.tar.zst`
    pub(super) async fn archive(&self, id: String, query: Option<&str>) -> Reply {
        let format = match routes::parameter(query, "format").as_deref() {
            None | Some(b"pax") => ArchiveFormat::Pax,
            Some(b"plain") => ArchiveFormat::Plain,
            Some(_) => {
                return answer::error(StatusCode::BAD_REQUEST, "the query parameter `format` must be pax or plain");
            }
        };
        let send = async {
            let permit = self.download()?;
            let found = self.run_blocking(move |runner, ctx| {
                let vault = runner.vaults().first(ctx)?;
                let (name, root) = crate::restore::select::find(&vault, &id)?;
                Ok((vault, name, root))
            });
            let (vault, name, root): (_, SnapshotName, _) = found.await?;
            let write = move |_: &Runner, ctx: &Context, out: &mut BodyWriter| {
                export::export(&vault, &root, format, out, ctx).map(drop)
            };
            Ok(attachment(self.stream(Some(permit), write).await?, "application/zstd", &format!("{name}.tar.zst")))
        };
        send.await.unwrap_or_else(|reply| reply)
    }
}

fn attachment(mut reply: Reply, kind: &'static str, name: &str) -> Reply {
    reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer::attached(reply, name)
}
