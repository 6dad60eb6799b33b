//! The looks at an epoch that is held, and the calls that an input leads to.
//!
//! A successor waits for two polls and 5 s, and then takes a holder for dead that has not told that it yields. With a poll of P, calls
//! that take up to L, and the limit of a call, max(P, 2.5 s), a holder tells that in time:
//!
//! - A look that has just missed the successor is followed by the next one after P or, if that look took longer, 2 L, and after 0.5 s
//!   at most, the time between two ticks. It reads the successor, its end and the own end. From then on the app is being stopped.
//! - The tick that follows at once creates `<n>.yields.json`. So it is there after max(P, 2 L) + 0.5 s + 4 L.
//! - The successor's time begins when it has listed the epochs and read the holder's, 2 L after its own is there. It is over after
//!   2 P + 5 s + 2 L, and the holder is in time if L is at most 1.1 s, however short P is.
//! - If the first call of a look is cut at its limit, that look still reads the own end, and the next one follows after 0.5 s: the limit,
//!   L and 0.5 s are lost. The holder is in time if L is at most 1.3 s with a P of 2.5 s or more, and 0.5 s with shorter ones.
//! - If that call hangs each time, the successor is not seen. The own end is read beside a call that takes 0.5 s, and then each 0.5 s: the
//!   app is being stopped 0.5 s and L after the epoch was ended by force, however long the limit is.
//! - If a later call is cut, what was read counts: the app is being stopped after that look, and only the limit is lost. A look that
//!   cannot read the successor's end makes no other call.
//! - A holder that is asked whether it lives, and whose answer is cut at the limit, reads whether the answer is there, the end of the one
//!   that asks, and the own end. Its app is being stopped after max(P, 2 L) + 0.5 s + 4 L and the limit, which is before it is ended by
//!   force if L is at most 2.2 s with a P of 2.5 s or more, and 1 s with shorter ones.

use std::sync::PoisonError;
use std::time::Duration;

use super::{Answered, EpochDriver, Hold, Progress, SHOWN};
use crate::epochs::driver::calls::Patience;
use crate::epochs::protocol::{Action, Answer, Call, Input, Phase, step};
use crate::error::{Error, Result};
use crate::monitor::Context;
use crate::text::one_line;

impl EpochDriver {
    /// Looks at the epoch, if that is due. Is to be called often, several times in each poll interval.
    pub fn tick(&self, ctx: &Context) -> Hold {
        // Waiting for another call to the vault is no sleep.
        let called = self.clock.now();
        let mut progress = self.lock(Patience::Poll);
        let hold = self.tick_held(&mut progress, called, ctx);
        progress.ticked = self.clock.now();
        hold
    }

    fn tick_held(&self, progress: &mut Progress, called: Duration, ctx: &Context) -> Hold {
        let (now, gap) = (self.clock.now(), called.saturating_sub(progress.ticked));
        let slept = gap > 3 * self.options.poll;
        progress.is_doubtful |= slept;
        let is_due = slept || now >= progress.looked + self.options.poll;
        if progress.state.phase() != Phase::Over {
            let input = is_due.then_some(Input::Look);
            if is_due {
                progress.looked = now;
            }
            match self.drive_to_news(progress, input, ctx) {
                Ok(()) if is_due => (progress.failing, progress.is_doubtful) = (None, false),
                Ok(()) => {}
                Err(why) => {
                    let since = progress.failing.take().map_or(now, |(since, _)| since);
                    progress.failing = Some((since, one_line(&why.what(), SHOWN)));
                }
            }
        }
        let own = progress.state.epoch().map_or(0, |key| key.number);
        match (progress.state.ended_by(), progress.superseded) {
            (Some(by), _) => Hold::Ended { by },
            (None, _) if progress.state.phase() == Phase::Over => Hold::Ended { by: own },
            (None, Some(by)) => Hold::Superseded { by },
            (None, None) => match &progress.failing {
                // Also between two looks: nothing has been learned since.
                Some((since, why)) => Hold::Unknown { since: now.saturating_sub(*since), why: why.clone() },
                None if slept => Hold::Gap(gap),
                None => Hold::Held,
            },
        }
    }

    /// Whether this instance did nothing for a while, as one that is stopped or has no processor, and has not seen the vault since: another
    /// one may have taken over.
    pub fn is_doubtful(&self) -> bool {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).is_doubtful
    }

    /// Looks at the epoch now, whether that is due or not.
    pub fn look(&self, ctx: &Context) -> Hold {
        {
            let mut progress = self.lock(Patience::Poll);
            progress.looked = self.clock.now().saturating_sub(self.options.poll);
        }
        self.tick(ctx)
    }

    /// Finishes what an earlier failure interrupted, gives the protocol an input, and makes its calls. Returns what it
    /// says, which counts also if something could not be read.
    pub(super) fn drive(&self, progress: &mut Progress, input: Input, ctx: &Context) -> Answered {
        let is_free = matches!(input, Input::Begin { .. } | Input::Saved);
        let interrupted = if is_free { Ok(()) } else { self.finish(progress, |_| false, ctx) };
        // Nothing but its answer may follow a call.
        let all = match interrupted {
            Err(why) if progress.state.asked().is_some() => Err(why),
            interrupted => {
                self.take(progress, input);
                self.finish(progress, |_| false, ctx).and(interrupted)
            }
        };
        Answered { actions: std::mem::take(&mut progress.told), all }
    }

    /// Does the same for a look, if there is one, and otherwise only goes on with what is to be told to others. Once it is known that there
    /// is a successor, no call is made before the caller knows as well: the app is to be stopped, however long the call takes.
    fn drive_to_news(&self, progress: &mut Progress, look: Option<Input>, ctx: &Context) -> Result<()> {
        let known = progress.superseded;
        let is_news = |progress: &Progress| progress.superseded != known;
        let mut all = Ok(());
        if look.is_some() || progress.state.asked().is_some_and(Call::only_tells) {
            all = self.finish(progress, is_news, ctx);
        }
        if let Some(look) = look.filter(|_| progress.state.asked().is_none()) {
            self.take(progress, look);
            all = self.finish(progress, is_news, ctx).and(all);
        }
        progress.told.clear();
        all
    }

    fn take(&self, progress: &mut Progress, input: Input) {
        let (state, actions) = step(progress.state.clone(), self.clock.now(), input);
        progress.state = state;
        for action in actions {
            if let Action::Superseded { by } = action {
                progress.superseded = Some(by);
            }
            if !matches!(action, Action::Call(_)) {
                progress.told.push(action);
            }
        }
    }

    /// Makes the calls of the protocol, until there are no more, or one that only tells something is next and `is_enough`.
    fn finish(&self, progress: &mut Progress, is_enough: impl Fn(&Progress) -> bool, ctx: &Context) -> Result<()> {
        let (mut failed, mut unread) = (false, None);
        while let Some(call) =
            progress.state.asked().cloned().filter(|call| !(call.only_tells() && is_enough(progress)))
        {
            let answer = match self.call(progress, &call, &mut failed, ctx) {
                // Nothing depends on these calls, and the next look makes them again.
                Err(why) if call.only_tells() => {
                    self.report_untold(progress, &why, ctx);
                    Answer::Unknown
                }
                Err(why) if progress.state.does_without(&call) => {
                    self.report_unread(progress, &why, ctx);
                    Answer::Unknown
                }
                Err(why) if progress.state.reads_on(&call) => {
                    unread.get_or_insert(why);
                    Answer::Unknown
                }
                answer => answer?,
            };
            self.take(progress, Input::Answer(answer));
        }
        unread.map_or(Ok(()), Err)
    }

    /// Says once what another instance is not told.
    fn report_untold(&self, progress: &mut Progress, why: &Error, ctx: &Context) {
        report(progress, "other instances are not told how this one stands, and it is tried again", why, ctx);
    }

    /// Says once which epoch is not known and done without.
    pub(super) fn report_unread(&self, progress: &mut Progress, why: &Error, ctx: &Context) {
        report(progress, "an older epoch cannot be read, and it is gone on without knowing it", why, ctx);
    }
}

/// Says something once.
fn report(progress: &mut Progress, what: &str, why: &Error, ctx: &Context) {
    let told = format!("{what}: {}", one_line(&why.what(), SHOWN));
    if !progress.reported.contains(&told) {
        ctx.monitor.warn(&told);
        progress.reported.push(told);
    }
}
