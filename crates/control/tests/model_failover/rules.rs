//! What must hold in every world, and what must be reached in one.

use stateright::Property;

use crate::agreed::REGIONS;
use crate::model::Failover;
use crate::world::{NOBODY, Node, World};

pub(crate) const ONE: &str = "one region at most can acknowledge";
pub(crate) const KEPT: &str = "who takes over has what was acknowledged";
pub(crate) const ONCE: &str = "an epoch is opened once";
pub(crate) const TAIL: &str = "tails are found where they begin";
pub(crate) const HEARD: &str = "a region that two hear is not suspended";
pub(crate) const THIRD: &str = "a third epoch is opened";
pub(crate) const GOES_ON: &str = "somebody writes in the end";

pub(crate) const RULES: [&str; 6] = [ONE, KEPT, ONCE, TAIL, HEARD, GOES_ON];

/// As the search asks for them.
pub(crate) fn properties() -> Vec<Property<Failover>> {
    vec![
        Property::always(ONE, |_, world: &World| {
            (0..3).filter(|region| world.can_acknowledge(*region)).count() <= 1
        }),
        Property::always(KEPT, |model: &Failover, world: &World| {
            let is_kept = |node: &Node| {
                let older = world.acknowledged.iter().filter(|(_, entry)| entry.0 < node.writing);
                older
                    .into_iter()
                    .all(|(lsn, entry)| node.log.get(usize::from(*lsn) - 1) == Some(entry))
            };
            let epoch = world.opened.iter().rposition(|region| *region != NOBODY).unwrap();
            let node = &world.nodes[usize::from(world.opened[epoch])];
            model.held_by == 0 || usize::from(node.writing) != epoch || is_kept(node)
        }),
        Property::always(ONCE, |_, world: &World| !world.is_opened_again),
        Property::always(TAIL, |_, world: &World| !world.is_tail_wrong),
        Property::always(HEARD, |model: &Failover, world: &World| {
            let suspecting = model.suspecting.iter().filter(|may| **may).count();
            suspecting > 1 || REGIONS.iter().all(|region| !world.now().is_suspended(region))
        }),
        Property::always(GOES_ON, |model: &Failover, world: &World| {
            let now = world.now();
            let tenure = World::tenure(&now);
            let writer = REGIONS.iter().position(|name| *name == tenure.writer).unwrap();
            let node = &world.nodes[writer];
            let is_held = tenure.vacant.is_none()
                && (node.is_dead || u64::from(node.writing) == tenure.epoch);
            // Nobody has found out that it is.
            let is_successor_dead = world.successor(writer).is_some_and(|successor| {
                world.nodes[successor].is_dead && !now.is_suspended(REGIONS[successor])
            });
            is_held || is_successor_dead || !model.is_over(world)
        }),
        Property::sometimes(THIRD, |_, world: &World| world.opened[3] != NOBODY),
    ]
}
