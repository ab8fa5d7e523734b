//! Streams between the nodes of the world: dialling, sending, arriving, breaking.

use isthmus_control::global_table::Serve;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::frame::{Ack, Body, Frame, Parcel};
use isthmus_replication::terms::Direction;
use prost::Message;
use rand::Rng;
use xxhash_rust::xxh3::xxh3_64;

use crate::checkers::bounds;
use crate::network::{StreamId, Way};
use crate::node::Life;
use crate::options::{Scenario, TablePlan};
use crate::plant::Plant;
use crate::rng::happens;
use crate::roles::origin_of;

use super::events::Event;
use super::{Phase, World};

/// A planted bug strikes this often.
const PLANT_PER_MILLION: u32 = 100_000;

impl World {
    pub(super) fn life(&mut self, node: usize) -> Option<&mut Life> {
        self.nodes.get_mut(node)?.life.as_mut()
    }

    pub(super) fn dial(&mut self, direction: Direction, from: usize, to: usize) {
        let (dialler, accepter) = match direction {
            Direction::Push => (from, to),
            Direction::Pull => (to, from),
        };
        let Some(life) = self.life(dialler) else { return };
        let is_there = match direction {
            Direction::Push => life.shipping.contains_key(&(to, direction)),
            Direction::Pull => life.pulling.contains_key(&from),
        };
        if is_there {
            return;
        }
        let cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        if cut || self.life(accepter).is_none() {
            return self.soon(300_000, Event::Dial(direction, from, to));
        }
        let stream = self.network.open(direction, from, to);
        self.note(&format!("stream {stream} from {from} to {to}, {}", direction.as_str()));
        if let Some(life) = self.life(to) {
            life.receive_on(direction, from, stream);
        }
        if let Some(life) = self.life(from) {
            life.ship_on(direction, to, stream);
        }
    }

    /// One end sees that a stream is gone.
    pub(super) fn notice(&mut self, stream: StreamId, way: Way) {
        let Some(broken) = self.network.stream(stream) else { return };
        let (from, to, direction) = (broken.from, broken.to, broken.direction);
        let dials = match way {
            Way::There => {
                let Some(life) = self.life(from) else { return };
                let counts = life.shipping.get(&(to, direction)) == Some(&stream);
                if counts {
                    life.lost(direction, to, "the stream broke");
                }
                counts && direction == Direction::Push
            }
            Way::Back => {
                let Some(life) = self.life(to) else { return };
                life.inbound.remove(&stream);
                let counts = life.pulling.get(&from) == Some(&stream);
                if counts {
                    life.pulling.remove(&from);
                }
                counts
            }
        };
        if dials {
            self.soon(150_000, Event::Dial(direction, from, to));
        }
    }

    /// A node's streams send some of what they have.
    pub(super) fn pump(&mut self, node: usize) {
        let shipping = self.life(node).map(|life| life.shipping.clone()).unwrap_or_default();
        for ((peer, direction), stream) in shipping {
            for _ in 0..self.schedule.random_range(1..12) {
                if self.is_full(stream, Way::There) {
                    break;
                }
                let frame = self.life(node).and_then(|life| life.poll_outbound(peer, direction));
                self.note_waiting(node);
                let Some(frame) = frame else { break };
                if self.options.plant == Some(Plant::HeldWhenShipped)
                    && let Some(life) = self.life(node)
                {
                    life.take_shipped_for_held(peer);
                }
                self.send(stream, Way::There, node, frame);
            }
        }
        let streams: Vec<StreamId> =
            self.life(node).map(|life| life.inbound.keys().copied().collect()).unwrap_or_default();
        for stream in streams {
            for _ in 0..self.schedule.random_range(1..12) {
                if self.is_full(stream, Way::Back) {
                    break;
                }
                let frame = self.life(node).and_then(|life| life.poll_inbound(stream));
                let Some(frame) = frame else { break };
                self.send(stream, Way::Back, node, frame);
            }
        }
    }

    fn is_full(&self, stream: StreamId, way: Way) -> bool {
        let waiting = self.network.stream(stream).map_or(0, |stream| stream.waiting(way));
        waiting >= self.nature.frames_waiting_max
    }

    fn send(&mut self, stream: StreamId, way: Way, node: usize, mut frame: Frame) {
        if let Some(plant) = self.options.plant
            && happens(&mut self.faults, PLANT_PER_MILLION)
            && plant.tamper(&mut frame)
        {
            self.note("a planted bug strikes");
        }
        if self.options.plant == Some(Plant::CutPassedOver) {
            self.pass_over(stream, way, &mut frame);
        }
        if self.options.plant == Some(Plant::LifeForgotten) {
            match &mut frame.body {
                Some(Body::Opened(opened)) => opened.life = 0,
                Some(Body::Open(open)) => open.holds = None,
                _ => {}
            }
        }
        self.watch_wishes(stream, way, &mut frame);
        self.watch_sent(stream, node, &frame);
        let corrupt = self.phase == Phase::Chaos
            && happens(&mut self.faults, self.nature.corrupt_per_million);
        let now = self.now();
        let arrives = self.network.send(stream, way, &frame, now, corrupt);
        self.note(&format!(
            "node {node} sends on {stream} {} {:016x}{}",
            name_of(&frame),
            xxh3_64(&frame.encode_to_vec()),
            if corrupt { ", damaged" } else { "" },
        ));
        if let Some(at) = arrives {
            self.at(at, Event::Deliver(stream, way));
        }
        let copies = matches!(
            frame.body,
            Some(Body::CopyChunk(_) | Body::CopyBegin(_) | Body::CopyOffer(_) | Body::CopyWant(_))
        );
        if copies && happens(&mut self.faults, self.nature.copy_breaks_per_million) {
            let pause = self.faults.random_range(1..40_000);
            self.after(pause, Event::Break(stream));
        }
        if let Some(stream) = self.network.stream(stream) {
            let checked = bounds::check(stream, self.nature.window_parcels);
            self.observer.lock().judge(checked);
        }
    }

    /// What a node says is held against what it has.
    fn watch_sent(&mut self, stream: StreamId, node: usize, frame: &Frame) {
        match &frame.body {
            Some(Body::Promise(promise)) => {
                self.observer.lock().note_promise(node, Hlc(promise.hlc));
            }
            Some(Body::Parcel(parcel)) if !self.is_crossing_watched() => {
                self.watch_opening(stream, parcel);
            }
            // A change of the writer opens links anew: what was under way crosses once more.
            Some(Body::Parcel(parcel)) => {
                self.watch_opening(stream, parcel);
                let Some((from, to)) = self.network.stream(stream).map(|s| (s.from, s.to)) else {
                    return;
                };
                let checked = self.crossings.check(from, to, parcel);
                self.observer.lock().judge(checked);
            }
            Some(Body::Ack(ack)) => {
                let Some(origin) = self.network.stream(stream).map(|stream| stream.from) else {
                    return;
                };
                let (partition, held) = (PartitionId(ack.partition), Lsn(ack.held));
                // What is passed on is counted in the addresses of who passes it on.
                let record = self.records.get(&partition);
                if matches!(self.options.scenario, Scenario::Edges | Scenario::Bindings)
                    && record.is_some_and(|record| record.serve == Serve::PeerToPeer)
                {
                    return;
                }
                self.observer.lock().note_ack(node, origin_of(origin), partition, held);
            }
            _ => {}
        }
    }

    /// Whether nothing breaks and no link is opened anew.
    fn is_crossing_watched(&self) -> bool {
        let nature = &self.nature;
        nature.quiet
            && nature.switch_every.is_none()
            && nature.bind_every.is_none()
            && nature.edges_change_every.is_none()
    }

    /// Of tables with several writers nothing is sent in vain.
    fn watch_opening(&mut self, stream: StreamId, parcel: &Parcel) {
        let partition = PartitionId(parcel.partition);
        let many = |plan: &&TablePlan| plan.partition == partition && plan.writers.are_many();
        let Some(to) = self.network.stream(stream).map(|stream| origin_of(stream.to)) else {
            return;
        };
        if self.nature.tables.iter().any(|plan| many(&plan)) {
            let checked = self.crossings.check_opening(stream, to, parcel);
            self.observer.lock().judge(checked);
        }
    }

    /// A frame arrives, unless something is in its way.
    pub(super) fn deliver(&mut self, stream: StreamId, way: Way) {
        let Some(ends) = self.network.stream(stream).map(|stream| stream.ends(way)) else { return };
        let (from, to) = ends;
        let is_full = way == Way::There
            && self
                .life(to)
                .and_then(|life| life.inbound.get(&stream))
                .is_some_and(|inbound| inbound.is_full());
        if is_full || self.network.is_blocked(stream, way, self.now()) {
            return self.soon(20_000, Event::Deliver(stream, way));
        }
        let Some(bytes) = self.network.take(stream, way) else { return };
        let Ok(frame) = Frame::decode(bytes) else { return };
        self.note(&format!("node {to} gets on {stream} {}", name_of(&frame)));
        match way {
            Way::There => self.deliver_there(stream, to, frame),
            Way::Back => self.deliver_back(stream, to, from, frame),
        }
    }

    fn deliver_there(&mut self, stream: StreamId, to: usize, frame: Frame) {
        if let Some(Body::CopyChunk(chunk)) = &frame.body {
            self.observer.lock().note_copy(to, PartitionId(chunk.partition));
        }
        let early = match &frame.body {
            Some(Body::Parcel(parcel)) if self.options.plant == Some(Plant::AckBeforeDurable) => {
                let ack = Ack { partition: parcel.partition, held: parcel.to, applied: parcel.to };
                Some(Body::Ack(ack).into())
            }
            _ => None,
        };
        let Some(inbound) = self.life(to).and_then(|life| life.inbound.get_mut(&stream)) else {
            return;
        };
        if let Err(error) = inbound.receive(frame) {
            self.note(&format!("node {to} ends stream {stream}: {error}"));
            return self.break_stream(stream);
        }
        if let Some(early) = early {
            self.send(stream, Way::Back, to, early);
        }
    }

    fn deliver_back(&mut self, stream: StreamId, to: usize, peer: usize, frame: Frame) {
        match &frame.body {
            Some(Body::Opened(opened)) => {
                self.crossings.opened(stream, opened);
            }
            Some(Body::Ack(ack)) => self.note_arrived(stream, ack.partition),
            Some(Body::CopyAck(ack)) => self.note_arrived(stream, ack.partition),
            Some(Body::Fault(fault)) => {
                let line = format!("node {to} is told: {} {}", fault.partition, fault.reason);
                self.note(&line);
            }
            _ => {}
        }
        let Some(direction) = self.network.stream(stream).map(|stream| stream.direction) else {
            return;
        };
        let Some(life) = self.life(to) else { return };
        if life.shipping.get(&(peer, direction)) != Some(&stream) {
            return;
        }
        if let Some(body) = &frame.body {
            self.note_answer((to, peer), body);
        }
        let Some(life) = self.life(to) else { return };
        if let Err(error) = life.receive_outbound(direction, peer, frame) {
            self.note(&format!("node {to} ends stream {stream}: {error}"));
            self.break_stream(stream);
        }
    }

    fn note_arrived(&mut self, stream: StreamId, partition: u64) {
        if let Some(stream) = self.network.stream_mut(stream) {
            stream.acknowledged(PartitionId(partition));
        }
    }
}

fn name_of(frame: &Frame) -> String {
    match &frame.body {
        Some(Body::Hello(_)) => "hello".to_owned(),
        Some(Body::Welcome(_)) => "welcome".to_owned(),
        Some(Body::Open(open)) => format!("open {}", open.partition),
        Some(Body::Opened(o)) => {
            let copies = o.copy.is_some();
            format!("opened {} at {}, copies {copies}", o.partition, o.watermark)
        }
        Some(Body::Parcel(p)) => format!("parcel {} {}..{}", p.partition, p.from, p.to),
        Some(Body::Ack(ack)) => format!("ack {} {}", ack.partition, ack.held),
        Some(Body::Fault(fault)) => format!("fault {} {}", fault.partition, fault.reason),
        Some(Body::CopyBegin(begin)) => format!("copy begins {}", begin.partition),
        Some(Body::CopyChunk(c)) => {
            let (number, rows, some) = (c.number, c.rows, c.scattered);
            format!("chunk {} {number}, {rows} rows, scattered {some}", c.partition)
        }
        Some(Body::CopyOffer(offer)) => format!("offer {} {}", offer.partition, offer.number),
        Some(Body::CopyWant(want)) => {
            let (partition, number, all) = (want.partition, want.number, want.all);
            let none = want.body.is_none();
            format!("want {partition} {number}, all {all}, none {none}")
        }
        Some(Body::CopyAck(ack)) => format!("chunk ack {} {}", ack.partition, ack.number),
        Some(Body::Promise(p)) => format!("promise {} behind {:?}", Hlc(p.hlc), p.behind),
        Some(Body::Standing(s)) => {
            let (promise, safe) = (Hlc(s.promise), Hlc(s.safe));
            format!("standing {} of {}, promise {promise}, safe {safe}", s.partition, s.region)
        }
        Some(Body::Safe(safe)) => format!("safe {} {}", safe.partition, Hlc(safe.hlc)),
        Some(Body::Close(close)) => format!("close {}", close.partition),
        Some(Body::Follow(follow)) => format!("follow {}", follow.partition),
        Some(Body::Dictionary(told)) => format!("dictionary {} {}", told.partition, told.number),
        None => "nothing".to_owned(),
    }
}
