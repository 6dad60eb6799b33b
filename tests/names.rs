//! Names with anything in them: what is shown of a path can be given back, and what is printed as a command can be pasted.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use crate::support::http::Service;
use crate::support::{Ran, World, paths};

/// Names of files, no two of which may be shown as the same.
const NAMES: [&[u8]; 11] = [
    b"a\\b",
    b"a\\\\b",
    b"\xff",
    b"\\xff",
    b"n\nl",
    b"n\\x0al",
    b"-x",
    b"--json",
    b"\x1b[2J",
    "\u{202e}r ä%41+&=".as_bytes(),
    b"it's \"q\" $HOME `x`",
];

/// Creates a world with a file for each name, in a folder that is named so, too; each file has its name in it.
fn named() -> World {
    let world = World::new();
    for name in NAMES {
        let folder = world.data().join(OsStr::from_bytes(name));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(OsStr::from_bytes(name)), name).unwrap();
    }
    world.backup();
    world
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[test]
fn every_path_that_is_listed_can_be_given_back() {
    let world = named();
    let listed = world.json(["ls", "-R", "latest"], 0);
    let text = world.run(["ls", "-R", "latest"]);
    let text = text.ended(0).text().to_owned();
    let found = paths(&listed).into_iter().filter(|path| path.contains('/')).map(str::to_owned);
    // In the list for people, the path comes last, after the time.
    let shown = text.lines().filter_map(|line| Some(line.split_once("Z ")?.1.to_owned())).filter(|p| !p.ends_with('/'));
    let (found, shown): (Vec<_>, Vec<_>) = (found.collect(), shown.filter(|path| path.contains('/')).collect());
    assert_eq!((found.len(), shown.len()), (NAMES.len(), NAMES.len()), "{text}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
    let service = Service::start(&world, ["data", "--allow-download", "--vault", "backups"]);
    // Both lists are in the same order.
    for (path, in_json) in found.iter().zip(&found).chain(shown.iter().zip(&found)) {
        let cat = world.run(["cat", "latest", "--", path]);
        let content = cat.ended(0).stdout.clone();
        assert!(NAMES.contains(&&*content), "{path:?}: {cat:?}");
        let name = OsStr::from_bytes(&content);
        world.run(["restore", "out", "-q", &format!("--path={path}")]).ended(0);
        assert_eq!(fs::read(world.path("out").join(name).join(name)).unwrap(), content, "{path:?}");
        fs::remove_dir_all(world.path("out")).unwrap();
        let answer = service.get(&format!("/backup/latest/file?path={}", percent(path)));
        assert_eq!((answer.status, &answer.body), (200, &content), "{path:?}");
        let folder = path.rsplit_once('/').unwrap().0;
        let answer = service.get(&format!("/backup/latest/files?path={}", percent(folder)));
        assert_eq!(paths(&answer.is(200)), [in_json], "{path:?}");
        world.run(["ls", "latest", "--", folder]).ended(0);
    }
    // Bytes may be given themselves, `./` keeps a dash from being an option, and a stray backslash is told.
    let cat = world.run([OsStr::new("cat"), "latest".as_ref(), OsStr::from_bytes(b"\xff/\xff")]);
    assert_eq!(cat.ended(0).stdout, b"\xff");
    assert_eq!(world.run(["cat", "latest", "./-x/-x"]).ended(0).text(), "-x");
    world.run(["cat", "latest", "a\\b/a\\b"]).ended(2).says("a backslash is written as \\\\");
    assert_eq!(service.get("/backup/latest/file?path=a%5Cb").status, 404);
}

#[test]
fn a_message_spells_a_path_as_the_list_does() {
    let world = World::new();
    world.write("n\nl\\/a", "");
    world.write("b", "");
    world.backup();
    let lost = world.run(["cat", "latest", "n\\x0al\\\\"]);
    assert_eq!(lost.code, Some(2));
    lost.says("n\\x0al\\\\");
    assert!(!lost.stderr.contains("\\\\\\\\"), "{lost:?}");
    let lost = world.run(["restore", "out", "--path", "n\\x0al\\\\/none"]);
    lost.ended(2).says("n\\x0al\\\\/none");
}

/// Runs the restore command that a report has, as a shell takes it that knows POSIX only.
fn pasted(world: &World, told: &Ran) -> Ran {
    let text = told.ended(0).text();
    let command =
        text.lines().find_map(|line| line.trim().strip_prefix("restore  ")).unwrap_or_else(|| panic!("{text}"));
    assert!(!command.contains(|c: char| c.is_control()), "{command:?}");
    world.shell(&format!("cd /; lastgood() {{ \"$LASTGOOD\" \"$@\"; }}; {command}"))
}

#[test]
fn the_printed_restore_command_can_be_pasted() {
    for (data, vault) in [
        ("-data", "-vault"),
        ("it's my \"data\"", "a vault $HOME"),
        ("n\nl", "v\nl%d\\n"),
        ("\u{1b}[2J\tx", "v\u{202e}"),
        ("a,b", "c,d"),
        ("gs:", "file:"),
        ("n\n", "v\n\n"),
    ] {
        let world = World::new();
        let at = world.path(data);
        fs::create_dir(&at).unwrap();
        fs::write(at.join("a"), "first").unwrap();
        let vault = format!("./{vault}");
        let told = world.run(["backup", &format!("./{data}"), "--init", "--vault", &vault]);
        fs::write(at.join("a"), "later").unwrap();
        pasted(&world, &told).ended(0);
        assert_eq!(fs::read(at.join("a")).unwrap(), b"first", "{data:?}");
    }
}

#[test]
fn the_printed_command_restores_where_a_symlinked_data_folder_leads() {
    let world = World::new();
    world.write("a", "first");
    symlink("data", world.path("link")).unwrap();
    let told = world.run(["backup", "link"]);
    world.write("a", "later");
    pasted(&world, &told).ended(0);
    assert!(world.path("link").is_symlink() && !world.data().is_symlink());
    assert_eq!(fs::read(world.path("link/a")).unwrap(), b"first");
    assert_eq!(world.run(["backup", "link"]).ended(0).text().lines().count(), told.text().lines().count() - 1);
}

#[test]
fn a_vault_whose_path_is_not_utf8_can_be_given_back() {
    let world = World::with_files();
    let vault = OsStr::from_bytes(b"v\xff \\x");
    let told = world.run([OsStr::new("backup"), OsStr::new("--init"), OsStr::new("--vault"), vault]);
    assert!(!told.ended(0).text().contains('\u{fffd}'), "{told:?}");
    let report = world.json([OsStr::new("backup"), OsStr::new("--vault"), vault], 0);
    let address = report["vault"].as_str().unwrap();
    assert!(address.starts_with("file:///") && address.ends_with("/v%FF%20%5Cx"), "{address}");
    assert_eq!(world.json(["list", "--vault", address], 0).as_array().unwrap().len(), 2);
    world.write("a.txt", "later");
    pasted(&world, &told).ended(0);
    assert_eq!(fs::read(world.data().join("a.txt")).unwrap(), b"first\n");
    // Messages name it so, and the objects in it as paths are spelled everywhere.
    let missing = OsStr::from_bytes(b"none\xff");
    let ran = world.run([OsStr::new("list"), OsStr::new("--vault"), missing]);
    ran.ended(1).says("/none%FF: there is no vault").says("`lastgood init --vault file:///");
    assert!(!ran.stderr.contains('\u{fffd}'), "{ran:?}");
    fs::remove_dir_all(world.path(vault).join("packs")).unwrap();
    fs::write(world.path(vault).join("packs"), "").unwrap();
    let ran = world.run(["verify", "--vault", address]);
    assert!(ran.stderr.contains("/v\\xff \\\\x") && !ran.stderr.contains('\u{fffd}'), "{ran:?}");
}
