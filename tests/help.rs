//! `lastgood` alone, `--help`, and answers to commands and options that people try and that there are not.

use crate::docs::commands::helps;
use crate::support::World;

/// The help of a command on a terminal of 80 columns.
fn help(world: &World, args: &str) -> String {
    let mut command = world.command(args.split_whitespace());
    command.env("COLUMNS", "80");
    crate::support::Ran::of(command).ended(0).text().to_owned()
}

#[test]
fn alone_it_shows_where_to_begin() {
    let world = World::new();
    let ran = world.run([""; 0]);
    let lines: Vec<_> = ran.ended(2).stderr.lines().collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("  lastgood ")).count(), 5, "{ran:?}");
    assert!(lines.len() <= 12 && lines.iter().all(|line| line.chars().count() <= 80), "{ran:?}");
    assert!(ran.stderr.contains("`lastgood --help`") && ran.stdout.is_empty(), "{ran:?}");
    // All that it names is there.
    for line in lines.iter().filter_map(|line| line.strip_prefix("  lastgood ")) {
        world.run([line.split_whitespace().next().unwrap(), "--help"]).ended(0);
    }
}

#[test]
fn help_begins_with_examples_and_fits_a_terminal() {
    let world = World::new();
    for command in helps().keys() {
        let text = help(&world, &format!("{command} --help"));
        let too_long: Vec<_> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(too_long.is_empty(), "{command}: {too_long:#?}");
        assert!(!text.contains("\n\n\n") && !text.ends_with("\n\n"), "{text}");
        // Those that have commands below them have examples of these.
        if !command.is_empty() {
            let at = text.find("Examples:\n").unwrap_or_else(|| panic!("{command}: {text}"));
            let usage = text.find("Usage:").unwrap();
            assert!(text[..at].lines().count() <= 8 && at < usage, "{text}");
            let examples = text[at..usage].matches("lastgood ").count();
            assert!(examples > 0, "{text}");
        }
        assert_eq!(help(&world, &format!("{command} -h")), text);
        assert_eq!(help(&world, &format!("help {command}")), text);
    }
}

#[test]
fn what_is_rare_is_explained_when_all_is_asked_for() {
    let world = World::new();
    for (command, common, rare) in [
        ("backup", "--exclude", "--checkpoint-every"),
        ("restore", "--snapshot", "--hook-timeout"),
        ("run", "--every", "--handover-poll"),
        ("serve", "--auth", "--critical-max"),
        ("list", "--limit", "--store-timeout"),
    ] {
        let (few, all) = (help(&world, &format!("{command} --help")), help(&world, &format!("{command} --help --all")));
        assert!(few.contains(common) && !few.contains(rare), "{few}");
        assert!(all.contains(common) && all.contains(rare), "{all}");
        assert!(few.lines().count() < 60, "{command}: {} lines", few.lines().count());
        assert!(few.contains(&format!("`lastgood {command} --help --all`")), "{few}");
    }
    assert!(help(&world, "--help --all").contains("Exit codes:"));
}

#[test]
fn wishes_get_an_answer() {
    let world = World::with_files();
    for (args, answer) in [
        (&["forget", "--keep-last", "3"][..], "every snapshot stays"),
        (&["cleanup"], "lastgood copy"),
        (&["watch"], "lastgood run --every 30m"),
        (&["status"], "lastgood doctor"),
        (&["create"], "lastgood init"),
        (&["find", "app.db"], "lastgood ls SNAPSHOT -R"),
        (&["backup", "--every", "1h"], "lastgood run --every 30m"),
        (&["backup", "--keep-daily=7"], "lastgood prune --dry-run --keep"),
        (&["backup", "--dry-run"], "lastgood doctor"),
        (&["tag"], "lastgood backup --label"),
        (&["unlock"], "lastgood doctor"),
        (&["version"], "--version"),
        (&["list", "--since", "1d"], "lastgood list --limit"),
        (&["init", "v"], "lastgood init --vault URL"),
        (&["list", "v"], "lastgood list --vault URL"),
        (&["verify", "latest"], "All its snapshots"),
        (&["restore", "d", "latest"], "lastgood restore DIR --snapshot latest"),
        (&["backup", "data", "v"], "lastgood backup DIR --vault URL"),
        (&["copy", "a", "b"], "lastgood copy --from URL --to URL"),
    ] {
        let ran = world.run(args);
        ran.ended(2).says("error: un").says(answer);
        let error = world.json(args, 2);
        assert!(error["hint"].as_str().unwrap().contains(answer), "{error}");
    }
    assert!(!world.vault().exists());
    // Others get clap's answer.
    world.run(["bakcup"]).ended(2).says("a similar subcommand exists: 'backup'");
    world.run(["list", "--every", "1h"]).ended(2);
}
