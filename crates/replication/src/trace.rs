//! Traces: which writes are followed across regions, and what each step took.
//!
//! Of the requests of clients a share is followed. Where such a write is accepted, its place in
//! the log is noted; the links that ship that place send the trace's context with the parcel, and
//! every step on either side becomes a span. Where nothing is followed, each step costs one
//! relaxed read. Everything is bounded: what does not fit is left out of the traces and nowhere
//! else. Whoever exports takes the spans out (`Traces::take`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::clock::Clock;
use isthmus_model::ids::{Lsn, PartitionId};
use parking_lot::Mutex;

/// Spans that wait to be taken.
const SPANS_MAX: usize = 4096;
/// Writes that are followed at once.
const NOTED_MAX: usize = 1024;
/// How long a write is followed.
const NOTED_FOR: Duration = Duration::from_secs(60);
/// Contexts that one parcel carries, and that are taken from one.
pub const MARKS_MAX: usize = 16;

/// A span of a trace, as it is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Names the trace.
    pub trace: u128,
    /// Names the span.
    pub span: u64,
}

/// A context beside a parcel: the entry at this LSN is followed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TraceMark {
    /// Address in the origin's log.
    #[prost(uint64, tag = "1")]
    pub lsn: u64,
    /// Names the trace: 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub trace: Bytes,
    /// Names the span of the shipping.
    #[prost(fixed64, tag = "3")]
    pub span: u64,
}

impl TraceMark {
    fn new(lsn: Lsn, context: Context) -> TraceMark {
        let trace = Bytes::copy_from_slice(&context.trace.to_be_bytes());
        TraceMark { lsn: lsn.0, trace, span: context.span }
    }

    /// The context; `None` where a peer sent none that can be one.
    pub fn context(&self) -> Option<Context> {
        let trace = u128::from_be_bytes(self.trace.as_ref().try_into().ok()?);
        (trace != 0 && self.span != 0).then_some(Context { trace, span: self.span })
    }
}

/// One step of a trace, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its trace and its name.
    pub context: Context,
    /// The span that it is a part of; 0: none.
    pub parent: u64,
    /// What was done.
    pub name: &'static str,
    /// When it began, nanoseconds since the Unix epoch.
    pub began_nanos: u64,
    /// When it ended.
    pub ended_nanos: u64,
    /// What else is known of it.
    pub attributes: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    partition: PartitionId,
    lsn: Lsn,
    context: Context,
    at: Duration,
}

/// A parcel with a followed entry that is on its way.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    lsn: Lsn,
    /// The span of the shipping, with its trace.
    context: Context,
    sent_nanos: u64,
}

/// The traces of one node.
pub struct Traces {
    clock: Arc<dyn Clock>,
    /// The wall clock when the monotonic one was at 0: spans keep in order when the wall steps.
    epoch_nanos: u64,
    /// Of 2^32 requests so many are followed.
    share: u64,
    is_on: bool,
    chance: AtomicU64,
    /// Entries in `noted`, to be read without its lock.
    count: AtomicUsize,
    noted: Mutex<VecDeque<Noted>>,
    spans: Mutex<VecDeque<Span>>,
}

impl Traces {
    /// Follows a share of requests, 0 to 1. `None`: none, and no spans are kept for others either.
    /// `seed` is chance.
    pub fn new(clock: Arc<dyn Clock>, share: Option<f64>, seed: u64) -> Traces {
        let wall = u64::try_from(clock.wall_millis()).unwrap_or(0) * 1_000_000;
        let monotonic = u64::try_from(clock.monotonic().as_nanos()).unwrap_or(0);
        Traces {
            epoch_nanos: wall.saturating_sub(monotonic),
            share: (share.unwrap_or(0.0).clamp(0.0, 1.0) * (1u64 << 32) as f64) as u64,
            is_on: share.is_some(),
            chance: AtomicU64::new(seed),
            count: AtomicUsize::new(0),
            noted: Mutex::default(),
            spans: Mutex::default(),
            clock,
        }
    }

    /// Whether spans are kept at all.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Now, in nanoseconds since the Unix epoch.
    pub fn now_nanos(&self) -> u64 {
        self.epoch_nanos + u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(0)
    }

    /// A new trace, for one request in so many.
    pub fn sample(&self) -> Option<Context> {
        if self.share == 0 || (self.next() >> 32) >= self.share {
            return None;
        }
        let trace = (u128::from(self.next()) << 64) | u128::from(self.next());
        Some(Context { trace: trace.max(1), span: self.next_span() })
    }

    /// A span below another one.
    pub fn below(&self, context: Context) -> Context {
        Context { span: self.next_span(), ..context }
    }

    /// Keeps a span that has ended now.
    pub fn ended(
        &self,
        context: Context,
        parent: u64,
        name: &'static str,
        began_nanos: u64,
        attributes: Vec<(&'static str, String)>,
    ) {
        if !self.is_on {
            return;
        }
        let ended_nanos = self.now_nanos().max(began_nanos);
        let mut spans = self.spans.lock();
        if spans.len() < SPANS_MAX {
            let span = Span { context, parent, name, began_nanos, ended_nanos, attributes };
            spans.push_back(span);
        }
    }

    /// The spans that ended since it was last asked, the oldest first, at most so many.
    pub fn take(&self, at_most: usize) -> Vec<Span> {
        let mut spans = self.spans.lock();
        let count = spans.len().min(at_most);
        spans.drain(..count).collect()
    }

    /// Follows the entry at an LSN of this region's log.
    pub fn note(&self, partition: PartitionId, lsn: Lsn, context: Context) {
        let at = self.clock.monotonic();
        let mut noted = self.noted.lock();
        let is_over = |one: &Noted| at.saturating_sub(one.at) > NOTED_FOR;
        while noted.len() >= NOTED_MAX || noted.front().is_some_and(is_over) {
            noted.pop_front();
        }
        noted.push_back(Noted { partition, lsn, context, at });
        self.count.store(noted.len(), Ordering::Relaxed);
    }

    /// What is followed among the entries of a parcel, as marks to send with it, and what is to be
    /// remembered until it is acknowledged.
    pub fn ship(
        &self,
        partition: PartitionId,
        (from, to): (Lsn, Lsn),
        peer: &str,
    ) -> Vec<(TraceMark, Shipped)> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let (noted, now) = (self.noted.lock(), self.clock.monotonic());
        let is_in = |one: &&Noted| one.partition == partition && from < one.lsn && one.lsn <= to;
        let found: Vec<Noted> = noted.iter().filter(is_in).take(MARKS_MAX).copied().collect();
        drop(noted);
        let ship = |one: Noted| {
            let (context, sent_nanos) = (self.below(one.context), self.now_nanos());
            let waited = u64::try_from(now.saturating_sub(one.at).as_nanos()).unwrap_or(0);
            let began = sent_nanos.saturating_sub(waited);
            let to = vec![("isthmus.to", peer.to_owned())];
            self.ended(context, one.context.span, "ship", began, to);
            let shipped = Shipped { lsn: one.lsn, context, sent_nanos };
            (TraceMark::new(one.lsn, context), shipped)
        };
        found.into_iter().map(ship).collect()
    }

    /// The replica holds everything through an LSN: what was shipped by then has arrived.
    pub fn acked(&self, shipped: &mut VecDeque<Shipped>, held: Lsn, peer: &str) {
        while let Some(one) = shipped.front().filter(|one| one.lsn <= held).copied() {
            shipped.pop_front();
            let (context, to) = (self.below(one.context), ("isthmus.to", peer.to_owned()));
            self.ended(context, one.context.span, "ack", one.sent_nanos, vec![to]);
        }
    }

    fn next_span(&self) -> u64 {
        self.next().max(1)
    }

    /// SplitMix64.
    fn next(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.chance.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::clock::SystemClock;

    use super::*;

    fn traces(share: Option<f64>) -> Traces {
        Traces::new(Arc::new(SystemClock), share, 7)
    }

    #[test]
    fn a_share_of_requests_is_followed() {
        assert!((0..1000).all(|_| traces(None).sample().is_none()));
        let all = traces(Some(1.0));
        assert!((0..1000).all(|_| all.sample().is_some()));
        let some = traces(Some(0.1));
        let followed = (0..10_000).filter(|_| some.sample().is_some()).count();
        assert!((800..1200).contains(&followed), "{followed}");
    }

    #[test]
    fn a_followed_write_is_one_trace_from_link_to_acknowledgement() {
        let traces = traces(Some(1.0));
        let root = traces.sample().unwrap();
        traces.note(PartitionId(1), Lsn(5), root);
        assert!(traces.ship(PartitionId(1), (Lsn(5), Lsn(9)), "r2").is_empty());
        assert!(traces.ship(PartitionId(2), (Lsn(0), Lsn(9)), "r2").is_empty());
        let (marks, shipped): (Vec<_>, Vec<_>) =
            traces.ship(PartitionId(1), (Lsn(0), Lsn(5)), "r2").into_iter().unzip();
        let mark = marks[0].context().unwrap();
        assert_eq!(mark.trace, root.trace);
        let mut shipped = VecDeque::from(shipped);
        traces.acked(&mut shipped, Lsn(4), "r2");
        assert_eq!(shipped.len(), 1);
        traces.acked(&mut shipped, Lsn(5), "r2");
        let spans = traces.take(usize::MAX);
        let told: Vec<_> = spans.iter().map(|span| (span.name, span.parent)).collect();
        assert_eq!(told, [("ship", root.span), ("ack", mark.span)]);
        assert!(spans.iter().all(|span| span.context.trace == root.trace));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let traces = traces(Some(1.0));
        let root = traces.sample().unwrap();
        for lsn in 0..NOTED_MAX as u64 * 2 {
            traces.note(PartitionId(1), Lsn(lsn), root);
        }
        let all = traces.ship(PartitionId(1), (Lsn(0), Lsn(u64::MAX)), "r2");
        assert_eq!(all.len(), MARKS_MAX);
        for _ in 0..SPANS_MAX * 2 {
            traces.ended(root, 0, "x", 0, Vec::new());
        }
        assert_eq!(traces.take(usize::MAX).len(), SPANS_MAX);
        let wrong = [(vec![0; 16], 1), (vec![1; 15], 1), (vec![1; 16], 0)];
        for (trace, span) in wrong {
            assert_eq!(TraceMark { lsn: 1, trace: trace.into(), span }.context(), None);
        }
    }
}
