//! Old disks that were put back: what a region has lost of what it had made, from whom it takes it
//! back, and until when its table is neither read nor written.
//!
//! Whoever is shipped a log remembers of which life its last entry is and says so when a link
//! opens. Where that is more than the disk here has ever had or has still, the disk is an old
//! one (`Table::lacks`). From then on nothing is shipped from here, and what others hold comes back
//! as a copy of rows:
//!
//! - With several writers from each region that holds something. Rows merge, so what was written
//!   here before it was found out stays; the log goes on beyond all that was ever given out.
//! - With one writer from the replica that holds most, once all have said where they stand; it
//!   ships to its writer for as long. What the writer has accepted before it was found out has the
//!   addresses of what is lost: then a person must decide, and nothing is done.
//!
//! A region that accepts writes in an epoch of which others know a newer one has an old disk, too:
//! what it lacks comes with the log of whoever writes now, unless it has accepted something since.
//!
//! It is at rest in a note, so a crash changes nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::{Pending, Store, Table, Writing};
use parking_lot::Mutex;
use prost::Message;

use crate::error::ReplicationError;
use crate::receive::{copy_note, noted_as};

const NOTES: &str = "put-back/";

/// What one region holds of the log here that is not here.
#[derive(Clone, PartialEq, prost::Message)]
struct Held {
    /// Region number.
    #[prost(uint32, tag = "1")]
    region: u32,
    /// The life of which its last entry is.
    #[prost(uint64, tag = "2")]
    life: u64,
    /// Through this LSN.
    #[prost(uint64, tag = "3")]
    lsn: u64,
}

/// A disk that was put back, as it is at rest.
#[derive(Clone, PartialEq, prost::Message)]
struct PutBack {
    /// Those from whom something is still to be taken.
    #[prost(message, repeated, tag = "1")]
    held: Vec<Held>,
    /// With one writer: the region from which all is taken; 0: not chosen yet.
    #[prost(uint32, tag = "2")]
    source: u32,
    /// With one writer: it has accepted writes in the place of those that are lost.
    #[prost(bool, tag = "3")]
    is_torn: bool,
}

#[derive(Default)]
struct Known {
    /// Regions that links lead to, and whether each has said where it stands since the start.
    heard: BTreeMap<Origin, bool>,
    put_back: Option<PutBack>,
    /// All is taken back, and the note of it goes: when that is durable, the table is used again.
    ending: Option<Pending<()>>,
    /// The writer that wants to be given back what it has lost.
    gives_back_to: Option<Origin>,
}

/// What has happened to a disk that was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A region holds more of the log here than the disk does.
    Found {
        /// Of which table.
        partition: PartitionId,
        /// Which region.
        region: Origin,
        /// Through this LSN.
        held: Lsn,
        /// Writes were accepted in the place of those that are lost.
        is_torn: bool,
    },
    /// Another region writes a table with one writer that this one wrote by its disk. Nothing was
    /// accepted in the meantime, so this region follows.
    Overtaken {
        /// Of which table.
        partition: PartitionId,
        /// Who says so.
        region: Origin,
    },
    /// All that was found is taken back.
    TakenBack {
        /// Of which table.
        partition: PartitionId,
    },
}

/// Disks that were put back. Shared by all links of a node.
pub struct PutBacks {
    store: Arc<Store>,
    partitions: Mutex<BTreeMap<PartitionId, Known>>,
    /// Partitions with a disk that was put back, so that the usual case costs nothing.
    count: AtomicUsize,
    changes: AtomicU64,
    news: Mutex<Vec<News>>,
    /// Others decide who writes a table with one writer.
    is_decided: AtomicBool,
}

fn note_name(partition: PartitionId) -> Vec<u8> {
    format!("{NOTES}{:016x}", partition.0).into_bytes()
}

impl PutBacks {
    /// What was found before the last stop.
    pub fn read(store: Arc<Store>) -> Result<PutBacks, ReplicationError> {
        let damaged = ReplicationError::Damaged("the note of a disk that was put back is damaged");
        let mut partitions = BTreeMap::new();
        for (name, note) in store.notes(NOTES.as_bytes())? {
            let digits = name.get(NOTES.len()..).and_then(|name| std::str::from_utf8(name).ok());
            let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let put_back = PutBack::decode(note).ok();
            let (Some(number), Some(_)) = (number, &put_back) else { return Err(damaged) };
            partitions.insert(PartitionId(number), Known { put_back, ..Known::default() });
        }
        let count = AtomicUsize::new(partitions.len());
        let put_backs = PutBacks {
            count,
            store,
            partitions: Mutex::new(partitions),
            changes: AtomicU64::new(0),
            news: Mutex::default(),
            is_decided: AtomicBool::new(false),
        };
        put_backs.refuse_writes();
        Ok(put_backs)
    }

    /// What the note says may have become durable without it.
    fn refuse_writes(&self) {
        for partition in self.partitions.lock().keys() {
            let table = self.store.table_of_partition(*partition);
            if let Some(table) = table.filter(|table| !table.spec().writers.are_many()) {
                drop(table.fence(table.epoch()));
            }
        }
    }

    /// A quorum decides who writes a table with one writer: whoever learns that another region does
    /// has been lost for a while, and what it made alone is known by what was decided.
    pub fn leave_writers_to_others(&self) {
        self.is_decided.store(true, Ordering::Release);
    }

    /// Whether the table's disk here was put back and lacks something: it is neither read nor
    /// written, and nothing is shipped from it.
    pub fn is_put_back(&self, partition: PartitionId) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.partitions.lock().get(&partition).is_some_and(|known| known.put_back.is_some())
    }

    /// What is the matter with it, for a person, regions by their numbers; `None`: nothing.
    pub fn reason(
        &self,
        partition: PartitionId,
        name: impl Fn(Origin) -> String,
    ) -> Option<String> {
        let partitions = self.partitions.lock();
        let known = partitions.get(&partition)?;
        let put_back = known.put_back.as_ref()?;
        let holders = put_back.held.iter().map(|held| name(Origin(held.region as u8)));
        let holders = holders.collect::<Vec<_>>().join(", ");
        let silent = known.heard.iter().filter(|(_, heard)| !**heard);
        let silent = silent.map(|(region, _)| name(*region)).collect::<Vec<_>>().join(", ");
        Some(match (put_back.is_torn, put_back.source) {
            (true, _) => format!(
                "an old disk was put back and took writes in the place of others that {holders} \
                 hold: unbind these regions to keep the new writes, or empty the data directory \
                 here to keep the old ones"
            ),
            (false, 0) if !silent.is_empty() => format!(
                "an old disk was put back; before later writes are taken back from {holders}, \
                 {silent} must be heard or unbound"
            ),
            (false, _) => {
                format!("an old disk was put back; later writes are taken back from {holders}")
            }
        })
    }

    /// Counts what links must obey.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// What has happened since this was last asked.
    pub fn take_news(&self) -> Vec<News> {
        std::mem::take(&mut *self.news.lock())
    }

    /// Whether all regions that the table's links lead to have said where they stand.
    pub fn are_all_heard(&self, partition: PartitionId) -> bool {
        let partitions = self.partitions.lock();
        partitions.get(&partition).is_none_or(|known| known.heard.values().all(|heard| *heard))
    }

    /// A link leads to a region from here, or none does.
    pub(crate) fn linked(&self, partition: PartitionId, region: Origin, is_linked: bool) {
        let mut partitions = self.partitions.lock();
        let heard = &mut partitions.entry(partition).or_default().heard;
        if is_linked {
            heard.entry(region).or_insert(false);
        } else {
            heard.remove(&region);
        }
    }

    /// A region knows nothing of the table.
    pub(crate) fn knows_nothing(&self, partition: PartitionId, region: Origin) {
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(partition).or_default();
        known.heard.entry(region).and_modify(|heard| *heard = true);
    }

    /// A region says that it holds the log here through `held`, the last of it of that life. Gives
    /// whether that is more than there is.
    pub(crate) fn heard(&self, table: &Table, region: Origin, life: Hlc, held: Lsn) -> bool {
        let lacks = table.lacks(life, held);
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(table.partition()).or_default();
        known.heard.insert(region, true);
        if lacks {
            self.found(known, table, Held { region: region.0.into(), life: life.0, lsn: held.0 });
        }
        self.choose(known, table);
        lacks
    }

    fn found(&self, known: &mut Known, table: &Table, held: Held) {
        let partition = table.partition();
        let put_back = known.put_back.get_or_insert_with(|| {
            self.count.fetch_add(1, Ordering::AcqRel);
            PutBack::default()
        });
        if put_back.held.contains(&held) {
            return;
        }
        put_back.held.retain(|known| known.region != held.region);
        put_back.held.push(held.clone());
        known.ending = None;
        // A copy that had begun when the disk was copied says nothing of what came later.
        let copying = copy_note(noted_as(table, Origin(held.region as u8)), partition);
        drop(self.store.note_surely(&copying, Some(&[])));
        // First, so that nothing is taken for found of which the note was lost.
        self.save(partition, put_back);
        match table.spec().writers.are_many() {
            true => drop(table.take_back(Hlc(held.life), Lsn(held.lsn))),
            false => {
                drop(table.fence(table.epoch()));
                // Nothing is accepted any more: what was is in the log by now.
                put_back.is_torn |= table.has_made_entries();
                self.save(partition, put_back);
            }
        }
        self.store.leave_out_ids();
        let (region, is_torn) = (Origin(held.region as u8), put_back.is_torn);
        self.news.lock().push(News::Found { partition, region, held: Lsn(held.lsn), is_torn });
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// With one writer: once all are heard, the one that holds most.
    fn choose(&self, known: &mut Known, table: &Table) {
        let all_heard = known.heard.values().all(|heard| *heard);
        let Some(put_back) = &mut known.put_back else { return };
        let may = !put_back.is_torn && put_back.source == 0 && all_heard;
        if !may || table.spec().writers.are_many() {
            return;
        }
        let most = put_back.held.iter().max_by_key(|held| held.lsn);
        put_back.source = most.map_or(0, |held| held.region);
        self.save(table.partition(), put_back);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn save(&self, partition: PartitionId, put_back: &PutBack) {
        // Should it be lost in a crash, the same is found again.
        let note = put_back.encode_to_vec();
        drop(self.store.note_surely(&note_name(partition), Some(&note)));
    }

    /// Whether the region gives back what the disk here lacks.
    pub(crate) fn takes_from(&self, partition: PartitionId, region: Origin) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let partitions = self.partitions.lock();
        let put_back = partitions.get(&partition).and_then(|known| known.put_back.as_ref());
        put_back.is_some_and(|put_back| put_back.gives(region, self.is_of_one(partition)))
    }

    fn is_of_one(&self, partition: PartitionId) -> bool {
        let table = self.store.table_of_partition(partition);
        table.is_some_and(|table| !table.spec().writers.are_many())
    }

    /// Whether writes were accepted here in the place of others', so that nothing is taken.
    pub(crate) fn needs_a_person(&self, partition: PartitionId) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let partitions = self.partitions.lock();
        let put_back = partitions.get(&partition).and_then(|known| known.put_back.as_ref());
        put_back.is_some_and(|put_back| put_back.is_torn)
    }

    /// Whether a replica is asked to ship to its writer here.
    pub(crate) fn asks_back(&self, partition: PartitionId, region: Origin) -> bool {
        self.takes_from(partition, region) && self.is_of_one(partition)
    }

    /// The writer of a table asks to be given back what it lacks, or does not any more.
    pub(crate) fn asked_back(&self, partition: PartitionId, writer: Origin, asks: bool) {
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(partition).or_default();
        let to = asks.then_some(writer);
        if known.gives_back_to != to && (asks || known.gives_back_to == Some(writer)) {
            known.gives_back_to = to;
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The region that is to be given back what it has lost of a table with one writer.
    pub fn gives_back_to(&self, partition: PartitionId) -> Option<Origin> {
        self.partitions.lock().get(&partition)?.gives_back_to
    }

    /// All that a region holds is here.
    pub(crate) fn follows(&self, table: &Table, region: Origin) {
        let is_of_one = !table.spec().writers.are_many();
        let mut partitions = self.partitions.lock();
        let Some(known) = partitions.get_mut(&table.partition()) else { return };
        let Some(put_back) = known.put_back.as_mut().filter(|p| p.gives(region, is_of_one)) else {
            return;
        };
        let taken = put_back.held.iter().find(|held| held.region == u32::from(region.0));
        if let Some(taken) = taken.filter(|_| is_of_one) {
            drop(table.take_back(Hlc(taken.life), Lsn(taken.lsn)));
            put_back.held.clear();
        }
        self.is_given(known, table, region);
    }

    /// A region knows a newer epoch of a table with one writer than the one in which this region
    /// accepts writes, so the disk here is an old one. It accepts none from now on. If it has
    /// since its start, that stands where others' writes do, and a person must decide; else it is
    /// copied what it lacks, by whoever feeds it.
    pub fn overtaken(&self, table: &Table, region: Origin) {
        let is_decided = self.is_decided.load(Ordering::Acquire);
        let spec = table.spec();
        if is_decided || spec.writers.are_many() || spec.writing == Writing::Refuse {
            return;
        }
        drop(table.fence(table.epoch()));
        if table.has_made_entries() {
            let lsn = table.durable_lsn();
            let mut partitions = self.partitions.lock();
            let known = partitions.entry(table.partition()).or_default();
            self.found(known, table, Held { region: region.0.into(), life: 0, lsn: lsn.0 });
        } else {
            self.news.lock().push(News::Overtaken { partition: table.partition(), region });
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A region is a replica no more: what it holds is not waited for.
    pub fn release(&self, table: &Table, region: Origin) {
        let mut partitions = self.partitions.lock();
        if let Some(known) = partitions.get_mut(&table.partition()) {
            known.heard.remove(&region);
            self.is_given(known, table, region);
            self.choose(known, table);
        }
    }

    fn is_given(&self, known: &mut Known, table: &Table, region: Origin) {
        let Some(put_back) = &mut known.put_back else { return };
        let partition = table.partition();
        put_back.held.retain(|held| held.region != u32::from(region.0));
        if !put_back.held.is_empty() {
            return self.save(partition, put_back);
        }
        let is_writer = table.writer_word().is_unended_epoch_of(self.store.origin());
        if !table.spec().writers.are_many() && is_writer {
            let (spec, epoch) = (table.spec(), table.epoch());
            drop(self.store.set_writing(spec.id, Writing::Accept, spec.writers, epoch));
        }
        // Last: of what is lost of it in a crash all is done again.
        known.ending = Some(self.store.note_surely(&note_name(partition), None));
    }

    /// The regions of which something is still waited for.
    pub fn holders(&self) -> Vec<(PartitionId, Origin)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let partitions = self.partitions.lock();
        let of = |(partition, known): (&PartitionId, &Known)| {
            let held = known.put_back.iter().flat_map(|put_back| &put_back.held);
            let regions = held.map(|held| (*partition, Origin(held.region as u8)));
            regions.collect::<Vec<_>>()
        };
        partitions.iter().flat_map(of).collect()
    }

    /// Lets tables be used again of which all is durably taken back.
    pub(crate) fn settle(&self) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        for (partition, known) in &mut *self.partitions.lock() {
            let ended = known.ending.as_mut().and_then(Pending::try_take);
            // What fails to commit is the last thing that happens in this life.
            if ended.is_some_and(|ended| ended.is_ok()) {
                (known.put_back, known.ending) = (None, None);
                self.count.fetch_sub(1, Ordering::AcqRel);
                self.changes.fetch_add(1, Ordering::AcqRel);
                self.news.lock().push(News::TakenBack { partition: *partition });
            }
        }
    }

    /// The table is gone.
    pub fn forget(&self, partition: PartitionId) {
        let known = self.partitions.lock().remove(&partition);
        if known.is_some_and(|known| known.put_back.is_some()) {
            self.count.fetch_sub(1, Ordering::AcqRel);
            drop(self.store.note_surely(&note_name(partition), None));
        }
    }
}

impl PutBack {
    fn gives(&self, region: Origin, is_of_one: bool) -> bool {
        match is_of_one {
            true => self.source == u32::from(region.0),
            false => self.held.iter().any(|held| held.region == u32::from(region.0)),
        }
    }
}

#[cfg(test)]
mod tests;
