//! One region of a trial: a disk, a clock, and the store that lives on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isthmus_model::clock::Clock;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Origin;
use isthmus_replication::horizon::SafeTimes;
use isthmus_replication::verify::session::Sessions;
use isthmus_replication::verify::store::{Beside, StoreViews};
use isthmus_store::{Pending, Store, StoreError, StoreOptions, Table};

use crate::clock::NodeClock;
use crate::plant::Plant;
use crate::verify::engine::Disk;
use crate::verify::nature::{Nature, PARTITION, TABLE, origin_of};

/// Few rows fit, so that rows are read as well as known.
const PARTS_CACHE_BYTES: usize = 4096;

/// By so much a planted bug takes the safe time for later than it is.
const TOO_SAFE: u64 = 60_000 << 16;

/// A region and its machine.
pub(super) struct Region {
    pub(super) place: usize,
    pub(super) clock: Arc<NodeClock>,
    pub(super) disk: Arc<Disk>,
    pub(super) life: Life,
}

/// From a start to a crash.
pub(super) struct Life {
    pub(super) store: Arc<Store>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) safe_times: Arc<SafeTimes>,
    /// What is being applied, by origin.
    pub(super) applying: Vec<Option<Pending<()>>>,
    safe: Arc<AtomicU64>,
    fatal: Arc<AtomicBool>,
}

impl Region {
    pub(super) fn new(
        place: usize,
        seed: u64,
        clock: NodeClock,
        nature: &Nature,
        plant: Option<Plant>,
    ) -> Result<Region, StoreError> {
        let clock = Arc::new(clock);
        let disk = Arc::new(Disk::new(seed ^ place as u64, plant));
        let life = Life::start(place, &disk, &clock, nature, plant)?;
        let made = life.store.create_table(nature.spec(place));
        while life.store.commit_step() {}
        drop(made);
        Ok(Region { place, clock, disk, life })
    }

    pub(super) fn origin(&self) -> Origin {
        origin_of(self.place)
    }

    pub(super) fn table(&self) -> Option<Arc<Table>> {
        self.life.store.table(TABLE)
    }

    /// Everything of every origin below it is durable here.
    pub(super) fn safe_time(&self, nature: &Nature) -> Hlc {
        self.life.safe_times.safe(PARTITION, &others(self.place, nature), self.life.store.promise())
    }

    /// Tells the sessions of it, before they take a view.
    pub(super) fn refresh_safe(&self, nature: &Nature) {
        let safe = self.safe_time(nature);
        self.life.safe.fetch_max(safe.0, Ordering::Relaxed);
    }

    pub(super) fn is_fatal(&self) -> bool {
        self.life.fatal.load(Ordering::Relaxed)
    }

    /// Power is gone and comes back. `between` may do something to the disk.
    pub(super) fn restart(
        &mut self,
        nature: &Nature,
        plant: Option<Plant>,
        between: impl FnOnce(&Disk),
    ) -> Result<(), StoreError> {
        self.disk.engine.crash();
        between(&self.disk);
        self.life = Life::start(self.place, &self.disk, &self.clock, nature, plant)?;
        Ok(())
    }
}

/// All other regions.
pub(super) fn others(place: usize, nature: &Nature) -> Vec<Origin> {
    (0..nature.regions).filter(|other| *other != place).map(origin_of).collect()
}

impl Life {
    fn start(
        place: usize,
        disk: &Arc<Disk>,
        clock: &Arc<NodeClock>,
        nature: &Nature,
        plant: Option<Plant>,
    ) -> Result<Life, StoreError> {
        let clock: Arc<dyn Clock> = clock.clone();
        let mut options = StoreOptions::new(origin_of(place));
        options.parts_cache_bytes = PARTS_CACHE_BYTES;
        let store = Store::open(disk.clone(), clock.clone(), options)?;
        let fatal = Arc::new(AtomicBool::new(false));
        let told = fatal.clone();
        store.on_fatal(Arc::new(move |_| told.store(true, Ordering::Relaxed)));
        let safe = Arc::new(AtomicU64::new(0));
        let known = safe.clone();
        let is_too_safe = plant == Some(Plant::TooSafe);
        let beside = move |_| Beside {
            safe: Hlc(known.load(Ordering::Relaxed) + if is_too_safe { TOO_SAFE } else { 0 }),
            scrubbed_since_millis: None,
        };
        let views = Arc::new(StoreViews::new(store.clone(), Box::new(beside)));
        let sessions = Arc::new(Sessions::new(views, clock));
        let applying = (0..nature.regions).map(|_| None).collect();
        Ok(Life { store, sessions, safe_times: Arc::default(), applying, safe, fatal })
    }
}
