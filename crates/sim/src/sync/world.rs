//! The world of counters: clients, and what must hold.

use rand::Rng;
use rand::rngs::SmallRng;

use super::group::{Group, Task, number_in};
use super::machines::Machines;
use super::plan::{Plan, REGIONS};
use super::writer::Ended;
use crate::checkers::Violation;
use crate::options::Options;
use crate::rng::{Purpose, split};

/// A client asks again after this, and does not know what became of its write.
const PATIENCE: u64 = 2000;
/// When nothing breaks any more all must be alike within so many steps.
const HEALING_STEPS: u32 = 60_000;

/// A client, and what it knows of the row that it alone writes.
#[derive(Clone, Copy, Default)]
struct Client {
    asked: i64,
    acknowledged: i64,
    /// The most that any read has shown.
    shown: i64,
    /// The number of its write, where it was asked for and since when.
    under_way: Option<(u64, usize, u64)>,
}

/// All of it: one table.
pub(super) struct World {
    pub(super) machines: Machines,
    clients: Vec<Client>,
    numbers: u64,
    asking: SmallRng,
}

impl World {
    pub(super) fn new(options: &Options, plan: Plan) -> World {
        World {
            clients: vec![Client::default(); plan.tables[0].rows],
            machines: Machines::new(options, plan),
            numbers: 0,
            asking: split(options.seed, Purpose::Clients),
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.clients.iter().map(|client| client.acknowledged.unsigned_abs()).sum()
    }

    /// From chaos to rest.
    pub(super) fn live(&mut self) -> Result<(), Violation> {
        if let Some(broken) = self.machines.broken.take() {
            return Err(broken);
        }
        for _ in 0..self.machines.plan.steps {
            self.machines.break_something();
            self.step(true)?;
        }
        self.machines.heal();
        for _ in 0..HEALING_STEPS {
            self.step(false)?;
            if self.machines.rests() {
                return self.compare();
            }
        }
        Err(Violation::of("what is healed comes to rest", self.machines.stands()))
    }

    fn step(&mut self, asks: bool) -> Result<(), Violation> {
        let news = self.machines.step(asks)?;
        for (place, number, ended) in news.ended {
            if matches!(ended, Ended::Made(_)) {
                self.take(place, number);
            }
        }
        let now = self.machines.now();
        self.look_at_clients(now);
        if asks {
            self.ask(now);
        }
        self.read(now)
    }

    fn take(&mut self, place: usize, number: u64) {
        let asked = self.clients.iter_mut().enumerate();
        let mut asked = asked.filter_map(|(row, one)| Some((row, one.under_way?, one)));
        if let Some((row, _, client)) = asked.find(|(_, (under_way, ..), _)| *under_way == number) {
            client.under_way = None;
            client.acknowledged += 1;
            let what = format!("region {place} has written row {row}: write {number}");
            self.machines.note(&what);
        }
    }

    fn look_at_clients(&mut self, now: u64) {
        for client in &mut self.clients {
            let Some((number, place, since)) = client.under_way else { continue };
            let life = self.machines.regions[place].life.as_ref();
            let writer = life.and_then(|life| life.parts[0].writer.as_ref());
            if now >= since + PATIENCE || !writer.is_some_and(|writer| writer.has(number)) {
                client.under_way = None;
            }
        }
    }

    fn ask(&mut self, now: u64) {
        let row = self.asking.random_range(0..self.clients.len());
        let place = self.asking.random_range(0..REGIONS);
        if self.clients[row].under_way.is_some() || !self.machines.is_up(place) {
            return;
        }
        let Some(life) = &mut self.machines.regions[place].life else { return };
        let part = &mut life.parts[0];
        let Some(writer) = &mut part.writer else { return };
        let number = self.numbers + 1;
        if writer.write(&part.table, Group::increment(row), Task::Rows, number) {
            self.numbers = number;
            self.clients[row].asked += 1;
            self.clients[row].under_way = Some((number, place, now));
            let what = format!("row {row} is written in region {place}: write {number}");
            self.machines.note(&what);
        }
    }

    /// A read of the newest state, wherever it is given.
    fn read(&mut self, now: u64) -> Result<(), Violation> {
        let row = self.asking.random_range(0..self.clients.len());
        for place in 0..REGIONS {
            if !self.machines.is_up(place) {
                continue;
            }
            let Some(life) = self.machines.regions[place].life.as_ref() else { continue };
            let part = &life.parts[0];
            let Some(writer) = part.writer.as_ref().filter(|writer| writer.is_open()) else {
                continue;
            };
            if !part.holds(writer.epoch, now) {
                continue;
            }
            let shown = number_in(&part.table, row as i64, b"n");
            let shown = shown.map_err(|error| Violation::of("a row is read", error.to_string()))?;
            self.judge(&format!("region {place}"), row, shown)?;
        }
        Ok(())
    }

    fn judge(&mut self, place: &str, row: usize, shown: i64) -> Result<(), Violation> {
        let client = &mut self.clients[row];
        let least = client.acknowledged.max(client.shown);
        let is_right = least <= shown && shown <= client.asked;
        client.shown = client.shown.max(shown);
        let Client { asked, acknowledged, .. } = *client;
        is_right.then_some(()).ok_or_else(|| {
            let what = format!(
                "{place} shows {shown} in row {row}: {acknowledged} are acknowledged of {asked}, \
                 and {least} were shown or acknowledged"
            );
            Violation::of("rows are linearizable", what)
        })
    }

    fn compare(&mut self) -> Result<(), Violation> {
        self.machines.note("everything rests");
        for place in 0..REGIONS {
            let life = self.machines.regions[place].life.as_ref();
            let Some(table) = life.map(|life| life.parts[0].table.clone()) else { continue };
            for row in 0..self.clients.len() {
                let shown = number_in(&table, row as i64, b"n")
                    .map_err(|error| Violation::of("a row is read", error.to_string()))?;
                self.judge(&format!("in the end region {place}"), row, shown)?;
            }
            if table.prepared_count() > 0 {
                let what = format!("region {place}: {:?}", table.prepared());
                return Err(Violation::of("nothing stays prepared", what));
            }
        }
        Ok(())
    }
}
