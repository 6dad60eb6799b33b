//! A secret that both sides know. Only its hash is kept, so that nothing can print it.

use std::fmt;
use std::path::Path;

use rustix::fs::FileType;

use crate::error::{Code, Doing, Error, Result};
use crate::fs::read_named;

/// The fewest bytes of a token: shorter ones can be guessed.
const MIN: usize = 16;
/// The most bytes of a token: longer content is that of a wrong file.
const MAX: usize = 4096;

pub(super) const HINT: &str = "Make one with `openssl rand -hex 32`, and give it as LASTGOOD_TOKEN or in a file that \
                               --token-file names.";

/// A bearer token, by its hash.
#[derive(Clone)]
pub struct Secret(blake3::Hash);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Hashes a token. A newline at its end does not count: `echo` leaves one in files and in stored secrets.
    ///
    /// # Errors
    /// The text cannot serve as a token; the message says why, in words that do not repeat it.
    pub fn new(text: &[u8]) -> Result<Secret, String> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.len() > MAX {
            return Err(format!("it is longer than {MAX} bytes, which is too long for a token"));
        }
        if !text.iter().all(u8::is_ascii_graphic) || text.contains(&b',') {
            return Err(
                "it has blanks, commas, line breaks or characters outside ASCII, which no header can carry".into()
            );
        }
        if text.len() < MIN {
            return Err(format!("it has {} characters; it takes at least {MIN}", text.len()));
        }
        Ok(Secret(blake3::hash(text)))
    }

    /// Reads a token from a file, now and never again.
    ///
    /// # Errors
    /// The file cannot be read, or its content cannot serve as a token.
    pub fn read(path: &Path) -> Result<Secret> {
        let doing = || format!("read the token file {}", path.display());
        // The longest token and its line end, which may be CR and LF.
        let (text, about) = read_named(path, MAX + 2).doing(doing)?;
        if FileType::from_raw_mode(about.st_mode) == FileType::RegularFile && about.st_mode & 0o004 != 0 {
            tracing::warn!("every user of this machine may read the token file {}: chmod o-r", path.display());
        }
        Secret::new(&text).map_err(|why| Error::usage(doing(), why).with_code(Code::BadSetting).hint(HINT))
    }

    /// Whether `token` is this one. Hashes are compared, in constant time, so that the time reveals nothing about how much of a
    /// wrong token is right.
    pub fn is(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == self.0
    }
}
