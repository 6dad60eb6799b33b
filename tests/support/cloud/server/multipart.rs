//! The body of an upload: `multipart/related` of two parts, the object's metadata as JSON and its content.

use std::ops::Range;

/// Returns where the metadata are and where the content begins, as far as a body has been read.
pub fn start(body: &[u8], boundary: &str) -> Option<(Range<usize>, usize)> {
    let first = format!("--{boundary}\r\n");
    let metadata = find(body, 0, first.as_bytes()).filter(|&at| at == 0).map(|at| at + first.len())?;
    // A part may have no headers: the empty line then follows the boundary.
    let metadata = find(body, metadata - 2, b"\r\n\r\n")? + 4;
    let next = format!("\r\n--{boundary}\r\n");
    let end = find(body, metadata, next.as_bytes())?;
    let content = find(body, end + next.len() - 2, b"\r\n\r\n")? + 4;
    Some((metadata..end, content))
}

/// Returns where the content ends that begins at `from`: `None` if the last boundary is missing, or something follows it.
pub fn end(body: &[u8], from: usize, boundary: &str) -> Option<usize> {
    let last = format!("\r\n--{boundary}");
    let end = find(body, from, last.as_bytes())?;
    matches!(&body[end + last.len()..], b"--" | b"--\r\n").then_some(end)
}

fn find(body: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let mut at = from;
    loop {
        at += body.get(at..)?.iter().position(|byte| *byte == what[0])?;
        if body[at..].starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
}
