//! A restored tree takes over nothing from the folders around it, and has no attributes that it must not have.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{XattrFlags, llistxattr, setxattr};
use rustix::io::Errno;

use crate::support::requirements::{as_nobody, skipped};
use crate::support::tree::set_mode;
use crate::support::{World, is_root};

/// `user::rwx,user:nobody:rwx,group::r-x,mask::rwx,other::r-x` as acl(5) has it in an attribute.
fn open_to_nobody() -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    let entries = [(1u16, 7u16, NONE), (2, 7, 65534), (4, 5, NONE), (0x10, 7, NONE), (0x20, 5, NONE)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn attributes(path: &Path) -> Vec<String> {
    let mut names = [0; 4096];
    let length = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).filter(|name| !name.starts_with("security.")).collect()
}

#[test]
fn what_is_restored_takes_over_no_access_control_list() {
    let world = World::new();
    world.write("key", "secret");
    world.write("folder/key", "secret");
    for name in ["key", "folder/key"] {
        set_mode(&world.data().join(name), 0o640);
    }
    world.backup();
    fs::create_dir_all(world.path("around/filled/old")).unwrap();
    for name in ["around", "around/filled", "around/filled/old"] {
        let around = world.path(name);
        match setxattr(&around, "system.posix_acl_default", &open_to_nobody(), XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => return skipped("acl", "the filesystem of the tests has no access control lists"),
            done => done.unwrap(),
        }
        setxattr(&around, "user.other", b"x", XattrFlags::empty()).unwrap();
    }
    world.restore("around/new");
    world.json(["restore", "around/filled", "--in-place"], 0);
    for target in ["new", "filled"] {
        for name in ["", "key", "folder", "folder/key"] {
            let path = world.path("around").join(target).join(name);
            assert_eq!(attributes(&path), [""; 0], "{}", path.display());
            let (was, is) = (fs::metadata(world.data().join(name)).unwrap(), fs::metadata(&path).unwrap());
            assert_eq!(was.mode(), is.mode(), "{}", path.display());
        }
    }
    // Also one of which the snapshot's own entry is not restored.
    world.json(["restore", "around/part", "--in-place", "--path", "folder"], 0);
    for name in ["", "folder", "folder/key"] {
        assert_eq!(attributes(&world.path("around/part").join(name)), [""; 0], "{name}");
    }
    assert_eq!(fs::metadata(world.path("around/part")).unwrap().mode() & 0o777, 0o700);
    // The previous content keeps its own attributes.
    let aside = fs::read_dir(world.path("around/filled")).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside.filter(|path| path.display().to_string().contains("replaced")).collect::<Vec<_>>();
    assert_eq!(attributes(&aside[0].join("old")), ["system.posix_acl_default", "user.other"]);
    assert_eq!(fs::metadata(&aside[0]).unwrap().mode() & 0o077, 0);
}

#[test]
fn a_program_runs_as_nobody_else_where_its_owner_cannot_be_given() {
    if !is_root() {
        return skipped("root", "giving a file to another user takes root");
    }
    let world = World::new();
    for name in ["program", "group"] {
        world.write(name, "#!/bin/sh\n");
        chown(world.data().join(name), Some(1000), Some(1000)).unwrap();
    }
    set_mode(&world.data().join("program"), 0o4755);
    set_mode(&world.data().join("group"), 0o2755);
    fs::create_dir(world.data().join("folder")).unwrap();
    chown(world.data().join("folder"), Some(1000), Some(1000)).unwrap();
    set_mode(&world.data().join("folder"), 0o2775);
    world.backup();
    let mode = |target: &str, name| fs::metadata(world.path(target).join(name)).unwrap().permissions().mode() & 0o7777;
    world.restore("as-root");
    assert_eq!(["program", "group", "folder"].map(|name| mode("as-root", name)), [0o4755, 0o2755, 0o2775]);

    fs::create_dir(world.path("open")).unwrap();
    set_mode(&world.path("open"), 0o777);
    let given = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(world.vault()).status().unwrap();
    assert!(given.success());
    let vault = world.vault();
    let Some(ran) = as_nobody(&world, &["restore", "open/out", "--vault", vault.to_str().unwrap()]) else { return };
    ran.ended(0).says("2 programs lost their set-user-id and set-group-id bits");
    assert_eq!(["program", "group"].map(|name| mode("open/out", name)), [0o755, 0o755]);
}
