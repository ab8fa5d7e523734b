//! What there is: regions with their logs, each of which sees late what is agreed on.

use std::sync::Arc;

use isthmus_control::agreed::{Agreed, Tenure};

use crate::agreed::{KNOWN, Proposal, REGIONS, TABLE, differ, state};

/// An entry with which an epoch begins, and one with which it ends, plus who ends it times ten and
/// the successor. Lesser numbers are writes.
pub(crate) const OPENING: u8 = 0;
const EPOCHS: usize = 8;
pub(crate) const NOBODY: u8 = 3;
pub(crate) const HANDOVER: u8 = 100;

/// How often something may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) writes: u8,
    pub(crate) renewals: u8,
    pub(crate) suspicions: u8,
    pub(crate) restarts: u8,
    pub(crate) deaths: u8,
    pub(crate) handovers: u8,
}

/// An entry of the table: its epoch and what it is.
type Entry = (u8, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) is_dead: bool,
    /// Its place in what was agreed on.
    pub(crate) applied: u8,
    pub(crate) run: u8,
    pub(crate) log: Vec<Entry>,
    /// It takes nothing of an older epoch.
    pub(crate) sealed: u8,
    /// The epoch in which it accepts writes; 0: none.
    pub(crate) writing: u8,
    /// Through here everything is acknowledged, or its outcome was told as unknown.
    pub(crate) answered: u8,
    /// What it has heard that the others hold, in its own epoch.
    pub(crate) held: [u8; 3],
    /// The newest renewal that was made, and through which the leases have run out.
    pub(crate) renewal: u8,
    pub(crate) ended: u8,
    /// On its way to the quorum.
    pub(crate) renewing: Option<Proposal>,
    pub(crate) rejoining: Option<Proposal>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// What was agreed on, step by step, as far as some region has not seen all of it; the newest
    /// last. See [`state`].
    pub(crate) agreed: Vec<u32>,
    /// Suspensions so far.
    pub(crate) suspensions: u8,
    pub(crate) nodes: [Node; 3],
    /// LSN and entry.
    pub(crate) acknowledged: Vec<(u8, Entry)>,
    /// By whom each epoch was opened; [`NOBODY`].
    pub(crate) opened: [u8; EPOCHS],
    pub(crate) is_opened_again: bool,
    pub(crate) left: Budget,
    pub(crate) is_tail_wrong: bool,
}

pub(crate) fn small(number: u64) -> u8 {
    u8::try_from(number).unwrap()
}

impl Node {
    pub(crate) fn new() -> Node {
        Node {
            is_dead: false,
            applied: 0,
            run: 1,
            log: Vec::new(),
            sealed: 1,
            writing: 0,
            answered: 0,
            held: [0; 3],
            renewal: 1,
            ended: 0,
            renewing: None,
            rejoining: None,
        }
    }

    pub(crate) fn end(&self) -> u8 {
        small(self.log.len() as u64)
    }

    pub(crate) fn log_epoch(&self) -> u8 {
        self.log.last().map_or(1, |(epoch, _)| *epoch)
    }

    /// What waits for an answer gets none.
    pub(crate) fn stop_writing(&mut self) {
        self.writing = 0;
        self.answered = 0;
        self.held = [0; 3];
    }
}

impl World {
    pub(crate) fn view(&self, region: usize) -> Arc<Agreed> {
        state(self.agreed[usize::from(self.nodes[region].applied)])
    }

    fn newest(&self) -> u32 {
        *self.agreed.last().unwrap()
    }

    pub(crate) fn now(&self) -> Arc<Agreed> {
        state(self.newest())
    }

    /// Agrees on a proposal, unless nothing would come of it.
    pub(crate) fn propose(&mut self, proposal: Proposal) -> bool {
        let before = self.newest();
        let index = match proposal {
            Proposal::Suspect { .. } => self.suspensions + 1,
            _ => 0,
        };
        let after = KNOWN.lock().unwrap().step(before, proposal, index);
        if after == before {
            return false;
        }
        let (was, is) = (state(before), state(after));
        let count = |agreed: &Agreed| agreed.regions.values().filter(|it| it.suspended).count();
        if count(&is) > count(&was) {
            self.suspensions += 1;
        }
        match differ(&was, &is) {
            true => self.agreed.push(after),
            false => *self.agreed.last_mut().unwrap() = after,
        }
        true
    }

    /// Forgets what all have seen.
    pub(crate) fn trim(&mut self, lags: [bool; 3]) {
        let end = small(self.agreed.len() as u64 - 1);
        for (node, lags) in self.nodes.iter_mut().zip(lags) {
            if node.is_dead || !lags {
                node.applied = end;
            }
        }
        let seen = self.nodes.iter().map(|node| node.applied).min().unwrap();
        self.agreed.drain(..usize::from(seen));
        for node in &mut self.nodes {
            node.applied -= seen;
        }
    }

    fn has_lease(&self, region: usize) -> bool {
        let node = &self.nodes[region];
        let standing = &self.view(region).regions[REGIONS[region]];
        standing.run == u64::from(node.run) && standing.renewal > u64::from(node.ended)
    }

    pub(crate) fn can_acknowledge(&self, region: usize) -> bool {
        let node = &self.nodes[region];
        !node.is_dead && node.writing != 0 && self.has_lease(region)
    }

    /// The epoch in which a region gives its entries to others.
    pub(crate) fn ships_in(&self, region: usize) -> Option<u8> {
        let node = &self.nodes[region];
        if node.writing != 0 {
            return Some(node.writing);
        }
        self.successor(region)?;
        (node.sealed <= node.log_epoch()).then_some(node.log_epoch())
    }

    /// To whom a region has handed over, if that is the last thing it did.
    pub(crate) fn successor(&self, region: usize) -> Option<usize> {
        let (_, what) = *self.nodes[region].log.last()?;
        let names = usize::from(what.checked_sub(HANDOVER)?);
        (names / 10 == region).then_some(names % 10)
    }

    pub(crate) fn tenure(view: &Agreed) -> &Tenure {
        view.tenure(TABLE).unwrap()
    }
}
