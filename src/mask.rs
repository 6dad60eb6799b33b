//! Masks secrets in the output of other programs.
//!
//! Tokens and keys of well-known forms are known by their form, others by the name before them. More is masked than need be: what
//! is kept of an output is for reading why a program failed, and no secret is needed for that.

use std::borrow::Cow;

use regex::bytes::{Captures, Regex, RegexBuilder};

/// What stands for a secret.
pub const MASKED: &str = "[masked]";
/// The most bytes of memory that a compiled expression may take.
const MAX_COMPILED: usize = 1 << 20;
/// The most bytes of memory that are used to match one.
const MAX_CACHE: usize = 256 << 10;
/// Lines between the first and the last one of a key, at most.
const LINES_OF_KEY: usize = 500;
/// The shortest word that may be a part of a key.
const PART_OF_KEY: usize = 16;

/// The first and the last line of a key, a certificate and the like.
const FRAMES: &str = "-----(?<side>BEGIN|END) ([A-Z0-9 ]*PRIVATE KEY)?";
/// Expressions for secrets. What the group `kept` matches stays.
const SECRETS: [&str; 12] = [
    // Private keys, where line ends are escaped.
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|$)",
    // Headers, to their ends.
    r#"(?<kept>\b(?i:authorization|(?:set-)?cookie)\\?["']?\s*[:=]\s*\\?["']?)[^"'\r\n]+"#,
    r"(?<kept>\b(?i:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}",
    // Credentials in a URL, up to the last @ of what may be its host.
    r#"(?<kept>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#"'<>]*@"#,
    // JSON Web Tokens.
    r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(\.[A-Za-z0-9_-]*)*",
    // Amazon.
    r"\b(A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|ANPA|ANVA)[A-Z0-9]{16}\b",
    // Google: API keys, access tokens, refresh tokens, secrets of clients.
    r"\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9._-]+|\b1//0[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{10,}",
    // GitHub, GitLab.
    r"\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}|\bgl[a-z]{2,4}-[A-Za-z0-9_.-]{16,}",
    // Stripe.
    r"\b[a-z]k_(live|test)_[A-Za-z0-9]{8,}|\bwhsec_[A-Za-z0-9+/=]{8,}",
    // Slack, and the webhooks of Slack and Discord.
    r"\bxox[a-z]-[A-Za-z0-9-]{8,}|\bxapp-[A-Za-z0-9-]{8,}|(?<kept>\bhooks\.slack\.com/|\bdiscord\.com/api/webhooks/)[^\s\x22']+",
    // OpenAI, Anthropic, SendGrid, npm, PyPI, Hugging Face.
    r"\bsk-[A-Za-z0-9_-]{16,}|\bSG\.[A-Za-z0-9._-]{16,}|\bnpm_[A-Za-z0-9]{16,}|\bpypi-[A-Za-z0-9_-]{16,}|\bhf_[A-Za-z0-9]{16,}",
    // A value behind a name. In a URL, also signatures.
    concat!(
        r#"(?<kept>(?i:[a-z0-9_.-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key"#,
        r#"|private[_-]?key|encryption[_-]?key|credentials?|session[_-]?id)[a-z0-9_.-]*|[?&](?:sig|signature|x-amz-signature"#,
        r#"|x-goog-signature|key|auth|code))\\?["']?\s*(?:=>|[:=])\s*)"#,
        // In quotes, in quotes that are escaped since they are in quotes, or up to what may follow.
        r#"(?:"(?:[^"\\]|\\.)*(?:"|$)|\\"(?:[^"\\]|\\[^"])*(?:\\"|"|$)|'[^']*(?:'|$)|[^\s,;&"'}\]]+)"#,
    ),
];

/// Masks secrets.
#[derive(Debug, Clone)]
pub struct Masker {
    secrets: Vec<Regex>,
    frames: Regex,
}

/// Whether the lines of a text are those of a private key, from one line to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyLines {
    /// The lines that may still be of the key; 0 outside of one.
    left: usize,
}

impl Masker {
    /// Masks what is known as a secret, and whatever one of `expressions` matches.
    ///
    /// # Errors
    /// An expression that cannot be used, and why.
    pub fn new<S: AsRef<str>>(expressions: &[S]) -> Result<Masker, String> {
        let known = SECRETS.iter().map(|text| compiled(text, false));
        let secrets =
            expressions.iter().map(|text| expression(text.as_ref())).chain(known).collect::<Result<_, _>>()?;
        Ok(Masker { secrets, frames: compiled(FRAMES, false)? })
    }

    /// Returns a line of a text with its secrets masked. `key` is for all lines of the text, in their order.
    pub fn line<'l>(&self, line: &'l [u8], key: &mut KeyLines) -> Cow<'l, [u8]> {
        match self.is_of_key(line, key) {
            true => Cow::Borrowed(MASKED.as_bytes()),
            false => self.mask(line),
        }
    }

    /// Whether all of this line is a part of a key that began in an earlier one.
    pub fn is_of_key(&self, line: &[u8], key: &mut KeyLines) -> bool {
        let frame = self.frames.captures_iter(line).last();
        let begins = frame.as_ref().is_some_and(|frame| &frame["side"] == b"BEGIN");
        if begins {
            let private = frame.is_some_and(|frame| frame.get(2).is_some());
            key.left = if private { LINES_OF_KEY } else { 0 };
            return false;
        }
        let inside = key.left > 0 && (frame.is_some() || may_be_of_key(line));
        key.left = if inside && frame.is_none() { key.left - 1 } else { 0 };
        inside
    }

    /// Returns a text without its secrets and without the escape sequences that colour it.
    pub fn mask<'l>(&self, text: &'l [u8]) -> Cow<'l, [u8]> {
        let mask = |found: &Captures| {
            let kept = found.name("kept").map_or(&b""[..], |kept| kept.as_bytes());
            [kept, MASKED.as_bytes()].concat()
        };
        self.secrets.iter().fold(plain(text), |text, secret| match secret.replace_all(&text, mask) {
            Cow::Borrowed(_) => text,
            Cow::Owned(masked) => Cow::Owned(masked),
        })
    }
}

/// Whether a line may be one of a key: base64, perhaps behind what a log puts before each line, a header, or nothing.
fn may_be_of_key(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let last = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    let header = [&b"Proc-Type:"[..], b"DEK-Info:", b"Version:", b"Comment:"].iter().any(|name| line.starts_with(name));
    line.iter().all(is_base64) || header || last.len() >= PART_OF_KEY && last.iter().all(is_base64)
}

/// Returns a line without the escape sequences that colour it: they may stand between a name and its value.
fn plain(line: &[u8]) -> Cow<'_, [u8]> {
    if !line.contains(&b'\x1b') {
        return Cow::Borrowed(line);
    }
    let mut text = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after.first()) {
            (b'\x1b', Some(b'[')) => {
                let end = after[1..].iter().position(|byte| (0x40..=0x7e).contains(byte));
                rest = end.map_or(&b""[..], |end| &after[end + 2..]);
            }
            _ => text.push(byte),
        }
    }
    Cow::Owned(text)
}

/// Compiles a user's expression, which is matched against bytes: `.` matches a character where the text is UTF-8.
///
/// # Errors
/// The expression cannot be used; the text says why.
pub fn expression(text: &str) -> Result<Regex, String> {
    compiled(text, true)
}

/// Compiles an expression; `unicode` is whether it matches characters, and not bytes.
fn compiled(text: &str, unicode: bool) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(text);
    builder.unicode(unicode).size_limit(MAX_COMPILED).dfa_size_limit(MAX_CACHE);
    builder.build().map_err(|why| match why {
        regex::Error::CompiledTooBig(_) => "it is too large once compiled".to_owned(),
        why => why.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Masks a text, line by line.
    fn masked(text: &str) -> String {
        let (masker, mut key) = (Masker::new::<&str>(&[]).unwrap(), KeyLines::default());
        let lines =
            text.lines().map(|line| String::from_utf8(masker.line(line.as_bytes(), &mut key).into_owned()).unwrap());
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn secrets_are_masked() {
        // Put together here, so that no scanner takes this file for a leak.
        let random = "q8ZrT2mV7xKc4LwN9bYd1HsJ";
        let upper = "Q8ZRT2MV7XKC4LWN";
        let whole = [
            format!("AKIA{upper}"),
            format!("AIza{random}{random}"),
            format!("ya29.{random}"),
            format!("ghp_{random}"),
            format!("github_pat_{random}"),
            format!("glpat-{random}"),
            format!("sk_live_{random}"),
            format!("xoxb-123-{random}"),
            format!("sk-proj-{random}"),
            format!("eyJhbGciOi.eyJzdWIi.{random}"),
        ];
        for secret in whole {
            assert_eq!(masked(&format!("uses {secret}, fails")), "uses [masked], fails", "{secret}");
        }
        for (text, expected) in [
            ("Authorization: Token abc def", "Authorization: [masked]"),
            ("{\"authorization\": \"Basic abc\", \"x\": 1}", "{\"authorization\": \"[masked]\", \"x\": 1}"),
            ("sent Bearer abcdefgh.ijk to it", "sent Bearer [masked] to it"),
            ("password=hunter2 user=bob", "password=[masked] user=bob"),
            ("DB_PASSWORD: 'two words', x", "DB_PASSWORD: [masked], x"),
            ("{\"clientSecret\":\"a\\\"b\",\"n\":1}", "{\"clientSecret\":[masked],\"n\":1}"),
            (r#"{"message":"{\"token\":\"abc\",\"n\":1}"}"#, r#"{"message":"{\"token\":[masked],\"n\":1}"}"#),
            ("\u{1b}[36mtoken\u{1b}[0m=\u{1b}[35mabc\u{1b}[0m end", "token=[masked] end"),
            ("postgres://bob:p@ss@db:5432/app", "postgres://[masked]db:5432/app"),
            ("https://x.blob/y?sv=1&sig=a%2Bb&se=2", "https://x.blob/y?sv=1&sig=[masked]&se=2"),
            ("POST https://hooks.slack.com/services/T0/B0/x failed", "POST https://hooks.slack.com/[masked] failed"),
            (
                "{\"private_key\": \"-----BEGIN PRIVATE KEY-----\\nMII\\n-----END PRIVATE KEY-----\\n\"}",
                "{\"private_key\": [masked]}",
            ),
        ] {
            assert_eq!(masked(text), expected);
        }
        for plain in ["GET /tokens 200", "mail bob@example.com", "https://example.com/a@b", "task-list risk-free", "ok"]
        {
            assert_eq!(masked(plain), plain);
        }
    }

    #[test]
    fn keys_of_several_lines_are_masked_and_what_follows_is_not() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow+/IBAAKC\nab==\n-----END RSA PRIVATE KEY-----";
        let shown = masked(&format!("before\n{key}\nafter"));
        assert_eq!(shown, format!("before\n{}\nafter", [MASKED; 6].join("\n")));
        let logged =
            "12:00 -----BEGIN PRIVATE KEY-----\n12:00 MIIEowIBAAKCAQEAq8ZrT2\n12:01 GET / 200\n12:02 GET / 200";
        assert_eq!(masked(logged), "12:00 [masked]\n[masked]\n12:01 GET / 200\n12:02 GET / 200");
        assert_eq!(
            masked("-----BEGIN CERTIFICATE-----\nMIIEowIBAAKCAQEA"),
            "-----BEGIN CERTIFICATE-----\nMIIEowIBAAKCAQEA"
        );
    }

    #[test]
    fn users_name_secrets_of_their_own() {
        let masker = Masker::new(&["PIN [0-9]+"]).unwrap();
        assert_eq!(&*masker.line(b"the PIN 1234 of \xff", &mut KeyLines::default()), b"the [masked] of \xff");
        assert!(Masker::new(&["PIN ["]).unwrap_err().contains("unclosed"));
        assert!(Masker::new(&[r"\w{1000}{1000}"]).unwrap_err().contains("too large"));
    }
}
