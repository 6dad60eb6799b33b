//! Lists that fit a terminal of 80 columns: ids are cut to what tells them apart, and times say how long ago something was.
//!
//! A pipe and a file get the whole of it: see [`super::lists`].

use indicatif::{BinaryBytes, HumanCount};
use jiff::Timestamp;

use super::lists::{labels, reason, state};
use super::{age, line};
use crate::inspect::ListedSnapshot;
use crate::report::RunSummary;
use crate::text::{columns, printable};
use crate::vault::root::SnapshotName;

/// The width of a terminal, in columns.
const WIDTH: usize = 80;
/// The fewest characters of an id that are shown.
const ID: usize = 8;
/// The fewest columns of the terminal that are left for one of the table that is cut.
const LEAST: usize = 12;

/// Returns how many characters of an id tell the snapshots apart, so that each can be given back.
pub fn distinct(names: &[SnapshotName]) -> usize {
    digits(names.iter().map(|name| name.id.to_string()).collect())
}

/// Returns how many characters tell ids apart.
fn digits(mut ids: Vec<String>) -> usize {
    ids.sort();
    ids.dedup();
    let same = |pair: &[String]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    ids.windows(2).map(|pair| same(pair) + 1).max().unwrap_or(0).max(ID)
}

/// Returns a list of snapshots, whose ids are shown with `digits` characters.
pub fn snapshots(listed: &[ListedSnapshot], digits: usize, now: Timestamp) -> String {
    let roots = || listed.iter().filter_map(|listed| listed.root.as_ref());
    let several = roots().any(|root| Some(&root.data) != roots().next().map(|first| &first.data));
    let mut head = vec!["ID", "TAKEN", "REASON", "STATE", ">ENTRIES", ">SIZE", ">ADDED"];
    if several {
        // There is room for one of them only.
        head.splice(4.., [">SIZE", "DIRECTORY"]);
    }
    let mut table = Table::new(&head);
    for listed in listed {
        let id = listed.id.id.to_string();
        let start = [cut(&id, digits, false), ago(now, listed.created)];
        let Some(root) = &listed.root else {
            let (state, why) = match (&listed.newer_format, &listed.damage) {
                (Some(why), _) => ("newer format: ", why.as_str()),
                (None, why) => ("damaged: ", why.as_deref().unwrap_or_default()),
            };
            table.text(start, &format!("{state}{}", printable(why)));
            continue;
        };
        let size = BinaryBytes(root.bytes).to_string();
        let rest = match several {
            true => vec![size, printable(&root.data)],
            false => vec![HumanCount(root.entries).to_string(), size, BinaryBytes(root.uploaded_bytes).to_string()],
        };
        table.row(start.into_iter().chain([reason(root), state(root)]).chain(rest).collect());
        let labels = labels(root);
        if !labels.is_empty() {
            table.text([String::new(), String::new()], &labels.join("  "));
        }
    }
    table.text_of(several)
}

/// Returns a list of runs.
pub fn runs(runs: &[RunSummary], now: Timestamp) -> String {
    let several = runs.iter().any(|run| run.way != runs[0].way);
    let mut head = vec!["ID", "BEGAN", "ACTION", "RESULT", "ABOUT"];
    if several {
        head.insert(4, "BY");
    }
    let mut table = Table::new(&head);
    let text = |field: &Option<String>| field.as_deref().map(printable).unwrap_or_default();
    let digits = digits(runs.iter().map(|run| text(&run.run)).collect());
    for run in runs {
        let began = text(&run.started).parse().map(|began| ago(now, began)).unwrap_or_default();
        let about = match &run.error {
            Some(why) => printable(why.strip_prefix("could not ").unwrap_or(why)),
            None => short_name(&text(&run.snapshot)),
        };
        let mut cells = vec![cut(&text(&run.run), digits, false), began, text(&run.action), text(&run.result), about];
        if several {
            cells.insert(4, text(&run.way).replace('_', " "));
        }
        table.row(cells);
    }
    table.text_of(false)
}

/// Returns the id in a snapshot's long name.
fn short_name(name: &str) -> String {
    name.rsplit('-').next().unwrap_or_default().to_owned()
}

/// Returns how long ago something was, in its largest unit.
fn ago(now: Timestamp, then: Timestamp) -> String {
    let long = age(now, then);
    let mut words = long.split(' ');
    match (words.next(), words.next()) {
        (Some("less"), _) => "just now".into(),
        (Some(number), Some(unit)) => format!("{number} {unit} ago"),
        _ => long,
    }
}

/// Cuts a text to a width, in columns; with `mark`, the end says that it was cut.
fn cut(text: &str, width: usize, mark: bool) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(mark.into());
    let mut out: String = text.chars().take_while(|c| takes(&mut left, *c)).collect();
    if mark {
        out.push('…');
    }
    out
}

/// Cuts a path to a width, in columns: its end tells more than its beginning.
fn cut_path(path: &str, width: usize) -> String {
    if columns(path) <= width {
        return path.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let kept: usize = path.chars().rev().take_while(|c| takes(&mut left, *c)).map(char::len_utf8).sum();
    format!("…{}", &path[path.len() - kept..])
}

/// Whether a character fits into the columns that are left, which it takes.
fn takes(left: &mut usize, c: char) -> bool {
    let after = left.checked_sub(columns(c.encode_utf8(&mut [0; 4])));
    *left = after.unwrap_or(0);
    after.is_some()
}

/// Returns a cell that is as wide as its column.
fn padded(cell: &str, width: usize, right: bool) -> String {
    let spaces = " ".repeat(width.saturating_sub(columns(cell)));
    if right { format!("{spaces}{cell}  ") } else { format!("{cell}{spaces}  ") }
}

/// Rows of cells, and rows whose last cell is a text that takes the rest of the width.
struct Table {
    head: Vec<&'static str>,
    rows: Vec<(Vec<String>, Option<String>)>,
}

impl Table {
    /// Creates one; a column is flush right if its name begins with `>`.
    fn new(head: &[&'static str]) -> Self {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push((cells, None));
    }

    fn text(&mut self, cells: [String; 2], text: &str) {
        self.rows.push((cells.into(), Some(text.to_owned())));
    }

    /// Returns the table. Whatever does not fit is cut in the last column, at its beginning if it is a path.
    fn text_of(&self, path: bool) -> String {
        let names: Vec<_> = self.head.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        let longest = |column: usize| {
            let cells = self.rows.iter().filter_map(|(cells, _)| cells.get(column)).chain(names.get(column));
            cells.map(|cell| columns(cell)).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..names.len()).map(longest).collect();
        let mut text = String::new();
        for (cells, rest) in std::iter::once((&names, &None)).chain(self.rows.iter().map(|(cells, rest)| (cells, rest)))
        {
            let mut row = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let (width, right) = (widths[column], self.head[column].starts_with('>'));
                let last = column + 1 == names.len() && !right;
                let left = WIDTH.saturating_sub(columns(&row)).max(LEAST);
                row += &match (last, right) {
                    (true, _) if path => cut_path(cell, left),
                    (true, _) => cut(cell, left, true),
                    (false, _) => padded(cell, width, right),
                };
            }
            if let Some(rest) = rest {
                let left = WIDTH.saturating_sub(columns(&row)).max(LEAST);
                row += &cut(rest, left, true);
            }
            line(&mut text, format_args!("{}", row.trim_end()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::inspect::RootSummary;
    use crate::vault::root::{BackupReason, Filters, SnapshotState};

    fn now() -> Timestamp {
        "2026-11-30T20:00:00Z".parse().unwrap()
    }

    fn listed(name: &str, data: &str) -> ListedSnapshot {
        let id: SnapshotName = serde_json::from_value(serde_json::Value::from(name)).unwrap();
        let root = RootSummary {
            reason: BackupReason::Schedule,
            origin: None,
            repeats: None,
            state: SnapshotState::Complete,
            diverged: None,
            good: true,
            whole: true,
            failed_checks: 0,
            entries: 1_234_567,
            files: 1,
            bytes: 1023 << 30,
            uploaded_bytes: 1023 << 20,
            parent: None,
            labels: BTreeMap::new(),
            data: data.into(),
            host: "host".into(),
            service: None,
            filters: Filters::default(),
        };
        ListedSnapshot { id, created: id.time, root: Some(root), damage: None, newer_format: None }
    }

    const ONE: &str = "1796067275-20261130T193433Z-796570349e859124";
    const OTHER: &str = "1796067274-20251130T193433Z-79657034ae859124";

    #[track_caller]
    fn fits(text: &str) {
        assert!(text.lines().all(|line| columns(line) <= WIDTH && !line.ends_with(' ')), "{text}");
    }

    #[test]
    fn lists_of_snapshots_fit_a_terminal() {
        let mut two = vec![listed(ONE, "/srv/app/data"), listed(OTHER, "/srv/app/data")];
        two[0].root.as_mut().unwrap().labels.insert("release".into(), "x".repeat(100));
        let names: Vec<_> = two.iter().map(|listed| listed.id).collect();
        let text = snapshots(&two, distinct(&names), now());
        fits(&text);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("796570349  25 min ago  schedule  complete  1,234,567  1023.00 GiB"), "{text}");
        assert!(lines[2].trim_start().starts_with("release=xxx") && lines[2].ends_with('…'), "{text}");
        assert!(lines[3].starts_with("79657034a  365 d ago"), "{text}");
        two[1].root = None;
        two[1].damage = Some("y".repeat(200));
        fits(&snapshots(&two, 8, now()));
    }

    #[test]
    fn directories_are_shown_where_there_are_several() {
        let long = format!("/srv/{}/data", "x".repeat(100));
        let text = snapshots(&[listed(ONE, &long), listed(OTHER, "/srv/b")], ID, now());
        fits(&text);
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].ends_with("SIZE  DIRECTORY") && lines[1].contains("  …xxx") && lines[1].ends_with("x/data"),
            "{text}"
        );
        assert!(lines[2].ends_with("  /srv/b"), "{text}");
    }

    #[test]
    fn characters_that_take_two_columns_count_twice() {
        let long = format!("/srv/{}/資料", "備份".repeat(40));
        let mut two = vec![listed(ONE, &long), listed(OTHER, "/srv/b")];
        two[0].root.as_mut().unwrap().labels.insert("版本".into(), "🦀".repeat(60));
        let text = snapshots(&two, ID, now());
        fits(&text);
        assert!(text.contains("  …") && text.contains("備份/資料\n"), "{text}");
        two.iter_mut().for_each(|listed| listed.root.as_mut().unwrap().data = "/srv".into());
        fits(&snapshots(&two, ID, now()));
        assert_eq!((cut("備份x", 4, true), cut("備份x", 5, true)), ("備…".into(), "備份x".to_owned()));
        assert_eq!((cut_path("x備份", 4), cut_path("x備份", 5)), ("…份".into(), "x備份".to_owned()));
        assert_eq!((padded("備", 4, false), padded("備", 4, true)), ("備    ".into(), "  備  ".to_owned()));
    }

    #[test]
    fn an_id_is_as_long_as_tells_it_apart() {
        let names = [ONE, OTHER].map(|name| listed(name, "").id);
        assert_eq!((distinct(&names), distinct(&names[..1]), distinct(&[])), (9, ID, ID));
    }

    #[test]
    fn lists_of_runs_fit_a_terminal() {
        let run = |way: &str, error: Option<&str>| RunSummary {
            run: Some("fd291bbcca1cfe7b".into()),
            action: Some("backup".into()),
            result: Some("incomplete-copies".into()),
            way: Some(way.into()),
            started: Some("2026-11-29T19:00:00Z".into()),
            finished: None,
            snapshot: Some(ONE.into()),
            error: error.map(str::to_owned),
        };
        let text =
            runs(&[run("command_line", None), run("command_line", Some(&"could not find it ".repeat(9)))], now());
        fits(&text);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "fd291bbc  1 d ago  backup  incomplete-copies  796570349e859124");
        assert!(lines[2].contains("  find it could") && lines[2].ends_with('…'), "{text}");
        let text = runs(&[run("command_line", None), run("http", None)], now());
        fits(&text);
        assert!(text.contains("  command line  796570349e859124") && text.contains("  http  "), "{text}");
        assert_eq!(runs(&[], now()), "ID  BEGAN  ACTION  RESULT  ABOUT\n");
    }
}
