use std::fs;
use std::os::unix::fs::symlink;
use std::time::SystemTime;

use rustix::fs::Mode;

use super::temporary::STALE;
use super::*;
use crate::fs::rename::link_or_rename;
use crate::store::testing::contract;

#[test]
fn no_name_leads_out_of_the_vault() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().join("vault"));
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    for name in ["", "/", "a/", "/a", "../secret", "a/../../secret", ".hidden", "a//b", "a\0b"] {
        assert!(matches!(store.create(name, &[b"x"]), Err(StoreError::Refused { .. })), "{name:?}");
        assert!(matches!(store.staging().put(name, &[b"x"]), Err(StoreError::Refused { .. })), "{name:?}");
        assert!(matches!(store.get(name, 100), Err(StoreError::Refused { .. })), "{name:?}");
        assert!(matches!(store.get_range(name, 0, 1), Err(StoreError::Refused { .. })), "{name:?}");
        assert!(store.denied(name).is_none());
    }
    assert!(store.list("").unwrap().is_empty());
}

#[test]
fn keeps_the_contract() {
    contract::run(&|| {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().join("deep/vault"));
        (Box::new(store), Box::new(folder))
    });
}

#[test]
fn keeps_the_contract_behind_a_link_that_its_user_named() {
    contract::run(&|| {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("real")).unwrap();
        symlink("real", folder.path().join("link")).unwrap();
        (Box::new(LocalStore::new(folder.path().join("link"))), Box::new(folder))
    });
}

#[test]
fn keeps_the_contract_where_a_rename_may_replace() {
    contract::run(&|| {
        let folder = tempfile::tempdir().unwrap();
        let naming: Naming = |file, from, to| link_or_rename(file, from, to);
        (Box::new(LocalStore { naming, ..LocalStore::new(folder.path()) }), Box::new(folder))
    });
}

#[test]
fn a_temporary_file_that_stays_behind_is_no_failure_and_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let naming: Naming =
        |_, from, to| rustix::fs::linkat(from.0, from.1, to.0, to.1, rustix::fs::AtFlags::empty()).map(|()| true);
    let store = LocalStore { naming, ..LocalStore::new(folder.path()) };
    store.create("packs/a", &[b"x"]).unwrap();
    assert_eq!(store.list("tmp/").unwrap().len(), 1);
    let time = SystemTime::now() - 3 * STALE;
    File::options().write(true).open(folder.path().join("packs/a")).unwrap().set_modified(time).unwrap();
    let store = LocalStore::new(folder.path());
    store.create("packs/b", &[b"x"]).unwrap();
    assert_eq!(store.list("tmp/").unwrap(), []);
    assert_eq!(store.get("packs/a", 1).unwrap(), b"x");
}

#[test]
fn a_name_that_cannot_be_given_is_an_error_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore { naming: |_, _, _| Err(Errno::IO), ..LocalStore::new(folder.path()) };
    assert!(matches!(store.create("packs/a", &[b"x"]), Err(StoreError::Failed { .. })));
    assert_eq!(store.list("tmp/").unwrap(), []);
}

#[test]
fn nothing_is_written_where_the_folder_that_was_read_is_not_any_more() {
    let scratch = tempfile::tempdir().unwrap();
    let (volume, away) = (scratch.path().join("vault"), scratch.path().join("away"));
    let store = LocalStore::new(&volume);
    store.create("vault.json", &[b"{}"]).unwrap();
    store.get("vault.json", 10).unwrap();
    store.create("runs/1", &[b"1"]).unwrap();
    fs::rename(&volume, &away).unwrap();
    // The mount point of a volume that is not mounted exists, or does not.
    for there in [false, true] {
        let created = store.create("runs/2", &[b"2"]).unwrap_err().to_string();
        assert!(created.contains("vault.json was there") && created.contains("mounted"), "{created}");
        assert!(store.staging().put("packs/1", &[b"1"]).is_err());
        match there {
            false => fs::create_dir(&volume).unwrap(),
            true => assert_eq!(fs::read_dir(&volume).unwrap().count(), 0),
        }
    }
    fs::remove_dir(&volume).unwrap();
    fs::rename(&away, &volume).unwrap();
    store.create("runs/2", &[b"2"]).unwrap();
}

#[test]
fn a_failed_write_leaves_no_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    fs::write(folder.path().join("packs"), "in the way").unwrap();
    let said = store.create("packs/a", &[b"x"]).unwrap_err().to_string();
    assert!(said.contains("packs: it is a file, not a folder"), "{said}");
    assert_eq!(store.list("tmp/").unwrap(), []);
}

/// Makes a file that is three days old.
fn old(path: &Path) {
    fs::write(path, "old").unwrap();
    let time = SystemTime::now() - 3 * STALE;
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn what_is_swept_are_old_files_of_this_programs_names() {
    let folder = tempfile::tempdir().unwrap();
    let (tmp, far) = (folder.path().join("vault/tmp"), folder.path().join("far"));
    fs::create_dir_all(tmp.join("00000000000000aa-3")).unwrap();
    old(&far);
    symlink(&far, tmp.join("00000000000000aa-4")).unwrap();
    fs::write(tmp.join("00000000000000aa-5"), "new").unwrap();
    let stay = [
        "00000000000000aa",
        "00000000000000aa-",
        "00000000000000aa-01",
        "00000000000000aa-+1",
        "00000000000000aa-1x",
        "00000000000000AA-1",
        "+0000000000000aa-1",
        "0000000000000aa-1",
        "thesis.txt",
    ];
    stay.iter().for_each(|name| old(&tmp.join(name)));
    let mut expected = names(&tmp);
    expected.sort();
    for name in ["00000000000000aa-0", "0123456789abcdef-18446744073709551615"] {
        old(&tmp.join(name));
    }
    LocalStore::new(folder.path().join("vault")).create("a", &[b"x"]).unwrap();
    assert_eq!(names(&tmp), expected);
    assert!(far.exists());
}

#[test]
fn a_link_in_the_place_of_a_folder_is_told_and_leads_nowhere() {
    for name in ["tmp", "packs", "claims", "claims/x"] {
        let folder = tempfile::tempdir().unwrap();
        let (vault, far) = (folder.path().join("vault"), folder.path().join("far"));
        fs::create_dir_all(far.join("x")).unwrap();
        for name in ["thesis.txt", "00000000000000aa-0", "a", "x/1"] {
            old(&far.join(name));
        }
        fs::create_dir_all(vault.join(name).parent().unwrap()).unwrap();
        symlink(&far, vault.join(name)).unwrap();
        let store = LocalStore::new(&vault);
        for object in ["packs/a", "packs/new", "claims/x/1", "claims/x/2"] {
            if name != "tmp" && !object.starts_with(name) {
                continue;
            }
            let mut said = vec![store.create(object, &[b"x"]).unwrap_err()];
            if name != "tmp" {
                said.push(store.get(object, 10).unwrap_err());
                said.push(store.get_range(object, 0, 1).unwrap_err());
                said.push(store.list(&format!("{}/", split(object).unwrap().0)).unwrap_err());
            }
            for said in said {
                let text = said.while_doing("do it").to_string();
                assert!(text.contains(&format!("{name}: it is a symbolic link")), "{text}");
                assert!(text.contains("Remove the link"), "{text}");
            }
        }
        assert_eq!(names(&far), ["00000000000000aa-0", "a", "thesis.txt", "x"], "{name}");
        assert_eq!(names(&far.join("x")), ["1"], "{name}");
    }
}

#[test]
fn one_object_that_cannot_be_read_is_told_from_a_store_that_fails() {
    let scratch = tempfile::tempdir().unwrap();
    let store = LocalStore::new(scratch.path());
    store.create("packs/a", &[b"x"]).unwrap();
    let path = scratch.path().join("packs/b");
    let makes: [&dyn Fn(); 3] = [
        &|| rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR).unwrap(),
        &|| symlink("a", &path).unwrap(),
        &|| std::fs::create_dir(&path).unwrap(),
    ];
    for make in makes {
        make();
        // Nothing is known of other objects yet.
        let alone = [store.get("packs/b", 9), store.get_range("packs/b", 0, 1)];
        assert!(alone.iter().all(|got| matches!(got, Err(StoreError::Refused { .. }))), "{alone:?}");
        store.create(CONFIG, &[b"{}"]).unwrap();
        let beside = [store.get("packs/b", 9), store.get_range("packs/b", 0, 1)];
        assert!(beside.iter().all(|got| matches!(got, Err(StoreError::Unreadable { .. }))), "{beside:?}");
        std::fs::remove_file(scratch.path().join(CONFIG)).unwrap();
        std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path)).unwrap();
    }
}

#[test]
fn an_object_that_is_a_link_is_neither_read_nor_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().join("vault"));
    store.create("packs/a", &[b"x"]).unwrap();
    fs::write(folder.path().join("far"), "secret").unwrap();
    for target in ["../../far", "../../none"] {
        let link = folder.path().join("vault/packs/link");
        symlink(target, &link).unwrap();
        assert!(matches!(store.get("packs/link", 100), Err(StoreError::Refused { .. })));
        assert!(matches!(store.create("packs/link", &[b"x"]), Err(StoreError::AlreadyExists { .. })));
        fs::remove_file(link).unwrap();
    }
    assert_eq!(names(folder.path()), ["far", "vault"]);
    assert_eq!(fs::read(folder.path().join("far")).unwrap(), b"secret");
    assert_eq!(names(&folder.path().join("vault/tmp")), [""; 0]);
}

#[test]
fn a_folder_that_is_swapped_for_a_link_between_two_objects_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (vault, far) = (folder.path().join("vault"), folder.path().join("far"));
    let store = LocalStore::new(&vault);
    store.create("packs/a", &[b"x"]).unwrap();
    for name in ["packs", "tmp"] {
        fs::rename(vault.join(name), &far).unwrap();
        symlink(&far, vault.join(name)).unwrap();
        let before = names(&far);
        assert!(matches!(store.create("packs/b", &[b"x"]), Err(StoreError::Refused { .. })), "{name}");
        assert_eq!(names(&far), before, "{name}");
        fs::remove_file(vault.join(name)).unwrap();
        fs::rename(&far, vault.join(name)).unwrap();
    }
    store.create("packs/b", &[b"x"]).unwrap();
}

#[test]
fn nothing_is_written_where_the_vault_that_was_opened_is_not_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let vault = folder.path().join("vault");
    let store = LocalStore::new(&vault);
    for name in ["README.md", CONFIG] {
        store.create(name, &[b"{}"]).unwrap();
        store.get(name, 9).unwrap();
    }
    // Anybody may tidy up what is not a part of the vault.
    fs::remove_file(vault.join("README.md")).unwrap();
    store.create("packs/a", &[b"x"]).unwrap();
    fs::rename(&vault, folder.path().join("unmounted")).unwrap();
    fs::create_dir(&vault).unwrap();
    fs::write(vault.join("README.md"), "of the mount point").unwrap();
    assert!(matches!(store.create("packs/b", &[b"x"]), Err(StoreError::Unreachable { .. })));
    assert_eq!(names(&vault), ["README.md"]);
}

#[test]
fn what_is_missing_is_so_in_the_vault_that_was_opened() {
    let scratch = tempfile::tempdir().unwrap();
    let (volume, away) = (scratch.path().join("vault"), scratch.path().join("away"));
    let store = LocalStore::new(&volume);
    let nothing = || {
        assert!(matches!(store.get("packs/b", 1), Err(StoreError::NotFound { .. })));
        assert_eq!(store.list("runs/").unwrap(), []);
    };
    // No vault has been read yet.
    nothing();
    store.create("packs/a", &[b"x"]).unwrap();
    nothing();
    store.create(CONFIG, &[b"{}"]).unwrap();
    store.get(CONFIG, 9).unwrap();
    nothing();
    fs::rename(&volume, &away).unwrap();
    // The mount point of a volume that is not mounted exists, or does not, and something may lie in it.
    for below in [None, Some(""), Some("packs")] {
        if let Some(below) = below {
            fs::create_dir_all(volume.join(below)).unwrap();
        }
        let said = [
            store.get(CONFIG, 9).map(drop),
            store.get("packs/a", 1).map(drop),
            store.get_range("packs/a", 0, 1).map(drop),
            store.list("").map(drop),
            store.list("runs/").map(drop),
            store.other_than(&["packs"]).map(drop),
        ];
        for (at, said) in said.into_iter().enumerate() {
            let text = format!("{said:?}");
            assert!(matches!(said, Err(StoreError::Unreachable { .. })) && text.contains("mounted"), "{at}: {text}");
        }
    }
    fs::remove_dir_all(&volume).unwrap();
    fs::rename(&away, &volume).unwrap();
    nothing();
    assert_eq!(store.get("packs/a", 1).unwrap(), b"x");
}
