//! The command as its users meet it: places, reports, exit codes, signals.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::compare::{assert_same, differences};
use crate::support::requirements::as_nobody;
use crate::support::{LASTGOOD, Ran, World, id, number, paths, short, tree};

#[test]
fn what_a_shell_did_not_put_in_place_is_no_name() {
    let world = World::with_files();
    world.backup();
    for args in [&["restore", "--path", ""][..], &["ls", "latest", ""], &["cat", "latest", ""]] {
        world.run(args).ended(2).says("the path is empty");
    }
    for (vault, why) in [
        ("~/v", "home directory"),
        ("~", "home directory"),
        ("v,w", "it has a comma"),
        ("/v,/w", "--vault A --vault B"),
    ] {
        world.run(["init", "--vault", vault]).ended(2).says(why);
        world.run(["copy", "--from", "backups", "--to", vault, "--init"]).ended(2).says(why);
    }
    assert!(["~", "v,w", "v"].iter().all(|name| !world.path(name).exists()));
    for vault in ["./v,w", "./~"] {
        world.run(["init", "--vault", vault]).ended(0);
    }
    // A vault in a vault.
    for args in
        [&["copy", "--from", "backups", "--to", "backups/x", "--init"][..], &["init", "--vault", "backups/packs/x"]]
    {
        world.run(args).ended(1).says("it lies in the vault");
    }
    assert!(!world.vault().join("x").exists());
    // Another program's, in a folder of a project.
    world.write("../project/vault.json", "{\"format\": \"hcl\"}");
    world.write("../project/README.md", "# My project");
    world.run(["init", "--vault", "project/state"]).ended(0);
}

#[test]
fn what_cannot_be_done_says_what_is_wrong_and_no_more() {
    let world = World::with_files();
    world.backup();
    let copied = world.run(["copy", "--from", "backup", "--to", "replica", "--init"]);
    copied.ended(1).says("backup: there is no vault").says("--from");
    assert!(!copied.stderr.contains("lastgood init"), "{copied:?}");
    // A removed working directory is no directory of the data.
    for command in ["backup . --vault \"$TOP/backups\"", "restore . --vault \"$TOP/backups\""] {
        let script = format!("TOP=$PWD; mkdir gone; cd gone; rmdir ../gone; exec \"$LASTGOOD\" {command}");
        world.shell(&script).ended(2).says("has been removed");
    }
    // It cannot be listed.
    std::fs::remove_dir_all(world.vault().join("snapshots")).unwrap();
    std::fs::write(world.vault().join("snapshots"), "").unwrap();
    assert_eq!(world.run(["list"]).ended(1).text(), "");
}

#[test]
fn a_target_is_where_its_path_leads_to() {
    let world = World::with_files();
    world.backup();
    for target in ["new/../backups/x", "new/../backups", "nowhere/../data/../backups/y/z"] {
        world.run(["restore", target]).ended(2).says("is the vault");
    }
    // `--if-missing` looks at the same place.
    world.write("a.txt", "later");
    let skipped = world.json(["restore", "--if-missing", "new/../data"], 0);
    assert!(skipped["skipped"].to_string().contains("there are files"), "{skipped}");
    let report = world.json(["restore", "new/../data"], 0);
    assert_eq!(report["target"], world.data().canonicalize().unwrap().to_str().unwrap());
    assert!(!world.path("new").exists());
    std::os::unix::fs::symlink("nowhere", world.path("dangling")).unwrap();
    for target in ["dangling/", "dangling/x"] {
        world.run(["restore", target]).ended(2).says("leads nowhere");
        assert!(world.path("dangling").is_symlink());
    }
}

#[test]
fn every_kind_of_entry_comes_back() {
    let world = World::with_everything();
    let report = world.backup();
    assert_eq!(
        (report["state"].as_str(), &report["errors"], &report["parent"]),
        (Some("complete"), &json!([]), &Value::Null)
    );
    let restored = world.restore("back");
    assert_eq!(restored["snapshot"], report["snapshot"]);
    assert_eq!(number(&restored, "entries"), number(&report, "entries"));
    assert_same(&world.data(), &world.path("back"));
}

#[test]
fn without_any_option_data_goes_into_backups_and_comes_back() {
    let world = World::with_files();
    world.run(["backup"]).ended(0);
    assert!(world.vault().join("vault.json").exists() && world.vault().join("README.md").exists());
    fs::rename(world.data(), world.path("lost")).unwrap();
    world.run(["restore"]).ended(0);
    assert_same(&world.path("lost"), &world.data());
}

#[test]
fn the_environment_names_data_and_vault() {
    let world = World::with_files();
    fs::rename(world.data(), world.path("elsewhere")).unwrap();
    let with = |args: &[&str], set: &[(&str, &Path)]| {
        let mut command = world.command(args);
        command.envs(set.iter().copied());
        Ran::of(command)
    };
    let (data, vault) = (world.path("elsewhere"), world.path("vault"));
    with(&["backup", "--init"], &[("LASTGOOD_DATA", &data), ("LASTGOOD_VAULT", &vault)]).ended(0);
    let url = format!("file://{}", vault.display());
    with(&["restore", "back"], &[("LASTGOOD_VAULT", Path::new(&url))]).ended(0);
    assert_same(&data, &world.path("back"));
    if !Path::new("/app/data").exists() {
        with(&["backup"], &[("K_SERVICE", Path::new("app"))]).ended(1).says("/app/data");
    }
}

#[test]
fn the_report_names_the_command_that_restores() {
    let world = World::with_files();
    let odd = world.path("it's $data");
    fs::rename(world.data(), &odd).unwrap();
    let ran = world.run(["backup".as_ref(), odd.as_os_str()]);
    let line = ran.ended(0).text().lines().find_map(|line| line.trim().strip_prefix("restore ")).unwrap();
    let line = line.trim().replacen("lastgood", LASTGOOD, 1);
    fs::rename(&odd, world.path("lost")).unwrap();
    let mut shell = Command::new("sh");
    // From another working directory: the command must not depend on it.
    shell.args(["-c", &line]).current_dir("/");
    Ran::of(shell).ended(0);
    assert_same(&world.path("lost"), &odd);
}

#[test]
fn what_is_there_moves_aside() {
    let world = World::with_files();
    world.backup();
    world.write("a.txt", "newer\n");
    let ran = world.run(["restore"]);
    let aside: Vec<_> =
        fs::read_dir(world.path("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let aside = aside.iter().find(|name| name.starts_with("data.replaced-")).unwrap();
    assert!(ran.ended(0).text().contains(aside), "{ran:?}");
    assert_eq!(fs::read_to_string(world.path(aside).join("a.txt")).unwrap(), "newer\n");
    assert_eq!(fs::read_to_string(world.data().join("a.txt")).unwrap(), "first\n");

    let report = world.json(["restore"], 0);
    let aside = report["moved_aside"].as_str().unwrap();
    assert!(world.path(aside).join("a.txt").exists(), "{report}");
}

#[test]
fn part_of_a_snapshot_can_be_restored() {
    let world = World::with_files();
    world.backup();
    world.run(["restore", "some", "--path", "./uploads/", "--path", "a.txt"]).ended(0);
    assert!(world.path("some/uploads/x/y.bin").exists() && world.path("some/a.txt").exists());
    assert!(!world.path("some/logs").exists());
    world.run(["restore", "none", "--path", "no such"]).ended(2).says("no such");
    assert!(!world.path("none").exists());
}

#[test]
fn reports_as_json_have_what_programs_need() {
    let world = World::with_files();
    let first = world.json(["backup", "--label", "app=shop", "--reason", "schedule"], 0);
    for field in ["entries", "files", "bytes", "uploaded_bytes", "new_packs"] {
        assert!(number(&first, field) > 0, "{field} of {first}");
    }
    assert!(first["warnings"].is_array() && first["errors"].is_array() && first["seconds"].is_f64(), "{first}");
    world.write("b.txt", "second");
    let second = world.backup();
    assert_eq!(second["parent"], first["snapshot"]);

    let list = world.json(["list"], 0);
    assert_eq!((&list[0]["id"], &list[1]["id"]), (&second["snapshot"], &first["snapshot"]));
    let mut expected = json!({ "id": id(&first), "parent": null, "reason": "schedule", "state": "complete", "labels": {"app": "shop"} });
    for field in ["entries", "files", "bytes"] {
        expected[field] = first[field].clone();
    }
    assert!(number(&list[1], "uploaded_bytes") > 0, "{list}");
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&list[1][field], value, "{field} of {list}");
    }
    list[1]["created"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();

    let verified = world.json(["verify"], 0);
    assert_eq!((number(&verified, "snapshots"), &verified["damage"]), (2, &json!([])));
}

#[test]
fn wrong_usage_ends_with_2() {
    let world = World::with_files();
    world.backup();
    for args in [
        &["--no-such-flag"][..],
        &["backup", "--reason", "boredom"],
        &["backup", "--level", "0"],
        &["backup", "--checkpoint-every", "0s"],
        &["backup", "--vault", "gs://Bucket/prefix"],
        &["backup", "--vault", "data"],
        &["backup", "--vault", "."],
        &["restore", "backups/in"],
        &["restore", "."],
        &["restore", "x", "--path", "/etc"],
        &["restore", "x", "--path", "../up"],
        &["restore", "x", "--snapshot", "no-such-snapshot"],
        &["ls", "no-such-snapshot"],
        &["verify", "--read-data=0"],
        &["cat", "latest", "a.txt", "--json"],
        &["-q", "-v", "list"],
        &[],
    ] {
        let ran = world.run(args);
        ran.ended(2);
        assert!(!ran.stderr.is_empty(), "{args:?}: {ran:?}");
    }
    assert!(!world.path("x").exists());
    assert_eq!(world.json(["list"], 0).as_array().unwrap().len(), 1);
    for args in [&["--help"][..], &["--version"], &["backup", "--help"]] {
        assert!(world.run(args).ended(0).text().contains("lastgood"));
    }
}

#[test]
fn errors_are_json_when_json_was_asked_for() {
    let world = World::new();
    for (args, exit, kind, code) in [
        (&["backup", "--vault", "s3://bucket"][..], 2, "usage", "bad-setting"),
        (&["backup", "--reason", "boredom"], 2, "usage", "bad-setting"),
        (&["backup"], 1, "failed", "no-data"),
        (&["list"], 1, "failed", "no-vault"),
        (&["frobnicate"], 2, "usage", "usage"),
    ] {
        let error = world.json(args, exit);
        assert_eq!((&error["kind"], &error["code"]), (&json!(kind), &json!(code)), "{error}");
        assert!(error["error"].is_string() && error.get("hint").is_some(), "{error}");
    }
    let typo = world.json(["bakcup"], 2);
    assert_eq!(typo["error"], "unrecognized subcommand 'bakcup'");
    assert!(typo["hint"].as_str().unwrap().contains("'backup'"), "{typo}");
}

#[test]
fn a_missing_data_directory_is_an_error_and_makes_no_vault() {
    let world = World::new();
    world.run(["backup"]).ended(1).says("does not exist");
    assert!(!world.vault().exists());
    fs::write(world.data(), "a file").unwrap();
    world.run(["backup"]).ended(1).says("not a directory");
    assert!(!world.vault().exists());
}

#[test]
fn an_empty_directory_is_suspect_and_never_latest() {
    let world = World::with_files();
    let good = world.backup();
    fs::remove_dir_all(world.data()).unwrap();
    fs::create_dir(world.data()).unwrap();
    world.run(["backup"]).ended(3).says("unmounted volume");
    assert_eq!(world.json(["backup"], 3)["state"], "suspect");
    let restored = world.restore("back");
    assert_eq!(restored["snapshot"], good["snapshot"]);
    assert_eq!(restored["passed_over"].as_array().unwrap().len(), 2);
    let ran = world.run(["restore", "again"]);
    assert!(ran.ended(0).text().contains("suspect"), "{ran:?}");
    assert_eq!(world.json(["backup", "--accept-shrink"], 0)["state"], "complete");
}

#[test]
fn an_unreadable_file_makes_the_snapshot_partial() {
    let world = World::with_files();
    tree::set_mode(&world.data().join("a.txt"), 0);
    let ran = as_nobody(&world, &["backup", "--json"]).unwrap_or_else(|| world.run(["backup", "--json"]));
    ran.ended(3).says("a.txt");
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&report["state"], &report["errors"][0]["path"]), (&json!("partial"), &json!("a.txt")));
    world.run(["restore", "back"]).ended(1).says("it is partial");
    world.run(["restore", "back", "--snapshot", short(&report)]).ended(0);
    assert!(world.path("back/logs/app.log").exists() && !world.path("back/a.txt").exists());
    tree::set_mode(&world.data().join("a.txt"), 0o644);
    let ran = as_nobody(&world, &["backup"]).unwrap_or_else(|| world.run(["backup"]));
    ran.ended(0);
}

#[test]
fn owners_are_skipped_with_a_notice_by_who_may_not_set_them() {
    let world = World::with_files();
    world.backup();
    tree::open_to_all(&world.vault());
    let Some(ran) = as_nobody(&world, &["restore", "back", "--json"]) else { return };
    let report: Value = serde_json::from_slice(&ran.ended(0).stdout).unwrap();
    assert!(report["warnings"].to_string().contains("owner"), "{report}");
    let found = differences(&world.data(), &world.path("back"));
    assert!(!found.is_empty() && found.iter().all(|d| d.contains(": owner: ")), "{found:?}");
}

#[test]
fn a_socket_is_skipped_with_a_warning() {
    let world = World::with_files();
    let _socket = UnixListener::bind(world.data().join("app.sock")).unwrap();
    let ran = world.run(["backup", "--json"]);
    ran.ended(0).says("app.sock");
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(report["warnings"][0].as_str().unwrap().contains("app.sock"), "{report}");
    assert_eq!(paths(&world.json(["ls", "latest"], 0)), ["a.txt", "logs", "uploads"]);
}

#[test]
fn quiet_is_quiet_and_the_log_stays_off_stdout() {
    let world = World::with_files();
    for args in [["-q", "backup"], ["-q", "restore"], ["-q", "verify"]] {
        let ran = world.run(args);
        assert_eq!((ran.ended(0).text(), ran.stderr.as_str()), ("", ""), "{args:?}");
    }
    let ran = world.run(["backup", "-vv", "--json"]);
    assert!(!ran.ended(0).stderr.is_empty() && serde_json::from_slice::<Value>(&ran.stdout).is_ok(), "{ran:?}");
    // No terminal: no bar, no colour.
    assert!(!ran.stderr.contains('\x1b') && !ran.stderr.contains('\r'), "{ran:?}");
    let ran = world.run(["backup"]);
    assert_eq!(ran.ended(0).stderr, "");
}

#[test]
fn a_reader_that_hangs_up_ends_it_quietly() {
    let world = World::new();
    for n in 0..3000 {
        world.write(&format!("{}/a file with a long name, number {n}", n % 7), "");
    }
    world.backup();
    for args in [["ls", "-R", "latest"], ["ls", "-R", "latest"]] {
        let mut child = world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(141), ""), "{line}");
    }
    // Whoever does not wait for a report still has the backup.
    let mut child = world.command(["backup"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let mut full = world.command(["list"]);
    full.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    assert_eq!(full.stderr(Stdio::null()).status().unwrap().code(), Some(1));
}

#[test]
fn a_signal_stops_a_backup_and_leaves_no_snapshot() {
    let world = World::new();
    for n in 0..8 {
        world.write(&format!("{n}"), tree::noise(n, 32 << 20));
    }
    // Two at the same time are one: `timeout` signals the process and its group.
    for signals in [&[Signal::TERM][..], &[Signal::INT], &[Signal::TERM, Signal::INT]] {
        let mut child = world.command(["backup"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let began = Instant::now();
        // Packs wait there until something names them.
        let packs = || fs::read_dir(world.vault().join("tmp")).map_or(0, Iterator::count);
        let before = packs();
        while packs() <= before && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        signals.iter().for_each(|signal| kill_process(Pid::from_child(&child), *signal).unwrap());
        let told = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if told.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("a minute after {signals:?} it is still there");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.code() == Some(1) && said.ends_with("Z Stopped. No snapshot was made.\n"),
            "{:?} {said}",
            done.status
        );
        assert_eq!(world.json(["list"], 0), json!([]));
    }
    world.backup();
    world.restore_snapshot("latest", "back");
    assert_same(&world.data(), &world.path("back"));
}

#[test]
fn an_export_is_a_new_whole_file() {
    let world = World::with_files();
    world.backup();
    world.json(["export", "latest", "-o", "out.tar.zst"], 0);
    let whole = fs::read(world.path("out.tar.zst")).unwrap();
    let piped = world.run(["export", "latest", "-o", "-"]);
    assert!(piped.ended(0).stdout == whole);
    world.run(["export", "latest", "-o", "out.tar.zst"]).ended(2).says("exists");
    world.run(["export", "latest", "-o", "no/such/folder"]).ended(1);
    let names = fs::read_dir(world.path("")).unwrap().count();
    assert_eq!(names, 3, "data, backups and the export, and nothing left beside them");
}

#[test]
fn a_filter_that_names_a_folder_means_all_in_it_and_one_that_matches_nothing_is_told() {
    let world = World::with_files();
    for (n, pattern) in ["uploads", "uploads/", "./uploads", "*.bin", "{*.bin,*.none}"].iter().enumerate() {
        let vault = format!("v{n}");
        let report = world.json(["backup", "--init", "--vault", &vault, "--include", pattern], 0);
        assert_eq!(report["warnings"], json!([]), "{pattern}");
        let listing = world.json(["ls", "-R", "latest", "--vault", &vault], 0);
        let files = paths(&listing);
        assert!(files.contains(&"uploads/x/y.bin") && !files.contains(&"a.txt"), "{pattern}: {files:?}");
    }
    let told = |args: &[&str], code| {
        let report = world.json(["backup", "--init", "--vault", "w", "--accept-shrink"].iter().chain(args), code);
        report["warnings"].to_string()
    };
    assert!(told(&["--include", "*.txt", "--include", "tpyo"], 0).contains("matches --include tpyo\""));
    let commas = told(&["--include", "*.txt", "--include", "*.csv,*.json", "--exclude", "*.tmp,cache"], 0);
    assert!(commas.contains("--include A --include B") && commas.contains("--exclude A --exclude B"), "{commas}");
    // An exclusion that matches nothing is logged only with `-v`: there is nothing to leave out.
    assert!(!told(&["--include", "*.txt", "--exclude", "cache"], 0).contains("matches"));
    world
        .run(["backup", "-v", "--exclude", "cache"])
        .ended(0)
        .says("nothing in the data directory matches --exclude cache");
}

#[test]
fn backups_can_be_switched_off() {
    let world = World::with_files().with("BACKUP_ENABLED", "false").with("MAX_LOCAL_BACKUPS", "10");
    let ran = world.run(["backup"]);
    ran.ended(1).says("BACKUP_ENABLED is false").says("MAX_LOCAL_BACKUPS is set, and is not used by this command");
    let ran = world.run(["backup", "--reason", "schedule"]);
    assert!(ran.ended(0).says("BACKUP_ENABLED is false").text().contains("No snapshot was taken"), "{ran:?}");
    assert_eq!(world.json(["backup", "--reason", "schedule"], 0)["snapshot"], Value::Null);
    assert!(!world.vault().exists());
    assert!(world.run(["doctor"]).ended(1).text().contains("BACKUP_ENABLED is false"));
}
