//! What `vault.json` and roots have in common: the version of the format, which is looked at first.

use serde::Deserialize;

use crate::error::{Code, Error};

/// The format that this program writes, and the only one that it reads.
pub const FORMAT: u32 = 1;

/// Why the bytes of a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// A newer version of lastgood wrote it: it has this version of the format.
    #[error("it was written by a newer lastgood (format {0}; this one, {version}, reads format {FORMAT})", version = env!("CARGO_PKG_VERSION"))]
    NewerFormat(u32),
    /// It is encrypted, which no document of this format is.
    #[error("it is encrypted, which this version of lastgood cannot read")]
    Encrypted,
    /// It is not what was written; the text says why.
    #[error("{0}")]
    Damaged(String),
}

impl DocumentError {
    /// Whether a newer version of lastgood can be expected to read it.
    pub fn is_newer(&self) -> bool {
        match self {
            DocumentError::NewerFormat(_) | DocumentError::Encrypted => true,
            DocumentError::Damaged(_) => false,
        }
    }

    /// Turns it into the crate's error; `doing` says what the document was read for. Nothing is wrong with a document that
    /// a newer version wrote, so that is no damage.
    pub fn while_doing(self, doing: impl Into<String>) -> Error {
        let hint = match &self {
            DocumentError::Damaged(why) => return Error::damage(doing, why),
            DocumentError::NewerFormat(format) => format!("Use a version of lastgood that reads format {format}."),
            DocumentError::Encrypted => "Use a newer version of lastgood.".to_owned(),
        };
        Error::failed(doing, self).with_code(Code::NewerFormat).hint(hint)
    }
}

/// Refuses a document of another format.
///
/// # Errors
/// It has another format, or none.
pub fn check_format(bytes: &[u8]) -> Result<(), DocumentError> {
    #[derive(Deserialize)]
    struct FormatVersion {
        format: u32,
    }
    match serde_json::from_slice::<FormatVersion>(bytes) {
        Ok(FormatVersion { format: FORMAT }) => Ok(()),
        Ok(FormatVersion { format }) if format > FORMAT => Err(DocumentError::NewerFormat(format)),
        Ok(FormatVersion { format }) => Err(DocumentError::Damaged(format!("it has format {format}, which never was"))),
        Err(why) => Err(DocumentError::Damaged(format!("it has no format: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn another_format_is_refused_with_its_number_and_a_newer_one_by_its_code() {
        for (text, word) in [
            (r#"{"format":9,"what":"ever"}"#, "newer-format"),
            (r#"{"format":0}"#, "damage"),
            (r#"{"format":"9"}"#, "damage"),
            ("[", "damage"),
        ] {
            let error = check_format(text.as_bytes()).unwrap_err().while_doing("read it");
            let is_newer = word == "newer-format";
            assert_eq!((error.word(), error.advice().is_some()), (word, is_newer), "{text}");
            assert_eq!(error.kind(), if is_newer { Kind::Failed } else { Kind::Damage }, "{text}");
        }
        let said = check_format(br#"{"format":9}"#).unwrap_err().to_string();
        assert!(said.contains("format 9") && said.contains("format 1"), "{said}");
        assert!(check_format(br#"{"format":1}"#).is_ok());
    }
}
