use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_model::atomic::{BatchId, Member, Verdict};
use isthmus_model::commit::Term;
use isthmus_model::ids::{Epoch, Lsn, TableId};

use super::{AnchorLog, Books, Settled, Telling, Tried, Upkeep};

const TERM: Term = Term { epoch: 2, life: 5 };
const ANCHOR: TableId = TableId(2);
const TABLE: TableId = TableId(1);

fn id(number: u64) -> BatchId {
    BatchId { anchor: ANCHOR, term: TERM, number }
}

fn begun() -> (Books, BatchId) {
    let mut books = Books::default();
    let id =
        books.with(ANCHOR, TERM, |books| books.begin(BTreeSet::from(["member".into()]))).unwrap();
    (books, id)
}

fn verdict(books: &mut Books, id: BatchId, decided: Option<bool>) -> Verdict {
    books.verdict(id, TERM, || decided)
}

#[test]
fn what_is_open_is_not_looked_for_in_the_log() {
    let (mut books, id) = begun();
    let is_asked = Cell::new(false);
    let verdict = books.verdict(id, TERM, || {
        is_asked.set(true);
        None
    });
    assert_eq!((verdict, is_asked.get()), (Verdict::Open, false));
}

#[test]
fn what_was_tried_is_made_given_up_or_open() {
    let tried = |tried| {
        let (mut books, id) = begun();
        books.tried(id, tried);
        (books, id)
    };
    let (mut made, id) = tried(Tried::of(true, true, None));
    assert_eq!(verdict(&mut made, id, Some(true)), Verdict::Committed);
    assert_eq!(verdict(&mut made, id, Some(false)), Verdict::Open, "it may be lost");
    let (mut refused, id) = tried(Tried::of(false, false, Some(TERM)));
    assert_eq!(verdict(&mut refused, id, None), Verdict::Abandoned);
    let (mut unknown, id) = tried(Tried::of(false, true, Some(TERM)));
    assert_eq!(verdict(&mut unknown, id, None), Verdict::Open);
    assert_eq!(unknown.doubtful(), [id]);
}

#[test]
fn what_is_in_doubt_is_over_when_it_is_made_or_void() {
    let over_by = |sent_in, log| {
        let (mut books, id) = begun();
        books.tried(id, Tried::Unknown(sent_in));
        books.look(id, log);
        books.doubtful().is_empty()
    };
    let log = AnchorLog { is_made: false, settled: TERM, epoch: 2 };
    assert!(!over_by(Some(TERM), Some(log)), "of that term itself nothing is void");
    assert!(over_by(Some(TERM), Some(AnchorLog { settled: TERM.next(), ..log })));
    assert!(over_by(Some(TERM), Some(AnchorLog { is_made: true, ..log })));
    assert!(over_by(Some(TERM), Some(AnchorLog { epoch: 3, ..log })));
    assert!(over_by(Some(TERM), None));
    let later = AnchorLog { settled: TERM.next(), ..log };
    assert!(!over_by(None, Some(later)), "nobody knows in which term it was sent");
}

#[test]
fn nothing_is_open_of_a_term_that_is_over() {
    let (mut books, id) = begun();
    let later = Term { epoch: 3, life: 1 };
    assert_eq!(books.verdict(id, later, || None), Verdict::Abandoned);
    assert_eq!(books.with(ANCHOR, TERM, |books| books.open_count()), 0);
    assert!(books.with(ANCHOR, later, |books| books.begin(BTreeSet::new())).is_some());
}

#[test]
fn decisions_are_forgotten_when_all_members_have_settled_them() {
    let members = |tables: &[u64]| -> Vec<Member> {
        let member = |table: &u64| Member { table: TableId(*table), name: "member".into() };
        tables.iter().map(member).collect()
    };
    let telling = |needs_room| {
        let mut telling = Telling::new(needs_room);
        telling.add(id(1), members(&[7, 8]));
        telling.add(id(2), members(&[8]));
        telling.add(id(3), members(&[9]));
        telling
    };
    let mut all = telling(false);
    assert_eq!(all.members().count(), 3);
    all.told(TableId(8), [Settled::ByAll, Settled::AsAsked]);
    all.told(TableId(8), [Settled::ByAll, Settled::Not]);
    assert!(all.over().is_empty(), "one has not answered, and one is not held by all");
    all.told(TableId(7), [Settled::ByAll]);
    all.is_gone(TableId(9));
    assert_eq!(all.over(), [id(1), id(3)]);
    let mut full = telling(true);
    full.told(TableId(8), [Settled::Not, Settled::AsAsked]);
    assert_eq!(full.over(), [id(2)]);
    for settled in [Settled::Not, Settled::AsAsked, Settled::ByAll] {
        assert_eq!(Settled::of(settled.number()), settled);
    }
}

#[test]
fn young_batches_are_left_to_who_begins_them() {
    let mut upkeep = Upkeep::default();
    let second = Duration::from_secs(1);
    let intents = [(id(1), "anchor".into(), second / 2), (id(2), "anchor".into(), second)];
    let asked = upkeep.to_ask(TABLE, intents, second);
    assert_eq!(asked.into_values().map(|(_, ids)| ids).collect::<Vec<_>>(), [[id(2)]]);
    let decided = || [id(1), id(2), id(3)].map(|id| (id, Vec::new(), second)).to_vec();
    let telling = upkeep.to_tell((ANCHOR, ANCHOR), decided(), |one| one != id(2), second);
    assert_eq!(telling.over(), [id(1), id(3)], "what may be lost is not told");
}

#[test]
fn decisions_of_another_line_are_forgotten_and_not_told() {
    let mut upkeep = Upkeep::default();
    let member = Member { table: TABLE, name: "member".into() };
    let decided = vec![(id(1), vec![member], Duration::from_secs(1))];
    let line = TableId(9);
    let telling = upkeep.to_tell((ANCHOR, line), decided, |_| true, Duration::ZERO);
    assert_eq!((telling.members().count(), telling.over()), (0, vec![id(1)]));
}

#[test]
fn what_is_asked_in_vain_is_asked_less_and_less_often() {
    let mut upkeep = Upkeep::default();
    let second = Duration::from_secs(1);
    let mut asks = |now| !upkeep.to_ask(TABLE, [(id(3), "a".into(), second)], now).is_empty();
    let mut now = Duration::ZERO;
    for pause in [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
        assert!(asks(now) && !asks(now));
        now += Duration::from_millis(pause);
    }
    upkeep.is_over(TABLE, id(3));
    assert!(!upkeep.to_ask(TABLE, [(id(3), "a".into(), second)], Duration::ZERO).is_empty());
}

#[test]
fn where_a_batch_was_settled_is_what_was_said_first() {
    let mut upkeep = Upkeep::default();
    let mut settled = |lsn, epoch| upkeep.settled_at(TABLE, id(3), (Lsn(lsn), Epoch(epoch)));
    assert_eq!((settled(5, 1), settled(9, 1)), (Lsn(5), Lsn(5)));
    assert_eq!((settled(7, 2), settled(9, 2)), (Lsn(7), Lsn(7)), "that log may have ended");
    upkeep.is_held(TABLE, id(3));
    assert_eq!(upkeep.settled_at(TABLE, id(3), (Lsn(9), Epoch(2))), Lsn(9));
}

#[test]
fn a_table_is_gone_when_it_was_missing_for_long() {
    let mut upkeep = Upkeep::default();
    let at = Duration::from_secs;
    let mut is_gone = |now| upkeep.is_gone(TABLE, false, at(now));
    assert!(!is_gone(5) && !is_gone(14));
    upkeep.is_there(TABLE);
    let mut is_gone = |now| upkeep.is_gone(TABLE, false, at(now));
    assert!(!is_gone(16), "a region had it");
    assert!(!is_gone(25) && is_gone(26));
    assert!(!upkeep.is_gone(TABLE, true, at(99)), "others may have it");
}

#[test]
fn somebody_looks_once_at_what_is_long_in_doubt() {
    let mut upkeep = Upkeep::default();
    let minute = Duration::from_secs(60);
    assert!(!upkeep.is_long(TABLE, id(1), minute / 2));
    assert!(upkeep.is_long(TABLE, id(1), minute) && !upkeep.is_long(TABLE, id(1), minute));
    assert!(!upkeep.is_first_notice(TABLE, id(1)) && upkeep.is_first_notice(TABLE, id(2)));
    upkeep.is_over(TABLE, id(1));
    assert!(upkeep.is_long(TABLE, id(1), minute), "what was settled is noticed anew");
}
