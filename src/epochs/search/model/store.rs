//! The store of the model.

use super::{Document, Objects, POLL, Snapshot, World};
use crate::epochs::protocol::{Answer, Call, Content, EpochKey, Listed};
use crate::vault::epochs::EpochRecord;

impl World {
    pub(in crate::epochs::search) fn listed(&self) -> Vec<Listed> {
        let of_site = |(site, all): (usize, &Vec<Objects>)| {
            let listed = move |(number, objects): (usize, &Objects)| {
                let key = EpochKey { number: number as u32, site };
                objects.epoch.map(|_| Listed { key, ended: objects.end.is_some(), runs: objects.runs })
            };
            all.iter().enumerate().filter_map(listed).collect::<Vec<_>>()
        };
        self.sites.iter().enumerate().flat_map(of_site).collect()
    }

    /// Makes the outstanding call of an instance.
    pub(super) fn ask(&mut self, who: usize) -> Answer {
        let Some(call) = self.instances[who].state.asked.clone() else { return Answer::Unknown };
        self.instances[who].over_when_asked = self.end_of(who).is_some();
        if let Some(answer) = self.mutated(who, &call) {
            return answer;
        }
        match call {
            Call::List => Answer::Listed(self.listed()),
            Call::Read(record, key) => {
                let objects = *self.at(key);
                let present = |is: bool| if is { Answer::Present } else { Answer::Absent };
                match record {
                    EpochRecord::Epoch => match objects.epoch {
                        Some(Document::Epoch { owner, asks }) => {
                            Answer::Epoch { mine: owner == who, poll: POLL, asks, dead: false }
                        }
                        Some(Document::Signpost(number)) => Answer::Signpost(number),
                        None => Answer::Absent,
                    },
                    EpochRecord::End => objects.end.map_or(Answer::Absent, Answer::End),
                    EpochRecord::Yields => present(objects.yields),
                    EpochRecord::Runs => present(objects.runs),
                    EpochRecord::Alive => present(objects.alive),
                }
            }
            Call::Create(record, key, content) => self.create(who, record, key, content),
        }
    }

    fn create(&mut self, who: usize, record: EpochRecord, key: EpochKey, content: Content) -> Answer {
        let objects = self.at(key);
        let created = match (record, content) {
            (EpochRecord::Epoch, _) if objects.epoch.is_some() => false,
            (EpochRecord::Epoch, Content::Epoch { asks }) => {
                objects.epoch = Some(Document::Epoch { owner: who, asks });
                true
            }
            (EpochRecord::Epoch, Content::Signpost(number)) => {
                objects.epoch = Some(Document::Signpost(number));
                true
            }
            (EpochRecord::End, Content::By(by)) if objects.end.is_none() => {
                objects.end = Some(by);
                let is_forced = by != key.number;
                self.instances[who].used_force |= is_forced;
                true
            }
            (EpochRecord::Yields, _) => !std::mem::replace(&mut objects.yields, true),
            (EpochRecord::Runs, _) => !std::mem::replace(&mut objects.runs, true),
            (EpochRecord::Alive, _) => !std::mem::replace(&mut objects.alive, true),
            (EpochRecord::End | EpochRecord::Epoch, _) => false,
        };
        if created { Answer::Created } else { Answer::Exists }
    }

    pub(super) fn commit(&mut self, snapshot: Snapshot) {
        let epoch = snapshot.number.0 as usize;
        if self.snapshots.len() <= epoch {
            self.snapshots.resize(epoch + 1, None);
        }
        self.snapshots[epoch] = Some(snapshot);
        self.last = snapshot;
    }

    /// Commits what is in an instance's directory, in its epoch.
    pub(super) fn save(&mut self, who: usize) {
        let writes = self.instances[who].directory;
        let epoch = self.instances[who].state.epoch().map_or(0, |key| key.number);
        let before = self.snapshots.get(epoch as usize).copied().flatten();
        self.commit(Snapshot { number: (epoch, before.map_or(1, |before| before.number.1 + 1)), writes });
        self.instances[who].committed = writes;
    }
}
