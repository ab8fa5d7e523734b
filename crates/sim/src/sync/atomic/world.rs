//! The world: clients that move amounts between tables, and readers.

use rand::Rng;
use rand::rngs::SmallRng;

use super::judge::{Asked, Reader, judge_all, sum_of};
use super::{Answer, kept};
use crate::checkers::Violation;
use crate::options::Options;
use crate::rng::{Purpose, split};
use crate::sync::group::Group;
use crate::sync::machines::{Machines, News};
use crate::sync::plan::{Mode, Plan, REGIONS};
use crate::sync::region::Out;
use crate::sync::{failure, report};
use crate::tally::Tally;
use crate::world::{Failure, Report};

/// Batches that are not answered at once.
const UNDER_WAY_MAX: usize = 4;
/// When nothing breaks any more all must be settled within so many steps.
const HEALING_STEPS: u32 = 60_000;
/// What one batch moves at most.
const AMOUNT_MAX: i64 = 60;

/// All of it.
pub(super) struct World {
    pub(super) machines: Machines,
    asked: Vec<Asked>,
    reader: Reader,
    /// Entries of a table were lost that nobody was promised to keep.
    is_lossy: bool,
    /// Sums that were read.
    sums: u64,
    asking: SmallRng,
}

/// Runs the world of a seed.
pub(in crate::sync) fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let plan = Plan::draw_of_batches(options.seed, options.plant);
    let nature = format!("{plan:#?}");
    let mut world = World {
        machines: Machines::new(options, plan),
        asked: Vec::new(),
        reader: Reader::default(),
        is_lossy: false,
        sums: 0,
        asking: split(options.seed, Purpose::Clients),
    };
    match world.live() {
        Ok(torn) => {
            let count = |answer| {
                world.asked.iter().filter(|asked| asked.answer == Some(answer)).count() as u64
            };
            let report = report(&world.machines, count(Answer::Done));
            let tally = Tally {
                batches_refused: count(Answer::Refused),
                batches_torn: torn,
                sums: world.sums,
                ..report.tally
            };
            Ok(Report { tally, ..report })
        }
        Err(violation) => Err(Box::new(failure(violation, nature, world.machines))),
    }
}

impl World {
    /// From chaos to rest. Gives how many batches the loss of regions has torn.
    fn live(&mut self) -> Result<u64, Violation> {
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
            if self.rests() {
                self.machines.note("everything rests");
                return judge_all(&self.machines, &self.asked);
            }
        }
        Err(Violation::of("what is healed comes to rest", self.machines.stands()))
    }

    fn step(&mut self, asks: bool) -> Result<(), Violation> {
        let news = self.machines.step(asks)?;
        self.take(news);
        if asks && self.asking.random_range(0..12) == 0 {
            self.ask();
        }
        if let Some(what) = self.reader.step(&self.machines, &mut self.asking)?
            && !self.is_lossy
        {
            return Err(Violation::of("reads of one moment show all of a batch or nothing", what));
        }
        let now = self.machines.now();
        if let Some(sum) = sum_of(&self.machines, now)?.filter(|_| !self.is_lossy) {
            self.sums += 1;
            if sum != 0 {
                let what = format!("the sum of all rows is {sum}");
                return Err(Violation::of("what is moved is neither lost nor made", what));
            }
        }
        Ok(())
    }

    fn take(&mut self, news: News) {
        for at in news.granted {
            let quorum = &self.machines.quorums[at];
            let grant = quorum.grant();
            let lacks = self.machines.regions.iter().any(|region| region.lacks(at, quorum));
            let mode = self.machines.plan.tables[at].mode;
            self.is_lossy |= lacks && mode == Mode::Async;
            self.machines.note(&format!("table {at} is granted: {grant:?}"));
        }
        for (number, answer) in news.answers {
            self.machines.note(&format!("batch {number}: {answer:?}"));
            if let Some(asked) = self.asked.get_mut(number as usize) {
                asked.answer = Some(answer);
            }
        }
    }

    fn ask(&mut self) {
        let open = self.asked.iter().rev().take(50).filter(|asked| asked.answer.is_none());
        let is_busy = open.filter(|asked| self.has(asked)).count() >= UNDER_WAY_MAX;
        let groups = self.groups();
        let anchor = groups[0].0;
        let Some(place) = self.machines.quorums[anchor].writer().filter(|_| !is_busy) else {
            return;
        };
        if !self.machines.is_up(place) {
            return;
        }
        let now = self.machines.now();
        let number = self.asked.len() as u64;
        let Some(life) = &mut self.machines.regions[place].life else { return };
        let mut out = Out::default();
        let begins = life.batches.begin(now, number, groups.clone(), &mut life.parts, &mut out);
        if begins {
            let what = format!("region {place} begins batch {number}: {groups:?}");
            self.asked.push(Asked { number, place, groups, answer: None });
            self.machines.note(&what);
            let mut news = News::default();
            self.machines.send(place, out, &mut news);
            self.take(news);
        }
    }

    /// Whether a batch is under way.
    fn has(&self, asked: &Asked) -> bool {
        let life = self.machines.regions[asked.place].life.as_ref();
        life.is_some_and(|life| life.batches.has(asked.number))
    }

    /// What a client asks for: moves whose sum is nothing.
    fn groups(&mut self) -> Vec<(usize, Group)> {
        let mut tables: Vec<usize> = (0..self.machines.plan.tables.len()).collect();
        let count = match self.asking.random_range(0..6) {
            0 => 1,
            1 | 2 => 3,
            _ => 2,
        };
        let mut groups = Vec::new();
        let mut sum = 0;
        while groups.len() < count && !tables.is_empty() {
            let at = tables.swap_remove(self.asking.random_range(0..tables.len()));
            let row = self.asking.random_range(0..self.machines.plan.tables[at].rows) as i64;
            let amount = self.asking.random_range(-AMOUNT_MAX..=AMOUNT_MAX);
            sum += amount;
            groups.push((
                at,
                Group { moves: vec![(row, amount)], mark: Some(self.asked.len() as u64) },
            ));
        }
        // The first one evens it out.
        if let Some((_, group)) = groups.first_mut() {
            group.moves[0].1 -= sum;
        }
        groups
    }

    fn rests(&self) -> bool {
        let is_idle = |place: usize| {
            let life = self.machines.regions[place].life.as_ref();
            life.is_some_and(|life| {
                life.batches.rests() && life.parts.iter().all(|part| kept(&part.table) == 0)
            })
        };
        self.machines.rests() && (0..REGIONS).all(is_idle)
    }
}
