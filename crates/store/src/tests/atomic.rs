//! Batches that are made in several partitions or in none: what one partition keeps of them.

use bytes::Bytes;
use isthmus_model::atomic::{BatchId, BatchMark, Intent, Member};
use isthmus_model::commit::{Term, TxId};
use isthmus_model::entry::EntryBody;

use super::*;
use crate::Beginning;

fn batch(number: u64) -> BatchId {
    BatchId { anchor: TableId(9), term: Term { epoch: 1, life: 7 }, number }
}

fn intent(number: u64) -> Intent {
    let request = Bytes::from(format!("request {number}"));
    Intent { id: batch(number), anchor: Text::from("anchor"), keys: Vec::new(), request }
}

type Results = Result<Vec<Result<Written, StoreError>>, StoreError>;

fn intend(region: &Region, number: u64, changes: Vec<CheckedChange>) -> Results {
    let pending = region.table().intend(intent(number), changes, None);
    region.finish(pending)
}

fn settle(region: &Region, number: u64, changes: Vec<CheckedChange>) -> Results {
    let pending = region.table().settle_batch(batch(number), changes);
    region.finish(pending)
}

fn abandon(region: &Region, number: u64) {
    let pending = region.table().abandon_batch(batch(number));
    region.finish(pending).unwrap();
}

fn members() -> Vec<Member> {
    vec![Member { table: TableId(11), name: Text::from("member") }]
}

fn decide(region: &Region, number: u64, epoch: u64, changes: Vec<CheckedChange>) -> Results {
    let id = BatchId { term: Term { epoch, life: 7 }, ..batch(number) };
    let pending = region.table().decide((id, members()), changes, None, Beginning::Fresh);
    region.finish(pending)
}

fn send(from: &Region, to: &Region) {
    let have = to.table().durable_lsn();
    let until = from.table().durable_lsn().max(have);
    let entries = entries_after(&from.table(), have);
    let pending = to.table().apply(from.origin, from.table().epoch(), have, until, entries);
    to.finish(pending).unwrap();
}

fn pair() -> (Region, Region) {
    (Region::new(1, Writers::One), Region::new(2, Writers::One))
}

fn hides(region: &Region, row: i64) -> bool {
    !region.table().holders(&[key(row).encode()]).is_empty()
}

fn is_locked<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::RowLocked(_)))
}

#[test]
fn an_intent_locks_its_rows_until_it_ends_and_over_restarts() {
    let mut a = Region::new(1, Writers::One);
    a.write(put(1, 1)).unwrap();
    assert!(!a.table().keeps_batches());
    let kept = intend(&a, 1, vec![put(1, 5), put(2, 5)]).unwrap();
    assert!(kept.iter().all(Result::is_ok));
    for _ in 0..2 {
        assert!(is_locked(a.write(put(1, 2))) && is_locked(a.write(delete(2))));
        a.write(put(3, 3)).unwrap();
        assert!(hides(&a, 1) && !hides(&a, 3));
        assert_eq!(a.table().holders_between(&key(2).encode(), None), [batch(1)].into());
        assert!(a.table().holders_between(&key(3).encode(), None).is_empty());
        let stored = a.table().get(&key(1).encode()).unwrap();
        assert_eq!(integer(stored.as_ref(), "v"), Some(1), "nothing is changed yet");
        a.restart();
    }
    let (known, _) = a.table().intent(batch(1)).unwrap();
    assert_eq!((known.request, known.keys.len()), (intent(1).request, 2));
    // Another batch of the same row is refused whole.
    let refused = intend(&a, 2, vec![put(4, 4), put(2, 4)]).unwrap();
    assert!(matches!(refused[0], Err(StoreError::AbortedTogether)));
    assert!(matches!(refused[1], Err(StoreError::RowLocked(id)) if id == batch(1)));
    let settled = settle(&a, 1, vec![put(1, 5), put(2, 5)]).unwrap();
    assert_eq!(settled.len(), 2);
    let last = entries_after(&a.table(), Lsn(0)).pop().unwrap();
    assert_eq!(last.batch, Some(BatchMark::Settled(batch(1))));
    assert!(settle(&a, 1, vec![put(1, 6)]).unwrap().is_empty(), "it was settled before");
    a.write(put(1, 7)).unwrap();
    a.restart();
    assert!(!a.table().keeps_batches() && !a.table().may_be_locked());
    let stored = a.table().get(&key(1).encode()).unwrap();
    assert_eq!(integer(stored.as_ref(), "v"), Some(7));
}

#[test]
fn what_is_given_up_changes_nothing() {
    let mut a = Region::new(1, Writers::One);
    a.write(put(1, 1)).unwrap();
    let refused = intend(&a, 1, vec![insert(1, 9), put(2, 9)]).unwrap();
    assert!(matches!(refused[0], Err(StoreError::Refused(_))));
    assert!(matches!(refused[1], Err(StoreError::AbortedTogether)));
    assert!(a.table().intents().is_empty());
    let rows = a.rows();
    intend(&a, 2, vec![put(1, 9), put(2, 9)]).unwrap();
    abandon(&a, 2);
    abandon(&a, 2);
    assert_eq!((a.rows(), a.table().durable_lsn()), (rows, Lsn(3)), "once");
    a.restart();
    a.write(put(1, 2)).unwrap();
    assert!(settle(&a, 2, vec![put(1, 9)]).unwrap().is_empty(), "it is given up");
}

#[test]
fn readers_see_locks_until_the_end_of_an_intent_is_durable() {
    let a = Region::new(1, Writers::One);
    intend(&a, 1, vec![put(1, 5)]).unwrap();
    let pending = a.table().settle_batch(batch(1), vec![put(1, 5)]);
    // The next change is judged on it, and readers do not see it yet.
    let next = a.table().write(vec![put(1, 6)], false);
    assert!(hides(&a, 1) && a.table().may_be_locked());
    assert_eq!(a.table().holders_between(&key(1).encode(), None), [batch(1)].into());
    a.finish(pending).unwrap();
    assert!(a.finish(next).unwrap()[0].is_ok());
    assert!(!hides(&a, 1) && !a.table().may_be_locked());
}

#[test]
fn a_decision_is_kept_until_it_is_forgotten_and_made_in_its_epoch_only() {
    let mut a = Region::new(1, Writers::One);
    let fenced = decide(&a, 1, 2, vec![put(1, 1)]);
    assert!(matches!(fenced, Err(StoreError::NotWritable { .. })));
    a.write(put(1, 0)).unwrap();
    let refused = decide(&a, 1, 1, vec![insert(1, 1)]).unwrap();
    assert!(refused[0].is_err() && a.table().decided_batch(batch(1)).is_none());
    let written = decide(&a, 1, 1, vec![put(1, 1), put(2, 1)]).unwrap();
    let lsn = written[0].as_ref().unwrap().lsn;
    a.restart();
    let decided = a.table().decided_batch(batch(1)).unwrap();
    assert_eq!((decided.lsn, decided.members), (lsn, members()));
    let forgotten = a.table().forget_batches(&[batch(1), batch(2)]);
    a.finish(forgotten).unwrap();
    let last = entries_after(&a.table(), lsn).pop().unwrap();
    assert_eq!(last.body, EntryBody::Forgotten(vec![batch(1)]));
    let again = a.table().forget_batches(&[batch(1)]);
    a.finish(again).unwrap();
    a.restart();
    assert!(!a.table().keeps_batches());
    assert_eq!(a.table().durable_lsn(), last.lsn);
}

#[test]
fn replicas_and_successors_keep_what_the_log_says() {
    let (a, mut b) = pair();
    intend(&a, 1, vec![put(1, 5)]).unwrap();
    decide(&a, 2, 1, vec![put(2, 1)]).unwrap();
    intend(&a, 3, vec![put(3, 5)]).unwrap();
    send(&a, &b);
    b.restart();
    assert_eq!(b.table().intents().len(), 2);
    settle(&a, 1, vec![put(1, 5)]).unwrap();
    abandon(&a, 3);
    send(&a, &b);
    assert_eq!((b.table().intents().len(), b.table().decided_batches().len()), (0, 1));
    intend(&a, 4, vec![put(4, 5)]).unwrap();
    let over = a.table().hand_over(b.origin);
    a.finish(over).unwrap();
    send(&a, &b);
    let opened = b.table().open_epoch();
    b.finish(opened).unwrap();
    // The writer of another epoch knows what is locked, and makes it.
    assert!(is_locked(b.write(put(4, 1))));
    assert_eq!(settle(&b, 4, vec![put(4, 5)]).unwrap().len(), 1);
    b.write(put(4, 6)).unwrap();
}

#[test]
fn copies_bring_intents_and_decisions_in_place_of_what_was_there() {
    let (mut a, mut b) = pair();
    intend(&a, 1, vec![put(1, 5)]).unwrap();
    send(&a, &b);
    abandon(&a, 1);
    intend(&a, 2, vec![put(2, 5)]).unwrap();
    decide(&a, 3, 1, vec![put(3, 1)]).unwrap();
    a.restart();
    replicas::copy(&a, &b, 1);
    b.restart();
    // A new life stamps after what the one before may have stamped.
    b.clock.advance(3_000);
    let ids = |region: &Region| -> Vec<BatchId> {
        region.table().intents().into_iter().map(|(id, ..)| id).collect()
    };
    assert_eq!(ids(&b), [batch(2)]);
    assert_eq!(b.table().decided_batches(), a.table().decided_batches());
    settle(&a, 2, vec![put(2, 5)]).unwrap();
    send(&a, &b);
    assert!(ids(&b).is_empty());
    assert_eq!(a.rows(), b.rows());
}

#[test]
fn what_was_prepared_becomes_an_intent_and_is_forgotten_with_it() {
    let (a, b) = pair();
    let tx = TxId { term: Term { epoch: 1, life: 5 }, number: 1 };
    let prepared = b.table().prepare(vec![(tx, Bytes::from_static(b"change"))]);
    b.finish(prepared).unwrap();
    let pending = a.table().intend(intent(1), vec![put(1, 5)], Some(tx));
    a.finish(pending).unwrap();
    send(&a, &b);
    assert!(b.table().prepared().is_empty());
    assert_eq!(b.table().intents().len(), 1);
    // What others had prepared before is made, whatever was locked since.
    let late = TxId { number: 2, ..tx };
    let made = a.table().write_prepared(vec![late], vec![put(1, 1)], false);
    assert!(a.finish(made).unwrap()[0].is_ok());
}

#[test]
fn the_schema_stays_while_rows_are_locked() {
    let a = Region::new(1, Writers::One);
    intend(&a, 1, vec![put(1, 5)]).unwrap();
    let change = a.table().change_schema(|schema| Ok(schema.clone()));
    assert!(matches!(a.finish(change), Err(StoreError::Busy)));
    abandon(&a, 1);
    let change = a.table().change_schema(|schema| Ok(schema.clone()));
    a.finish(change).unwrap();
}

#[test]
fn a_table_with_decisions_is_not_given_to_another_log() {
    let a = Region::new(1, Writers::One);
    decide(&a, 1, 1, vec![put(1, 5)]).unwrap();
    let refused = a.finish(a.store.forget_writer(TABLE, Origin(3), Epoch(1)));
    assert!(matches!(refused, Err(StoreError::Busy)), "nobody else knows what was decided");
    let forgotten = a.table().forget_batches(&[batch(1)]);
    a.finish(forgotten).unwrap();
    a.finish(a.store.forget_writer(TABLE, Origin(3), Epoch(1))).unwrap();
}

#[test]
fn a_decision_is_told_when_it_is_durable() {
    let a = Region::new(1, Writers::One);
    let pending = a.table().decide((batch(1), members()), vec![put(1, 1)], None, Beginning::Fresh);
    let accepted = a.table().decided_batch(batch(1)).unwrap();
    assert!(accepted.lsn > a.table().durable_lsn() && a.table().decided_batches().is_empty());
    a.finish(pending).unwrap();
    assert_eq!(a.table().decided_batches(), [(batch(1), accepted)]);
}

#[test]
fn a_table_that_keeps_batches_gets_no_more_writers_and_one_of_many_takes_none() {
    let a = Region::new(1, Writers::One);
    let open_to_many = || {
        let many = Writers::ManyByColumn;
        a.finish(a.store.set_writing(TABLE, Writing::Accept, many, Epoch(1)))
    };
    intend(&a, 1, vec![put(1, 5)]).unwrap();
    assert_eq!(open_to_many(), Err(StoreError::Busy));
    abandon(&a, 1);
    decide(&a, 2, 1, vec![put(1, 1)]).unwrap();
    assert_eq!(open_to_many(), Err(StoreError::Busy), "its end would be an entry of one writer");
    a.finish(a.table().forget_batches(&[batch(2)])).unwrap();
    open_to_many().unwrap();
    let refused = |result: Results| matches!(result, Err(StoreError::NotWritable { .. }));
    assert!(refused(intend(&a, 3, vec![put(1, 5)])));
    assert!(refused(decide(&a, 4, 1, vec![put(1, 5)])));
    assert!(!a.table().keeps_batches());
}

#[test]
fn nothing_new_is_taken_while_a_change_of_the_table_waits() {
    let a = Region::new(1, Writers::One);
    intend(&a, 1, vec![put(1, 5)]).unwrap();
    let held = a.table().hold_batches();
    assert_eq!(intend(&a, 2, vec![put(2, 5)]), Err(StoreError::Busy));
    assert_eq!(decide(&a, 3, 1, vec![put(3, 5)]), Err(StoreError::Busy));
    assert!(a.table().room_for_intent(10).is_err() && a.table().room_for_decision(&[]).is_err());
    // What is there comes to an end, and other writes are made.
    settle(&a, 1, vec![put(1, 5)]).unwrap();
    a.write(put(2, 1)).unwrap();
    a.finish(a.table().change_schema(|schema| Ok(schema.clone()))).unwrap();
    drop(held);
    intend(&a, 2, vec![put(2, 5)]).unwrap();
}

#[test]
fn room_is_kept_for_what_was_sent_to_others() {
    let a = Region::new(1, Writers::One);
    let all = crate::limits::INTENT_BYTES_MAX;
    let room = a.table().room_for_intent(all).unwrap();
    assert_eq!(intend(&a, 1, vec![put(1, 5)]), Err(StoreError::Busy));
    // It has its room.
    let tx = TxId { term: Term { epoch: 1, life: 5 }, number: 1 };
    a.finish(a.table().intend(intent(1), vec![put(1, 5)], Some(tx))).unwrap();
    drop(room);
    assert!(a.table().room_for_intent(all).is_err(), "there is an intent");
    abandon(&a, 1);
    drop(a.table().room_for_intent(all).unwrap());
    let names = |length: usize| {
        vec![Member { table: TableId(1), name: Text::from("n".repeat(length).as_str()) }]
    };
    assert!(a.table().room_for_decision(&names(crate::limits::DECIDED_BYTES_MAX)).is_err());
    drop(a.table().room_for_decision(&names(100)).unwrap());
}

#[test]
fn a_table_with_decisions_that_are_not_settled_is_not_dropped_if_that_is_asked() {
    let a = Region::new(1, Writers::One);
    decide(&a, 1, 1, vec![put(1, 1)]).unwrap();
    assert_eq!(a.finish(a.store.drop_table_if_settled(TABLE)), Err(StoreError::Busy));
    a.write(put(2, 1)).unwrap();
    a.finish(a.table().forget_batches(&[batch(1)])).unwrap();
    a.finish(a.store.drop_table_if_settled(TABLE)).unwrap();
}

#[test]
fn no_two_lives_have_the_same_number() {
    let mut a = Region::new(1, Writers::One);
    let mut lives = vec![a.store.life()];
    for _ in 0..3 {
        // No time passes.
        a.restart();
        lives.push(a.store.life());
    }
    assert!(lives.is_sorted_by(|one, next| one < next), "{lives:?}");
}
