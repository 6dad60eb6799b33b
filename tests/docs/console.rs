//! `console` blocks are run: what they show is what comes out.
//!
//! The blocks of a page are one session of a shell, in an empty folder that stands for the root of a machine: `/srv` and `/mnt` in a
//! command are below it, and it begins in `/srv`. A comment `<!-- docs-test: … -->` in the page names what is there beforehand
//! ([`prepare`]). Ids, times, sizes and durations are told apart from other text and may differ; an id that a page shows and types
//! later is the one that came out. `[..]` stands for any text in a line, `...` for any lines. A command has to succeed unless the page
//! shows `echo $?` next. One that ends with `&` is waited for until it listens, and ends with the page.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use snapbox::{Assert, IntoData};

use super::pages::{self, Page};
use crate::support::cloud::server::Server;
use crate::support::requirements::{free_port, skipped};
use crate::support::tree::{noise, set_mode};
use crate::support::{LASTGOOD, World, database};

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Stands around the exit code of a command in what the shell writes.
const MARK: char = '\u{1e}';
/// Where the service of a page listens.
const SERVICE: &str = "127.0.0.1:8080";

/// A command of a page, and what the page shows of it.
struct Step<'p> {
    /// The number of its line, from 1.
    line: usize,
    command: String,
    shown: Vec<&'p str>,
}

/// The commands of a page.
fn steps(page: &Page) -> Vec<Step<'_>> {
    let mut steps: Vec<Step> = Vec::new();
    for block in page.blocks().into_iter().filter(|block| block.language == "console") {
        assert!(block.lines.first().is_some_and(|line| line.starts_with("$ ")), "{page}:{}: no command", block.line);
        for (number, line) in block.lines.into_iter().enumerate() {
            let at = block.line + number + 1;
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { line: at, command: command.to_owned(), shown: Vec::new() }),
                (None, Some(step)) => match line.strip_prefix("> ").filter(|_| step.command.ends_with('\\')) {
                    Some(more) => step.command += &format!("\n{more}"),
                    None => step.shown.push(line),
                },
                (None, None) => unreachable!("a block begins with a command"),
            }
        }
    }
    steps
}

/// A shell, and what it writes.
struct Shell {
    process: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
}

impl Shell {
    /// One that works in a world as its commands do.
    fn start(world: &World) -> Self {
        let like = world.command([""; 0]);
        let mut shell = Command::new("sh");
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let program = std::path::Path::new(LASTGOOD).parent().unwrap().display();
        shell.env("PATH", format!("{program}:{path}")).current_dir(world.path("srv")).env("LC_ALL", "C.UTF-8");
        let mut process = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, mut from) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (send, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                if send.send(bytes[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut shell = Shell { process, input, output };
        shell.run("exec 2>&1; umask 022");
        shell
    }

    /// Runs a command; what it wrote, and its exit code, which the next command finds in `$?`.
    fn run(&mut self, command: &str) -> (String, String) {
        writeln!(self.input, "{command}\n_c=$?; printf '\\036%d\\036' $_c; (exit $_c)").unwrap();
        let began = Instant::now();
        let mut written = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&written);
            if let [said, code, _] = text.split(MARK).collect::<Vec<_>>()[..] {
                return (said.to_owned(), code.to_owned());
            }
            let left = PATIENCE.checked_sub(began.elapsed()).unwrap_or_default();
            let more = self.output.recv_timeout(left);
            written
                .extend(more.unwrap_or_else(|why| panic!("{why}: {command}: {}", String::from_utf8_lossy(&written))));
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "kill $_service 2>/dev/null; exit");
        let _ = self.process.wait();
    }
}

/// What a page needs beforehand.
enum Prepared {
    Nothing,
    Bucket(#[expect(dead_code, reason = "it serves until it is dropped")] Server),
    /// It cannot be had here.
    Impossible,
}

/// Prepares what the comments `<!-- docs-test: WORD -->` of a page name.
fn prepare(page: &Page, world: &mut World) -> Prepared {
    let mut prepared = Prepared::Nothing;
    let words = page.text.lines().filter_map(|line| line.strip_prefix("<!-- docs-test: ")?.strip_suffix(" -->"));
    for word in words {
        match word {
            "data" => {
                fs::create_dir_all(world.path("srv/data")).unwrap();
                fs::write(world.path("srv/data/notes.txt"), "something that matters\n").unwrap();
            }
            // An app's directory: a database in WAL mode that nobody has open, uploads and a log.
            "app" => {
                let app = world.path("srv/app");
                fs::create_dir_all(app.join("uploads")).unwrap();
                let database = app.join("shop.db");
                database::orders(&database, 4096, 2_000_000);
                database::run(&database, "PRAGMA journal_mode=WAL");
                fs::write(app.join("uploads/photo.jpg"), noise(1, 1_500_000)).unwrap();
                fs::write(app.join("app.log"), "a line of the log\n".repeat(20_000)).unwrap();
            }
            // A server that stands for Google Cloud Storage, with the empty bucket `test-bucket`.
            "bucket" => {
                let server = Server::start();
                *world = std::mem::replace(world, World::new()).with("STORAGE_EMULATOR_HOST", server.url());
                prepared = Prepared::Bucket(server);
            }
            "curl" if Command::new("curl").arg("--version").output().is_err() => {
                skipped("curl", "there is no curl here");
                return Prepared::Impossible;
            }
            "curl" => {}
            other if other.starts_with("file ") => {}
            other => panic!("{page}: nothing is known of {other:?}"),
        }
    }
    for (name, content) in files_of(page) {
        let file = world.path("srv").join(name);
        fs::write(&file, content).unwrap();
        set_mode(&file, 0o755);
    }
    prepared
}

/// The files that a page shows, each in the block below `<!-- docs-test: file NAME -->`. They can be run.
pub fn files_of(page: &Page) -> Vec<(String, String)> {
    let shown = page.text.split("<!-- docs-test: file ").skip(1).map(|rest| {
        let (name, rest) = rest.split_once(" -->\n```").expect("a block below the name of a file");
        let (language, rest) = rest.split_once('\n').expect("a block that ends");
        assert!(["sh", "toml"].contains(&language), "{name} is a block of `{language}`");
        (name.to_owned(), rest.split("```\n").next().unwrap_or_default().to_owned())
    });
    shown.collect()
}

/// Runs a page; what is wrong, and the page with the output of today.
fn run(page: &Page) -> Option<(Vec<String>, String)> {
    let steps = steps(page);
    let mut world = World::new();
    fs::create_dir_all(world.path("srv")).unwrap();
    fs::create_dir_all(world.path("mnt")).unwrap();
    let prepared = prepare(page, &mut world);
    if matches!(prepared, Prepared::Impossible) {
        return None;
    }
    fs::create_dir_all(world.path("srv")).unwrap();
    fs::create_dir_all(world.path("mnt")).unwrap();
    let root = world.path("").display().to_string().trim_end_matches('/').to_owned();
    let service = format!("127.0.0.1:{}", free_port());
    let mut shell = Shell::start(&world);
    let mut ids = BTreeMap::new();
    let (mut wrong, mut new) = (Vec::new(), Vec::new());
    for (number, step) in steps.iter().enumerate() {
        let command = rename(&step.command, &ids);
        let (said, code) = match command.strip_suffix('&') {
            Some(serving) => {
                let begin = format!("{} >{root}/service.log 2>&1 & _service=$!", placed(serving, &root, &service));
                let ready = format!(
                    "for _i in $(seq 200); do curl -s http://{service}/live >{root}/live && break; sleep 0.05; done"
                );
                shell.run(&format!("{begin}\n{ready}"))
            }
            None => shell.run(&placed(&command, &root, &service)),
        };
        let said = untimed(&said.replace(&root, "").replace(&service, SERVICE));
        let shown = step.shown.join("\n");
        let tells_code = steps.get(number + 1).is_some_and(|next| next.command == "echo $?");
        let differs = difference(&shown, said.trim_end_matches('\n'), &mut ids);
        let failed = (code != "0" && !tells_code).then(|| format!("it ended with {code}"));
        wrong.extend(failed.into_iter().chain(differs).map(|why| format!("{page}:{}: $ {command}: {why}", step.line)));
        // A wildcard that fits stays.
        let wild = step.shown.iter().any(|line| line.contains("[..]") || *line == "...");
        let today = format!("$ {}\n{}", command.replace('\n', "\n> "), said.trim_end_matches('\n'));
        let first = step.line - 1;
        let lines = step.command.lines().count() + step.shown.len();
        if !wild {
            new.push((first..first + lines, today.trim_end().to_owned()));
        }
    }
    drop(shell);
    drop(prepared);
    let mut lines: Vec<String> = page.text.lines().map(str::to_owned).collect();
    for (range, today) in new.into_iter().rev() {
        lines.splice(range, [today]);
    }
    Some((wrong, lines.join("\n") + "\n"))
}

/// What a terminal would show: log lines have the time where there is none.
fn untimed(said: &str) -> String {
    let line = |line: &str| match line.split_once("Z ") {
        Some((time, rest)) if format!("{time}Z").parse::<jiff::Timestamp>().is_ok() => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    said.lines().map(line).collect()
}

/// A command as it is run: in the world, and with the port that is free.
fn placed(command: &str, root: &str, service: &str) -> String {
    let mut placed = command.replace(SERVICE, service);
    for folder in ["/srv", "/mnt"] {
        for before in [" ", "=", "'", "\"", ","] {
            placed = placed.replace(&format!("{before}{folder}"), &format!("{before}{root}{folder}"));
        }
    }
    placed
}

/// How what a page shows differs from what came out. Ids that stand in the same places are the same from then on.
fn difference(shown: &str, said: &str, ids: &mut BTreeMap<String, String>) -> Option<String> {
    let (expected, told) = (parts(shown), parts(said));
    let of = |parts: &[Part]| parts.iter().filter_map(Part::id).map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (of(&expected), of(&told));
    if old.len() == new.len() {
        for (old, new) in old.into_iter().zip(new) {
            let another = ids.iter().find(|(known, now)| (**known == old) != (**now == new));
            if let Some((known, now)) = another {
                return Some(format!("{known} is {now}, and here {old} is {new}"));
            }
            ids.insert(old, new);
        }
    }
    let text = |parts: &[Part]| parts.iter().map(Part::redacted).collect::<String>();
    let told = even(&text(&told)).into_data();
    let compared =
        Assert::new().normalize_paths(false).try_eq(Some(&"the output"), told, even(&text(&expected)).into_data());
    compared.err().map(|why| why.to_string())
}

/// A text whose columns are one space apart: numbers of another length move them.
fn even(text: &str) -> String {
    let line = |line: &str| {
        let indent = &line[..line.len() - line.trim_start().len()];
        format!("{indent}{}\n", line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    text.lines().map(line).collect()
}

/// A command that names ids as they are now; a page may type the beginning of one.
fn rename(command: &str, ids: &BTreeMap<String, String>) -> String {
    let word = |word: &str| {
        let old = ids.iter().find(|(old, _)| word.len() >= 4 && old.starts_with(word));
        old.map_or_else(|| word.to_owned(), |(_, new)| new[..word.len()].to_owned())
    };
    let mut renamed = String::new();
    let mut rest = command;
    while let Some(c) = rest.chars().next() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (head, tail) = rest.split_at(if end == 0 { c.len_utf8() } else { end });
        renamed += &if end == 0 { head.to_owned() } else { word(head) };
        rest = tail;
    }
    renamed
}

/// A part of an output.
enum Part<'t> {
    Text(&'t str),
    Id(&'t str),
    /// Something that differs each time: what is written in its place.
    Changing(&'static str),
}

impl Part<'_> {
    fn id(&self) -> Option<&str> {
        if let Part::Id(id) = self { Some(id) } else { None }
    }

    fn redacted(&self) -> &str {
        match self {
            Part::Text(text) => text,
            Part::Id(_) => "<id>",
            Part::Changing(kind) => kind,
        }
    }
}

/// The shapes of what differs each time: `0` stands for a digit, `+` for more of what is before it, other characters for themselves.
const CHANGING: [(&str, &str); 16] = [
    ("0000000000-00000000T000000Z", "<time>"),
    ("0000-00-00T00:00:00.0+Z", "<time>"),
    ("0000-00-00T00:00:00Z", "<time>"),
    ("0000-00-00 00:00:00Z", "<time>"),
    ("0000-00-00", "<time>"),
    ("00000000T000000Z", "<time>"),
    ("0+.0+ B", "<size>"),
    ("0+.0+ KiB", "<size>"),
    ("0+.0+ MiB", "<size>"),
    ("0+.0+ GiB", "<size>"),
    ("0+ B", "<size>"),
    ("0+ MB", "<size>"),
    ("0+.0+ s", "<seconds>"),
    ("0+ s", "<seconds>"),
    ("0+ ms", "<seconds>"),
    ("0+ min", "<seconds>"),
];

/// Takes a text apart.
fn parts(text: &str) -> Vec<Part<'_>> {
    let (mut parts, mut begin, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let starts = text[..at].chars().next_back().is_none_or(|c| !c.is_ascii_alphanumeric());
        let found = if starts {
            id(rest).or_else(|| {
                CHANGING.iter().find_map(|(shape, kind)| Some((matched(shape, rest)?, Part::Changing(kind))))
            })
        } else {
            None
        };
        match found {
            Some((length, part)) => {
                parts.extend([Part::Text(&text[begin..at]), part]);
                at += length;
                begin = at;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    parts.push(Part::Text(&text[begin..]));
    parts
}

/// An id at the beginning of a text: 16 hexadecimal digits, or of a vault 32.
fn id(text: &str) -> Option<(usize, Part<'_>)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let is_id = [16, 32].contains(&end) && text[..end].bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then(|| (end, Part::Id(&text[..end])))
}

/// How long the beginning of a text is that has a shape, after which no letter or digit follows.
fn matched(shape: &str, text: &str) -> Option<usize> {
    let (mut at, mut shape) = (0, shape.bytes().peekable());
    let bytes = text.as_bytes();
    while let Some(wanted) = shape.next() {
        let fits = |byte: &u8| if wanted == b'0' { byte.is_ascii_digit() } else { *byte == wanted };
        bytes.get(at).filter(|byte| fits(byte))?;
        at += 1;
        if shape.next_if_eq(&b'+').is_some() {
            // Thousands are set apart with commas.
            at += bytes[at..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b',').count();
        }
    }
    bytes.get(at).is_none_or(|next| !next.is_ascii_alphanumeric()).then_some(at)
}

#[test]
fn what_a_page_shows_is_what_comes_out() {
    let overwrite = std::env::var("SNAPSHOTS").as_deref() == Ok("overwrite");
    let (mut all, mut commands) = (Vec::new(), 0);
    for page in pages::all().iter().filter(|page| !steps(page).is_empty()) {
        commands += steps(page).len();
        let Some((wrong, new)) = run(page) else { continue };
        if overwrite && new != page.text {
            fs::write(pages::root().join(&page.name), new).unwrap();
        }
        all.extend(wrong);
    }
    assert!(all.is_empty(), "{}", all.join("\n\n"));
    assert!(commands > 20, "only {commands} commands are run");
}

#[test]
fn a_file_is_the_same_in_every_page_that_shows_it() {
    let mut shown: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for page in pages::all() {
        for (name, content) in files_of(&page) {
            shown.entry(name).or_default().push((page.name.clone(), content));
        }
    }
    for (name, pages) in &shown {
        let (first, content) = &pages[0];
        pages.iter().for_each(|(page, other)| assert_eq!(other, content, "{name} in {page} is not that in {first}"));
    }
    // The start script of a container is where it is run, and `start.rs` looks for it there.
    let pages: Vec<&str> = shown["start"].iter().map(|(page, _)| &**page).collect();
    assert_eq!(pages, ["docs/container.md"]);
}

#[test]
fn another_output_another_code_and_another_id_are_found() {
    let run_text = |text: &str| run(&Page { name: "page".into(), text: text.into() }).unwrap().0;
    for (session, wrong) in [
        ("$ echo a 1.5 MiB of 0123456789abcdef\na 23 B of fedcba9876543210\n", false),
        ("$ echo a\nb\n", true),
        ("$ echo a\n", true),
        ("$ true\na\n", true),
        ("$ false\n", true),
        ("$ false\n$ echo $?\n1\n", false),
        ("$ false\n$ echo $?\n2\n", true),
        ("$ echo 1234567\n...\n", false),
        ("$ echo 12 files\n13 files\n", true),
        ("$ echo 12 files, 1 s\n[..] files, 1 s\n", false),
        ("$ echo 0000000000000001\n0000000000000002\n$ echo 0000000000000002\n0000000000000002\n", false),
        ("$ echo 0000000000000001\n0000000000000002\n$ echo 0000000000000003\n0000000000000002\n", true),
        ("$ echo 0000000000000001\n0000000000000002\n$ echo 0000000000000001\n0000000000000003\n", true),
        ("$ cd /srv && pwd\n/srv\n$ A=2\n$ echo $A \\\n> 3\n2 3\n", false),
    ] {
        let found = run_text(&format!("```console\n{session}```\n"));
        assert_eq!(!found.is_empty(), wrong, "{session}: {found:?}");
    }
}
