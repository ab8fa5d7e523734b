//! Changes that are prepared in other regions before they are written.

use bytes::Bytes;
use isthmus_model::commit::{Term, TxId};
use isthmus_model::entry::EntryBody;

use super::*;
use crate::codec::entry::{decode_entry, encode_entry};
use crate::limits::PREPARED_BYTES_MAX;
use crate::{CopyDone, TableSnapshot};

fn tx(epoch: u64, life: u64, number: u64) -> TxId {
    TxId { term: Term { epoch, life }, number }
}

fn change(number: u64) -> Bytes {
    Bytes::from(format!("change {number}"))
}

fn prepare(region: &Region, tx: TxId) -> Result<(), StoreError> {
    let pending = region.table().prepare(vec![(tx, change(tx.number))]);
    region.finish(pending)
}

fn write_prepared(region: &Region, txs: Vec<TxId>, changes: Vec<CheckedChange>) -> Vec<Written> {
    let atomic = txs.len() < changes.len();
    let pending = region.table().write_prepared(txs, changes, atomic);
    region.finish(pending).unwrap().into_iter().map(Result::unwrap).collect()
}

fn send(from: &Region, to: &Region) {
    let have = to.table().durable_lsn();
    let until = from.table().durable_lsn().max(have);
    let entries = entries_after(&from.table(), have);
    let pending = to.table().apply(from.origin, from.table().epoch(), have, until, entries);
    to.finish(pending).unwrap();
}

fn held(region: &Region) -> Vec<TxId> {
    region.table().prepared().into_iter().map(|(tx, _)| tx).collect()
}

fn pair() -> (Region, Region) {
    (Region::new(1, Writers::One), Region::new(2, Writers::One))
}

#[test]
fn a_prepared_change_outlives_a_restart_and_ends_with_its_entry() {
    let (a, mut b) = pair();
    let (one, two, three) = (tx(1, 5, 1), tx(1, 5, 2), tx(1, 5, 3));
    for tx in [one, two, three] {
        prepare(&b, tx).unwrap();
    }
    b.restart();
    let kept = [one, two, three].map(|tx| (tx, change(tx.number)));
    assert_eq!(b.table().prepared(), kept);
    // Not in the order in which they were prepared, and two rows in one entry.
    write_prepared(&a, vec![two], vec![put(2, 1)]);
    write_prepared(&a, vec![one], vec![put(3, 1), put(4, 1)]);
    let entries = entries_after(&a.table(), Lsn(0));
    assert_eq!(entries.iter().map(|entry| entry.tx).collect::<Vec<_>>(), [Some(two), Some(one)]);
    send(&a, &b);
    assert_eq!(held(&b), [three]);
    // What comes late is known, and nothing is kept of it.
    prepare(&b, two).unwrap();
    assert_eq!(held(&b), [three]);
    b.restart();
    assert_eq!(held(&b), [three]);
    assert_eq!(a.rows(), b.rows());
}

#[test]
fn what_is_promised_or_settled_is_obeyed_after_a_restart_too() {
    let (a, mut b) = pair();
    prepare(&b, tx(1, 5, 1)).unwrap();
    let promised = b.table().promise(Term { epoch: 1, life: 7 });
    b.finish(promised).unwrap();
    b.restart();
    assert!(matches!(prepare(&b, tx(1, 6, 1)), Err(StoreError::Promised(_))));
    assert!(matches!(prepare(&b, tx(0, 9, 1)), Err(StoreError::Fenced { .. })));
    prepare(&b, tx(1, 7, 1)).unwrap();
    assert_eq!(held(&b), [tx(1, 5, 1), tx(1, 7, 1)]);
    let term = Term { epoch: 1, life: 7 };
    let settled = a.table().settle(term);
    assert_eq!(a.finish(settled).unwrap(), Lsn(1));
    assert_eq!(entries_after(&a.table(), Lsn(0))[0].body, EntryBody::Settled(term));
    send(&a, &b);
    assert_eq!(held(&b), [tx(1, 7, 1)]);
    b.restart();
    assert_eq!((held(&b), b.table().terms()), (vec![tx(1, 7, 1)], (term, term)));
    // Nobody who does not write says what is settled, and nobody of another epoch.
    assert!(b.finish(b.table().settle(term)).is_err());
    assert!(a.finish(a.table().settle(Term { epoch: 2, life: 1 })).is_err());
}

#[test]
fn judging_changes_nothing_and_gives_what_writing_would() {
    let (a, _) = pair();
    a.write(put(1, 1)).unwrap();
    let must_not_exist = CheckedChange {
        condition: Condition { existence: Existence::MustNotExist, columns: None },
        ..put(1, 2)
    };
    let end = a.table().durable_lsn();
    let judged = a.table().judge(vec![must_not_exist.clone(), put(2, 1)], false);
    let judged = a.finish(judged).unwrap();
    assert!(matches!(judged[0], Err(StoreError::Refused(_))) && judged[1].is_ok());
    let together = a.table().judge(vec![must_not_exist, put(2, 1)], true);
    let together = a.finish(together).unwrap();
    assert!(matches!(together[1], Err(StoreError::AbortedTogether)));
    assert_eq!((a.table().durable_lsn(), a.rows().len()), (end, 1));
    // The promise of a clock is not held up by what was only judged.
    assert!(a.store.promise() > a.table().durable_hlc());
}

/// What is prepared again of a tail.
fn made(entry: &Entry) -> Bytes {
    encode_entry(entry)
}

/// The second region writes from the next epoch on, after that entry; the first one is sealed.
fn overtake(a: &Region, b: &Region, after: Lsn) {
    let epoch = Epoch(a.table().epoch().0 + 1);
    a.finish(a.table().fence(epoch)).unwrap();
    b.finish(b.table().open_granted(epoch, after)).unwrap();
}

pub(super) fn copy_all(from: &Region, to: &Region) {
    let snapshot = from.table().snapshot().unwrap();
    let done = copy_done(from, &snapshot, snapshot.spec().clone());
    let all = EncodedKey::default();
    let pending = to.table().replace_range(&all, None, from.rows(), &[], Some(done), None);
    to.finish(pending).unwrap();
}

/// What a copy leaves behind that began with that snapshot.
fn copy_done(from: &Region, first: &TableSnapshot, table: TableSpec) -> CopyDone {
    CopyDone {
        origin: from.origin,
        epoch: from.table().epoch(),
        lsn: first.lsn(),
        hlc: first.hlc(),
        vector: first.vector(),
        lives: Vec::new(),
        expiry: Vec::new(),
        made: Some(first.made().to_vec()),
        settled: Some(first.spec().settled),
        atomics: Default::default(),
        table: Some(table),
        rules: None,
    }
}

#[test]
fn what_a_tail_held_is_prepared_again_and_made_as_it_was() {
    let (mut a, b) = pair();
    let txs = [tx(1, 5, 1), tx(1, 5, 2), tx(1, 5, 3)];
    write_prepared(&a, vec![txs[0]], vec![increment(1)]);
    send(&a, &b);
    write_prepared(&a, vec![txs[1]], vec![increment(1)]);
    write_prepared(&a, vec![txs[2]], vec![put(2, 7), delete(3)]);
    // Nothing of who writes.
    assert!(a.finish(a.table().prepare_again(Lsn(1), made)).is_err());
    overtake(&a, &b, Lsn(1));
    for _ in 0..2 {
        assert!(a.finish(a.table().prepare_again(Lsn(1), made)).unwrap());
        assert_eq!(held(&a), txs[1..]);
        a.restart();
        assert_eq!(held(&a), txs[1..]);
    }
    let found = a.table().prepared();
    // The other region makes one of them; then the first one is made like it.
    let entry = decode_entry(&found[0].1).unwrap();
    b.finish(b.table().write_again(&entry)).unwrap();
    assert_eq!(integer(b.table().get(&key(1).encode()).unwrap().as_ref(), "n"), Some(2));
    let newest = entries_after(&b.table(), Lsn(0)).pop().unwrap();
    assert_eq!((newest.tx, newest.epoch), (Some(txs[1]), Epoch(2)));
    let EntryBody::Rows(deltas) = &newest.body else { panic!("{newest:?}") };
    assert_eq!(deltas[0].delta.stamp_max(), Some(newest.stamp));
    copy_all(&b, &a);
    assert_eq!((held(&a), a.rows()), (vec![txs[2]], b.rows()));
    // It comes by the log.
    let entry = decode_entry(&found[1].1).unwrap();
    b.finish(b.table().write_again(&entry)).unwrap();
    send(&b, &a);
    assert_eq!((held(&a), a.rows()), (Vec::new(), b.rows()));
    assert_eq!(integer(a.table().get(&key(2).encode()).unwrap().as_ref(), "v"), Some(7));
    // What changes no rows, or was not prepared, is not made again.
    let opening = entries_after(&b.table(), Lsn(1)).remove(0);
    assert!(b.finish(b.table().write_again(&opening)).is_err());
}

#[test]
fn a_tail_that_is_not_all_there_or_too_large_is_not_prepared_again() {
    let (a, b) = pair();
    for number in 1..=3 {
        write_prepared(&a, vec![tx(1, 5, number)], vec![put(number as i64, 1)]);
    }
    overtake(&a, &b, Lsn(0));
    let large = |_: &Entry| Bytes::from(vec![0; PREPARED_BYTES_MAX / 3 + 1]);
    assert!(!a.finish(a.table().prepare_again(Lsn(0), large)).unwrap());
    assert_eq!(held(&a), []);
    // Two of them fit.
    assert!(a.finish(a.table().prepare_again(Lsn(1), large)).unwrap());
    assert_eq!(held(&a), [tx(1, 5, 2), tx(1, 5, 3)]);
    assert!(!a.finish(a.table().prepare_again(Lsn(0), large)).unwrap());
    drop(a.table().trim_log(Lsn(1)));
    a.finish(a.table().promise(Term { epoch: 2, life: 1 })).unwrap();
    assert!(!a.finish(a.table().prepare_again(Lsn(0), made)).unwrap());
    assert_eq!(held(&a), [tx(1, 5, 2), tx(1, 5, 3)]);
}

/// The tail had settled a later term than the log that takes its place.
#[test]
fn after_a_copy_what_is_settled_is_what_is_settled_there() {
    let (mut a, b) = pair();
    let (one, two) = (tx(1, 5, 1), tx(1, 5, 2));
    prepare(&b, one).unwrap();
    write_prepared(&a, vec![one], vec![put(1, 1)]);
    let late = Term { epoch: 1, life: 9 };
    a.finish(a.table().settle(late)).unwrap();
    overtake(&a, &b, Lsn(0));
    assert!(a.finish(a.table().prepare_again(Lsn(0), made)).unwrap());
    copy_all(&b, &a);
    assert_eq!((held(&a), a.table().terms().1), (vec![one], Term::default()));
    a.restart();
    assert_eq!((held(&a), a.table().spec().settled), (vec![one], Term::default()));
    // What comes by the log is known, so that whoever copies this region knows it, too.
    write_prepared(&b, vec![two], vec![put(2, 1)]);
    send(&b, &a);
    assert_eq!(a.table().snapshot().unwrap().made(), [(two.term, 2, 2)]);
}

/// A copy that was broken off goes on from newer rows, and the log from the first ones: what is
/// void by the newer ones may have been made between, and elsewhere nowhere.
#[test]
fn a_copy_that_went_on_voids_only_what_was_void_where_its_log_begins() {
    let (a, b) = pair();
    let (void, kept) = (tx(1, 5, 1), tx(1, 6, 1));
    a.finish(a.table().settle(Term { epoch: 1, life: 6 })).unwrap();
    for tx in [void, kept] {
        prepare(&b, tx).unwrap();
    }
    let first = a.table().snapshot().unwrap();
    write_prepared(&a, vec![kept], vec![put(1, 1)]);
    a.finish(a.table().settle(Term { epoch: 1, life: 7 })).unwrap();
    let done = copy_done(&a, &first, a.table().spec());
    let all = EncodedKey::default();
    let copied = b.table().replace_range(&all, None, a.rows(), &[], Some(done), None);
    b.finish(copied).unwrap();
    assert_eq!(held(&b), [kept]);
    send(&a, &b);
    assert_eq!((held(&b), b.rows()), (Vec::new(), a.rows()));
    assert_eq!(b.table().terms().1, Term { epoch: 1, life: 7 });
}
