//! Reads a file once and hashes it as one BLAKE3 stream: the measure for a backup in which little has changed.

use std::fs::File;
use std::io::Read;

fn main() -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        let mut file = File::open(&path)?;
        let (mut buffer, mut hasher) = (vec![0; 1 << 20], blake3::Hasher::new());
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            };
        }
        println!("{}  {}", hasher.finalize().to_hex(), path.display());
    }
    Ok(())
}
