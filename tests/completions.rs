//! `completions` and `man`: what shells complete with them, and what `man` shows.

use std::fs;
use std::process::Command;

use crate::docs::commands::helps;
use crate::support::requirements::skipped;
use crate::support::terminal::{lines, on_terminal};
use crate::support::{Ran, World};

/// Whether a program is here; says so if it is not.
fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|ran| ran.status.success());
    if !here {
        skipped(program, &format!("there is no {program} here"));
    }
    here
}

#[test]
fn bash_completes_commands_options_and_values() {
    let world = World::new();
    let script = world.run(["completions", "bash"]).ended(0).text().to_owned();
    fs::write(world.path("script"), script).unwrap();
    if !is_here("bash") {
        return;
    }
    let completed = |words: &[&str]| {
        let mut bash = Command::new("bash");
        let complete = "source ./script
            COMP_WORDS=(lastgood \"$@\"); COMP_CWORD=$#; _lastgood lastgood \"${COMP_WORDS[-1]}\" \"${COMP_WORDS[-2]}\"
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        bash.args(["--norc", "-c", complete, "bash"]).args(words).current_dir(world.path(""));
        let ran = Ran::of(bash);
        ran.ended(0).text().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["bac"]), ["backup"]);
    assert_eq!(completed(&["backup", "--exc"]), ["--exclude"]);
    assert_eq!(completed(&["backup", "--reason", "sche"]), ["schedule"]);
    assert_eq!(completed(&["publish", "cri"]), ["critical"]);
    // Commands alone, until a dash asks for options; options alone where there are no commands.
    for words in [&[""][..], &["publish", ""]] {
        let offered = completed(words);
        assert!(offered.len() > 3 && !offered.iter().any(|word| word.starts_with('-')), "{offered:?}");
    }
    assert!(completed(&["-"]).iter().all(|word| word.starts_with('-')));
    assert!(completed(&["--ver"]).contains(&"--version".to_owned()));
}

#[test]
fn zsh_completes_commands_and_options() {
    let world = World::new();
    let script = world.run(["completions", "zsh"]).ended(0).text().to_owned();
    fs::create_dir(world.path("functions")).unwrap();
    fs::write(world.path("functions/_lastgood"), script).unwrap();
    if !is_here("zsh") {
        return;
    }
    let mut zsh = Command::new("zsh");
    zsh.args(["-f", "-i"]).current_dir(world.path("")).env("HOME", world.path("")).env("PROMPT", "READY ");
    let begin = "fpath=($PWD/functions $fpath); autoload -U compinit; compinit -u -D; echo l''oaded\r";
    let steps =
        [("READY ", begin), ("loaded", ""), ("READY ", "lastgood bac\t"), ("kup", "--exclud\t"), ("=", "\u{15}exit\r")];
    let ran = on_terminal(&zsh, 80, &steps);
    let shown = lines(ran.ended(0).text()).concat();
    assert!(shown.contains("lastgood backup ") && shown.contains("--exclude="), "{shown}");
}

#[test]
fn other_shells_get_theirs() {
    let world = World::new();
    for (shell, part) in
        [("fish", "complete -c lastgood"), ("elvish", "edit:completion"), ("powershell", "Register-Argument")]
    {
        assert!(world.run(["completions", shell]).ended(0).text().contains(part), "{shell}");
    }
    world.run(["completions", "csh"]).ended(2);
}

#[test]
fn each_command_has_a_manual_page() {
    let world = World::new();
    for (command, help) in helps() {
        let page = world.run(["man"].into_iter().chain(command.split_whitespace())).ended(0).text().to_owned();
        let name = format!("lastgood {command}").trim_end().replace(' ', "\\-");
        assert!(page.contains(".SH NAME\n") && page.contains(&name), "{command}: {page}");
        assert_eq!(page.contains(".SH EXAMPLES\n"), !command.is_empty() && help.contains("Examples:"), "{command}");
    }
    let page = world.run(["man", "backup"]).ended(0).text().to_owned();
    let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
    assert!(title.contains(" 1 \" \" \"lastgood "), "the source does not stand in the place of the date: {title}");
    for part in ["\\-\\-checkpoint\\-every", "lastgood backup \\-\\-exclude", "incomplete\\-copies"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let synopsis = page.split(".SH SYNOPSIS\n").nth(1).unwrap().lines().next().unwrap();
    for part in ["[\\fB\\-\\-exclude\\fR \\fIGLOB\\fR]...", "[\\fB\\-q|\\-\\-quiet\\fR]", "[\\fIDATA\\fR]"] {
        assert!(synopsis.contains(part), "{part}: {synopsis}");
    }
    world.run(["man", "bakcup"]).ended(2).says("there is no such command");
    if is_here("groff") {
        fs::write(world.path("page"), page).unwrap();
        let mut groff = Command::new("groff");
        groff.args(["-man", "-Tutf8", "-Kutf8", "-P-cbou"]).arg(world.path("page"));
        let ran = Ran::of(groff);
        let text = ran.ended(0).text();
        assert!(
            text.contains("  lastgood backup /srv/app --vault /mnt/v --init\n") && text.contains("Why it is taken"),
            "{ran:?}"
        );
    }
}
