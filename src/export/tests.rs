//! Exports of sample vaults, and the bytes of the archives.

use super::*;
use crate::path::EntryPath;
use crate::restore::sample::{SampleVault, context};
use crate::vault::entry::Extent;
use crate::vault::root::SnapshotState;

fn exported(sample: &mut SampleVault, format: ArchiveFormat) -> (ExportReport, Vec<u8>) {
    let name = sample.commit(SnapshotState::Complete);
    let mut archive = Vec::new();
    let report = export(&sample.vault, &sample.vault.root(name).unwrap(), format, &mut archive, &context()).unwrap();
    (report, zstd::decode_all(&archive[..]).unwrap())
}

fn has(content: &[u8], what: &[u8]) -> bool {
    content.windows(what.len()).any(|window| window == what)
}

#[test]
fn a_tebibyte_of_hole_takes_no_space_and_no_time() {
    let mut sample = SampleVault::new();
    let data = sample.put(&[7; 4096]);
    let size = 1 << 40;
    let runs = [Extent::zeros(1 << 39), data, Extent::zeros(size - (1 << 39) - 4096)];
    sample.mapped("large", &[], &runs).size = size;
    sample.with_headers();
    let (report, stream) = exported(&mut sample, ArchiveFormat::Pax);
    assert!(stream.len() < 20_000 && report.bytes == stream.len() as u64, "{report:?}");
    assert_eq!((report.entries, report.files_not_hashed), (2, 1));
    assert!(has(&stream, b"GNU.sparse.realsize=1099511627776\n"));
    let map = b"2\n549755813888\n4096\n1099511627776\n0\n\0";
    assert!(has(&stream, map) && has(&stream, &[7; 4096]));
}

#[test]
fn the_hash_of_a_sparse_file_is_checked_with_its_holes() {
    let zeros = vec![0; 1 << 20];
    let content = [&[1; 4096][..], &zeros, &[2; 5000]].concat();
    for changed in [false, true] {
        let mut sample = SampleVault::new();
        // In a frame with more, which is decoded and not copied.
        sample.frame = 20_000;
        let data = sample.put(&[&content[..4096], &content[4096 + zeros.len()..], b"more"].concat());
        let (begin, end) = (Extent { length: 4096, ..data }, Extent { offset: 4096, length: 5000, ..data });
        let runs = [begin, Extent::zeros(zeros.len() as u64), end];
        let entry = sample.mapped("sparse", &content, &runs);
        if changed {
            entry.hash = Some(Hash::of(b"another content"));
        }
        sample.with_headers();
        let name = sample.commit(SnapshotState::Complete);
        let root = sample.vault.root(name).unwrap();
        let done = export(&sample.vault, &root, ArchiveFormat::Pax, &mut std::io::sink(), &context());
        match changed {
            false => assert_eq!(done.unwrap().files_not_hashed, 0),
            true => assert!(done.unwrap_err().to_string().contains("not what was stored")),
        }
    }
}

/// What the headers in the vault say suffices for entries with times of whole seconds, whose frames are then copied.
#[test]
fn a_header_that_says_all_is_the_one_of_the_vault() {
    let mut sample = SampleVault::new();
    for n in 0..5 {
        sample.file(format!("file {n}"), &[n; 700]);
    }
    sample.with_headers();
    let streams = |sample: &mut SampleVault| {
        let pax = exported(sample, ArchiveFormat::Pax).1;
        (pax, exported(sample, ArchiveFormat::Plain).1)
    };
    let (pax, plain) = streams(&mut sample);
    assert!(has(&pax, b" mtime=1700000000.123456789\n") && !has(&plain, b"mtime"));
    assert_eq!(pax.len(), plain.len() + 6 * 1024);
    let mut sample = SampleVault::new();
    sample.file("file", &[1; 700]);
    sample.entries.iter_mut().for_each(|entry| entry.mtime = 1_700_000_000_000_000_000);
    sample.with_headers();
    let (pax, plain) = streams(&mut sample);
    assert!(pax == plain);
}

/// An older version stored names as they are; bsdtar would extract this one in the place of `b`.
#[test]
fn a_header_of_a_name_that_bsdtar_cuts_is_made_anew() {
    let mut sample = SampleVault::new();
    sample.file("older name", b"content").mtime = 1_700_000_000_000_000_000;
    sample.with_headers();
    sample.entries.last_mut().unwrap().path = EntryPath::new("c:b").unwrap();
    for format in [ArchiveFormat::Plain, ArchiveFormat::Pax] {
        let stream = exported(&mut sample, format).1;
        assert!(has(&stream, b"./c:b\0") && has(&stream, b"content\0") && !has(&stream, b"older name"));
    }
}
