//! The world: clients that move amounts between tables, and readers.

use isthmus_model::commit::Form;
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
/// When a region is lost the others must go on within so many steps.
const GOING_ON_STEPS: u32 = 30_000;
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
            self.step(true, true)?;
        }
        let torn = self.rest()?;
        if self.most_are_enough() {
            self.go_on_without_one()?;
            return self.rest();
        }
        Ok(torn)
    }

    /// Heals, and judges when all rests.
    fn rest(&mut self) -> Result<u64, Violation> {
        self.machines.heal();
        for _ in 0..HEALING_STEPS {
            self.step(false, false)?;
            if self.rests() {
                self.machines.note("everything rests");
                return judge_all(&self.machines, &self.asked);
            }
        }
        Err(Violation::of("what is healed comes to rest", self.machines.stands()))
    }

    /// Whether no table waits for all regions.
    fn most_are_enough(&self) -> bool {
        let waits_for_all = Mode::Sync(Form::TwoPhase);
        self.machines.plan.tables.iter().all(|table| table.mode != waits_for_all)
    }

    /// A region is lost while batches are under way, for as long as the others need: they settle
    /// whatever it has left, and make new ones.
    fn go_on_without_one(&mut self) -> Result<(), Violation> {
        for _ in 0..self.asking.random_range(20..300) {
            self.step(true, false)?;
        }
        self.machines.lose(self.asking.random_range(0..REGIONS));
        let since = self.asked.len();
        for _ in 0..GOING_ON_STEPS {
            let is_made = |one: &Asked| one.groups.len() > 1 && one.answer == Some(Answer::Done);
            let asks = !self.asked[since..].iter().any(is_made);
            self.step(asks, false)?;
            if !asks && self.is_settled() {
                self.machines.note("the others have settled everything");
                return Ok(());
            }
        }
        let what = self.machines.stands();
        Err(Violation::of("most regions go on with batches without the others", what))
    }

    /// Whether those who write have settled whatever was begun.
    fn is_settled(&self) -> bool {
        let is_settled = |at: usize| {
            let writer = &self.machines.regions[self.machines.quorums[at].writer()?];
            let part = &writer.life.as_ref()?.parts[at];
            let is_idle = part.writer.as_ref()?.rests();
            Some(is_idle && part.table.intents().is_empty())
        };
        let all = (0..self.machines.quorums.len()).all(|at| is_settled(at).unwrap_or(false));
        let lives = self.machines.regions.iter().filter_map(|region| region.life.as_ref());
        all && lives.into_iter().all(|life| life.batches.rests())
    }

    fn step(&mut self, asks: bool, breaks: bool) -> Result<(), Violation> {
        let news = self.machines.step(breaks)?;
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
