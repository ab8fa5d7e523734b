//! What must hold in every world, and what must be reached in one.

use isthmus_control::commit::{Term, TxId};
use stateright::Property;

use crate::model::Commit;
use crate::world::{Change, Entry, Node, World, small};

pub(crate) const KEPT: &str = "what was answered is in the log of a later term";
pub(crate) const ATOMIC: &str = "a change is there wholly or not at all";
pub(crate) const TWICE: &str = "no entry is there twice";
pub(crate) const ORDER: &str = "each change of a row follows the one on which it was judged";
pub(crate) const REFUSED: &str = "what was refused is never there";
pub(crate) const ONE: &str = "nobody answers in a term before one that was opened";
pub(crate) const GOES_ON: &str = "the table opens again in the end";
pub(crate) const SECOND: &str = "another epoch is opened";

pub(crate) const RULES: [&str; 7] = [KEPT, ATOMIC, TWICE, ORDER, REFUSED, ONE, GOES_ON];

/// As the search asks for them.
pub(crate) fn properties() -> Vec<Property<Commit>> {
    /// Whether a rule holds of every writer that has opened its term.
    fn of_open(world: &World, holds: impl Fn(&Node, Term) -> bool) -> bool {
        let open = world.nodes.iter().filter(|node| node.is_open());
        open.into_iter().all(|node| holds(node, node.writing.as_ref().unwrap().term))
    }
    vec![
        Property::always(KEPT, |model: &Commit, world: &World| {
            of_open(world, |node, term| {
                let older = |change: &&u8| world.changes[usize::from(**change)].tx.term < term;
                let is_kept = |change: &u8| node.parts_of(*change) >= model.parts.into();
                let is_newest = term >= world.newest_open;
                !is_newest || world.seen.iter().filter(older).all(is_kept)
            })
        }),
        Property::always(ATOMIC, |model: &Commit, world: &World| {
            of_open(world, |node, _| {
                world.changes.iter().enumerate().all(|(number, change)| {
                    let parts = node.parts_of(small(number));
                    !change.is_prepared() || parts == 0 || parts == usize::from(model.parts)
                })
            })
        }),
        Property::always(TWICE, |_, world: &World| {
            world.nodes.iter().all(|node| {
                let mut log = node.log.iter().enumerate();
                log.all(|(at, entry)| !node.log[..at].contains(entry))
            })
        }),
        Property::always(ORDER, |_, world: &World| {
            // What was found without those who did not answer may follow what they had.
            let is_free = |tx: TxId| world.accepted.is_some_and(|accepted| tx.term < accepted);
            world.nodes.iter().all(|node| {
                let mut newest = [None; 4];
                node.log.iter().all(|entry| match entry {
                    Entry::Part(change, 1) => {
                        let Change { row, base, tx, .. } = world.changes[usize::from(*change)];
                        newest[usize::from(row)].replace(*change) == base || is_free(tx)
                    }
                    _ => true,
                })
            })
        }),
        Property::always(REFUSED, |_, world: &World| {
            of_open(world, |node, _| {
                let refused = world.changes.iter().enumerate().filter(|(_, it)| it.is_refused);
                refused.into_iter().all(|(change, _)| node.parts_of(small(change)) == 0)
            })
        }),
        Property::always(ONE, |_, world: &World| !world.is_answered_twice),
        Property::always(GOES_ON, |model: &Commit, world: &World| {
            model.is_well(world) || !model.is_over(world)
        }),
        Property::sometimes(SECOND, |_, world: &World| world.newest_open.epoch > 1),
    ]
}
