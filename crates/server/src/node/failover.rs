//! Who writes a table when its region is lost: what is decided behind the `Registry` door is done
//! here.
//!
//! There it is decided (`isthmus_control::agreed`) whose leases are renewed, who is suspended, and
//! who opens which epoch after which entry. This region obeys: it answers a write only under its
//! own lease; it seals its replicas before it says how far they go; it opens an epoch that it was
//! granted when the lease of the region before has surely run out; and it sets aside what it holds
//! that the next epoch does not go on from (`tail.rs`). Every step may be done twice and after any
//! crash.

mod act;
mod by_hand;
mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::{Agreed, Command, How, Outcome, Refusal};
use isthmus_control::disk::DiskWatch;
use isthmus_control::duty::{Feeding, has_no_tail};
use isthmus_control::global_table::Serve;
use isthmus_control::lease::Lease;
use isthmus_model::ids::{Epoch, Lsn, Origin, TableId};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::Table;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::tail::{TailError, Tails};
use super::{Node, Record};
use crate::api_error::ApiError;
use crate::config::Config;
use crate::detection::Detection;
use crate::quorum::Quorum;
use crate::registry::{Known, Registry};

/// How often it is looked whether time alone has brought something.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Tables attended to at once; the others follow.
const ATTENDED_MAX: usize = 64;
/// What could not be done for a table is tried again after this.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// So long after a vacancy was seen here, the most complete log that was heard of is chosen.
const SETTLE_AFTER: Duration = Duration::from_millis(1000);

/// What this region does about leases and epochs.
pub(super) struct Failover {
    registry: OnceLock<Arc<dyn Registry>>,
    quorum: OnceLock<Arc<Quorum>>,
    lease: Mutex<Lease>,
    /// Names this process among those of the region; grows.
    run: AtomicU64,
    detection: Arc<Detection>,
    /// How the own disk does.
    disk: Mutex<DiskWatch>,
    tails: Tails,
    /// Vacancies that are seen here, by table.
    vacant: Mutex<BTreeMap<TableId, Vacant>>,
    /// Where more regions are to hold writes than is agreed on: what they must hold first.
    goals: Mutex<BTreeMap<TableId, Lsn>>,
    /// Tables that were dropped or dissolved here, and are to leave.
    leaving: Mutex<BTreeSet<TableId>>,
}

/// A table that nobody writes.
#[derive(Clone, Copy)]
struct Vacant {
    /// The epoch that is to be granted.
    epoch: u64,
    /// Since when that is seen here.
    since: Duration,
    /// The newest entry of the region that wrote of which was heard.
    known_end: Lsn,
}

/// What one look at a table has come to.
type Done = Result<(), Trouble>;

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] isthmus_store::StoreError),
    #[error(transparent)]
    Propose(#[from] crate::registry::ProposeError),
    #[error("set aside what the next epoch does not go on from")]
    Tail(#[from] TailError),
    #[error("{0}")]
    Refused(String),
}

impl Failover {
    /// Nothing is known yet.
    pub(super) fn new(config: &Config, wall_millis: i64) -> Failover {
        let quorum = config.quorum.clone().unwrap_or_default();
        let (lease, settings) = (quorum.lease(), quorum.settings());
        Failover {
            registry: OnceLock::new(),
            quorum: OnceLock::new(),
            run: AtomicU64::new(wall_millis.unsigned_abs()),
            lease: Mutex::new(Lease::new(lease)),
            detection: Arc::new(Detection::new(&config.region.name, settings)),
            disk: Mutex::new(DiskWatch::new(quorum.disk_slow(), lease)),
            tails: Tails::new(&config.storage.data),
            vacant: Mutex::default(),
            goals: Mutex::default(),
            leaving: Mutex::default(),
        }
    }
}

impl Failover {
    /// Where tails are kept.
    pub(super) fn tails(&self) -> &Tails {
        &self.tails
    }
}

/// A clock that also counts the time in which the machine sleeps.
pub(crate) fn lease_clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Node {
    /// Says who decides with the other regions. Before anything is served; only the first word
    /// counts.
    pub fn decide_by(&self, quorum: Arc<Quorum>) {
        let _ = self.failover.registry.set(quorum.clone());
        let _ = self.failover.quorum.set(quorum);
        self.shared.put_backs.leave_writers_to_others();
    }

    pub(super) fn registry(&self) -> Option<&Arc<dyn Registry>> {
        self.failover.registry.get()
    }

    /// Whether a quorum decides who writes.
    pub(super) fn is_decided_by_quorum(&self) -> bool {
        self.registry().is_some()
    }

    /// Ends when a region is suspended; never without a quorum.
    pub(super) async fn until_suspended(&self, region: &str) {
        let Some(registry) = self.registry() else { return std::future::pending().await };
        loop {
            let known = registry.known();
            if known.agreed.is_suspended(region) {
                return;
            }
            registry.known_beyond(known.index).await;
        }
    }

    /// The quorum that this region takes part in.
    pub(crate) fn quorum(&self) -> Option<&Arc<Quorum>> {
        self.failover.quorum.get()
    }

    /// Whether the witness of the quorum is called so.
    pub(crate) fn is_witness(&self, name: &str) -> bool {
        let witness = self.config.quorum.as_ref().and_then(|quorum| quorum.witness.as_ref());
        witness.is_some_and(|witness| witness.name == name)
    }

    /// Answers a message of another voter.
    pub(super) async fn on_agree(&self, from: &str, message: Bytes) -> Result<Bytes, ApiError> {
        match self.quorum() {
            Some(quorum) => quorum.answer(from, message).await,
            None => Err(ApiError::invalid("This region has no part in a quorum.")),
        }
    }

    /// Whether this region may acknowledge what it writes of tables with one writer.
    pub fn is_leased(&self) -> bool {
        self.registry().is_none() || self.failover.lease.lock().is_valid(lease_clock())
    }

    /// Whether a table is written under a lease.
    pub(super) fn needs_lease(&self, table: &Table) -> bool {
        self.registry().is_some()
            && !table.spec().writers.are_many()
            && self.records.lock().contains_key(&table.id())
    }

    /// Whether a write of an epoch, which is durable, may be acknowledged. It may not, if another
    /// region may write by now.
    pub fn check_lease(&self, table: &Table, epoch: Epoch) -> Result<(), ApiError> {
        if !self.needs_lease(table) {
            return Ok(());
        }
        let word = table.writer_word();
        // One that is sealed for a later epoch has been given up.
        let is_newest = word.epoch == epoch && table.epoch() == epoch;
        let goes_on = is_newest && (word.accepts || word.successor.is_some());
        let is_held = goes_on && self.is_leased() && self.is_holder(table, epoch);
        if is_held || self.was_handed_over(table, epoch) {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::Timeout,
            format!(
                "Operation timeout. The write is durable in region {}, which may not write the \
                 table any more; whether it took effect is not known.",
                self.config.region.name
            ),
        ))
    }

    /// Whether nobody else is known to hold a table in that epoch or a later one.
    fn is_holder(&self, table: &Table, epoch: Epoch) -> bool {
        let Some(known) = self.registry().map(|registry| registry.known()) else { return true };
        known.agreed.tenure(table.id().0).is_none_or(|tenure| {
            let is_own = tenure.epoch < epoch.0 || tenure.writer == self.config.region.name;
            tenure.vacant.is_none() && tenure.epoch <= epoch.0 && is_own
        })
    }

    /// Whether the next epoch after that one was opened by whoever had all of it.
    fn was_handed_over(&self, table: &Table, epoch: Epoch) -> bool {
        let Some(known) = self.registry().map(|registry| registry.known()) else { return false };
        let tenure = known.agreed.tenure(table.id().0);
        let next = tenure
            .and_then(|tenure| tenure.history.iter().find(|opening| opening.epoch == epoch.0 + 1));
        next.is_some_and(|next| next.how == How::Planned && next.log_epoch == epoch.0)
    }

    /// Whether an origin that obeys an epoch may feed a table here, as far as others decide.
    pub(super) fn may_be_fed(&self, table: &Table, by: (&str, Epoch), record: &Record) -> bool {
        let Some(registry) = self.registry() else { return true };
        let known = registry.known();
        let Some(tenure) = known.agreed.tenure(table.id().0) else { return true };
        let word = table.writer_word();
        let writes_by_its_disk = word.is_unended_epoch_of(Origin(self.config.region.number));
        let is_sealed = !writes_by_its_disk || table.epoch().0 >= tenure.epoch;
        let (origin, epoch) = by;
        let feeding = Feeding {
            origin,
            epoch: epoch.0,
            passes_on: record.table.has_edges(),
            own: &self.config.region.name,
            is_whole: record.ready,
            log_epoch: word.epoch.0,
            end: table.accepted_lsn().0,
            is_sealed,
        };
        feeding.is_right(tenure)
    }

    /// Whether it is agreed on that a region writes a table. It keeps the record, too, in place of
    /// one that was lost and may not have heard of that.
    pub(super) fn is_writer_agreed_on(&self, id: TableId, region: &str) -> bool {
        let Some(known) = self.registry().map(|registry| registry.known()) else { return false };
        let tenure = known.agreed.tenure(id.0);
        tenure.is_some_and(|tenure| tenure.vacant.is_none() && tenure.writer == region)
    }

    /// Whether the log of a table here may hold entries that others do not go on from and that
    /// are not set aside yet. `ready`: the replica is no mixture.
    pub(super) fn may_hold_tail(&self, table: &Table, ready: bool) -> bool {
        let word = table.writer_word();
        if word.accepts {
            return true;
        }
        let Some(registry) = self.registry().filter(|_| ready) else { return false };
        let known = registry.known();
        known.agreed.tenure(table.id().0).is_some_and(|tenure| {
            let end = table.durable_lsn().0;
            tenure.vacant.is_some() || !has_no_tail(tenure, word.epoch.0, end)
        })
    }

    /// Renews the lease of this region again and again, until `stop` says so.
    pub async fn keep_lease(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(registry) = self.registry().cloned() else { return };
        let own = self.config.region.name.clone();
        let mut renewals = JoinSet::new();
        while !*stop.borrow() {
            while renewals.try_join_next().is_some() {}
            let known = registry.known();
            let is_suspended = known.agreed.is_suspended(&own);
            if is_suspended {
                self.failover.lease.lock().give_up();
            }
            let is_of_use = !known.agreed.tables.is_empty() || self.writes_alone();
            let is_healthy = self.looks_healthy(&known.agreed);
            let renewal = match is_of_use && !is_suspended {
                true => self.failover.lease.lock().next_renewal(lease_clock(), is_healthy),
                false => None,
            };
            if let Some(renewal) = renewal {
                let (node, registry, own) = (self.clone(), registry.clone(), own.clone());
                let length = self.failover.lease.lock().length();
                let lease_millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
                renewals.spawn(async move {
                    let command = Command::Renew {
                        region: own,
                        run: node.failover.run.load(Ordering::Acquire),
                        number: renewal.number,
                        acked: renewal.acked,
                        lease_millis,
                        at_millis: node.now_millis(),
                    };
                    let answer = registry.propose(command).await;
                    if let Ok(Outcome::Refused(Refusal::OldRun { run, .. })) = &answer {
                        node.failover.run.fetch_max(run + 1, Ordering::AcqRel);
                    }
                    let accepted = matches!(answer, Ok(Outcome::Done | Outcome::Granted { .. }));
                    node.failover.lease.lock().answered(renewal.number, accepted);
                    node.writer_moved.notify_one();
                });
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Whether this region writes a table whose writer others could become.
    fn writes_alone(&self) -> bool {
        let own = &self.config.region.name;
        let records = self.records.lock();
        records.values().any(|record| {
            record.table.serve == Serve::PrimarySecondary && record.table.primary() == own
        })
    }

    /// Watches the other regions and does what is decided, until `stop` says so.
    pub async fn keep_failover(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(registry) = self.registry().cloned() else { return };
        let mut seen = None;
        let mut attended = Attended::default();
        let mut saying = JoinSet::new();
        let mut rejoin_at = Duration::ZERO;
        let mut suspended = None;
        while !*stop.borrow() {
            let known = registry.known();
            let now = lease_clock();
            let news = {
                let mut watch = self.failover.detection.watch();
                if seen != Some(known.index) {
                    watch.saw(&known.agreed, now);
                }
                while saying.try_join_next().is_some() {}
                // What is under way is not said twice.
                let words = match saying.is_empty() {
                    true => watch.words(&known.agreed, now, self.now_millis()),
                    false => Vec::new(),
                };
                for word in words {
                    let registry = registry.clone();
                    saying.spawn(async move {
                        // What is not taken is proposed again.
                        let _ = registry.propose(word).await;
                    });
                }
                watch.news(&known.agreed, now)
            };
            self.tell_verdicts(&news);
            self.tell_suspensions(&known.agreed, &mut suspended);
            seen = Some(known.index);
            let is_suspended = known.agreed.is_suspended(&self.config.region.name);
            // With a disk that cannot keep up it would be suspended again.
            if is_suspended && now >= rejoin_at && self.may_rejoin(&known.agreed) {
                self.rejoin(&registry, &known).await;
                rejoin_at = lease_clock() + TRY_AGAIN;
            }
            self.note_vacancies(&known);
            self.leave(&known.agreed).await;
            self.attend_to_all(&known, &mut attended);
            let next = registry.known_beyond(known.index);
            tokio::select! {
                () = next => {}
                Some(ended) = attended.tasks.join_next(), if !attended.tasks.is_empty() => {
                    attended.ended(unless_failed(ended));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    fn attend_to_all(self: &Arc<Self>, known: &Known, attended: &mut Attended) {
        while let Some(ended) = attended.tasks.try_join_next() {
            attended.ended(unless_failed(ended));
        }
        let now = lease_clock();
        for id in self.written_by_one() {
            if attended.tasks.len() >= ATTENDED_MAX {
                return;
            }
            let is_due = attended.may_begin(id, now) && self.duty_of(id, known).is_some();
            if !is_due {
                continue;
            }
            attended.busy.insert(id);
            let (node, known) = (self.clone(), known.clone());
            attended.tasks.spawn(async move {
                let done = node.attend_to(id, &known).await;
                match &done {
                    Ok(()) => {}
                    Err(error @ Trouble::Tail(cause)) => {
                        tracing::warn!(table = id.0, %cause, "{error}: tried again");
                    }
                    Err(error) => {
                        tracing::debug!(table = id.0, %error, "what is decided is not done yet");
                    }
                }
                (id, done.is_ok())
            });
        }
    }

    /// The tables with one writer that have a replica here.
    fn written_by_one(&self) -> Vec<TableId> {
        let records = self.records.lock();
        let by_one = records.iter().filter(|(_, r)| r.table.serve == Serve::PrimarySecondary);
        by_one.map(|(id, _)| *id).collect()
    }

    async fn propose(&self, command: Command) -> Result<Outcome, Trouble> {
        let Some(registry) = self.registry() else {
            return Err(Trouble::Refused("there is no quorum".to_owned()));
        };
        match registry.propose(command).await? {
            Outcome::Refused(refusal) => Err(Trouble::Refused(refusal.to_string())),
            taken => Ok(taken),
        }
    }

    fn now_millis(&self) -> u64 {
        self.clock.wall_millis().unsigned_abs()
    }

    /// A table is no global table any more, or is gone.
    pub(super) fn leave_quorum(&self, id: TableId) {
        if self.registry().is_some() {
            self.failover.leaving.lock().insert(id);
        }
    }

    /// Lets the quorum forget tables that were written here and are gone.
    async fn leave(&self, agreed: &Agreed) {
        let own = &self.config.region.name;
        let leaving: Vec<TableId> = self.failover.leaving.lock().iter().copied().collect();
        for id in leaving {
            let tenure = agreed.tenure(id.0).filter(|tenure| tenure.writer == *own);
            if let Some(tenure) = tenure.filter(|_| self.record(id).is_none()) {
                let (version, by) = (tenure.version, own.clone());
                let at_millis = self.now_millis();
                let left = Command::Leave { table: id.0, version, by, at_millis };
                if self.propose(left).await.is_err() {
                    continue;
                }
            }
            self.failover.leaving.lock().remove(&id);
        }
    }
}

/// What a task has come to. A fault of its own is one of whoever waits for it.
fn unless_failed<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended {
        Ok(done) => Some(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// What is being done, and what is not to be tried again at once.
#[derive(Default)]
struct Attended {
    tasks: JoinSet<(TableId, bool)>,
    busy: BTreeSet<TableId>,
    not_before: BTreeMap<TableId, Duration>,
}

impl Attended {
    fn may_begin(&self, id: TableId, now: Duration) -> bool {
        !self.busy.contains(&id) && self.not_before.get(&id).is_none_or(|at| *at <= now)
    }

    fn ended(&mut self, ended: Option<(TableId, bool)>) {
        let Some((id, is_done)) = ended else { return };
        self.busy.remove(&id);
        match is_done {
            true => drop(self.not_before.remove(&id)),
            false => drop(self.not_before.insert(id, lease_clock() + TRY_AGAIN)),
        }
    }
}
