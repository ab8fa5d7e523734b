//! A tree says what a plain map of rows says, whatever happens to it and wherever it crashes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;

use super::{LaneTree, Leaf, LeafPart, PageWrite, Tree};
use crate::{Change, Hasher, LEAF_ZERO_BITS, Lane, Sum};

/// What happens to a tree.
#[derive(Clone, Debug)]
enum Step {
    /// A group changes rows of random keys; a value of `None` deletes.
    Put(Vec<(u16, Lane, Option<u64>)>),
    /// A group adds rows beyond all others.
    Append(Lane, u8),
    /// A group deletes the rows of a range of keys.
    Clear(Lane, u16, u16),
    /// A leaf is divided at some of its rows, whether the hash says so or not.
    Split(Lane, Index, u64),
    /// What asks to be split is split where the hash says so.
    SplitWanted,
    /// A range is set to what it is, at odd places if the flag is set.
    SetRange(Lane, Index, Index, u64),
    /// What is known of the greatest key is told.
    NoteLast(Lane),
    Scrub(u16, u16, u32),
    DropTime(i64),
    DropKills(u64),
    BeginCheckpoint,
    TakePages(u16),
    /// All is stored, whatever a round was at.
    FinishCheckpoint,
    /// A batch is taken and lost, then all that was not stored is lost.
    Crash,
}

fn lane() -> impl Strategy<Value = Lane> {
    prop_oneof![
        4 => Just(Lane::Data),
        1 => (0..4i64).prop_map(Lane::Time),
        1 => (0..3u64).prop_map(Lane::Kills),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let row = (0..900u16, lane(), proptest::option::weighted(0.8, any::<u64>()));
    prop_oneof![
        6 => vec(row, 1..40).prop_map(Step::Put),
        4 => (lane(), any::<u8>()).prop_map(|(lane, count)| Step::Append(lane, count)),
        2 => (lane(), 0..900u16, 0..500u16).prop_map(|(lane, a, len)| Step::Clear(lane, a, len)),
        2 => (lane(), any::<Index>(), any::<u64>())
            .prop_map(|(lane, at, mask)| Step::Split(lane, at, mask)),
        2 => Just(Step::SplitWanted),
        2 => (lane(), any::<Index>(), any::<Index>(), any::<u64>())
            .prop_map(|(lane, a, b, mask)| Step::SetRange(lane, a, b, mask)),
        1 => lane().prop_map(Step::NoteLast),
        1 => (0..900u16, 0..500u16, 1..99u32).prop_map(|(a, b, minute)| Step::Scrub(a, b, minute)),
        1 => (-1..3i64).prop_map(Step::DropTime),
        1 => (0..3u64).prop_map(Step::DropKills),
        2 => Just(Step::BeginCheckpoint),
        8 => (0..2000u16).prop_map(Step::TakePages),
        1 => Just(Step::FinishCheckpoint),
        3 => Just(Step::Crash),
    ]
}

/// A tree, the rows it is of, and a disk.
struct World {
    hasher: Hasher,
    tree: Tree,
    rows: BTreeMap<(Lane, Vec<u8>), Sum>,
    floor: (i64, u64),
    group: u64,
    appended: u32,
    disk: BTreeMap<(Lane, Vec<u8>), Bytes>,
    redo: Vec<(u64, Vec<Change>)>,
    /// The group that the round under way noted.
    noted: Option<u64>,
}

fn key(number: u16) -> Vec<u8> {
    format!("key {number:05}").into_bytes()
}

impl World {
    fn new() -> World {
        World {
            hasher: Hasher::for_table(1, 1),
            tree: Tree::new(),
            rows: BTreeMap::new(),
            floor: (i64::MIN, 0),
            group: 0,
            appended: 0,
            disk: BTreeMap::new(),
            redo: Vec::new(),
            noted: None,
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Put(puts) => {
                let mut changes = Vec::new();
                for (number, lane, value) in puts {
                    let sum = value.map(|value| Sum(u128::from(value) << 70 | u128::from(value)));
                    self.put(&mut changes, lane, key(number), sum);
                }
                self.group(changes);
            }
            Step::Append(lane, count) => {
                let mut changes = Vec::new();
                for _ in 0..count {
                    self.appended += 1;
                    let key = format!("z {:06}", self.appended).into_bytes();
                    let sum = self.hasher.part(lane, &key, b"appended");
                    self.put(&mut changes, lane, key, Some(sum));
                }
                self.group(changes);
            }
            Step::Clear(lane, from, len) => {
                // Those that were appended go with the greatest numbers.
                let (start, end) =
                    (key(from), if from > 600 { vec![255] } else { key(from + len) });
                let range = (lane, start)..(lane, end);
                let keys: Vec<_> =
                    self.rows.range(range).map(|((_, key), _)| key.clone()).collect();
                let mut changes = Vec::new();
                keys.into_iter().for_each(|key| self.put(&mut changes, lane, key, None));
                self.group(changes);
            }
            Step::Split(lane, at, mask) => self.split(lane, at, mask),
            Step::SplitWanted => self.split_wanted(),
            Step::SetRange(lane, a, b, mask) => self.set_range(lane, a, b, mask),
            Step::NoteLast(lane) => {
                if let Some(last) = self.last_key(lane) {
                    self.tree.note_last_key(lane, &last);
                }
            }
            Step::Scrub(from, len, minute) => {
                let (start, end) = (key(from), key(from + len));
                self.tree.set_scrubbed(&start, Some(&end), minute);
                let lanes = self.tree.lanes();
                for leaf in
                    lanes.iter().flat_map(|root| self.tree.leaves(root.lane, &start, Some(&end)))
                {
                    let is_inside = leaf.start >= start && leaf.end.is_some_and(|leaf| leaf <= end);
                    assert!(!is_inside || leaf.scrubbed_minute == minute);
                }
            }
            Step::DropTime(bucket) => {
                self.floor.0 = self.floor.0.max(bucket);
                self.drop_rows();
                self.group(vec![Change::DropTime(bucket)]);
            }
            Step::DropKills(bucket) => {
                self.floor.1 = self.floor.1.max(bucket);
                self.drop_rows();
                self.group(vec![Change::DropKills(bucket)]);
            }
            Step::BeginCheckpoint => self.begin(),
            Step::TakePages(bytes) => self.take(usize::from(bytes)),
            Step::FinishCheckpoint => self.finish(),
            Step::Crash => self.crash(),
        }
    }

    fn put(&mut self, out: &mut Vec<Change>, lane: Lane, key: Vec<u8>, sum: Option<Sum>) {
        if super::is_below(lane, self.floor) {
            // A late change in a lane that is gone: the tree takes no notice.
            out.push(Change::Part { key: key.into(), lane, delta: Sum(9), rows: 1 });
            return;
        }
        let place = (lane, key.clone());
        let before = self.rows.get(&place).copied();
        let rows = i8::from(sum.is_some()) - i8::from(before.is_some());
        if before.is_none() && sum.is_none() {
            return;
        }
        match sum {
            Some(sum) => self.rows.insert(place, sum),
            None => self.rows.remove(&place),
        };
        let delta = sum.unwrap_or_default() - before.unwrap_or_default();
        out.push(Change::Part { key: key.into(), lane, delta, rows });
    }

    fn drop_rows(&mut self) {
        let floor = self.floor;
        self.rows.retain(|(lane, _), _| !super::is_below(*lane, floor));
    }

    /// Applies a group; and shows on a copy that it can be taken back.
    fn group(&mut self, changes: Vec<Change>) {
        let before = (self.tree.lanes(), self.tree.rows());
        for change in &changes {
            self.tree.apply(&self.hasher, self.group, change);
        }
        let mut copy = self.tree.clone();
        if changes.iter().rev().all(|change| copy.undo(&self.hasher, change)) {
            let roots = |roots: Vec<super::LaneRoot>| -> Vec<_> {
                roots.iter().map(|root| (root.lane, root.sum, root.rows)).collect()
            };
            assert_eq!((roots(copy.lanes()), copy.rows()), (roots(before.0), before.1));
            check_counts(&copy);
        }
        self.redo.push((self.group, changes));
        self.group += 1;
    }

    fn total(&self, lane: Lane, start: &[u8], end: Option<&[u8]>) -> (Sum, u32) {
        let rows = self.rows.range((lane, start.to_vec())..);
        let rows = rows
            .take_while(|((of, key), _)| *of == lane && end.is_none_or(|end| key.as_slice() < end));
        rows.fold((Sum::ZERO, 0), |(sum, count), (_, part)| (sum + *part, count + 1))
    }

    fn last_key(&self, lane: Lane) -> Option<Vec<u8>> {
        let mut keys = self.rows.keys().filter(|(of, _)| *of == lane);
        keys.next_back().map(|(_, key)| key.clone())
    }

    /// The parts of a range that begin at its start and at the keys that `is_start` picks.
    fn parts(
        &self,
        lane: Lane,
        start: &[u8],
        end: Option<&[u8]>,
        mut is_start: impl FnMut(&[u8]) -> bool,
    ) -> Vec<LeafPart> {
        // Who reads rows meets also those that have nothing in this lane.
        let keys = self.rows.keys().map(|(_, key)| key);
        let keys = keys.filter(|key| key.as_slice() > start);
        let keys: BTreeSet<&Vec<u8>> =
            keys.filter(|key| end.is_none_or(|end| key.as_slice() < end)).collect();
        let mut starts = vec![start.to_vec()];
        starts.extend(keys.into_iter().filter(|key| is_start(key)).cloned());
        let ends = starts.iter().skip(1).map(|start| Some(start.as_slice()));
        let ends: Vec<Option<&[u8]>> = ends.chain([end]).collect();
        let parts = starts.iter().zip(ends).map(|(start, end)| {
            let (sum, rows) = self.total(lane, start, end);
            let zero_bits = self.hasher.zero_bits(start) as u8;
            LeafPart { start: start.clone(), zero_bits, sum, rows }
        });
        parts.collect()
    }

    fn split(&mut self, lane: Lane, at: Index, mut mask: u64) {
        let leaves: Vec<Leaf> = self.tree.leaves(lane, b"", None).collect();
        if leaves.is_empty() {
            return;
        }
        let Leaf { start, end, .. } = at.get(&leaves);
        let mut parts = self.parts(lane, start, end.as_deref(), |_| {
            mask = mask.rotate_right(1);
            mask & 1 == 1
        });
        let group = self.group.saturating_sub(1);
        assert!(self.tree.split(lane, start, group, &parts));
        parts[0].sum += Sum(1);
        assert!(!self.tree.split(lane, start, group, &parts));
    }

    fn split_wanted(&mut self) {
        let mut asked = 0;
        while let Some(wanted) = self.tree.wants_split() {
            let (lane, end) = (wanted.lane, wanted.end.as_deref());
            let hasher = self.hasher.clone();
            let is_boundary = |key: &[u8]| hasher.zero_bits(key) >= LEAF_ZERO_BITS;
            let parts = self.parts(lane, &wanted.start, end, is_boundary);
            asked += 1;
            if asked > 1000 {
                self.tree.skip_split(lane, &wanted.start);
            } else {
                assert!(self.tree.split(lane, &wanted.start, self.group.saturating_sub(1), &parts));
            }
        }
        assert!(asked < 1000, "a leaf that was split is not asked for again");
    }

    fn set_range(&mut self, lane: Lane, a: Index, b: Index, mut mask: u64) {
        let leaves: Vec<Leaf> = self.tree.leaves(lane, b"", None).collect();
        if leaves.is_empty() {
            return;
        }
        let (a, b) = (a.index(leaves.len()), b.index(leaves.len()));
        let (start, end) = (&leaves[a.min(b)].start, leaves[a.max(b)].end.as_deref());
        let parts = self.parts(lane, start, end, |_| {
            mask = mask.rotate_right(1);
            mask & 1 == 1
        });
        self.tree.set_range(lane, start, end, self.group.saturating_sub(1), &parts);
    }

    fn begin(&mut self) {
        self.tree.begin_checkpoint();
        self.noted = Some(self.group);
    }

    /// One batch, stored whole; at the end of a round the redo log is cut.
    fn take(&mut self, bytes_max: usize) {
        let Some(noted) = self.noted else { return self.begin() };
        let writes = self.tree.take_dirty(bytes_max);
        if writes.is_empty() {
            self.noted = None;
            self.redo.retain(|(group, _)| *group >= noted);
        }
        for PageWrite { lane, start, bytes } in writes {
            match bytes {
                Some(bytes) => self.disk.insert((lane, start), bytes),
                None => self.disk.remove(&(lane, start)),
            };
        }
    }

    fn finish(&mut self) {
        self.begin();
        while self.noted.is_some() {
            self.take(500);
        }
        assert!(!self.tree.has_dirty());
        assert_eq!(self.tree.take_dirty(500), []);
    }

    fn crash(&mut self) {
        self.tree.take_dirty(300);
        let mut tree = self.reload().expect("what was stored loads");
        for (group, changes) in &self.redo {
            changes.iter().for_each(|change| tree.apply(&self.hasher, *group, change));
        }
        self.tree = tree;
        self.noted = None;
    }

    fn reload(&self) -> Result<Tree, crate::Damaged> {
        let pages = self.disk.iter();
        Tree::load(pages.map(|((lane, start), bytes)| (*lane, start.clone(), bytes.clone())))
    }

    /// That the tree says what the rows do.
    fn check(&self) {
        check_counts(&self.tree);
        assert_eq!(self.tree.drop_floor(), self.floor);
        let mut lanes: Vec<Lane> = self.rows.keys().map(|(lane, _)| *lane).collect();
        lanes.dedup();
        let roots = self.tree.lanes();
        assert_eq!(roots.iter().map(|root| root.lane).collect::<Vec<_>>(), lanes);
        assert_eq!(self.tree.rows(), self.rows.len() as u64);
        for root in roots {
            let (sum, rows) = self.total(root.lane, b"", None);
            assert_eq!((root.sum, root.rows), (sum, u64::from(rows)));
            let leaves: Vec<Leaf> = self.tree.leaves(root.lane, b"", None).collect();
            assert_eq!(leaves.len() as u64, root.leaves);
            assert_eq!((leaves[0].start.len(), &leaves[leaves.len() - 1].end), (0, &None));
            assert!(leaves.windows(2).all(|pair| pair[0].end.as_ref() == Some(&pair[1].start)));
            assert!(leaves.is_sorted_by(|a, b| a.start < b.start));
            for leaf in &leaves {
                let total = self.total(root.lane, &leaf.start, leaf.end.as_deref());
                assert_eq!((leaf.sum, leaf.rows), total, "{:?} {leaf:?}", root.lane);
            }
            let (from, to) = (key(100), key(300));
            let some = self.tree.leaves(root.lane, &from, Some(&to)).collect::<Vec<_>>();
            let overlaps =
                |leaf: &Leaf| leaf.start < to && leaf.end.as_ref().is_none_or(|end| *end > from);
            leaves
                .iter()
                .filter(|leaf| overlaps(leaf))
                .zip(&some)
                .for_each(|(a, b)| assert_eq!(a, b));
            assert_eq!(leaves.iter().filter(|leaf| overlaps(leaf)).count(), some.len());
        }
    }
}

/// That what is counted along the way is what counting gives.
fn check_counts(tree: &Tree) {
    for lane in tree.lanes.values() {
        let bound = lane.bound.clone();
        let counted = LaneTree::from_slots(lane.slots.clone(), bound);
        let counts = |lane: &LaneTree| {
            (lane.sum, lane.rows, lane.leaves, lane.dirty, lane.splittable, lane.slots.len())
        };
        assert_eq!(counts(lane), counts(&counted));
        for (at, slot) in lane.slots.iter().enumerate() {
            assert_eq!(lane.starts.get(at), slot.page.keys.get(0));
            assert_eq!(slot.splittable, slot.page.splittable());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_tree_says_what_a_map_of_rows_says_across_crashes(steps in vec(step(), 1..70)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
            world.check();
        }
        world.crash();
        world.check();
        world.finish();
        world.crash();
        world.check();
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]
    #[test]
    fn a_page_that_is_lost_is_noticed(
        steps in vec(step(), 10..40), lost: Index
    ) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.run(step));
        world.finish();
        let names: Vec<(Lane, Vec<u8>)> = world.disk.keys().cloned().collect();
        if !names.is_empty() {
            let (lane, start) = lost.get(&names);
            let pages_of_lane = names.iter().filter(|(of, _)| of == lane).count();
            world.disk.remove(&(*lane, start.clone()));
            assert!(pages_of_lane == 1 || world.reload().is_err());
        }
    }
}

#[test]
fn what_is_deleted_costs_nothing_in_the_end() {
    let mut world = World::new();
    world.run(Step::Append(Lane::Data, 255));
    world.run(Step::Append(Lane::Data, 255));
    world.finish();
    let (leaves, pages) = (world.tree.leaf_count(), world.disk.len());
    assert!(leaves > 15 && pages > 2, "{leaves} leaves, {pages} pages");
    world.run(Step::Clear(Lane::Data, 899, 0));
    world.finish();
    assert_eq!((world.tree.leaf_count(), world.disk.len()), (1, 1));
    assert_eq!((world.tree.rows(), world.tree.lanes()), (0, Vec::new()));
}

#[test]
fn dropped_lanes_leave_nothing_and_stay_dropped_after_a_crash() {
    let mut world = World::new();
    for lane in [Lane::Time(1), Lane::Time(2), Lane::Kills(0)] {
        world.run(Step::Append(lane, 200));
    }
    world.finish();
    world.run(Step::DropTime(2));
    world.run(Step::DropKills(1));
    world.finish();
    assert!(world.disk.keys().all(|(lane, _)| [Lane::Data, Lane::Time(2)].contains(lane)));
    world.run(Step::Crash);
    world.run(Step::Put(vec![(1, Lane::Time(1), Some(1))]));
    world.check();
    assert_eq!(world.tree.lanes().len(), 1);
}

#[test]
fn a_copy_shows_what_was_and_shares_pages() {
    let mut world = World::new();
    world.run(Step::Append(Lane::Data, 255));
    let copy = world.tree.clone();
    let before: Vec<Leaf> = copy.leaves(Lane::Data, b"", None).collect();
    world.run(Step::Put(vec![(1, Lane::Data, Some(1))]));
    world.run(Step::Append(Lane::Data, 255));
    assert_eq!(copy.leaves(Lane::Data, b"", None).collect::<Vec<_>>(), before);
    let shared = copy.lanes[&Lane::Data].slots.iter().zip(&world.tree.lanes[&Lane::Data].slots);
    assert!(shared.filter(|(a, b)| std::sync::Arc::ptr_eq(&a.page, &b.page)).count() > 0);
}

#[test]
fn an_append_splits_at_once_and_takes_few_rows_a_leaf() {
    let mut world = World::new();
    for _ in 0..8 {
        world.run(Step::Append(Lane::Data, 255));
    }
    let leaves: Vec<Leaf> = world.tree.leaves(Lane::Data, b"", None).collect();
    let is_boundary = |leaf: &Leaf| {
        let zero_bits = world.hasher.zero_bits(&leaf.start);
        u32::from(leaf.zero_bits) == zero_bits && zero_bits >= LEAF_ZERO_BITS
    };
    assert!(leaves[1..].iter().all(is_boundary));
    assert!((60..260).contains(&leaves.len()), "{} leaves of 2040 rows", leaves.len());
    assert_eq!(world.tree.wants_split(), None);
    let fingerprints = world.tree.fingerprints(&world.hasher, Lane::Data, b"", None);
    assert!(fingerprints.count() >= leaves.len() - 1);
}

#[test]
fn a_leaf_that_was_split_beyond_the_rows_of_its_lane_is_not_begun_twice() {
    let mut world = World::new();
    let is_boundary = |number: &u16| world.hasher.zero_bits(&key(*number)) >= LEAF_ZERO_BITS;
    let beyond = (1..900).find(is_boundary).unwrap();
    world.run(Step::Put(vec![(0, Lane::Time(0), Some(1)), (beyond, Lane::Data, Some(2))]));
    let parts = world.parts(Lane::Time(0), b"", None, |at| at == key(beyond));
    assert_eq!(parts.len(), 2);
    assert!(world.tree.split(Lane::Time(0), b"", 0, &parts));
    world.run(Step::Put(vec![(beyond, Lane::Time(0), Some(3))]));
    world.check();
}

#[test]
fn a_build_by_ranges_in_order_is_exact_although_each_cuts_the_rest() {
    let mut world = World::new();
    world.run(Step::Append(Lane::Data, 200));
    let mut built = Tree::new();
    let mut start = Vec::new();
    for number in [50, 100, 150] {
        let end = format!("z {number:06}").into_bytes();
        let parts = world.parts(Lane::Data, &start, Some(&end), |_| false);
        built.set_range(Lane::Data, &start, Some(&end), 0, &parts);
        start = end;
    }
    let parts = world.parts(Lane::Data, &start, None, |key| key.ends_with(b"7"));
    built.set_range(Lane::Data, &start, None, 0, &parts);
    world.tree = built;
    world.check();
    world.finish();
    world.crash();
    world.check();
}

#[test]
fn a_lane_that_is_dropped_while_pages_are_stored_is_removed_only_once_that_is_stored() {
    let mut world = World::new();
    world.run(Step::Append(Lane::Time(1), 255));
    world.run(Step::Append(Lane::Data, 255));
    world.finish();
    world.run(Step::Append(Lane::Data, 9));
    world.begin();
    world.run(Step::DropTime(2));
    for _ in 0..2 {
        while world.noted.is_some() {
            world.take(1);
            assert!(world.reload().is_ok());
        }
        world.begin();
    }
    assert!(world.disk.keys().all(|(lane, _)| *lane == Lane::Data));
    world.crash();
    world.check();
}

/// Lane, sum and rows of each lane.
fn sums(tree: &Tree) -> Vec<(Lane, Sum, u64)> {
    tree.lanes().iter().map(|root| (root.lane, root.sum, root.rows)).collect()
}

const CLEAR_APPENDED: (u16, u16) = (899, 0);

#[test]
fn a_lane_of_which_the_last_part_has_gone_costs_nothing_in_the_end() {
    let (from, len) = CLEAR_APPENDED;
    let mut world = World::new();
    world.run(Step::Put(vec![(1, Lane::Data, Some(1))]));
    for bucket in 0..300u64 {
        for lane in [Lane::Kills(bucket), Lane::Time(bucket.cast_signed())] {
            world.run(Step::Append(lane, 40));
            // Some are stored before they go, others are not.
            if bucket % 3 == 0 {
                world.finish();
            }
            world.run(Step::Clear(lane, from, len));
        }
        world.finish();
        assert!(world.tree.lanes.len() < 20 && world.disk.len() < 20, "at {bucket}");
    }
    // What has gone is known to be so in one round, and removed once that has ended.
    world.finish();
    world.finish();
    assert_eq!(world.tree.lanes.keys().collect::<Vec<_>>(), [&Lane::Data]);
    assert_eq!(world.disk.len(), 1);
    assert!(world.tree.memory_bytes() < 5000, "{}", world.tree.memory_bytes());
    world.check();
    world.crash();
    world.check();
}

#[test]
fn a_lane_that_has_gone_can_be_taken_back() {
    let (from, len) = CLEAR_APPENDED;
    let lane = Lane::Kills(7);
    let mut world = World::new();
    world.run(Step::Append(lane, 50));
    let before = sums(&world.tree);
    world.run(Step::Clear(lane, from, len));
    let cleared = world.redo.last().unwrap().1.clone();
    (0..3).for_each(|_| world.finish());
    assert!(world.tree.lanes.is_empty());
    let mut copy = world.tree.clone();
    assert!(cleared.iter().rev().all(|change| copy.undo(&world.hasher, change)));
    assert_eq!(sums(&copy), before);
    check_counts(&copy);
    // What is below the floor held nothing.
    world.run(Step::DropKills(8));
    let mut copy = world.tree.clone();
    assert!(cleared.iter().rev().all(|change| copy.undo(&world.hasher, change)));
    assert!(sums(&copy).is_empty());
}

#[test]
fn a_lane_that_goes_and_comes_back_is_right_wherever_power_fails() {
    let (from, len) = CLEAR_APPENDED;
    let lane = Lane::Kills(3);
    let round = || std::iter::once(Step::BeginCheckpoint).chain((0..4).map(|_| Step::TakePages(1)));
    let mut steps = vec![Step::Put(vec![(5, Lane::Data, Some(1))])];
    for count in [3, 60, 1, 90] {
        steps.push(Step::Append(lane, count));
        steps.extend(round());
        steps.push(Step::Clear(lane, from, len));
        steps.extend(round());
        steps.push(Step::Put(vec![(6, Lane::Data, Some(count.into()))]));
        steps.extend(round());
        steps.push(Step::BeginCheckpoint);
        // Comes back before its pages have gone, and after it.
        steps.push(Step::Put(vec![(7, lane, Some(2))]));
        steps.extend((0..2).map(|_| Step::TakePages(1)));
        steps.push(Step::Put(vec![(7, lane, None)]));
        steps.extend((0..2).flat_map(|_| round()));
    }
    for fails_at in 0..=steps.len() {
        let mut world = World::new();
        for (place, step) in steps.iter().enumerate() {
            if place == fails_at {
                world.crash();
            }
            world.run(step.clone());
            world.check();
        }
        world.crash();
        world.check();
        world.run(Step::Put(vec![(5, Lane::Data, Some(2))]));
        (0..3).for_each(|_| world.finish());
        assert!(world.disk.keys().all(|(lane, _)| *lane == Lane::Data), "failed at {fails_at}");
    }
}

#[test]
fn empty_lanes_that_an_older_program_has_stored_go_as_well() {
    let (from, len) = CLEAR_APPENDED;
    let mut world = World::new();
    (0..5).for_each(|bucket| world.run(Step::Append(Lane::Kills(bucket), 90)));
    world.finish();
    (0..5).for_each(|bucket| world.run(Step::Clear(Lane::Kills(bucket), from, len)));
    world.finish();
    assert_eq!(world.disk.len(), 5, "it keeps them");
    world.crash();
    assert_eq!(world.tree.lanes.len(), 5);
    world.check();
    world.run(Step::Put(vec![(1, Lane::Data, Some(1))]));
    (0..2).for_each(|_| world.finish());
    assert!(world.disk.keys().all(|(lane, _)| *lane == Lane::Data));
    assert_eq!(world.tree.lanes.len(), 1);
    world.crash();
    world.check();
}
