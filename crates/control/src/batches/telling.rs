//! One round in which the region that writes an anchor tells the members what it has decided.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::atomic::{BatchId, Member};
use isthmus_model::ids::TableId;
use isthmus_model::value::Text;

/// How well it is kept in a member that a batch is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Settled {
    /// It is not, or not yet.
    Not,
    /// As durably as the member's mode asks for.
    AsAsked,
    /// Every replica of the member holds it.
    ByAll,
}

impl Settled {
    /// As it is told.
    pub fn number(self) -> u32 {
        match self {
            Settled::Not => 0,
            Settled::AsAsked => 1,
            Settled::ByAll => 2,
        }
    }

    /// As it was told.
    pub fn of(number: u32) -> Settled {
        match number {
            0 => Settled::Not,
            1 => Settled::AsAsked,
            _ => Settled::ByAll,
        }
    }
}

/// Batches that are told to their members, and who of these has not settled them.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    by_member: BTreeMap<TableId, (Text, Vec<BatchId>)>,
    left: BTreeMap<BatchId, BTreeSet<TableId>>,
    needs_room: bool,
}

impl Telling {
    /// Of nothing. `needs_room`: so much is kept that what is settled as durably as the members'
    /// modes ask for is forgotten.
    pub(super) fn new(needs_room: bool) -> Telling {
        Telling { needs_room, ..Telling::default() }
    }

    pub(super) fn add(&mut self, id: BatchId, members: Vec<Member>) {
        let missing = members.iter().map(|member| member.table).collect();
        self.left.insert(id, missing);
        for Member { table, name } in members {
            self.by_member.entry(table).or_insert_with(|| (name, Vec::new())).1.push(id);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.left.len()
    }

    /// What each member is to be told: its line, its name, and the batches.
    pub fn members(&self) -> impl Iterator<Item = (TableId, &Text, &[BatchId])> {
        self.by_member.iter().map(|(line, (name, ids))| (*line, name, &ids[..]))
    }

    /// A member has said how it has settled those that it was told of, in their order. Whoever says
    /// nothing has not settled them.
    pub fn told(&mut self, member: TableId, settled: impl IntoIterator<Item = Settled>) {
        let Some((_, ids)) = self.by_member.get(&member) else { return };
        let enough = if self.needs_room { Settled::AsAsked } else { Settled::ByAll };
        for (id, _) in ids.iter().zip(settled).filter(|(_, settled)| *settled >= enough) {
            if let Some(missing) = self.left.get_mut(id) {
                missing.remove(&member);
            }
        }
    }

    /// A member is gone, with its rows.
    pub fn is_gone(&mut self, member: TableId) {
        self.left.values_mut().for_each(|missing| {
            missing.remove(&member);
        });
    }

    /// The batches that all members have settled: they may be forgotten.
    pub fn over(&self) -> Vec<BatchId> {
        let over = self.left.iter().filter(|(_, missing)| missing.is_empty());
        over.map(|(id, _)| *id).collect()
    }
}
