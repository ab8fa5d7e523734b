//! One stream to a peer, dialled by the one or the other: what is to be sent on it.
//!
//! The links that may have something to do stand in a queue and are taken in turn. Frames that
//! belong to no link's turn (greeting, promises, ends of links) go first.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use isthmus_model::ids::PartitionId;

use super::promise::Owed;
use crate::frame::{Body, Frame};

/// One stream to a peer.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) connected: bool,
    /// What the two have settled on; 0: nothing yet.
    pub(super) format: u32,
    pub(super) promised_at: Duration,
    pub(super) owed: Owed,
    /// Safe times of partitions up to this one were asked for last.
    pub(super) wanted_to: PartitionId,
    ready: VecDeque<PartitionId>,
    is_ready: BTreeSet<PartitionId>,
    control: VecDeque<Frame>,
}

impl Lane {
    /// The stream is there, and nothing was said on it.
    pub(super) fn connect(&mut self, greeting: Body) {
        self.connected = true;
        self.owed.clear();
        self.control.clear();
        self.control.push_back(greeting.into());
    }

    /// The stream is gone.
    pub(super) fn disconnect(&mut self) {
        self.connected = false;
        self.format = 0;
        self.control.clear();
    }

    /// Sends a frame before those of links, if there is a stream.
    pub(super) fn tell(&mut self, body: Body) {
        if self.connected {
            self.control.push_back(body.into());
        }
    }

    /// How many such frames wait.
    pub(super) fn waiting(&self) -> usize {
        self.control.len()
    }

    /// The next such frame.
    pub(super) fn take_told(&mut self) -> Option<Frame> {
        self.control.pop_front()
    }

    /// A link may have something to do.
    pub(super) fn wake(&mut self, partition: PartitionId) {
        if self.is_ready.insert(partition) {
            self.ready.push_back(partition);
        }
    }

    /// The next link that may have something to do.
    pub(super) fn take_ready(&mut self) -> Option<PartitionId> {
        let partition = self.ready.pop_front()?;
        self.is_ready.remove(&partition);
        Some(partition)
    }
}
