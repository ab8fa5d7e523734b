//! What people ask of links while everything breaks: pauses, stops, other timing, throttles.
//!
//! What was asked is at rest in the record of a global table, so it outlives crashes. When the
//! world heals, nothing is asked any more.

use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_model::compression::Compression;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::frame::{Body, Frame};
use isthmus_replication::link::State;
use isthmus_replication::terms::{Direction, Terms, Wish};
use isthmus_replication::throttle::Throttle;
use isthmus_replication::timing::{Timing, Window};
use rand::Rng;
use rand::rngs::SmallRng;

use super::events::Event;
use super::{Phase, World};
use crate::checkers::timing::{LinkOf, Sent, Waiting};
use crate::checkers::wishes;
use crate::network::{StreamId, Way};
use crate::plant::Plant;
use crate::roles::origin_of;

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
        let triggers = rng.random_range(0..6) == 0;
        let (terms, window) = draw(rng, self.nature.is_timed);
        for peer in (0..regions).filter(|peer| *peer != node && (whole_table || *peer == one)) {
            match triggers {
                true => {
                    self.note(&format!("link of {partition} from {node} to {peer} is triggered"));
                    if let Some(life) = self.life(node) {
                        life.trigger(peer, partition);
                        let durable = life.durable_lsn(partition);
                        self.timings.triggered((node, peer, partition), durable);
                    }
                }
                false => self.ask((node, peer, partition), &terms, window),
            }
        }
    }

    fn ask(&mut self, link: LinkOf, terms: &Terms, window: Duration) {
        let (node, peer, partition) = link;
        if self.options.plant == Some(Plant::CutPassedOver) && terms.wish == Wish::Stop {
            self.passed_over.insert((node, peer, partition), None);
        }
        self.note(&format!("asked of the link of {partition} from {node} to {peer}: {terms:?}"));
        let Some(place) = self.nodes.get_mut(node) else { return };
        self.timings.asked(link, terms, window, place.clock.wall_millis());
        place.asked.insert((peer, partition), terms.clone());
        let mut told = place.asked.clone();
        if self.options.plant == Some(Plant::PauseForgotten) {
            told.retain(|_, terms| terms.wish != Wish::Pause);
        }
        if let Some(plant) = self.options.plant {
            told.values_mut().for_each(|terms| plant.misunderstand(&mut terms.timing));
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
        for (node, place) in self.nodes.iter_mut().enumerate() {
            for (peer, partition) in std::mem::take(&mut place.asked).into_keys() {
                let (link, wall) = ((node, peer, partition), place.clock.wall_millis());
                self.timings.asked(link, &Terms::default(), Duration::ZERO, wall);
            }
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
        self.watch_timing(ends, frame);
    }

    /// Holds what a node sends to a peer against the timing of the link.
    fn watch_timing(&mut self, (from, to): (usize, usize), frame: &Frame) {
        let checked = match &frame.body {
            Some(Body::CopyBegin(begin)) => {
                let goes_on = begin.progress.as_ref().is_some_and(|done| !done.next_key.is_empty());
                let Some(place) = self.nodes.get(from) else { return };
                let wall = place.clock.wall_millis();
                self.timings.copies((from, to, PartitionId(begin.partition)), goes_on, wall)
            }
            Some(Body::Follow(follow)) => {
                self.timings.follows((from, to, PartitionId(follow.partition)));
                Ok(())
            }
            Some(Body::Parcel(parcel)) if parcel.to > parcel.from => {
                let partition = PartitionId(parcel.partition);
                let range = (Lsn(parcel.from), Lsn(parcel.to));
                let Some(sent) = self.sent(from, partition, range) else { return };
                self.timings.check((from, to, partition), &sent)
            }
            _ => Ok(()),
        };
        self.observer.lock().judge(checked);
    }

    fn sent(&self, node: usize, partition: PartitionId, (from, to): (Lsn, Lsn)) -> Option<Sent> {
        let place = self.nodes.get(node)?;
        let table = place.life.as_ref()?.store.table_of_partition(partition)?;
        let origins = match table.spec().writers.are_many() {
            true => node..node + 1,
            false => 0..self.nature.regions,
        };
        let observer = self.observer.lock();
        let entries = origins.flat_map(|node| {
            let origin = origin_of(node);
            observer.known.range((partition, origin, from.next())..=(partition, origin, to))
        });
        Some(Sent {
            from,
            to,
            newest: entries.map(|(_, known)| known.entry.stamp.hlc).max(),
            wall_millis: place.clock.wall_millis(),
            durable: table.durable_lsn(),
            waiting_bytes: table.log_size_after(from).bytes,
        })
    }

    /// A node looks at its links.
    pub(super) fn note_tick(&mut self, node: usize) {
        let Some(place) = self.nodes.get(node).filter(|place| place.life.is_some()) else { return };
        self.timings.ticks(node, self.time.micros(), place.clock.wall_millis());
        self.note_waiting(node);
    }

    /// A node may just have looked at what waits at its links.
    pub(super) fn note_waiting(&mut self, node: usize) {
        for link in self.timings.counting(node) {
            let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else {
                return;
            };
            let (_, peer, partition) = link;
            let report = life.outbound.get(&peer).and_then(|links| links.report(partition));
            let follows = report.filter(|report| report.state == State::Following);
            let table = life.store.table_of_partition(partition);
            let (Some(report), Some(table)) = (follows, table) else { continue };
            let waiting = Waiting {
                after: report.shipped,
                durable: table.durable_lsn(),
                bytes: table.log_size_after(report.shipped).bytes,
            };
            self.timings.waits(link, waiting);
        }
    }

    /// A replica has answered a region that ships to it.
    pub(super) fn note_answer(&mut self, (node, peer): (usize, usize), body: &Body) {
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        match body {
            Body::Opened(opened) => {
                let partition = PartitionId(opened.partition);
                let durable = life.durable_lsn(partition);
                self.timings.opened((node, peer, partition), opened.incomplete, durable);
            }
            Body::CopyAck(ack) => {
                let partition = PartitionId(ack.partition);
                let durable = life.durable_lsn(partition);
                self.timings.copied((node, peer, partition), durable);
            }
            _ => {}
        }
    }

    /// A node's wall clock is about to be set.
    pub(super) fn note_clock(&mut self, node: usize) {
        let Some(place) = self.nodes.get(node) else { return };
        self.timings.clock_is_set(node, self.time.micros(), place.clock.wall_millis());
    }

    /// Takes note of how far the logs of a node are durable.
    pub(super) fn note_durable(&mut self, node: usize) {
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        for table in life.store.tables() {
            let now = self.time.micros();
            self.timings.durable(node, table.partition(), now, table.durable_lsn());
        }
    }
}

/// Something to ask of a link, and how long a window of it is open.
fn draw(rng: &mut SmallRng, is_timed: bool) -> (Terms, Duration) {
    let millis = |rng: &mut SmallRng, most| Duration::from_millis(rng.random_range(1..most));
    let wish = match rng.random_range(0..if is_timed { 24 } else { 6 }) {
        0 | 1 => Wish::Pause,
        2 => Wish::Stop,
        _ => Wish::Run,
    };
    let window = Duration::from_secs(if is_timed { rng.random_range(5..50) } else { 20 });
    let timing = match rng.random_range(0..if is_timed { 6 } else { 8 }) {
        0 => Timing::Delayed(millis(rng, 3000)),
        1 => Timing::Interval(millis(rng, 3000)),
        // At the beginning of each minute.
        2 => Timing::Windows(Window::parse("* * * * * UTC", window).into_iter().collect()),
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
    (Terms { wish, timing, throttle, direction, compression }, window)
}
