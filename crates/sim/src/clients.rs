//! What clients ask for: random changes of few rows, so that they meet.
//!
//! An answer is judged when it comes. A change whose answer was lost is "maybe": nothing is
//! demanded of it, and if it shows, it must show everywhere.

mod schemas;

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::change::{
    CellChange, CellWrite, ColumnFilter, Comparator, Condition, Existence, Filter, KeyPart,
    NamedKeyPart, Returned, RowAction, RowChange,
};
use isthmus_model::check::{CheckedChange, check_change};
use isthmus_model::clock::Clock;
use isthmus_model::error::Outcome;
use isthmus_model::ids::{Lsn, PartitionId, TableId, Timestamp};
use isthmus_model::key::KeyValue;
use isthmus_model::schema::Schema;
use isthmus_model::value::{Text, Value};
use isthmus_replication::mode::{Answer, Begun, Modes, Wait};
use isthmus_store::{Pending, StoreError, Written};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::checkers::receipts::Receipt;
use crate::checkers::{acked, held};
use crate::clock::NodeClock;
use crate::node::Life;
use crate::observer::Observer;
use crate::options::{Nature, Scenario, TablePlan};

type Results = Vec<Result<Written, StoreError>>;

/// A request that is not answered yet.
struct Request {
    node: usize,
    table: TableId,
    partition: PartitionId,
    number: u64,
    changes: Vec<(CheckedChange, Option<String>)>,
    wall_millis: i64,
    answer: Pending<Results>,
    /// It is durable where it was asked for, and waits for other regions until then.
    holds: Option<(Results, Wait, Duration)>,
    modes: Arc<Modes>,
    clock: Arc<NodeClock>,
}

impl Request {
    /// The answer of one that waits, if it is there.
    fn take_held(&mut self) -> Option<(Results, Answer)> {
        let (_, wait, _) = self.holds.as_mut()?;
        let answer = wait.try_take()?;
        self.holds.take().map(|(results, ..)| (results, answer))
    }

    /// Whether it has waited long enough. Its outcome is not known then.
    fn has_given_up(&self) -> bool {
        self.holds.as_ref().is_some_and(|(_, _, until)| self.clock.monotonic() > *until)
    }
}

fn last_written(results: &[Result<Written, StoreError>]) -> Option<Lsn> {
    results.iter().flatten().map(|written| written.lsn).max()
}

/// All clients.
pub(crate) struct Clients {
    rng: SmallRng,
    keys: u32,
    big_rows: bool,
    next: u64,
    open: Vec<Request>,
    /// Numbers that servers gave.
    given: Vec<(PartitionId, i64)>,
    pub(crate) acknowledged: u64,
    /// Some of the receipts that were given.
    pub(crate) receipts: Vec<Receipt>,
    /// Of the requests that were answered, those that others held by then.
    pub(crate) held: u64,
    /// One in so many requests to a base changes a schema.
    schema_one_in: u32,
    /// Tables are dropped now and then.
    drops: bool,
    /// Tables get conflict rules.
    rules: bool,
    /// Tables get a time to live.
    expires: bool,
    pub(crate) schema_changes: u64,
}

const RECEIPTS_KEPT: usize = 48;

impl Clients {
    /// Nobody has asked yet.
    pub(crate) fn new(rng: SmallRng, nature: &Nature, scenario: Scenario) -> Clients {
        let drops = scenario == Scenario::Schemas;
        Clients {
            rng,
            keys: nature.keys,
            big_rows: nature.big_rows,
            schema_one_in: if drops { 3 } else { 40 },
            drops,
            rules: !matches!(scenario, Scenario::Bindings | Scenario::Extracts),
            expires: scenario != Scenario::Extracts,
            schema_changes: 0,
            next: 1,
            open: Vec::new(),
            given: Vec::new(),
            acknowledged: 0,
            receipts: Vec::new(),
            held: 0,
        }
    }

    /// Whether every request is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// The node went down with what was asked of it.
    pub(crate) fn lose(&mut self, node: usize) {
        self.open.retain(|request| request.node != node);
    }

    /// Asks a node for something; gives what, in words. With `waits` nothing is asked before the
    /// node has heard of all others.
    pub(crate) fn ask(
        &mut self,
        node: usize,
        life: &Life,
        plans: &[TablePlan],
        clock: &Arc<NodeClock>,
        waits: bool,
    ) -> Option<String> {
        let plan = plans.get(self.rng.random_range(0..plans.len()))?;
        let table = life.store.table(plan.id)?;
        let may = life.is_usable(plan.partition);
        if !may || (waits && !life.has_heard_all(plan.partition)) {
            return None;
        }
        let speaks = match plan.writers.are_many() {
            true => plan.base == node,
            false => table.writer_word().accepts && life.is_in_common(plan),
        };
        if speaks && self.rng.random_range(0..self.schema_one_in) == 0 {
            return Some(self.change_schema(&table));
        }
        let schema = table.schema();
        let wall_millis = clock.wall_millis();
        let count = if self.rng.random_range(0..4) == 0 { self.rng.random_range(1..6) } else { 1 };
        let mut changes = Vec::new();
        for _ in 0..count {
            let mark = format!("mark{}", self.next);
            self.next += 1;
            let change = self.change(plan, &schema, &mark, wall_millis);
            let marked = carries(&change.action, &mark);
            if let Ok(checked) = check_change(&schema, change, wall_millis) {
                changes.push((checked, marked.then_some(mark)));
            }
        }
        let atomic = changes.len() > 1 && self.rng.random();
        let modes = life.modes.shared.clone();
        if let Err(refusal) = modes.admit(plan.partition) {
            return Some(format!("node {node} refuses writes of {}: {refusal:?}", plan.name));
        }
        let only = changes.iter().map(|(change, _)| change.clone()).collect();
        let answer = table.write(only, atomic);
        let number = self.next;
        let (rows, name) = (changes.len(), plan.name);
        let partition = plan.partition;
        self.open.push(Request {
            node,
            table: plan.id,
            partition,
            number,
            changes,
            wall_millis,
            answer,
            holds: None,
            modes,
            clock: clock.clone(),
        });
        Some(format!("node {node} asked {number}: {rows} rows of {name}, atomic {atomic}"))
    }

    /// Looks for answers and judges them; gives what came, in words.
    pub(crate) fn listen(&mut self, observer: &mut Observer) -> Vec<String> {
        let mut told = Vec::new();
        let open = std::mem::take(&mut self.open);
        for mut request in open {
            if request.holds.is_none()
                && let Some(answer) = request.answer.try_take()
            {
                told.push(format!("answer {} {}", request.number, summary(&answer)));
                self.take_durable(request, answer, observer);
            } else if let Some((results, answer)) = request.take_held() {
                told.push(format!("held {} {answer:?}", request.number));
                self.take_held(&request, results, answer, observer);
            } else if !request.has_given_up() {
                self.open.push(request);
            }
        }
        told
    }

    /// It is durable where it was asked for. What was written may have to wait.
    fn take_durable(
        &mut self,
        mut request: Request,
        answer: Result<Results, StoreError>,
        observer: &mut Observer,
    ) {
        let last = last_written(answer.as_deref().unwrap_or_default());
        let (Ok(results), Some(last)) = (&answer, last) else {
            return self.take_answer(&request, answer, observer);
        };
        match request.modes.wait(request.partition, last) {
            Begun::Over(how) => self.take_held(&request, results.clone(), how, observer),
            Begun::Waits(wait) => {
                let patience = request.modes.patience(request.partition);
                let until = request.clock.monotonic() + patience;
                request.holds = Some((results.clone(), wait, until));
                self.open.push(request);
            }
        }
    }

    /// It is answered; if it is said to be held by others, they must hold it now.
    fn take_held(
        &mut self,
        request: &Request,
        results: Results,
        how: Answer,
        observer: &mut Observer,
    ) {
        if let (Answer::Held, Some(last), Some(report)) =
            (how, last_written(&results), request.modes.report(request.partition))
        {
            let (node, partition) = (request.node, request.partition);
            let checked = held::check(observer, node, partition, last, report.asked.held_by);
            observer.judge(checked);
            self.held += 1;
        }
        self.take_answer(request, Ok(results), observer);
    }

    fn take_answer(
        &mut self,
        request: &Request,
        answer: Result<Results, StoreError>,
        observer: &mut Observer,
    ) {
        let results = match answer {
            Ok(results) => results,
            Err(error) => request.changes.iter().map(|_| Err(error.clone())).collect(),
        };
        for ((change, mark), result) in request.changes.iter().zip(results) {
            match (result, mark) {
                (Ok(written), _) => {
                    self.acknowledged += 1;
                    self.remember(request.partition, change, &written);
                    if observer.is_apart(request.node, request.partition) {
                        continue;
                    }
                    self.keep_receipt(request, &written);
                    let checked = acked::check_answer(
                        observer,
                        request.node,
                        request.partition,
                        change,
                        &written,
                        request.wall_millis,
                    );
                    observer.judge(checked);
                }
                (Err(error), Some(mark)) if error.outcome() == Outcome::NotApplied => {
                    observer.note_refused(mark.clone());
                }
                (Err(_), _) => {}
            }
        }
    }

    /// Keeps a receipt, in the place of an older one where there are many.
    fn keep_receipt(&mut self, request: &Request, written: &Written) {
        let receipt = Receipt {
            table: request.table,
            partition: request.partition,
            origin: written.stamp.origin,
            epoch: written.epoch,
            lsn: written.lsn,
        };
        if self.receipts.len() < RECEIPTS_KEPT {
            self.receipts.push(receipt);
            return;
        }
        let place = self.acknowledged as usize % RECEIPTS_KEPT;
        self.receipts[place] = receipt;
    }

    fn remember(&mut self, partition: PartitionId, change: &CheckedChange, written: &Written) {
        use isthmus_model::check::CheckedKey;
        if let (CheckedKey::AutoIncrement { .. }, Some(KeyValue::Integer(number))) =
            (&change.key, written.key.0.get(1))
            && self.given.len() < 64
        {
            self.given.push((partition, *number));
        }
    }

    fn change(
        &mut self,
        plan: &TablePlan,
        schema: &Schema,
        mark: &str,
        wall_millis: i64,
    ) -> RowChange {
        let mut action = self.action(schema, mark, wall_millis);
        if let RowAction::Put(cells) = &mut action
            && self.big_rows
            && plan.name.starts_with("grown")
        {
            let value = Value::Binary(vec![7; self.rng.random_range(1..200_000)].into());
            cells.push(CellWrite { name: "big".into(), value, timestamp: None });
        }
        let mut existence = match self.rng.random_range(0..8) {
            0 => Existence::MustExist,
            1 => Existence::MustNotExist,
            _ => Existence::Ignore,
        };
        if action == RowAction::Delete && existence == Existence::MustNotExist {
            existence = Existence::Ignore;
        }
        let id = self.id(plan, &mut existence, &action);
        let part = |name: &str, part| NamedKeyPart { name: name.into(), part };
        let pk = format!("p{}", self.rng.random_range(0..self.keys.div_ceil(2)));
        let columns = (self.rng.random_range(0..8) == 0 && !matches!(id, KeyPart::AutoIncrement))
            .then(|| self.filter());
        let returned = match self.rng.random_range(0..3) {
            0 => Returned::AfterModify(vec!["n0".into(), "n1".into(), "c0".into()]),
            _ => Returned::Nothing,
        };
        RowChange {
            key: vec![part("pk", KeyPart::Value(KeyValue::String(pk.into()))), part("id", id)],
            action,
            condition: Condition { existence, columns },
            returned,
        }
    }

    fn id(&mut self, plan: &TablePlan, existence: &mut Existence, action: &RowAction) -> KeyPart {
        if !plan.auto_increment {
            return KeyPart::Value(KeyValue::Integer(self.rng.random_range(0..2)));
        }
        if matches!(action, RowAction::Put(_)) && self.rng.random() {
            *existence = Existence::Ignore;
            return KeyPart::AutoIncrement;
        }
        let of_table = |(partition, number): &(PartitionId, i64)| {
            (*partition == plan.partition).then_some(*number)
        };
        let given: Vec<i64> = self.given.iter().filter_map(of_table).collect();
        let number = match given.is_empty() {
            true => 0,
            false => given[self.rng.random_range(0..given.len())],
        };
        KeyPart::Value(KeyValue::Integer(number))
    }

    fn filter(&mut self) -> Filter {
        let comparators =
            [Comparator::Exists, Comparator::NotExists, Comparator::Greater, Comparator::LessEqual];
        Filter::Column(ColumnFilter {
            name: format!("n{}", self.rng.random_range(0..2)).into(),
            comparator: comparators[self.rng.random_range(0..comparators.len())],
            value: Value::Integer(self.rng.random_range(-3..10)),
            filter_if_missing: self.rng.random(),
            latest_version_only: self.rng.random(),
            transfer: None,
        })
    }

    fn action(&mut self, schema: &Schema, mark: &str, wall_millis: i64) -> RowAction {
        match self.rng.random_range(0..10) {
            0..=2 => RowAction::Put(self.cells(schema, mark, wall_millis)),
            3 => RowAction::Delete,
            _ => RowAction::Update(self.steps(schema, mark, wall_millis)),
        }
    }

    fn cells(&mut self, schema: &Schema, mark: &str, wall_millis: i64) -> Vec<CellWrite> {
        (0..self.rng.random_range(0..4))
            .map(|place| self.cell(place, schema, mark, wall_millis))
            .collect()
    }

    fn cell(&mut self, place: u32, schema: &Schema, mark: &str, wall_millis: i64) -> CellWrite {
        let value = match self.rng.random_range(0..8) {
            0 => Value::Binary(vec![place as u8; self.rng.random_range(0..300)].into()),
            1 => Value::Double(f64::from(place) / 3.0),
            _ => Value::String(mark.into()),
        };
        let name = Text::from(format!("c{place}"));
        let timestamp =
            (self.rng.random_range(0..3) == 0).then(|| self.timestamp(schema, &name, wall_millis));
        CellWrite { name, value, timestamp }
    }

    /// One of few, so that versions meet; some are about to expire.
    fn timestamp(&mut self, schema: &Schema, column: &Text, wall_millis: i64) -> Timestamp {
        let whole = wall_millis - wall_millis % 4000;
        let options = &schema.options;
        match options.time_to_live_of(options.families.of(column)) {
            Some(seconds) if self.rng.random() => {
                let oldest = wall_millis - i64::from(seconds) * 1000 + 2000;
                Timestamp(oldest - oldest % 1000 + self.rng.random_range(0..8) * 1000)
            }
            Some(_) | None => Timestamp(whole - self.rng.random_range(0..4) * 1000),
        }
    }

    fn steps(&mut self, schema: &Schema, mark: &str, wall_millis: i64) -> Vec<CellChange> {
        let mut steps = Vec::new();
        for place in 0..self.rng.random_range(1..4) {
            let name = Text::from(format!("c{place}"));
            steps.push(match self.rng.random_range(0..8) {
                0 => CellChange::DeleteColumn { name },
                1 => {
                    let timestamp = self.timestamp(schema, &name, wall_millis);
                    CellChange::DeleteVersion { name, timestamp }
                }
                2 | 3 => {
                    let name = format!("n{}", place % 2).into();
                    if place > 1 {
                        continue;
                    }
                    CellChange::Increment { name, delta: self.rng.random_range(-2..7) }
                }
                _ => CellChange::Put(self.cell(place, schema, mark, wall_millis)),
            });
        }
        steps
    }
}

/// Whether a mark is in a change.
fn carries(action: &RowAction, mark: &str) -> bool {
    let is_mark = |cell: &CellWrite| cell.value == Value::String(mark.into());
    match action {
        RowAction::Put(cells) => cells.iter().any(is_mark),
        RowAction::Update(steps) => {
            steps.iter().any(|step| matches!(step, CellChange::Put(cell) if is_mark(cell)))
        }
        RowAction::Delete => false,
    }
}

fn summary(answer: &Result<Results, StoreError>) -> String {
    let one = |result: &Result<Written, StoreError>| match result {
        Ok(written) => format!("{}@{}", written.lsn, written.stamp.hlc),
        Err(error) => format!("{error}"),
    };
    match answer {
        Ok(results) => results.iter().map(one).collect::<Vec<_>>().join(", "),
        Err(error) => format!("{error}"),
    }
}
