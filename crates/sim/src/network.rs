//! Wires between nodes: streams of frames, in order each way, that stall and break.
//!
//! A stream is like one of HTTP/2 over TCP: what arrives, arrives in order and without holes;
//! when it breaks, how much of what was on its way still arrives is unknown, the two sides see
//! it at different times, and the late rest may arrive when there is a new stream already. Frames
//! travel as bytes; a fault can flip one inside of a body that carries a checksum.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use isthmus_model::ids::PartitionId;
use isthmus_replication::frame::{Body, Frame};
use isthmus_replication::terms::Direction;
use prost::Message;
use rand::Rng;
use rand::rngs::SmallRng;

/// Names a stream, for ever.
pub(crate) type StreamId = u64;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the origin.
    There,
    /// From the replica.
    Back,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Index of the node that ships.
    pub(crate) from: usize,
    /// Index of the node that receives.
    pub(crate) to: usize,
    /// Which of the two dialled.
    pub(crate) direction: Direction,
    /// New frames go nowhere.
    pub(crate) broken: bool,
    /// Until then nothing arrives: the rest of a broken stream may be late.
    stalled_until: u64,
    there: VecDeque<Bytes>,
    back: VecDeque<Bytes>,
    there_at: u64,
    back_at: u64,
    /// Parcels and chunks sent and not acknowledged, per link.
    under_way: BTreeMap<PartitionId, usize>,
}

impl Stream {
    fn queue(&mut self, way: Way) -> &mut VecDeque<Bytes> {
        match way {
            Way::There => &mut self.there,
            Way::Back => &mut self.back,
        }
    }

    /// The nodes at the ends, in the direction of a frame.
    pub(crate) fn ends(&self, way: Way) -> (usize, usize) {
        match way {
            Way::There => (self.from, self.to),
            Way::Back => (self.to, self.from),
        }
    }

    /// Frames on their way.
    pub(crate) fn waiting(&self, way: Way) -> usize {
        match way {
            Way::There => self.there.len(),
            Way::Back => self.back.len(),
        }
    }

    /// The most parcels and chunks of one link that are sent and not acknowledged.
    pub(crate) fn under_way_max(&self) -> usize {
        self.under_way.values().copied().max().unwrap_or(0)
    }

    fn count(&mut self, frame: &Frame) {
        match &frame.body {
            // One that only moves ranges waits for nobody.
            Some(Body::Parcel(parcel)) if parcel.to > parcel.from => self.more(parcel.partition),
            Some(Body::CopyChunk(chunk)) => self.more(chunk.partition),
            Some(Body::Open(open)) => {
                self.under_way.remove(&PartitionId(open.partition));
            }
            _ => {}
        }
    }

    fn more(&mut self, partition: u64) {
        *self.under_way.entry(PartitionId(partition)).or_default() += 1;
    }

    /// Takes note of an acknowledgement that has arrived.
    pub(crate) fn acknowledged(&mut self, partition: PartitionId) {
        if let Some(count) = self.under_way.get_mut(&partition) {
            *count = count.saturating_sub(1);
        }
    }
}

/// All wires.
pub(crate) struct Network {
    rng: SmallRng,
    latency: (u64, u64),
    next: StreamId,
    streams: BTreeMap<StreamId, Stream>,
    /// Directions in which nothing moves.
    blocked: BTreeSet<(usize, usize)>,
}

impl Network {
    /// No streams yet.
    pub(crate) fn new(rng: SmallRng, latency: (u64, u64)) -> Network {
        Network { rng, latency, next: 1, streams: BTreeMap::new(), blocked: BTreeSet::new() }
    }

    /// Opens a stream.
    pub(crate) fn open(&mut self, direction: Direction, from: usize, to: usize) -> StreamId {
        let id = self.next;
        self.next += 1;
        let stream = Stream {
            from,
            to,
            direction,
            broken: false,
            stalled_until: 0,
            there: VecDeque::new(),
            back: VecDeque::new(),
            there_at: 0,
            back_at: 0,
            under_way: BTreeMap::new(),
        };
        self.streams.insert(id, stream);
        id
    }

    /// A stream.
    pub(crate) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// A stream.
    pub(crate) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    /// The streams that are whole, with the nodes at their ends.
    pub(crate) fn whole(&self) -> Vec<StreamId> {
        self.streams.iter().filter(|(_, stream)| !stream.broken).map(|(id, _)| *id).collect()
    }

    /// Puts a frame on its way; gives when it arrives, unless the stream is broken.
    pub(crate) fn send(
        &mut self,
        id: StreamId,
        way: Way,
        frame: &Frame,
        now: u64,
        corrupt: bool,
    ) -> Option<u64> {
        let (fast, slow) = self.latency;
        let latency = self.rng.random_range(fast..=fast.max(slow));
        let flip = corrupt.then(|| self.rng.random::<u64>());
        let stream = self.streams.get_mut(&id).filter(|stream| !stream.broken)?;
        stream.count(frame);
        let bytes = match flip {
            Some(chance) => damaged(frame, chance).encode_to_vec(),
            None => frame.encode_to_vec(),
        };
        stream.queue(way).push_back(bytes.into());
        let last = match way {
            Way::There => &mut stream.there_at,
            Way::Back => &mut stream.back_at,
        };
        *last = (*last + 1).max(now + latency);
        Some(*last)
    }

    /// Whether nothing moves on this stream in this direction.
    pub(crate) fn is_blocked(&self, id: StreamId, way: Way, now: u64) -> bool {
        let stalls = |stream: &Stream| {
            stream.stalled_until > now || self.blocked.contains(&stream.ends(way))
        };
        self.streams.get(&id).is_some_and(stalls)
    }

    /// Whether nothing moves in a direction.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// Lets nothing move in a direction, or everything again.
    pub(crate) fn block(&mut self, from: usize, to: usize, blocked: bool) {
        match blocked {
            true => self.blocked.insert((from, to)),
            false => self.blocked.remove(&(from, to)),
        };
    }

    /// Lets everything move.
    pub(crate) fn unblock_all(&mut self) {
        self.blocked.clear();
    }

    /// The next frame that arrives.
    pub(crate) fn take(&mut self, id: StreamId, way: Way) -> Option<Bytes> {
        self.streams.get_mut(&id)?.queue(way).pop_front()
    }

    /// A stream breaks: nothing more is sent, and of what is on its way only a part arrives, not
    /// before the given moment.
    pub(crate) fn break_stream(&mut self, id: StreamId, stalled_until: u64) -> bool {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.broken) else {
            return false;
        };
        stream.broken = true;
        stream.stalled_until = stalled_until;
        for queue in [&mut stream.there, &mut stream.back] {
            let kept = self.rng.random_range(0..=queue.len());
            queue.truncate(kept);
        }
        true
    }
}

/// Flips a bit in what a checksum covers.
fn damaged(frame: &Frame, chance: u64) -> Frame {
    let mut frame = frame.clone();
    let packed = match &mut frame.body {
        Some(Body::Parcel(parcel)) => parcel.body.as_mut(),
        Some(Body::CopyChunk(chunk)) => chunk.body.as_mut(),
        Some(Body::CopyOffer(offer)) => offer.body.as_mut(),
        Some(Body::CopyWant(want)) => want.body.as_mut(),
        _ => None,
    };
    if let Some(packed) = packed {
        let mut data = packed.data.to_vec();
        let place = chance as usize % data.len().max(1);
        if let Some(byte) = data.get_mut(place) {
            *byte ^= 1 << (chance >> 56 & 7);
        }
        packed.data = data.into();
    }
    frame
}
