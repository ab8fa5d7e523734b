//! What people ask of links while everything breaks: pauses, stops, other timing, throttles.
//!
//! What was asked is at rest in the record of a global table, so it outlives crashes. When the
//! world heals, nothing is asked any more.

use std::time::Duration;

use isthmus_model::compression::Compression;
use isthmus_model::ids::PartitionId;
use isthmus_replication::frame::{Body, Frame};
use isthmus_replication::terms::{Direction, Terms, Wish};
use isthmus_replication::throttle::Throttle;
use isthmus_replication::timing::{Timing, Window};
use rand::Rng;
use rand::rngs::SmallRng;

use super::events::Event;
use super::{Phase, World};
use crate::checkers::wishes;
use crate::network::{StreamId, Way};
use crate::plant::Plant;

impl World {
    /// Asks something of a link, or of all links of a table that leave a node.
    pub(super) fn ask_somewhere(&mut self) {
        let Some(every) = self.nature.ask_every else { return };
        if self.phase == Phase::Drain {
            return;
        }
        let pause = self.wishes.random_range(1..every * 2);
        self.after(pause, Event::AskSomewhere);
        let regions = self.nature.regions;
        let rng = &mut self.wishes;
        let node = rng.random_range(0..regions);
        let partition = self.nature.tables[rng.random_range(0..self.nature.tables.len())].partition;
        let one = (node + rng.random_range(1..regions)) % regions;
        let whole_table = rng.random_range(0..4) == 0;
        let (triggers, terms) = (rng.random_range(0..6) == 0, draw(rng));
        for peer in (0..regions).filter(|peer| *peer != node && (whole_table || *peer == one)) {
            match triggers {
                true => {
                    self.note(&format!("link of {partition} from {node} to {peer} is triggered"));
                    if let Some(life) = self.life(node) {
                        life.trigger(peer, partition);
                    }
                }
                false => self.ask(node, peer, partition, terms.clone()),
            }
        }
    }

    fn ask(&mut self, node: usize, peer: usize, partition: PartitionId, terms: Terms) {
        if self.options.plant == Some(Plant::CutPassedOver) && terms.wish == Wish::Stop {
            self.passed_over.insert((node, peer, partition), None);
        }
        self.note(&format!("asked of the link of {partition} from {node} to {peer}: {terms:?}"));
        let Some(place) = self.nodes.get_mut(node) else { return };
        place.asked.insert((peer, partition), terms);
        let mut told = place.asked.clone();
        if self.options.plant == Some(Plant::PauseForgotten) {
            told.retain(|_, terms| terms.wish != Wish::Pause);
        }
        if let Some(life) = &mut place.life {
            life.ask(&told);
        }
    }

    /// A planted bug lets a link that was stopped and is resumed pass over what its replica lacks
    /// of the log.
    pub(super) fn pass_over(&mut self, stream: StreamId, way: Way, frame: &mut Frame) {
        let Some((from, to)) = self.network.stream(stream).map(|one| (one.from, one.to)) else {
            return;
        };
        match (way, &mut frame.body) {
            (Way::Back, Some(Body::Opened(opened))) => {
                let partition = PartitionId(opened.partition);
                let life = self.nodes.get(from).and_then(|place| place.life.as_ref());
                let table = life.and_then(|life| life.store.table_of_partition(partition));
                let start = table.map_or(0, |table| table.log_start().0);
                if let Some(passed) = self.passed_over.get_mut(&(from, to, partition))
                    && opened.watermark < start
                {
                    *passed = Some((start, opened.watermark));
                    opened.watermark = start;
                }
            }
            (Way::There, Some(Body::Parcel(parcel))) => {
                let link = (from, to, PartitionId(parcel.partition));
                let passed = self.passed_over.get(&link).copied().flatten();
                if let Some((_, watermark)) = passed.filter(|(start, _)| *start == parcel.from) {
                    parcel.from = watermark;
                    self.passed_over.remove(&link);
                }
            }
            _ => {}
        }
    }

    /// Nothing is asked any more.
    pub(super) fn withdraw_wishes(&mut self) {
        for place in &mut self.nodes {
            place.asked.clear();
            if let Some(life) = &mut place.life {
                life.ask(&place.asked);
            }
        }
    }

    /// Holds what a node sends against what was asked of its links. Planted bugs promise what
    /// waits as if it were sent, or ask for nothing.
    pub(super) fn watch_wishes(&mut self, stream: StreamId, way: Way, frame: &mut Frame) {
        let Some(ends) = self.network.stream(stream).map(|stream| (stream.from, stream.to)) else {
            return;
        };
        let Some(asked) = self.nodes.get(ends.0).map(|place| &place.asked) else { return };
        if way == Way::Back {
            return;
        }
        if self.options.plant == Some(Plant::WaitingPromised)
            && let Some(Body::Promise(promise)) = &mut frame.body
        {
            promise.behind.retain(|partition| {
                let terms = asked.get(&(ends.1, PartitionId(*partition)));
                terms.is_none_or(|terms| *terms == Terms::default())
            });
        }
        if self.options.plant == Some(Plant::HorizonStands)
            && let Some(Body::Promise(promise)) = &mut frame.body
        {
            promise.wanted.clear();
        }
        let checked = wishes::check(|partition| asked.get(&(ends.1, partition)), frame);
        self.observer.lock().judge(checked);
    }
}

fn draw(rng: &mut SmallRng) -> Terms {
    let millis = |rng: &mut SmallRng, most| Duration::from_millis(rng.random_range(1..most));
    let wish = match rng.random_range(0..6) {
        0 | 1 => Wish::Pause,
        2 => Wish::Stop,
        _ => Wish::Run,
    };
    let timing = match rng.random_range(0..8) {
        0 => Timing::Delayed(millis(rng, 3000)),
        1 => Timing::Interval(millis(rng, 3000)),
        // Each minute for a third of it.
        2 => Timing::Windows(
            Window::parse("* * * * * UTC", Duration::from_secs(20)).into_iter().collect(),
        ),
        3 => Timing::Triggered { entries: Some(rng.random_range(1..50)), bytes: None },
        4 => Timing::Triggered { entries: None, bytes: Some(rng.random_range(1..9000)) },
        _ => Timing::Immediate,
    };
    let rate = |rng: &mut SmallRng, most| match rng.random_range(0..4) {
        0 => Some(rng.random_range(100..most)),
        _ => None,
    };
    let (bytes_per_second, entries_per_second) = (rate(rng, 100_000), rate(rng, 1000));
    let throttle = Throttle { bytes_per_second, entries_per_second, ..Throttle::default() };
    let direction = if rng.random_range(0..3) == 0 { Direction::Pull } else { Direction::Push };
    let ways = [Compression::Auto, Compression::Zstd(2), Compression::Lz4, Compression::None];
    let compression = ways[rng.random_range(0..ways.len())];
    Terms { wish, timing, throttle, direction, compression }
}
