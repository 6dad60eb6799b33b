//! Restores of single paths that are killed at each of their renames: what is half there is never taken for good, is told,
//! and is completed by the same restore.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::World;
use crate::support::requirements::Mounted;
use crate::support::strace::killed_at;

/// The call at which a restore is killed.
const RENAME: &str = "renameat2";
/// No restore of these tests makes this many renames.
const MOST: usize = 60;

/// Returns the files below a folder, but for what a restore itself puts there, with their content.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            if name.contains("lastgood") || name.contains(".replaced-") {
            } else if entry.is_dir() {
                open.push(entry);
            } else {
                let below = entry.strip_prefix(folder).unwrap().display().to_string();
                found.insert(below, String::from_utf8_lossy(&fs::read(&entry).unwrap()).into_owned());
            }
        }
    }
    found
}

/// Kills the restore of `paths` to `target` at each rename, in a world of its own, and shows what has to come of it.
fn kill_everywhere<T>(target: &str, paths: &[&str], more: &[&str], make: impl Fn() -> Option<(World, T)>) {
    let mut args = [&["restore", "-q", target][..], more].concat();
    paths.iter().for_each(|path| args.extend(["--path", path]));
    let mut halves = 0;
    for n in 1..MOST {
        let Some((world, _mounted)) = make() else { return };
        let old = files(&world.path(target));
        let Some(ended) = killed_at(&world.command(&args), RENAME, n) else { return };
        let now = files(&world.path(target));
        if ended {
            assert!(n > 1 && halves > 0, "{n} renames, {halves} halves");
            assert!(!world.path(target).join(".lastgood-in-place").exists());
            return;
        }
        let again = world.command(&args).output().unwrap();
        assert!(again.status.success(), "{again:?}");
        let new = files(&world.path(target));
        if now != old && now != new {
            halves += 1;
            // Once more, to the same point.
            let Some((world, _mounted)) = make() else { return };
            killed_at(&world.command(&args), RENAME, n);
            let ran = world.run(["backup", target]);
            ran.ended(1).says("has not been finished");
            paths.iter().for_each(|path| _ = ran.says(&format!("--path {path}")));
            let told = world.run(["doctor", target]);
            told.ended(1);
            paths.iter().for_each(|path| assert!(told.text().contains(&format!("--path {path}")), "{told:?}"));
            if !paths.is_empty() {
                assert!(world.run(["restore", "--if-missing", target]).code != Some(0));
            }
            let mut preview = vec!["restore", "--dry-run", target];
            preview.extend(more);
            assert!(world.run(&preview).ended(0).text().contains("broken"));
            // The command that doctor names completes it, and says so.
            let told = world.json(["doctor", target], 1);
            let mut checks =
                told["parts"].as_array().unwrap().iter().flat_map(|part| part["checks"].as_array().unwrap());
            let broken = checks.find(|check| check["found"].as_str().unwrap().contains("is broken")).unwrap();
            let advice = broken["advice"].as_str().unwrap();
            let aside = advice.split(" is in ").nth(1).unwrap_or_else(|| panic!("{advice}")).trim_end_matches(':');
            assert!(Path::new(aside).is_dir(), "{advice}");
            let command = broken["commands"][0].as_str().unwrap().replacen("lastgood", "$LASTGOOD", 1);
            let ran = world.shell(&format!("{command} --json"));
            assert!(ran.ended(0).text().contains("the target was broken"), "{ran:?}");
            let above =
                fs::read_dir(world.path(target).parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
            let litter: Vec<_> = above.filter(|name| name.to_string_lossy().contains("restoring")).collect();
            assert!(litter.is_empty(), "{litter:?}");
            assert_eq!(files(&world.path(target)), new);
            assert!(!world.path(target).join(".lastgood-in-place").exists());
            world.run(["backup", target]).ended(0);
        }
    }
    panic!("it never ends");
}

#[test]
fn of_several_paths() {
    kill_everywhere("data", &["a.txt", "dir/b", "missing/c"], &[], || {
        let world = World::new();
        ["a.txt", "dir/b", "missing/c", "other"].iter().for_each(|name| world.write(name, "new"));
        world.backup();
        ["a.txt", "dir/b", "other"].iter().for_each(|name| world.write(name, "old"));
        fs::remove_dir_all(world.data().join("missing")).unwrap();
        Some((world, ()))
    });
}

#[test]
fn of_a_database_with_what_lies_beside_it() {
    kill_everywhere("data", &["app.db"], &[], || {
        let world = World::new();
        world.write("app.db", "new");
        world.backup();
        world.write("app.db", "old");
        // As SQLite begins one.
        world.write("app.db-wal", [&[0x37, 0x7f, 0x06, 0x82][..], b"old"].concat());
        world.write("app.db-shm", "old");
        Some((world, ()))
    });
}

#[test]
fn of_a_folder_around_a_volume() {
    kill_everywhere("data", &["dir"], &["--around-mounts"], || {
        let world = World::new();
        ["dir/a", "dir/b", "dir/c", "other"].iter().for_each(|name| world.write(name, "new"));
        let mounted = Mounted::new(world.data().join("dir/volume"), "1m")?;
        world.backup();
        ["dir/a", "dir/b", "dir/d", "other", "dir/volume/x"].iter().for_each(|name| world.write(name, "old"));
        Some((world, mounted))
    });
}

#[test]
fn of_a_folder_of_an_image() {
    kill_everywhere("image/app", &["sub"], &[], image);
}

#[test]
fn of_all_of_an_image_s_folder() {
    kill_everywhere("image/app", &[], &[], image);
}

/// A marker that is put into a folder of a lower layer makes the overlay create that folder again.
#[test]
fn half_of_an_images_folder_is_in_no_backup_of_what_is_around_it() {
    let paths = ["--path", "sub/a", "--path", "sub/b", "--path", "other"];
    let args = [&["restore", "-q", "image/app"][..], &paths].concat();
    let mut halves = 0;
    for n in 1..MOST {
        let Some((world, _mounted)) = image() else { return };
        let Some(ended) = killed_at(&world.command(&args), RENAME, n) else { return };
        let now = files(&world.path("image/app"));
        let backup = world.run(["backup", "image", "--vault", "others", "--init"]);
        if ended {
            backup.ended(0);
            assert!(halves > 0, "{n} renames");
            return;
        }
        if now["sub/a"] != now["sub/b"] || now["sub/b"] != now["other"] {
            halves += 1;
            backup.ended(1).says("has not been finished");
        }
    }
    panic!("{MOST} renames are not enough");
}

fn image() -> Option<(World, Mounted)> {
    let world = World::new();
    ["sub/a", "sub/b", "sub/deep/c", "other"].iter().for_each(|name| world.write(name, "new"));
    world.backup();
    for name in ["sub/a", "sub/b", "sub/deep/c", "other"] {
        let lower = world.path("layers/lower/app").join(name);
        fs::create_dir_all(lower.parent().unwrap()).unwrap();
        fs::write(lower, "old").unwrap();
    }
    let image = Mounted::overlay(&world.path("layers"), world.path("image"), ",redirect_dir=off")?;
    Some((world, image))
}

#[test]
fn what_is_left_on_a_volume_is_told_once_by_each() {
    let world = World::new();
    world.write("other", "new");
    let Some(_mounted) = Mounted::new(world.data().join("volume"), "1m") else { return };
    world.write("volume/file", "new");
    world.backup();
    world.write("volume/file", "old");
    const LEFT: &str = "is what a restore that was killed was about to put into place";
    // The new one has the name for what was there, and is not exchanged yet.
    let Some(ended) = killed_at(&world.command(["restore", "-q", "data", "--path", "volume/file"]), RENAME, 2) else {
        return;
    };
    assert!(!ended && files(&world.data())["volume/file"] == "old");
    let told = |args: &[&str]| {
        let ran = world.run(args);
        ran.ended(0);
        let said = [ran.text(), &ran.stderr].join(" ");
        // Lines are wrapped.
        said.split_whitespace().collect::<Vec<_>>().join(" ").matches(LEFT).count()
    };
    assert_eq!(told(&["doctor", "data"]), 1);
    assert_eq!(told(&["restore", "--around-mounts"]), 1);
    assert_eq!(told(&["restore", "--path", "volume/file"]), 1);
    assert_eq!(told(&["doctor", "data"]), 0);
    assert_eq!(files(&world.data())["volume/file"], "new");
}
