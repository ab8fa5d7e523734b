//! Which regions hold which partitions, and who writes them.
//!
//! What must hold: each partition is in as many different regions as is asked for, all of which
//! its rules allow; by `Balanced` what two regions hold differs from what their weights say by less
//! than one, unless rules are in the way; who writes is spread alike; and of what is there no
//! more moves than that takes. The same question has the same answer.

use std::collections::VecDeque;

use super::point::chance;
use super::{DistributionError, Member, Place, refused};

/// Where a partition is, or is to be: places of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The members that hold it.
    pub holders: Vec<usize>,
    /// The one that writes.
    pub writer: Option<usize>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who may hold partitions.
    pub members: &'a [Member],
    /// How many hold each.
    pub replicas: usize,
    /// How they are chosen.
    pub place: Place,
    /// The chance by which equals are.
    pub seed: u64,
    /// Of each partition the members that may hold it.
    pub allowed: &'a [Vec<usize>],
}

/// Spreads partitions, of which some are somewhere already.
pub fn spread(question: &Question<'_>, before: &[Slot]) -> Result<Vec<Slot>, DistributionError> {
    for (number, allowed) in question.allowed.iter().enumerate() {
        if allowed.len() < question.replicas {
            return refused(format!(
                "partition {number} may be in {} regions and is to be in {}; its rule or the \
                 regions leave too few",
                allowed.len(),
                question.replicas
            ));
        }
    }
    let mut spread = Spread { question, before, slots: before.to_vec() };
    match question.place {
        Place::Random => spread.draw(),
        Place::Balanced => {
            spread.leave();
            spread.fill();
            spread.balance();
        }
    }
    spread.choose_writers();
    Ok(spread.slots)
}

/// A spreading under way.
struct Spread<'a> {
    question: &'a Question<'a>,
    before: &'a [Slot],
    slots: Vec<Slot>,
}

/// How much each member has beyond its share, all in one unit.
struct Excess {
    of: Vec<i128>,
    /// One partition.
    unit: i128,
}

impl Spread<'_> {
    fn rank(&self, partition: usize, member: usize) -> u64 {
        chance(self.question.seed, partition as u64, &self.question.members[member].name)
    }

    fn is_allowed(&self, partition: usize, member: usize) -> bool {
        self.question.allowed[partition].contains(&member)
    }

    /// Those that may not hold a partition, or are too many, leave it. Of too many the writer
    /// stays.
    fn leave(&mut self) {
        for partition in 0..self.slots.len() {
            let mut slot = std::mem::take(&mut self.slots[partition]);
            slot.holders.retain(|member| self.is_allowed(partition, *member));
            while slot.holders.len() > self.question.replicas {
                let excess = self.held_beyond_share();
                let leaves = (0..slot.holders.len())
                    .filter(|place| slot.writer != Some(slot.holders[*place]))
                    .max_by_key(|place| excess.of[slot.holders[*place]]);
                slot.holders.remove(leaves.unwrap_or(0));
            }
            slot.writer = slot.writer.filter(|writer| slot.holders.contains(writer));
            self.slots[partition] = slot;
        }
    }

    /// Those that have least beside their share take what is missing.
    fn fill(&mut self) {
        for partition in 0..self.slots.len() {
            while self.slots[partition].holders.len() < self.question.replicas {
                let excess = self.held_beyond_share();
                let free = self.question.allowed[partition].iter().copied();
                let free = free.filter(|member| !self.slots[partition].holders.contains(member));
                let taker = free.min_by_key(|member| {
                    (excess.of[*member], u64::MAX - self.rank(partition, *member))
                });
                let Some(taker) = taker else { break };
                self.slots[partition].holders.push(taker);
            }
        }
    }

    /// Moves replicas from who has too many to who has too few, those that are new first.
    fn balance(&mut self) {
        loop {
            let excess = self.held_beyond_share();
            let step = |from: usize, to: usize| {
                let fits = |partition: &usize| {
                    let holders = &self.slots[*partition].holders;
                    holders.contains(&from)
                        && !holders.contains(&to)
                        && self.is_allowed(*partition, to)
                };
                // What is new may go anywhere; the writer is left alone if another one can go.
                let is_old = |partition: usize| self.before[partition].holders.contains(&from);
                let best = (0..self.slots.len()).filter(fits).min_by_key(|partition| {
                    let writes = self.before[*partition].writer == Some(from);
                    (is_old(*partition), writes, u64::MAX - self.rank(*partition, to))
                });
                best.map(|partition| (partition, is_old(partition)))
            };
            let Some(path) = excess.path(step) else { return };
            for (partition, from, to) in path {
                let slot = &mut self.slots[partition];
                slot.holders.retain(|holder| *holder != from);
                slot.holders.push(to);
                slot.writer = slot.writer.filter(|writer| *writer != from);
            }
        }
    }

    /// Each member draws a number for each partition, by its weight; the highest hold it.
    fn draw(&mut self) {
        for partition in 0..self.slots.len() {
            let mut drawn: Vec<(f64, usize)> = self.question.allowed[partition]
                .iter()
                .map(|member| {
                    // In (0, 1): the logarithm is below 0 and finite.
                    let number = (self.rank(partition, *member) >> 11) as f64 + 0.5;
                    let number = number / (1u64 << 53) as f64;
                    let weight = f64::from(self.question.members[*member].weight);
                    (-weight / number.ln(), *member)
                })
                .collect();
            drawn.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            drawn.truncate(self.question.replicas);
            let slot = &mut self.slots[partition];
            slot.holders = drawn.into_iter().map(|(_, member)| member).collect();
            slot.writer = slot.writer.filter(|writer| slot.holders.contains(writer));
        }
    }

    /// Who writes stays who does, as far as that is spread.
    fn choose_writers(&mut self) {
        for partition in 0..self.slots.len() {
            if self.slots[partition].writer.is_none() {
                let excess = self.written_beyond_share();
                let holders = self.slots[partition].holders.iter().copied();
                let writer = holders.min_by_key(|member| {
                    (excess.of[*member], u64::MAX - self.rank(partition, *member))
                });
                self.slots[partition].writer = writer;
            }
        }
        loop {
            let excess = self.written_beyond_share();
            let step = |from: usize, to: usize| {
                let fits = |partition: &usize| {
                    let slot = &self.slots[*partition];
                    slot.writer == Some(from) && slot.holders.contains(&to)
                };
                let is_old = |partition: usize| self.before[partition].writer == Some(from);
                let best = (0..self.slots.len()).filter(fits).min_by_key(|partition| {
                    (is_old(*partition), u64::MAX - self.rank(*partition, to))
                });
                best.map(|partition| (partition, is_old(partition)))
            };
            let Some(path) = excess.path(step) else { return };
            for (partition, _, to) in path {
                self.slots[partition].writer = Some(to);
            }
        }
    }

    fn held_beyond_share(&self) -> Excess {
        let mut held = vec![0; self.question.members.len()];
        self.slots.iter().flat_map(|slot| &slot.holders).for_each(|member| held[*member] += 1);
        self.beyond_share(&held, self.slots.len() * self.question.replicas)
    }

    fn written_beyond_share(&self) -> Excess {
        let mut written = vec![0; self.question.members.len()];
        self.slots.iter().filter_map(|slot| slot.writer).for_each(|member| written[member] += 1);
        self.beyond_share(&written, self.slots.len())
    }

    /// How much each has beyond its share of `total`; nobody's share is more than it may have.
    fn beyond_share(&self, has: &[usize], total: usize) -> Excess {
        let members = self.question.members;
        let most: Vec<i128> = (0..members.len())
            .map(|member| {
                let may = self.question.allowed.iter().filter(|allowed| allowed.contains(&member));
                may.count() as i128
            })
            .collect();
        let mut is_full = vec![false; members.len()];
        let mut rest = total as i128;
        let weight = |member: usize| i128::from(members[member].weight);
        let unit = loop {
            let open = (0..members.len()).filter(|member| !is_full[*member]);
            let unit: i128 = open.clone().map(weight).sum();
            let full: Vec<usize> =
                open.filter(|member| rest * weight(*member) > most[*member] * unit).collect();
            if full.is_empty() {
                break unit.max(1);
            }
            for member in full {
                is_full[member] = true;
                rest -= most[member];
            }
            rest = rest.max(0);
        };
        let of = (0..members.len()).map(|member| match is_full[member] {
            true => (has[member] as i128 - most[member]) * unit,
            false => has[member] as i128 * unit - rest * weight(member),
        });
        Excess { of: of.collect(), unit }
    }
}

/// A partition that is passed on between two members, and whether that undoes what was before.
type Passed = (usize, bool);

/// Partitions that are passed on one after the other: (partition, from, to).
type Path = Vec<(usize, usize, usize)>;

impl Excess {
    /// The way on which partitions are passed on from a member to another one that has less by
    /// more than one, and on which the least of what was before is undone. `None`: it is spread.
    ///
    /// `step` names a partition that could be passed on between two.
    fn path(&self, step: impl Fn(usize, usize) -> Option<Passed>) -> Option<Path> {
        let mut most: Vec<usize> = (0..self.of.len()).collect();
        most.sort_by_key(|member| (-self.of[*member], *member));
        let found = most.into_iter().filter_map(|from| self.path_from(from, &step));
        found.min_by_key(|(undone, _)| *undone).map(|(_, path)| path)
    }

    /// The same from one member, and how much it undoes.
    fn path_from(
        &self,
        from: usize,
        step: &impl Fn(usize, usize) -> Option<Passed>,
    ) -> Option<(usize, Path)> {
        let mut next: Vec<usize> = (0..self.of.len()).collect();
        next.sort_by_key(|member| (self.of[*member], *member));
        // What undoes less is looked at first.
        let mut undone: Vec<Option<usize>> = vec![None; self.of.len()];
        let mut came_by: Vec<Option<(usize, usize)>> = vec![None; self.of.len()];
        let mut waiting = VecDeque::from([(from, 0)]);
        undone[from] = Some(0);
        while let Some((at, so_far)) = waiting.pop_front() {
            if undone[at] != Some(so_far) {
                continue;
            }
            if self.of[from] - self.of[at] > self.unit
                && let Some(path) = way_back(from, at, &came_by)
            {
                return Some((so_far, path));
            }
            for to in next.iter().copied() {
                let Some((partition, undoes)) = step(at, to).filter(|_| to != at) else { continue };
                let then = so_far + usize::from(undoes);
                if undone[to].is_none_or(|known| then < known) {
                    (undone[to], came_by[to]) = (Some(then), Some((partition, at)));
                    match undoes {
                        true => waiting.push_back((to, then)),
                        false => waiting.push_front((to, then)),
                    }
                }
            }
        }
        None
    }
}

/// The way to a member; `None`: it would pass a partition on twice.
fn way_back(from: usize, to: usize, came_by: &[Option<(usize, usize)>]) -> Option<Path> {
    let (mut path, mut at): (Path, usize) = (Vec::new(), to);
    while at != from {
        let (partition, before) = came_by[at]?;
        if path.iter().any(|(known, _, _)| *known == partition) {
            return None;
        }
        path.push((partition, before, at));
        at = before;
    }
    path.reverse();
    Some(path)
}

#[cfg(test)]
mod tests;
