//! Plans what to write so that two replicas become alike. Pure.
//!
//! With one writer a replica takes the writer's row over, if its own is still the one that was
//! compared. With several writers a repair is a change like any other: a delta whose registers
//! bear stamps, so that it merges into whatever is there and a newer write survives it. Registers
//! keep their stamps where that is enough; where the target must give up something that it has,
//! the register that replaces it gets the least stamp above. Such a stamp must lie in the past of
//! both sides, else its origin may yet give it to a write: then the plan is to wait.

use isthmus_model::diff::{CellDiff, Class, Held, Register, registers};
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::Timestamp;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Cell, Row, add_trim};
use isthmus_model::share::{Seen, Share};
use isthmus_model::value::{Text, Value};

/// With one writer: a row that takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeOver {
    /// Which.
    pub key: EncodedKey,
    /// What is to be there; bare: nothing.
    pub row: Row,
    /// What the target's row must still be known by; 0: that it is not there.
    pub expected: u64,
}

/// With several writers: a change of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mend {
    /// Which.
    pub key: EncodedKey,
    /// To be merged into the row, there and wherever else it goes.
    pub delta: Row,
    /// What the target's row must still be known by; 0: that it is not there.
    pub expected: u64,
}

/// How two sides become alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The target shows what the source shows.
    OneWay,
    /// Both show all that either has; where that is two things of one stamp, the source's.
    Merge,
}

/// With one writer: what the target is to take over from the source.
pub fn take_over(key: EncodedKey, source: &Row, target_fingerprint: u64) -> TakeOver {
    TakeOver { key, row: source.clone(), expected: target_fingerprint }
}

/// With several writers: what to merge into the target. `cells` is where the target (second)
/// differs from the source (first); `past` tells whether both sides have had whatever bears a
/// stamp. `None`: to be tried again later.
pub fn mend(
    direction: Direction,
    source: &Row,
    target: &Row,
    cells: &[CellDiff],
    past: &dyn Fn(Stamp) -> bool,
) -> Option<Row> {
    let mut plan = Plan { delta: Row::default(), rows: [source, target], past, must_wait: false };
    for cell in cells {
        plan.keep_stamps(direction, cell);
    }
    let mut is_killed = false;
    for cell in cells.iter().filter(|cell| is_data(&cell.register)) {
        // One side may have forgotten a kill that the other one still has: then it is in no
        // difference, and what is only there would be killed here again and again.
        let (first, second) = (cell.first.as_ref(), cell.second.as_ref());
        plan.hand_over(&kills_of((source, first), (target, second), &cell.register), cell);
        let kills = kills_of((target, second), (source, first), &cell.register);
        match direction {
            Direction::Merge => plan.hand_over(&kills, cell),
            Direction::OneWay => is_killed |= !kills.is_empty(),
        }
    }
    if direction == Direction::OneWay {
        plan.show_what_the_source_shows(source, target, cells, is_killed);
    }
    (!plan.must_wait).then_some(plan.delta)
}

struct Plan<'a> {
    delta: Row,
    /// The source and the target.
    rows: [&'a Row; 2],
    past: &'a dyn Fn(Stamp) -> bool,
    must_wait: bool,
}

impl Plan<'_> {
    /// Kills of what is in a cell go to both sides, under their own stamps. A deleted version takes
    /// the place of a value, so it needs a greater stamp than that.
    fn hand_over(&mut self, kills: &[(Register, Held)], cell: &CellDiff) {
        let value = [&cell.first, &cell.second].into_iter().flatten();
        let value = value.filter(|held| held.value.is_some()).map(|held| held.stamp).max();
        for (register, held) in kills {
            let stamp = match Some(held.stamp) == value && *register == cell.register {
                true => self.above(register, held.stamp),
                false => held.stamp,
            };
            let mut kill = Row::default();
            set(&mut kill, self.rows, register, &Held { stamp, value: None });
            self.delta.merge(&kill);
        }
    }

    /// The least stamp above. A share stays that of its region.
    fn above(&mut self, register: &Register, stamp: Stamp) -> Stamp {
        let origin = match register {
            Register::Count(_, origin) | Register::Share(_, origin) => *origin,
            Register::Tombstone
            | Register::Marker
            | Register::ColumnTombstone(_)
            | Register::Trim(..)
            | Register::Cell(..)
            | Register::Seen(..) => stamp.origin,
        };
        let above = Stamp { hlc: stamp.hlc.next(), origin };
        self.must_wait |= above == stamp || !(self.past)(above);
        above
    }

    /// Registers for which their own stamp is enough. Kills of either side go to both: they can
    /// not be taken back.
    fn keep_stamps(&mut self, direction: Direction, cell: &CellDiff) {
        let (first, second) = (cell.first.as_ref(), cell.second.as_ref());
        let is_kill = cell.register.is_kill();
        let held = match (cell.class, direction) {
            (Class::Missing | Class::Older, _) => first,
            (Class::Extra | Class::Newer, Direction::Merge) => second,
            (Class::Extra | Class::Newer, Direction::OneWay) if is_kill => second,
            (Class::Extra | Class::Newer, Direction::OneWay) => None,
            (Class::Different, Direction::Merge) => {
                let Some(first) = first else { return };
                let stamp = self.above(&cell.register, first.stamp);
                self.set(&cell.register, &Held { stamp, value: first.value.clone() });
                None
            }
            (Class::Different, Direction::OneWay) => None,
        };
        if let Some(held) = held {
            self.set(&cell.register, held);
        }
    }

    fn set(&mut self, register: &Register, held: &Held) {
        set(&mut self.delta, self.rows, register, held);
    }

    fn show_what_the_source_shows(
        &mut self,
        source: &Row,
        target: &Row,
        cells: &[CellDiff],
        is_killed: bool,
    ) {
        let mut merged = source.clone();
        merged.merge(target);
        merged.merge(&self.delta);
        let is_kill = |cell: &CellDiff| !is_data(&cell.register) && cell.second.is_some();
        let goals = goals(source, &merged, cells, is_killed || cells.iter().any(is_kill));
        self.remove_marker(&mut merged, &goals);
        for (register, goal) in goals {
            self.reach(&merged, &register, goal);
        }
        self.lift_over_tombstone(merged);
    }

    /// What lives and would be killed by the tombstone that a marker needs is written anew.
    fn lift_over_tombstone(&mut self, mut merged: Row) {
        let Some(tombstone) = self.delta.tombstone else { return };
        merged.merge(&Row { tombstone: None, ..self.delta.clone() });
        for (register, held) in registers(&merged) {
            match &register {
                // A tombstone does not concern it.
                Register::Share(..) => {}
                Register::Count(..) => {
                    let stamp = self.above(&register, held.stamp.max(tombstone));
                    self.set(&register, &Held { stamp, value: held.value });
                }
                register
                    if held.stamp < tombstone && is_data(register) && holds(&held, register) =>
                {
                    self.set(register, &Held { stamp: tombstone, value: held.value });
                }
                _ => {}
            }
        }
    }

    /// A marker goes only with a tombstone, which takes all else with it.
    fn remove_marker(&mut self, merged: &mut Row, goals: &[(Register, Goal)]) {
        let goes = goals
            .iter()
            .any(|(register, goal)| *register == Register::Marker && *goal == Goal::Nothing);
        if let Some(marker) = merged.marker.filter(|_| goes) {
            let tombstone =
                self.above(&Register::Tombstone, marker.max(merged.tombstone.unwrap_or(marker)));
            self.delta.tombstone = self.delta.tombstone.max(Some(tombstone));
            merged.marker = None;
        }
    }

    /// Adds what makes one register show its goal.
    fn reach(&mut self, merged: &Row, register: &Register, goal: Goal) {
        let floor = killed_below(merged, register).max(self.delta.tombstone);
        let now = registers(merged).into_iter().find(|(known, _)| known == register);
        let now = now.map(|(_, held)| held);
        match (goal, now) {
            (Goal::Rewritten(held), _) => {
                let stamp = self.above(register, held.stamp);
                self.set(register, &Held { stamp, value: held.value });
            }
            (Goal::Nothing, None) => {}
            (Goal::Nothing, Some(held)) => match register {
                Register::Cell(..) => {
                    let stamp = self.above(register, held.stamp);
                    self.set(register, &Held { stamp, value: None });
                }
                Register::Count(name, _) | Register::Share(name, _) => {
                    let seen = Seen { until: held.stamp, by: self.above(register, held.stamp) };
                    self.delta.column_mut(name).shares_mut().see(seen);
                }
                Register::Tombstone
                | Register::Marker
                | Register::ColumnTombstone(_)
                | Register::Trim(..)
                | Register::Seen(..) => {}
            },
            (Goal::Shown(held), now) => {
                if now.as_ref().is_some_and(|now| *now == held) {
                    return;
                }
                let below = now.map(|now| now.stamp).max(floor).max(Some(held.stamp));
                let stamp = self.above(register, below.unwrap_or(held.stamp));
                self.set(register, &Held { stamp, value: held.value });
            }
        }
    }
}

/// What a register of data is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    Nothing,
    Shown(Held),
    /// The other side has something else of the same stamp.
    Rewritten(Held),
}

/// What the data registers in question are to show: those that differ, and those that the source
/// shows and a kill of the target has taken, if there are any (`kills`).
fn goals(source: &Row, merged: &Row, cells: &[CellDiff], kills: bool) -> Vec<(Register, Goal)> {
    let mut goals = Vec::new();
    let shown = registers(source);
    let now = registers(merged);
    for cell in cells.iter().filter(|cell| is_data(&cell.register)) {
        let is_settled = match cell.class {
            Class::Missing | Class::Older => true,
            Class::Extra | Class::Newer | Class::Different => false,
        };
        if is_settled && !kills {
            continue;
        }
        let goal = match &cell.first {
            Some(held) if cell.class == Class::Different => Goal::Rewritten(held.clone()),
            Some(held) if holds(held, &cell.register) => Goal::Shown(held.clone()),
            Some(_) | None => Goal::Nothing,
        };
        goals.push((cell.register.clone(), goal));
    }
    for (register, held) in shown {
        let known = goals.iter().any(|(known, _)| *known == register);
        let lost = !now.iter().any(|(other, _)| *other == register);
        if kills && !known && lost && is_data(&register) && holds(&held, &register) {
            goals.push((register, Goal::Shown(held)));
        }
    }
    goals
}

fn is_data(register: &Register) -> bool {
    !register.is_kill()
}

/// Whether a reader sees it.
fn holds(held: &Held, register: &Register) -> bool {
    *register == Register::Marker || held.value.is_some()
}

/// What in a row kills that which the other side has in a register. Of the register itself what is
/// compared is known to the plan; only a deletion that is not compared counts here.
fn kills_of(
    (row, own): (&Row, Option<&Held>),
    (other_row, other): (&Row, Option<&Held>),
    place: &Register,
) -> Vec<(Register, Held)> {
    let Some(other) = other else { return Vec::new() };
    let mut data = Row::default();
    set(&mut data, [other_row, row], place, other);
    let is_killed_by = |(register, held): &(Register, Held)| {
        if is_data(register) {
            // A version that was deleted, beside one that lives.
            let is_deleted = matches!(register, Register::Cell(..)) && held.value.is_none();
            let is_beside = register == place && held.stamp >= other.stamp;
            return own.is_none() && is_deleted && is_beside && holds(other, place);
        }
        let mut kill = Row::default();
        set(&mut kill, [row, other_row], register, held);
        kill.merge(&data);
        !registers(&kill).iter().any(|(known, _)| known == place)
    };
    registers(row).into_iter().filter(is_killed_by).collect()
}

/// The greatest stamp that kills a register of data.
fn killed_below(row: &Row, register: &Register) -> Option<Stamp> {
    let (name, timestamp) = match register {
        Register::Cell(name, timestamp) => (name, timestamp),
        Register::Count(name, origin) | Register::Share(name, origin) => {
            let column = row.column(name.as_bytes());
            let seen = column.iter().filter_map(|column| column.shares.as_ref());
            let seen = seen.flat_map(|shares| &shares.seen).map(|seen| seen.until);
            let seen = seen.filter(|until| until.origin == *origin).max();
            return row.tombstone.max(column.and_then(|column| column.tombstone)).max(seen);
        }
        Register::Tombstone
        | Register::Marker
        | Register::ColumnTombstone(_)
        | Register::Trim(..)
        | Register::Seen(..) => return row.tombstone,
    };
    let column = row.column(name.as_bytes());
    let trims = column.into_iter().flat_map(|column| &column.trims);
    let trims = trims.filter(|trim| *timestamp < trim.below).map(|trim| trim.stamp).max();
    row.tombstone.max(column.and_then(|column| column.tombstone)).max(trims)
}

fn set(row: &mut Row, known: [&Row; 2], register: &Register, held: &Held) {
    match register {
        Register::Tombstone => row.tombstone = row.tombstone.max(Some(held.stamp)),
        Register::Marker => row.marker = row.marker.max(Some(held.stamp)),
        Register::ColumnTombstone(name) => {
            let column = row.column_mut(name);
            column.tombstone = column.tombstone.max(Some(held.stamp));
        }
        Register::Trim(name, below) => {
            let trim = isthmus_model::row::Trim { below: *below, stamp: held.stamp };
            add_trim(&mut row.column_mut(name).trims, trim);
        }
        Register::Cell(name, timestamp) => set_cell(row, name, *timestamp, held),
        Register::Count(name, _) | Register::Share(name, _) => {
            let mut shares = known.iter().filter_map(|row| share_of(row, register));
            if let (Some(share), Some(value)) = (shares.next(), &held.value) {
                let share = Share { value: value.clone(), ..share.clone() };
                // Written anew it begins anew, so that no older kill takes it.
                let share = match share.stamp == held.stamp {
                    true => share,
                    false => Share { first: held.stamp, stamp: held.stamp, ..share },
                };
                row.column_mut(name).shares_mut().add(share);
            }
        }
        Register::Seen(name, until) => {
            let seen = Seen { until: *until, by: held.stamp };
            row.column_mut(name).shares_mut().see(seen);
        }
    }
}

fn share_of<'a>(row: &'a Row, register: &Register) -> Option<&'a Share> {
    let (name, origin, counts) = match register {
        Register::Count(name, origin) => (name, origin, true),
        Register::Share(name, origin) => (name, origin, false),
        _ => return None,
    };
    let shares = row.column(name.as_bytes()).map_or(&[][..], |column| column.shares());
    shares.iter().find(|share| share.origin() == *origin && share.is_counter() == counts)
}

fn set_cell(row: &mut Row, name: &Text, timestamp: Timestamp, held: &Held) {
    let value: Option<Value> = held.value.clone();
    row.column_mut(name).set(Cell { timestamp, stamp: held.stamp, value });
}

#[cfg(test)]
mod tests;
