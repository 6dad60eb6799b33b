//! A TCP proxy that adds latency, not less bandwidth: every byte is passed on a fixed time after it came.
//!
//! `delaying_proxy LISTEN TARGET MILLISECONDS`: half of the time is added in each direction, so that a round trip takes that
//! much longer. A new connection's handshake is not delayed: it is made up for by delaying its first bytes once more.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// Chunks that are on their way in one direction. At 64 KiB each, this is what a long fat line holds.
const LINE: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, milliseconds] = args.as_slice() else {
        return Err("usage: delaying_proxy LISTEN TARGET MILLISECONDS".into());
    };
    let delay = Duration::from_millis(milliseconds.parse()?) / 2;
    for client in TcpListener::bind(listen)?.incoming() {
        let (client, server) = (client?, TcpStream::connect(target)?);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        pass(client.try_clone()?, server.try_clone()?, delay, delay * 2);
        pass(server, client, delay, Duration::ZERO);
    }
    Ok(())
}

/// Passes on what comes from one side, by two threads: one reads at once, the other writes when it is time.
fn pass(mut from: TcpStream, to: TcpStream, delay: Duration, handshake: Duration) {
    let (send, line) = sync_channel::<(Instant, Vec<u8>)>(LINE);
    std::thread::spawn(move || write(line, to));
    std::thread::spawn(move || {
        let begin = Instant::now();
        let mut buffer = vec![0; 64 << 10];
        // An error ends the connection as its end does: the other side sees it closed.
        while let Ok(read) = from.read(&mut buffer)
            && read > 0
        {
            let due = (Instant::now() + delay).max(begin + delay + handshake);
            if send.send((due, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
    });
}

fn write(line: Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (due, bytes) in line {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // Nobody listens any more when this fails.
    let _ = to.shutdown(Shutdown::Write);
}
