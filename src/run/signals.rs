//! What a signal to `run` means: the app gets most of them, and some are for `run` itself.
//!
//! On a terminal the app is in the same process group as `run`, and the terminal sends Ctrl-C and the like to both. The app
//! decides then what it makes of it, as it would without `run`; passed on as well, it would get it twice, and many programs take a
//! second one for impatience. Everywhere else `run` alone gets signals: a container's SIGTERM, and those of `kill`.

use std::io;
use std::thread;

use rustix::process::Signal;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalMeaning {
    /// Stop the app, which gets this signal first, and end.
    Stop(Signal),
    /// The terminal has sent it to the app, too: end if the app does, and this is no crash then.
    AppWasTold(Signal),
    /// Back up, as after a critical error.
    BackUp,
    /// Pass it on to the app.
    PassOn(Signal),
}

/// The signals that are watched. On a terminal, SIGTSTP, SIGCONT and those of programs in the background stop and go on with both.
const ALWAYS: [i32; 6] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];
/// The signals that are watched where there is no terminal, too.
const WITHOUT_TERMINAL: [i32; 4] = [SIGWINCH, SIGCONT, SIGTTIN, SIGTTOU];

/// Returns what a signal asks for. `None` for one that is not watched.
pub fn meaning(signal: i32, terminal: bool) -> Option<SignalMeaning> {
    Some(match (signal, terminal) {
        (SIGTERM, _) => SignalMeaning::Stop(Signal::TERM),
        (SIGINT, false) => SignalMeaning::Stop(Signal::INT),
        (SIGQUIT, false) => SignalMeaning::Stop(Signal::QUIT),
        (SIGINT, true) => SignalMeaning::AppWasTold(Signal::INT),
        (SIGQUIT, true) => SignalMeaning::AppWasTold(Signal::QUIT),
        // Without a terminal, a server reads its configuration again; with one, the terminal is gone.
        (SIGHUP, false) => SignalMeaning::PassOn(Signal::HUP),
        (SIGHUP, true) => SignalMeaning::Stop(Signal::HUP),
        (SIGUSR1, _) => SignalMeaning::BackUp,
        (SIGUSR2, _) => SignalMeaning::PassOn(Signal::USR2),
        (SIGWINCH, false) => SignalMeaning::PassOn(Signal::WINCH),
        (SIGCONT, false) => SignalMeaning::PassOn(Signal::CONT),
        (SIGTTIN, false) => SignalMeaning::PassOn(Signal::TTIN),
        (SIGTTOU, false) => SignalMeaning::PassOn(Signal::TTOU),
        _ => return None,
    })
}

/// Watches for signals from now on, and tells what each asks for; `ignored` says whether a signal was to be ignored when the
/// program was started, as `nohup` has it with SIGHUP: those stay ignored. Signals that come while one of their kind is waiting
/// count as one.
///
/// # Errors
/// The system does not permit it, or gives no thread.
pub fn watch(
    terminal: bool,
    ignored: impl Fn(i32) -> bool,
    tell: impl Fn(SignalMeaning) + Send + 'static,
) -> io::Result<()> {
    let more = WITHOUT_TERMINAL.iter().filter(|_| !terminal);
    let mut signals = Signals::new(ALWAYS.iter().chain(more).filter(|signal| !ignored(**signal)))?;
    let work = move || signals.forever().filter_map(|signal| meaning(signal, terminal)).for_each(tell);
    thread::Builder::new().name("signals".into()).spawn(work)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_means_what_the_app_does_not_get_from_the_terminal() {
        use SignalMeaning::{AppWasTold, BackUp, PassOn, Stop};
        for (signal, alone, terminal) in [
            (SIGTERM, Some(Stop(Signal::TERM)), Some(Stop(Signal::TERM))),
            (SIGINT, Some(Stop(Signal::INT)), Some(AppWasTold(Signal::INT))),
            (SIGQUIT, Some(Stop(Signal::QUIT)), Some(AppWasTold(Signal::QUIT))),
            (SIGHUP, Some(PassOn(Signal::HUP)), Some(Stop(Signal::HUP))),
            (SIGUSR1, Some(BackUp), Some(BackUp)),
            (SIGUSR2, Some(PassOn(Signal::USR2)), Some(PassOn(Signal::USR2))),
            (SIGWINCH, Some(PassOn(Signal::WINCH)), None),
            (SIGCONT, Some(PassOn(Signal::CONT)), None),
            (SIGTTIN, Some(PassOn(Signal::TTIN)), None),
            (SIGTTOU, Some(PassOn(Signal::TTOU)), None),
        ] {
            assert_eq!((meaning(signal, false), meaning(signal, true)), (alone, terminal), "{signal}");
            // What is watched has a meaning, and nothing else is.
            let watched = ALWAYS.contains(&signal);
            assert_eq!((watched || WITHOUT_TERMINAL.contains(&signal), watched), (alone.is_some(), terminal.is_some()));
        }
        assert_eq!(ALWAYS.len() + WITHOUT_TERMINAL.len(), 10);
    }
}
