//! Changes that are prepared in other regions before they are written.

use bytes::Bytes;
use isthmus_model::commit::{Term, TxId};
use isthmus_model::entry::EntryBody;

use super::*;

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
