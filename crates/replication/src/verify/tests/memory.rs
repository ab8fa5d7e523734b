//! A table in memory: what it began with, and the entries it has applied since.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_digest::{Hasher, LEAF_ZERO_BITS, Lane, LeafPart, Parts, Sum, Tree, Width};
use isthmus_model::expiry::{Expiry, add_expiry};
use isthmus_model::family::NO_FAMILIES;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Lsn, TableId, Timestamp};
use isthmus_model::row::{Row, Trim, expiry_bucket};
use isthmus_model::value::Value;
use isthmus_store::codec::row::encode_row;
use parking_lot::Mutex;

use crate::frame::Watermark;
use crate::verify::answer::{Answer, Floors, Tell};
use crate::verify::compare::{Options, Shell, compare};
use crate::verify::error::VerifyError;
use crate::verify::question::{Ask, Question};
use crate::verify::report::Report;
use crate::verify::session::Sessions;
use crate::verify::side::Side;
use crate::verify::tests::{Chance, Ticking};
use crate::verify::view::{Head, View, ViewRow, Viewed, Views};

pub(crate) type RowsOf = BTreeMap<Bytes, Row>;

/// What an entry does.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) stamp: Stamp,
    pub(crate) deltas: Vec<(Bytes, Row)>,
    pub(crate) expiry: Option<Trim>,
}

/// A replica. With one writer entry `i` has LSN `i + 1`.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) base: RowsOf,
    pub(crate) applied: Vec<Entry>,
    pub(crate) many: bool,
    pub(crate) time_lanes: bool,
    pub(crate) vector: Vec<Watermark>,
    pub(crate) safe: Hlc,
    pub(crate) floors: Floors,
    /// How many entries the tree can be rolled back by.
    pub(crate) ring: usize,
    /// Of a hundred boundaries, how many are leaves.
    pub(crate) shape: usize,
    pub(crate) seed: u64,
    /// What has expired is still on the disk.
    pub(crate) is_lazy: bool,
    /// Rows that the tree has otherwise than they are.
    pub(crate) wrong: BTreeSet<Bytes>,
}

/// A table id; all replicas hash alike.
pub(crate) const TABLE: TableId = TableId(7);

pub(crate) fn hasher() -> Hasher {
    Hasher::for_table(TABLE.0, 1)
}

impl Replica {
    pub(crate) fn new(base: RowsOf, chance: &mut Chance) -> Replica {
        let shape = match chance.below(4) {
            0 => 0,
            1 => 30,
            2 => 80,
            _ => 100,
        };
        Replica {
            base,
            applied: Vec::new(),
            many: false,
            time_lanes: false,
            vector: Vec::new(),
            safe: Hlc::MIN,
            floors: Floors::NONE,
            ring: usize::MAX,
            shape,
            seed: chance.below(1 << 30) as u64,
            is_lazy: false,
            wrong: BTreeSet::new(),
        }
    }

    pub(crate) fn apply(&mut self, entry: Entry) {
        self.applied.push(entry);
    }

    /// The rows after those entries that count.
    pub(crate) fn rows(&self, counts: impl Fn(usize, &Entry) -> bool) -> RowsOf {
        let mut rows = self.base.clone();
        for (place, entry) in self.applied.iter().enumerate() {
            if !counts(place, entry) {
                continue;
            }
            for (key, delta) in &entry.deltas {
                rows.entry(key.clone()).or_default().merge(delta);
            }
            for row in rows.values_mut() {
                let trim = entry.expiry.filter(|_| !self.is_lazy);
                let expiry = trim.map(|trim| Expiry::from(trim.of_whole_buckets()));
                expiry.iter().for_each(|expiry| row.expire(expiry, &NO_FAMILIES));
            }
        }
        for row in rows.values_mut() {
            let horizon = if self.many { self.floors.kills_hlc() } else { Hlc::MAX };
            row.purge(horizon);
        }
        rows.retain(|_, row| !row.is_bare());
        rows
    }

    pub(crate) fn now(&self) -> RowsOf {
        self.rows(|_, _| true)
    }

    fn head(&self) -> Head {
        let hlc = self.applied.iter().map(|entry| entry.stamp.hlc).max().unwrap_or_default();
        let mut expiry = Vec::new();
        for trim in self.applied.iter().filter_map(|entry| entry.expiry) {
            add_expiry(&mut expiry, trim.into());
        }
        Head {
            lsn: Lsn(self.applied.len() as u64),
            hlc,
            safe: self.safe,
            vector: self.vector.clone(),
            expiry,
            many_writers: self.many,
            ..Head::default()
        }
    }

    /// Lanes of what a row holds, as the store does it.
    fn parts(&self, key: &[u8], row: &Row) -> Parts {
        let mut lanes: BTreeMap<Lane, Row> = BTreeMap::new();
        let live = |millis: i64| match self.time_lanes {
            true => Lane::Time(expiry_bucket(Timestamp(millis))),
            false => Lane::Data,
        };
        let kills = |stamp: Stamp| Lane::Kills((stamp.hlc.millis() >> 20) as u64);
        if let Some(stamp) = row.tombstone {
            lanes.entry(kills(stamp)).or_default().tombstone = Some(stamp);
        }
        if let Some(stamp) = row.marker {
            lanes.entry(live(stamp.hlc.millis())).or_default().marker = Some(stamp);
        }
        for column in &row.columns {
            let name = &column.name;
            if let Some(stamp) = column.tombstone {
                let row = lanes.entry(kills(stamp)).or_default();
                row.column_mut(name).tombstone = Some(stamp);
            }
            for trim in &column.trims {
                let row = lanes.entry(kills(trim.stamp)).or_default();
                row.column_mut(name).trims.push(*trim);
            }
            for cell in &column.cells {
                let lane = match cell.value {
                    Some(_) => live(cell.timestamp.0),
                    None => kills(cell.stamp),
                };
                lanes.entry(lane).or_default().column_mut(name).cells.push(cell.clone());
            }
        }
        let mut parts = Parts::new();
        for (lane, row) in lanes {
            if self.floors.keep(lane) {
                parts.push(lane, hasher().part(lane, key, &encode_row(&row)));
            }
        }
        parts
    }

    /// A tree with some of the boundaries that there could be.
    fn tree(&self, rows: &RowsOf) -> Tree {
        let hasher = hasher();
        let mut lanes: BTreeMap<Lane, Vec<LeafPart>> = BTreeMap::new();
        let mut chance = Chance::new(self.seed);
        for (key, row) in rows {
            let is_taken = chance.below(100) < self.shape;
            let mut row = row.clone();
            if self.wrong.contains(key) {
                row.column_mut(&"wrong".into()).tombstone = None;
                row.column_mut(&"a".into()).set(isthmus_model::row::Cell {
                    timestamp: Timestamp(99),
                    stamp: Stamp::default(),
                    value: Some(Value::Integer(self.seed as i64)),
                });
            }
            for (lane, sum) in self.parts(key, &row).iter() {
                let leaves = lanes.entry(lane).or_insert_with(|| {
                    let sum = Sum::default();
                    vec![LeafPart { start: Vec::new(), zero_bits: 64, sum, rows: 0 }]
                });
                let zero_bits = hasher.zero_bits(key);
                if zero_bits >= LEAF_ZERO_BITS && is_taken {
                    let (start, zero_bits) = (key.to_vec(), zero_bits as u8);
                    leaves.push(LeafPart { start, zero_bits, sum: Sum::default(), rows: 0 });
                }
                if let Some(leaf) = leaves.last_mut() {
                    leaf.sum += sum;
                    leaf.rows += 1;
                }
            }
        }
        let mut tree = Tree::new();
        for (lane, leaves) in lanes {
            tree.set_range(lane, &[], None, 1, &leaves);
        }
        tree
    }
}

/// A replica that others can change while it is looked at.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Replica>>);

impl Views for Shared {
    fn view(&self, table: TableId) -> Result<Viewed, VerifyError> {
        if table != TABLE {
            return Ok(Viewed::NoTable);
        }
        let replica = self.0.lock().clone();
        let rows = replica.now();
        let tree = replica.tree(&rows);
        let head = replica.head();
        let hasher = hasher();
        let cut = rows.clone();
        Ok(Viewed::View(Box::new(MemoryView { replica, head, hasher, tree, rows, cut })))
    }
}

struct MemoryView {
    replica: Replica,
    head: Head,
    hasher: Hasher,
    tree: Tree,
    rows: RowsOf,
    cut: RowsOf,
}

impl MemoryView {
    fn view_row(&self, key: &Bytes) -> ViewRow {
        let (now, then) = (self.rows.get(key), self.cut.get(key));
        ViewRow {
            key: key.clone(),
            packed: now.map(encode_row),
            parts: then.map(|row| self.replica.parts(key, row)).unwrap_or_default(),
            moved: now != then,
        }
    }
}

impl View for MemoryView {
    fn head(&self) -> &Head {
        &self.head
    }

    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    fn floors(&self) -> Floors {
        self.replica.floors
    }

    fn roll_back_to_lsn(&mut self, lsn: Lsn) -> bool {
        let known = self.replica.applied.len().saturating_sub(self.replica.ring);
        if lsn.0 < known as u64 {
            self.tree = Tree::new();
            return false;
        }
        self.cut = self.replica.rows(|place, _| (place as u64) < lsn.0);
        self.tree = self.replica.tree(&self.cut);
        true
    }

    fn roll_back_to_hlc(&mut self, hlc: Hlc) {
        let known = self.replica.applied.len().saturating_sub(self.replica.ring);
        self.cut = self.replica.rows(|place, entry| place < known || entry.stamp.hlc <= hlc);
        self.tree = self.replica.tree(&self.cut);
    }

    fn rows(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(ViewRow) -> bool,
    ) -> Result<(), VerifyError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (Bound::Included(start), end);
        let keys = self.rows.range::<[u8], _>(range).chain(self.cut.range::<[u8], _>(range));
        let keys: BTreeSet<&Bytes> = keys.map(|(key, _)| key).collect();
        for key in keys {
            if !each(self.view_row(key)) {
                break;
            }
        }
        Ok(())
    }

    fn row(&self, key: &[u8]) -> Result<ViewRow, VerifyError> {
        Ok(self.view_row(&Bytes::copy_from_slice(key)))
    }
}

/// A side behind a wire: everything goes through bytes.
pub(crate) struct Remote {
    pub(crate) sessions: Arc<Sessions>,
    /// It is of the first version: knows nothing that came later.
    pub(crate) is_old: bool,
}

impl Side for Remote {
    fn ask(&mut self, question: Question) -> Result<Answer, VerifyError> {
        let mut question = Question::decode(&question.encode())?;
        if self.is_old {
            question.packs = false;
            match &mut question.ask {
                Some(Ask::Open(open)) => (open.coarse_symbols, open.narrow) = (0, false),
                Some(Ask::LeafSymbols(ask)) => ask.short = false,
                Some(Ask::Sketch(_) | Ask::Leaves(_) | Ask::Lay(_)) => {
                    panic!("an old side is asked what it does not know")
                }
                _ => {}
            }
        }
        let mut answer = self.sessions.answer(question);
        match &mut answer.tell {
            Some(Tell::Opened(opened)) if self.is_old => {
                (opened.skill, opened.sketch) = (0, None);
            }
            Some(Tell::Parts(parts)) if self.is_old => {
                (parts.outside, parts.inside) = (Bytes::new(), Bytes::new());
            }
            Some(Tell::Rows(rows)) if self.is_old => rows.asked_sum = Bytes::new(),
            Some(_) | None => {}
        }
        Answer::decode(&answer.encode())
    }
}

/// Two replicas and the time they live in.
pub(crate) struct Pair {
    pub(crate) replicas: [Shared; 2],
    pub(crate) sessions: [Arc<Sessions>; 2],
    pub(crate) clock: Ticking,
    /// Sides of the first version.
    pub(crate) old: [bool; 2],
}

impl Pair {
    pub(crate) fn new(first: Replica, second: Replica, selected_max: usize) -> Pair {
        Pair::named(first, second, selected_max, u64::MAX)
    }

    /// Of narrow names only some bits count.
    pub(crate) fn named(
        first: Replica,
        second: Replica,
        selected_max: usize,
        narrow_mask: u64,
    ) -> Pair {
        let narrow_mask = narrow_mask & Width::Narrow.mask();
        let clock = Ticking::default();
        let replicas = [first, second].map(|replica| Shared(Arc::new(Mutex::new(replica))));
        let sessions = replicas.clone().map(|replica| {
            let sessions = Sessions::new(Arc::new(replica), Arc::new(clock.clone()));
            Arc::new(sessions.with_selected_max(selected_max).with_narrow_mask(narrow_mask))
        });
        Pair { replicas, sessions, clock, old: [false; 2] }
    }

    /// Compares them; `meanwhile` happens at each pause and each question.
    pub(crate) fn compare(
        &self,
        options: &Options,
        meanwhile: &mut dyn FnMut(&[Shared; 2]),
    ) -> Report {
        let [mut first, mut second] = [0, 1]
            .map(|side| Remote { sessions: self.sessions[side].clone(), is_old: self.old[side] });
        let report = compare(
            &mut first,
            &mut second,
            options,
            &mut Shell {
                clock: &self.clock,
                pause: &mut |time: Duration| {
                    self.clock.pass(time);
                    meanwhile(&self.replicas);
                },
                progress: &mut |_| ControlFlow::Continue(()),
                found: None,
            },
        );
        let report = report.unwrap();
        assert_eq!(self.sessions[0].count() + self.sessions[1].count(), 0, "sessions are ended");
        report
    }
}

pub(crate) fn any_options(chance: &mut Chance) -> Options {
    let mut options = Options::new(TABLE, ["r1".into(), "r2".into()]);
    if chance.one_in(2) {
        return options;
    }
    options.tuning.few_ranges = chance.below(3);
    options.tuning.few_leaves = chance.below(3);
    options.tuning.many_leaves = 2 * chance.below(20);
    options.tuning.whole_symbols_max = 1 << chance.below(9);
    options.tuning.window_symbols_max = 1 << chance.below(9);
    options.tuning.window_leaves = 1 + chance.below(20) as u64;
    options.tuning.page_ranges = 1 + chance.below(3);
    options.tuning.range_rows = 1 + chance.below(50) as u32;
    if chance.one_in(3) {
        options.start = Some(isthmus_model::key::EncodedKey::default());
    }
    options
}
