//! What must hold in every world, and what must be reached in one.

use stateright::Property;

use crate::model::Batches;
use crate::world::{Entry, World};

pub(crate) const ATOMIC: &str = "a batch is made in all partitions or in none";
pub(crate) const LOCKED: &str = "nothing changes a row between an intent and its end";
pub(crate) const ANSWERED: &str = "clients are told what is";
pub(crate) const ONCE: &str = "nothing is made twice";
pub(crate) const GOES_ON: &str = "no row stays locked in the end, and nothing is kept";
pub(crate) const MADE: &str = "a batch is made everywhere";

pub(crate) const RULES: [&str; 5] = [ATOMIC, LOCKED, ANSWERED, ONCE, GOES_ON];

pub(crate) fn properties() -> Vec<Property<Batches>> {
    vec![
        Property::always(ATOMIC, |model: &Batches, world: &World| {
            model.numbered().all(|(batch, parts)| {
                let members = || parts[1..].iter().map(|part| world.part(*part));
                let is_decided = world.part(parts[0]).has_durable(Entry::Decided(batch));
                let is_made = members().any(|part| part.has(Entry::Settled(batch)));
                let is_given_up = members().any(|part| part.has(Entry::Abandoned(batch)));
                let lacks = |part: &crate::world::Part| {
                    !part.has(Entry::Intent(batch)) && !part.has(Entry::Settled(batch))
                };
                let is_lost = is_decided && members().any(lacks);
                // A member that settled what was decided never has it open again.
                let forgets = world.part(parts[0]).has_durable(Entry::Forgotten(batch));
                let is_open_again =
                    forgets && members().any(|part| !part.has(Entry::Settled(batch)));
                !(is_made && !is_decided || is_decided && is_given_up || is_lost || is_open_again)
            })
        }),
        Property::always(LOCKED, |_, world: &World| {
            world.parts.iter().all(|part| {
                let mut locked = None;
                part.log.iter().all(|entry| match entry {
                    Entry::Intent(batch) => locked.replace(*batch).is_none(),
                    Entry::Settled(batch) | Entry::Abandoned(batch) => {
                        locked.take() == Some(*batch)
                    }
                    Entry::Decided(_) => locked.is_none(),
                    Entry::Forgotten(_) => true,
                })
            })
        }),
        Property::always(ANSWERED, |model: &Batches, world: &World| {
            model.numbered().all(|(batch, parts)| {
                let anchor = world.part(parts[0]);
                let is_made =
                    !world.told_made.contains(&batch) || anchor.has_durable(Entry::Decided(batch));
                let is_refused =
                    !world.told_refused.contains(&batch) || !anchor.has(Entry::Decided(batch));
                is_made && is_refused
            })
        }),
        Property::always(ONCE, |_, world: &World| {
            world.parts.iter().all(|part| {
                let mut log = part.log.iter().enumerate();
                log.all(|(at, entry)| !part.log[..at].contains(entry))
            })
        }),
        Property::always(GOES_ON, |model: &Batches, world: &World| {
            let is_well = world.parts.iter().all(|part| part.locks.is_empty())
                && model.numbered().all(|(batch, parts)| !world.part(parts[0]).is_decided(batch));
            is_well || !model.is_over(world)
        }),
        Property::sometimes(MADE, |model: &Batches, world: &World| {
            model.numbered().any(|(batch, parts)| {
                parts[1..].iter().all(|part| world.part(*part).has_durable(Entry::Settled(batch)))
            })
        }),
    ]
}
