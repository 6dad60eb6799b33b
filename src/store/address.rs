//! A vault's address: a folder, or a prefix in a bucket.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::shell::word;

/// Where a vault is looked for if no address is given.
pub const DEFAULT: &str = "./backups";

/// The schemes of addresses of other places, here and in programs like this one.
const SCHEMES: [&str; 16] = [
    "gs", "file", "s3", "az", "azure", "abfs", "wasb", "b2", "swift", "oss", "http", "https", "ftp", "sftp", "ssh",
    "rclone",
];

/// Returns a vault's address, in the form that people are shown, as a shell takes it after `--vault`.
pub fn argument(address: &str) -> String {
    let is_itself = |parsed| matches!(parsed, Ok(Address::Folder(path)) if path == Path::new(address));
    let is_absolute = Path::new(address).is_absolute();
    // Not every shell can be given a word that ends in a line end, in one line.
    match !is_absolute || !address.ends_with('\n') && is_itself(Address::parse(OsStr::new(address))) {
        true => word(address),
        false => word(file_url(Path::new(address))),
    }
}

/// Returns the address of a folder, given by its absolute path, as people are shown it: the path itself, or a `file://` URL if the path is
/// not UTF-8. Spelled with backslashes, as paths in snapshots are, it could not be given back: `--vault` takes a backslash as itself.
pub fn of_folder(path: &Path) -> String {
    path.to_str().map_or_else(|| file_url(path), str::to_owned)
}

/// Returns the folder of an address that [`of_folder`] has made.
pub fn to_folder(address: &str) -> PathBuf {
    match Address::parse(OsStr::new(address)) {
        Ok(Address::Folder(path)) if address.starts_with("file://") => path,
        _ => address.into(),
    }
}

/// Returns the `file://` URL of an absolute path. Characters that are not ASCII stay as they are, bytes that are none are escaped.
fn file_url(path: &Path) -> String {
    let mut url = "file://".to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c) || !c.is_ascii();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match plain(c) {
                true => url.push(c),
                false => url.push_str(&format!("%{:02X}", c as u32)),
            }
        }
        chunk.invalid().iter().for_each(|byte| url.push_str(&format!("%{byte:02X}")));
    }
    url
}

/// A vault's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A folder of a mounted filesystem.
    Folder(PathBuf),
    /// Objects of a Google Cloud Storage bucket.
    Bucket {
        /// The bucket's name.
        bucket: String,
        /// The beginning of the names of the vault's objects, without the slash that follows it; empty for the bucket
        /// itself.
        prefix: String,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Folder(path) if path.to_str().is_none() => f.write_str(&self.absolute()),
            Address::Folder(path) => write!(f, "{}", path.display()),
            Address::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "gs://{bucket}"),
            Address::Bucket { bucket, prefix } => write!(f, "gs://{bucket}/{prefix}"),
        }
    }
}

impl Address {
    /// Reads a bare path, a `file://` URL (percent-encoded) or a `gs://` URL (not percent-encoded, as in Google's own
    /// tools).
    ///
    /// # Errors
    /// Usage: an address of another kind, or one that names nothing.
    pub fn parse(address: &OsStr) -> Result<Address> {
        let bytes = address.as_bytes();
        let wrong =
            |why: &str| Error::usage(format!("use the vault {}", address.display()), why).with_code(Code::BadSetting);
        if bytes.is_empty() {
            return Err(wrong("the address is empty"));
        }
        let name = address.display();
        if bytes.starts_with(b"~/") || bytes == b"~" {
            let why = "the shell did not replace the ~ with the home directory";
            return Err(wrong(why).hint(format!("Write it without quotes, or `./{name}` for a folder of this name.")));
        }
        if bytes.contains(&b',') && !bytes.starts_with(b"./") && !bytes.windows(3).any(|part| part == b"://") {
            let several = "Several vaults are given as --vault A --vault B. A folder of this name is written as";
            let other = match bytes.starts_with(b"/") {
                true => format!("`{}`", word(file_url(Path::new(address)))),
                false => format!("`./{name}`, or as file:///…, with %2C for the comma"),
            };
            return Err(wrong("it has a comma").hint(format!("{several} {other}.")));
        }
        let first = bytes.split(|&b| b == b'/').next().unwrap_or_default();
        let Some((scheme, rest)) = first.strip_suffix(b":").zip(bytes[first.len()..].strip_prefix(b"//")) else {
            return match almost_a_url(first, &bytes[first.len()..]) {
                None => Ok(Self::Folder(address.into())),
                Some(why) => Err(wrong(&why).hint(format!(
                    "Write `gs://bucket/prefix`, or for a folder of this name `./{}`.",
                    address.display()
                ))),
            };
        };
        match scheme.to_ascii_lowercase().as_slice() {
            b"file" => folder(rest).map(Self::Folder).map_err(wrong),
            b"gs" => {
                let rest = std::str::from_utf8(rest).map_err(|_| wrong("it is not UTF-8"))?;
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Self::bucket(bucket, prefix).map_err(wrong)
            }
            scheme => {
                let why =
                    format!("vaults are folders and Google Cloud Storage, not {}://", String::from_utf8_lossy(scheme));
                Err(wrong(&why)
                    .hint("Name a folder (`--vault /mnt/backups`) or a bucket (`--vault gs://bucket/prefix`)."))
            }
        }
    }

    /// Whether it is the place where a vault is looked for if no address is given, and made without being asked for.
    pub fn is_default(&self) -> bool {
        let at = |path: &Path| std::path::absolute(path).ok();
        matches!(self, Address::Folder(path) if at(path).is_some_and(|path| Some(path) == at(Path::new(DEFAULT))))
    }

    /// Returns the address as people are shown it: for a folder, the absolute path.
    pub fn absolute(&self) -> String {
        match self {
            Address::Folder(path) => of_folder(&std::path::absolute(path).unwrap_or_else(|_| path.clone())),
            bucket => bucket.to_string(),
        }
    }

    /// Returns the address of a prefix in a bucket.
    ///
    /// # Errors
    /// A text that says what is wrong with either.
    pub fn bucket(bucket: &str, prefix: &str) -> Result<Address, &'static str> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if !(3..=222).contains(&bucket.len()) || !bucket.bytes().all(fits) {
            return Err("a bucket's name has 3 to 222 lower-case letters, digits, dashes, underscores and dots");
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.len() > 512 || prefix.chars().any(char::is_control) {
            return Err("the prefix is longer than 512 bytes, or has control characters");
        }
        if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("a part of the prefix is empty, . or ..");
        }
        Ok(Self::Bucket { bucket: bucket.into(), prefix: prefix.into() })
    }
}

/// Returns why an address is not a folder although it is not a URL either: `gs:/b/x`, `gs//b/x`, `s3:b/x`. It would be
/// taken for the name of a folder, which would soon exist. `first` is what comes before the first slash, and `rest`
/// begins with that slash.
fn almost_a_url(first: &[u8], rest: &[u8]) -> Option<String> {
    let known = |name: &[u8]| SCHEMES.iter().any(|scheme| name.eq_ignore_ascii_case(scheme.as_bytes()));
    let begins = first.iter().position(|&b| b == b':').map(|at| first[..at].trim_ascii());
    let why = match begins {
        _ if first.ends_with(b":") => "it is like a URL, with one slash after the colon in place of two",
        Some(scheme) if known(scheme) => "it is like a URL, without the slashes after the colon",
        None if known(first.trim_ascii()) && rest.starts_with(b"//") => "it is like a URL, without a colon",
        _ => return None,
    };
    Some(why.into())
}

/// Returns the folder of a `file://` URL, from the part after `file://`.
fn folder(rest: &[u8]) -> Result<PathBuf, &'static str> {
    let path_at = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(path_at);
    if !(host.is_empty() || host.eq_ignore_ascii_case(b"localhost")) {
        return Err("a file:// address has no host: write file:///folder, with three slashes");
    }
    let path: Vec<u8> =
        percent_decoded(path).ok_or("a % in it is not followed by two hex digits; write a percent sign as %25")?;
    match path {
        path if path.contains(&0) => Err("its path has a NUL byte"),
        path if path.is_empty() => Err("it names no folder"),
        path => Ok(OsString::from_vec(path).into()),
    }
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        out.push(match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                (digit(*high)? << 4 | digit(*low)?) as u8
            }
            (b'%', _) => return None,
            _ => *first,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_is_printed_of_a_vault_is_read_as_the_same_one() {
        for (address, argument) in [
            ("gs://b-1/x y", "'gs://b-1/x y'"),
            ("/my vault", "'/my vault'"),
            ("/Acme, Inc/é %41", "file:///Acme%2C%20Inc/é%20%2541"),
            ("/a,b", "file:///a%2Cb"),
            ("/a\n", "file:///a%0A"),
        ] {
            let given = super::argument(address);
            assert!([argument.to_owned(), word(argument)].contains(&given), "{given}");
            let parsed = Address::parse(OsStr::new(given.trim_matches('\''))).unwrap();
            assert_eq!(parsed.absolute(), address);
        }
        // What is not UTF-8 has an address, too, and it is read as the same folder.
        let odd = Path::new(OsStr::from_bytes(b"/\xff \\%\xc3\xa9"));
        let address = Address::Folder(odd.to_owned());
        for shown in [address.absolute(), address.to_string(), of_folder(odd)] {
            assert_eq!(shown, "file:///%FF%20%5C%25é");
            assert_eq!(Address::parse(OsStr::new(&shown)).unwrap(), address);
            assert_eq!((super::argument(&shown), to_folder(&shown)), (word(&shown), odd.to_owned()));
        }
        assert_eq!(to_folder("/a,b"), Path::new("/a,b"));
        let said = Address::parse(OsStr::new("/a,b")).unwrap_err();
        assert!(said.advice().unwrap().contains("`file:///a%2Cb`"), "{said:?}");
    }

    #[test]
    fn addresses_of_vaults() {
        for (address, folder) in [
            ("b", "b"),
            ("/mnt/b", "/mnt/b"),
            ("file:///mnt/b%20c", "/mnt/b c"),
            ("FILE://localhost/b", "/b"),
            ("./gs:/odd", "./gs:/odd"),
            ("./gs//odd", "./gs//odd"),
            ("gs/odd", "gs/odd"),
            ("a:b/c", "a:b/c"),
            ("2026-11-29T10:00/x", "2026-11-29T10:00/x"),
            ("//server/x", "//server/x"),
            ("odd dir/x://y", "odd dir/x://y"),
            ("a%20b", "a%20b"),
            ("/odd/x://y", "/odd/x://y"),
        ] {
            assert_eq!(Address::parse(OsStr::new(address)).unwrap(), Address::Folder(folder.into()), "{address}");
        }
        for (address, bucket, prefix) in [
            ("gs://my-bucket/app/state", "my-bucket", "app/state"),
            ("GS://my-bucket", "my-bucket", ""),
            ("gs://my-bucket/", "my-bucket", ""),
            ("gs://b.example.com/a%20b é/", "b.example.com", "a%20b é"),
        ] {
            let parsed = Address::parse(OsStr::new(address)).unwrap();
            assert_eq!(parsed, Address::Bucket { bucket: bucket.into(), prefix: prefix.into() }, "{address}");
            assert_eq!(Address::parse(OsStr::new(&parsed.to_string())).unwrap(), parsed);
        }
        for (address, why) in [
            ("s3://bucket", "not s3://"),
            ("gs:/b/x", "one slash"),
            ("gs:", "one slash"),
            ("s3:/bucket", "one slash"),
            ("nas:/backups", "one slash"),
            ("file:/b", "one slash"),
            ("gs:bucket/x", "without the slashes"),
            ("s3:s3.amazonaws.com/b", "without the slashes"),
            ("sftp:me@host:/b", "one slash"),
            ("gs//b/x", "without a colon"),
            ("S3//b", "without a colon"),
            (" gs://b/x", "not  gs://"),
            ("https://storage.googleapis.com/b/x", "not https://"),
            ("://b/x", "not ://"),
            ("gs://", "3 to 222"),
            ("gs://Bucket/x", "lower-case"),
            ("gs:///x", "3 to 222"),
            ("gs://bucket//x", "empty"),
            ("gs://bucket/a/../b", "empty, . or .."),
            ("gs://bucket/a\nb", "control"),
            ("file://host/b", "three slashes"),
            ("file://b", "three slashes"),
            ("file://", "no folder"),
            ("file:///b%2", "hex digits"),
            ("file:///b%zz", "hex digits"),
            ("file:///b%00", "NUL"),
            ("", "empty"),
        ] {
            let said = Address::parse(OsStr::new(address)).unwrap_err();
            assert!(said.kind() == Kind::Usage && said.to_string().contains(why), "{address}: {said}");
        }
    }
}
