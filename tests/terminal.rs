//! What people see on a terminal of 80 columns; and that pipes and files get the same as ever.

use std::fs;

use serde_json::Value;

use crate::support::terminal::{lines, on_terminal};
use crate::support::{World, id, tree};

/// What a command shows on 80 columns, a line each, all of which fit.
#[track_caller]
fn shown(world: &World, args: &[&str]) -> Vec<String> {
    let ran = on_terminal(&world.command(args), 80, &[]);
    let lines = lines(ran.ended(0).text());
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
    lines
}

/// The first word of a line.
fn first(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

#[test]
fn lists_fit_and_what_they_show_can_be_given_back() {
    let world = World::with_files();
    let ids: Vec<String> = (0..3)
        .map(|n| {
            world.write("n", n.to_string());
            id(&world.backup()).to_owned()
        })
        .collect();
    world.run(["restore", "--snapshot", "ffff"]).ended(2);
    let list = shown(&world, &["list"]);
    assert_eq!(
        list[0].split_whitespace().collect::<Vec<_>>(),
        ["ID", "TAKEN", "REASON", "STATE", "ENTRIES", "SIZE", "ADDED"]
    );
    for (line, id) in list[1..].iter().zip(ids.iter().rev()) {
        let short = first(line);
        assert!(short.len() == 8 && id.contains(&format!("-{short}")) && line.contains("just now"), "{line} {id}");
        world.run(["ls", short]).ended(0);
        world.run(["restore", &format!("to-{short}"), "--snapshot", short]).ended(0);
    }
    let runs = shown(&world, &["runs"]);
    assert!(runs[0].starts_with("ID        BEGAN"), "{runs:#?}");
    assert_eq!(runs.len(), 1 + 7);
    for line in &runs[1..] {
        let report = shown(&world, &["runs", first(line)]);
        assert!(report[0].starts_with(&format!("Run {}", first(line))) && report.last().unwrap().ends_with("--json"));
    }
    let refused = runs.iter().find(|line| line.contains("  refused  ")).unwrap();
    assert!(refused.contains("  find the snapshot ffff: "), "{refused}");
    // A pipe gets all of each id, and the time.
    let piped = world.run(["list"]);
    assert!(piped.ended(0).text().lines().nth(1).unwrap().starts_with(ids[2].rsplit('-').next().unwrap()), "{piped:?}");
    assert!(piped.text().contains("TIME (UTC)") && world.run(["runs"]).text().contains("TIME (UTC)"));
}

#[test]
fn readme_shows_the_list_of_a_terminal() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let at = readme.find("ID        TAKEN").unwrap();
    let told: Vec<&str> = readme[at..].lines().take(2).collect();
    let world = World::with_files();
    world.backup();
    let list = shown(&world, &["list"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(told[0]), words(&list[0]));
    let states =
        |line: &str| words(line)[words(line).iter().position(|word| word == "manual").unwrap()..][..2].to_vec();
    assert_eq!(states(told[1]), states(&list[1]));
    assert_eq!(first(told[1]).len(), first(&list[1]).len());
}

#[test]
fn directories_are_listed_where_there_are_several() {
    let world = World::with_files();
    world.backup();
    assert!(!shown(&world, &["list"])[0].contains("DIRECTORY"));
    world.write("../other/b", "b");
    world.run(["backup", "other", "--accept-shrink"]).ended(0);
    let list = shown(&world, &["list"]);
    assert!(list[0].ends_with("DIRECTORY"), "{list:#?}");
    assert!(list[1].ends_with("/other") && list.last().unwrap().ends_with("/data"), "{list:#?}");
}

#[test]
fn other_reports_fit_too() {
    let world = World::with_files();
    world.backup();
    for args in
        [&["doctor"][..], &["doctor", "--only", "age"], &["config"], &["verify"], &["ls", "latest"], &["state", "data"]]
    {
        let ran = on_terminal(&world.command(args), 80, &[]);
        let long = |line: &&String| line.chars().count() > 80 && !line.contains(world.path("").to_str().unwrap());
        let lines = lines(ran.text());
        assert!(!lines.is_empty() && !lines.iter().any(|line| long(&line)), "{lines:#?}");
    }
}

#[test]
fn a_report_of_a_run_is_for_people_and_json_for_programs() {
    let world = World::with_files();
    let report = world.backup();
    let run = world.json(["runs"], 0)[0]["run"].as_str().unwrap().to_owned();
    let text = world.run(["runs", &run]).ended(0).text().to_owned();
    for part in [
        &format!("Run {run}: backup is complete\n"),
        "\n  began ",
        "\n  by       the command line on ",
        "\n  snapshot ",
        id(&report),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(serde_json::from_str::<Value>(&text).is_err());
    assert_eq!(world.json(["runs", &run], 0)["snapshot"], report["snapshot"]);
}

#[test]
fn the_progress_bar_fits_and_is_gone_at_the_end() {
    let world = World::new();
    for n in 0..4 {
        world.write(&format!("{n}"), tree::noise(n, 32 << 20));
    }
    for (width, args) in [(80, &["backup"][..]), (60, &["verify", "--read-data"]), (100, &["restore", "out"])] {
        let ran = on_terminal(&world.command(args), width, &[]);
        let shown = ran.ended(0).text();
        let lines = lines(shown);
        assert!(
            lines.iter().any(|line| line.contains("B of 128.00 MiB") || line.ends_with(" %")),
            "no bar: {lines:#?}"
        );
        // There is room for the `^C` of somebody who stops it, so that it wraps no line.
        // The report is for the eyes of a person who can make the window wider; the bar is drawn over and over.
        let drawn = lines.iter().filter(|line| line.contains(" [") || line.contains(" %") || line.contains("iB/s"));
        assert!(drawn.clone().all(|line| line.chars().count() + 3 <= width.into()), "{lines:#?}");
        // Nothing goes up: no line was as long as to need a second one.
        assert!(!shown.contains("\u{1b}[1A"), "{shown:?}");
        let last = shown.rsplit("\u{1b}[2K").next().unwrap();
        assert!(["Made a", "Snapshot", "Verified", "Restored"].iter().any(|begin| last.starts_with(begin)), "{last:?}");
    }
    world.run(["backup", "-v"]).ended(0).says(" INFO syncing");
    world.run(["restore", "out", "-v"]).ended(0).says(" INFO syncing");
    world.run(["verify", "-v"]).ended(0).says(" INFO checking the entries");
    let copy = ["copy", "--from", "backups", "--to", "other", "--init", "-v"];
    world.run(copy).ended(0).says(" INFO committing the snapshots");
}

#[test]
fn errors_and_notices_are_wrapped_between_words() {
    let world = World::new();
    world.write("a", "a");
    let vault = "a folder whose name has spaces/and is long";
    let args = ["restore", "out", "--vault", vault];
    let ran = on_terminal(&world.command(args), 80, &[]);
    let shown = lines(ran.ended(1).text());
    let whole = world.path(vault).display().to_string();
    // Neither a path nor a command is broken, so that its line may be longer.
    assert!(shown.iter().all(|line| line.chars().count() <= 80 || line.contains(&whole)), "{shown:#?}");
    assert!(shown.len() > 2 && shown.iter().any(|line| line.contains(&whole)), "{shown:#?}");
    let plain = world.run(args);
    let text = plain.ended(1).stderr.split_once(' ').unwrap().1;
    let joined = |lines: Vec<&str>| lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    assert_eq!(joined(shown.iter().map(String::as_str).collect()), joined(text.lines().collect()));
    assert_eq!(plain.stderr.lines().count(), 2, "off a terminal, the error is one line and its advice another");
    let json = on_terminal(&world.command([&args[..], &["--log-format", "json"]].concat()), 80, &[]);
    let shown = lines(json.ended(1).text());
    let events: Vec<_> = shown.iter().filter(|line| line.starts_with('{')).collect();
    let is_whole = |line: &&String| serde_json::from_str::<Value>(line).is_ok();
    assert!(!events.is_empty() && events.iter().all(is_whole), "{shown:#?}");
    // Lines of the log, and what is said of arguments.
    for _ in 0..2 {
        world.backup();
    }
    fs::remove_file(world.data().join("a")).unwrap();
    for args in [
        &["backup"][..],
        &["restore", "out", "--snapshots-that-there-are-none-of-with-a-long-name"],
        &["backup", "--level", "200000000000000000000000000000000000000"],
        &["backup", "--init", "data", "--exclude", "[a-very-long-pattern-that-is-none-since-no-bracket-ends-it"],
    ] {
        let ran = on_terminal(&world.command(args), 80, &[]);
        let shown = lines(ran.text());
        assert!(shown.iter().all(|line| line.chars().count() <= 80 || line.contains("/tmp/")), "{shown:#?}");
        let long = world.run(args).stderr.lines().filter(|line| line.chars().count() > 80).count();
        assert!(long > 0, "{args:?} has no long line");
    }
}

#[test]
fn ctrl_c_says_what_is_true() {
    let world = World::new();
    for n in 0..8 {
        world.write(&format!("{n}"), tree::noise(n, 32 << 20));
    }
    let ran = on_terminal(&world.command(["backup"]), 80, &[("MiB of", "\u{3}")]);
    let shown = ran.ended(1).text();
    assert!(shown.trim_end().ends_with("Stopped. No snapshot was made."), "{shown:?}");
    world.backup();
    let ran = on_terminal(&world.command(["restore", "out"]), 80, &[("MiB of", "\u{3}")]);
    let shown = ran.ended(1).text();
    assert!(shown.trim_end().ends_with("Stopped. Nothing was restored: what was there is as it was."), "{shown:?}");
    assert!(!world.path("out").exists());
    for (args, says) in [
        (&["verify"][..], "Stopped. What was not read yet is not verified."),
        (&["export", "latest", "-o", "archive.tar.zst"], "Stopped. No whole archive was made."),
        (
            &["copy", "--from", "backups", "--to", "replica", "--init"],
            "What was copied stays, and is not sent again: run the same copy again to go on.",
        ),
    ] {
        let ran = on_terminal(&world.command(args), 80, &[("MiB", "\u{3}")]);
        // Long lines are wrapped.
        let shown = ran.ended(1).text().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.ends_with(says) && shown.contains("Stopped"), "{args:?}: {shown:?}");
    }
    assert!(!world.path("archive.tar.zst").exists());
}
