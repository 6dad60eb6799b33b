//! The staging of a store whose calls are given up in time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{AwaitedStore, Effort, effort, failed, shows};
use crate::store::{Result, Staging, StoreError};
/// A call to a staging.
type StagingCall = Box<dyn FnOnce(&dyn Staging) + Send>;

/// The staging of an awaited store: it lives on a thread of its own, as it borrows the store.
pub(super) struct AwaitedStaging<'s> {
    store: &'s AwaitedStore,
    /// Dropped, it ends the staging.
    calls: Option<Sender<StagingCall>>,
    /// The number of the call that its end is, once that is waited for.
    end: Arc<OnceLock<u64>>,
    ended: Receiver<()>,
    names: Mutex<HashSet<String>>,
}

impl<'s> AwaitedStaging<'s> {
    /// Begins one on a thread of its own.
    pub(super) fn new(store: &'s AwaitedStore) -> Self {
        let (send, calls) = unbounded::<StagingCall>();
        let (tell, ended) = bounded(1);
        let (inner, awaiting, at) = (store.inner.clone(), store.calls.clone(), store.at);
        let end = Arc::<OnceLock<u64>>::default();
        let asked = end.clone();
        let work = move || {
            {
                let staging = inner.staging();
                let staging = &*staging;
                thread::scope(|scope| calls.iter().for_each(|call| _ = scope.spawn(move || call(staging))));
            }
            // Here, since it may not be waited for any more: a store that hung answers again.
            asked.get().iter().for_each(|serial| awaiting.end(at, **serial, true));
            let _ = tell.send(());
        };
        // Without a thread nobody takes the calls, which fail then.
        let spawned = thread::Builder::new().name("staging".into()).spawn(work);
        AwaitedStaging { store, calls: spawned.ok().map(|_| send), end, ended, names: Mutex::default() }
    }

    fn call(
        &self,
        (effort, what): (Effort, &str),
        ask: impl FnOnce(&dyn Staging) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let doing = || self.store.doing(what);
        let at = self.store.at;
        let unreachable = |why| StoreError::Unreachable { doing: doing(), why };
        let serial = self.store.calls.begin(at, effort).map_err(unreachable)?;
        let (tell, answer) = bounded(1);
        let calls = self.store.calls.clone();
        let work: StagingCall = Box::new(move |staging: &dyn Staging| {
            let answer = ask(staging);
            calls.end(at, serial, shows(&answer));
            let _ = tell.send(answer);
        });
        if self.calls.as_ref().is_none_or(|calls| calls.send(work).is_err()) {
            self.store.calls.end(at, serial, true);
            return Err(failed(doing(), "the system gives no thread"));
        }
        self.store.calls.wait(at, serial, &answer, &doing)?
    }
}

impl Staging for AwaitedStaging<'_> {
    fn put(&self, name: &str, body: &[&[u8]]) -> Result<()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        let (name, body, what) = (name.to_owned(), body.concat(), format!("create {name}"));
        self.call((effort(&body), &what), move |staging| staging.put(&name, &[&body]))
    }

    fn publish(&self, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: HashSet<String> = names.iter().filter(|name| wanted(name)).cloned().collect();
        drop(names);
        self.call((Effort::Much, "give packs their names"), move |staging| {
            staging.publish(&|name: &str| wanted.contains(name))
        })
    }
}

impl Drop for AwaitedStaging<'_> {
    /// Waits until what was not published is gone, unless the store hangs.
    fn drop(&mut self) {
        // Before the staging ends: its thread notes the answer to this call.
        let serial = self.store.calls.begin(self.store.at, Effort::Look);
        serial.iter().for_each(|serial| _ = self.end.set(*serial));
        drop(self.calls.take());
        if let Ok(serial) = serial {
            // How it ended, or that it is given up, is noted.
            let _ = self.store.calls.wait(self.store.at, serial, &self.ended, &String::new);
        }
    }
}
