//! Passes the output of the app on, byte for byte and at once.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::fstat;

use crate::children::more_output;
use crate::run::output::{Lines, Output, OutputMatch};

/// Bytes that are passed on at the same time: as many as a pipe holds.
const AT_ONCE: usize = 64 << 10;

/// The pipes of an app's output.
#[derive(Debug, Default)]
pub struct Pipes {
    /// One for each: it is closed when all that came through its pipe is passed on.
    ends: Vec<Receiver<()>>,
}

impl Pipes {
    /// Gives a command pipes in place of stdout and stderr, except where these are a terminal, and begins to pass on what comes
    /// through them.
    ///
    /// # Errors
    /// The system gives no pipe or no thread.
    pub fn open(
        command: &mut Command,
        output: &Arc<Output>,
        tell: &(impl Fn(OutputMatch) + Clone + Send + 'static),
    ) -> io::Result<Pipes> {
        let mut pipes = Pipes::default();
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let mut watch = |to: OwnedFd| {
            let (from, pipe) = io::pipe()?;
            let (still, end) = bounded::<()>(0);
            let (output, tell) = (output.clone(), tell.clone());
            let work = move || {
                pass_on(from, &to.into(), &output, tell);
                drop(still);
            };
            thread::Builder::new().name("output".into()).spawn(work)?;
            pipes.ends.push(end);
            io::Result::Ok(pipe)
        };
        let (out, err) = (!stdout.is_terminal(), !stderr.is_terminal());
        if out && err && is_same(&stdout, &stderr) {
            let pipe = watch(stdout.as_fd().try_clone_to_owned()?)?;
            command.stdout(pipe.try_clone()?).stderr(pipe);
            return Ok(pipes);
        }
        let mut stdio = |watched: bool, to: &dyn AsFd| match watched {
            true => Ok(Stdio::from(watch(to.as_fd().try_clone_to_owned()?)?)),
            false => io::Result::Ok(Stdio::inherit()),
        };
        command.stdout(stdio(out, &stdout)?).stderr(stdio(err, &stderr)?);
        Ok(pipes)
    }

    /// Waits until all is passed on, for this long at most. Returns whether it is.
    pub fn finish(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        self.ends
            .iter()
            .all(|end| matches!(end.recv_deadline(until), Err(crossbeam_channel::RecvTimeoutError::Disconnected)))
    }
}

/// Whether two descriptors lead to one place.
fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    let (Ok(one), Ok(other)) = (fstat(one), fstat(other)) else { return false };
    (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev)
}

/// Passes on all that comes through a pipe, until its end or until nobody takes it any more: then the pipe is closed, and the app
/// hears of it as it would have without it.
fn pass_on(mut from: PipeReader, to: &File, output: &Output, tell: impl Fn(OutputMatch)) {
    let mut buffer = vec![0; AT_ONCE];
    let mut lines = Lines::default();
    while let Some(bytes) = more_output(&mut from, &mut buffer) {
        let passed_on = write(to, bytes);
        output.take(bytes, &mut lines, Instant::now(), &tell);
        match passed_on {
            Err(why) if why.kind() == io::ErrorKind::BrokenPipe => break,
            // A full disk: a pipe has no way to say so, and the app goes on as most do after an error like that.
            Err(why) => tracing::debug!("output of the app could not be passed on: {why}"),
            Ok(()) => {}
        }
    }
    output.end(&mut lines, Instant::now(), &tell);
}

/// Writes all bytes, however long the reader takes.
fn write(mut to: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            // Another program has made it so: it shares what it leads to.
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                // An error is told by the next write.
                let _ = poll(&mut [PollFd::new(to, PollFlags::OUT)], None);
            }
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;
    use crate::mask::Masker;
    use crate::run::output::CriticalRules;

    fn output() -> Output {
        Output::new(CriticalRules::default(), Masker::new::<&str>(&[]).unwrap())
    }

    #[test]
    fn a_reader_may_be_slow() {
        let ((app_reads, mut app), (mut reader, to)) = (io::pipe().unwrap(), io::pipe().unwrap());
        fcntl_setfl(&to, fcntl_getfl(&to).unwrap() | OFlags::NONBLOCK).unwrap();
        let to = File::from(OwnedFd::from(to));
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let written = bytes.clone();
        let passing = thread::spawn(move || pass_on(app_reads, &to, &output(), |_| {}));
        let writing = thread::spawn(move || app.write_all(&written).unwrap());
        thread::sleep(Duration::from_millis(100));
        assert!(!writing.is_finished());
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        writing.join().unwrap();
        passing.join().unwrap();
    }

    #[test]
    fn the_app_hears_that_the_reader_is_gone() {
        let ((app_reads, mut app), (reader, to)) = (io::pipe().unwrap(), io::pipe().unwrap());
        drop(reader);
        let watched = Arc::new(output());
        let (of, to) = (watched.clone(), File::from(OwnedFd::from(to)));
        let passing = thread::spawn(move || pass_on(app_reads, &to, &of, |_| {}));
        app.write_all(b"last words\n").unwrap();
        passing.join().unwrap();
        assert_eq!(app.write_all(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(watched.last_lines(), ["last words"]);
    }

    #[test]
    fn the_same_place_is_known() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(is_same(&writer, writer.try_clone().unwrap()));
        assert!(!is_same(&writer, io::pipe().unwrap().1));
        drop(reader);
    }
}
