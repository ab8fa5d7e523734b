//! How the writer of a table with one writer changes.

use isthmus_model::entry::EntryBody;

use super::*;
use crate::WriterWord;

/// Sends all that `to` lacks of `from`, under the epoch that `from` obeys.
fn send(from: &Region, to: &Region) -> Result<(), StoreError> {
    let have = to.table().durable_lsn();
    let until = from.table().durable_lsn().max(have);
    let entries = entries_after(&from.table(), have);
    let pending = to.table().apply(from.origin, from.table().epoch(), have, until, entries);
    to.finish(pending)
}

fn hand_over(from: &Region, to: &Region) -> Result<Lsn, StoreError> {
    let pending = from.table().hand_over(to.origin);
    from.finish(pending)
}

fn open_epoch(region: &Region) -> Result<Epoch, StoreError> {
    let pending = region.table().open_epoch();
    region.finish(pending)
}

fn pair() -> (Region, Region) {
    (Region::new(1, Writers::One), Region::new(2, Writers::One))
}

fn is_fenced<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotWritable { .. } | StoreError::Fenced { .. }))
}

#[test]
fn successor_opens_the_next_epoch_when_it_holds_the_last_entry() {
    let (mut a, mut b) = pair();
    a.write(put(1, 1)).unwrap();
    assert!(is_fenced(open_epoch(&b)));
    let last = hand_over(&a, &b).unwrap();
    assert_eq!(last, Lsn(2));
    assert!(is_fenced(a.write(put(2, 2))) && is_fenced(hand_over(&a, &b)));
    a.restart();
    assert!(is_fenced(a.write(put(2, 2))) && is_fenced(open_epoch(&a)));
    assert!(is_fenced(open_epoch(&b)));
    send(&a, &b).unwrap();
    assert!(!b.table().was_handed_over_at_start());
    b.restart();
    assert!(b.table().was_handed_over_at_start());
    assert!(is_fenced(b.write(put(2, 2))));
    assert_eq!(open_epoch(&b).unwrap(), Epoch(2));
    b.restart();
    assert!(is_fenced(open_epoch(&b)));
    assert_eq!(b.write(put(2, 2)).unwrap().lsn, Lsn(4));
    // A new life stamps after what the one before may have stamped.
    a.clock.advance(3_000);
    send(&b, &a).unwrap();
    assert_eq!(a.rows(), b.rows());
    let word = a.table().writer_word();
    let epoch = Epoch(2);
    let expected = WriterWord { epoch, writer: b.origin, successor: None, accepts: false };
    assert_eq!(word, expected);
    let bodies: Vec<EntryBody> =
        entries_after(&a.table(), Lsn(1)).into_iter().map(|entry| entry.body).collect();
    assert!(matches!(bodies[0], EntryBody::Handover(_)) && bodies[1] == EntryBody::Opening);
}

#[test]
fn table_goes_back_and_numbers_given_go_on() {
    let (a, b) = pair();
    hand_over(&a, &b).unwrap();
    send(&a, &b).unwrap();
    open_epoch(&b).unwrap();
    b.write(put(1, 1)).unwrap();
    send(&b, &a).unwrap();
    hand_over(&b, &a).unwrap();
    // What is fenced by now brings nothing.
    send(&b, &a).unwrap();
    assert_eq!(open_epoch(&a).unwrap(), Epoch(3));
    a.write(put(1, 2)).unwrap();
    assert!(is_fenced(b.write(put(1, 3))));
    send(&a, &b).unwrap();
    assert_eq!(a.rows(), b.rows());
}

#[test]
fn what_is_left_of_an_earlier_binding_names_nobody() {
    let (a, b) = pair();
    hand_over(&a, &b).unwrap();
    send(&a, &b).unwrap();
    b.finish(b.store.forget_writer(TABLE, Origin(3), Epoch(1))).unwrap();
    let word = b.table().writer_word();
    let expected =
        WriterWord { epoch: Epoch(1), writer: Origin(3), successor: None, accepts: false };
    assert_eq!(word, expected);
    assert!(is_fenced(open_epoch(&b)) && is_fenced(b.write(put(1, 1))));
}

#[test]
fn who_opened_an_epoch_is_known_though_its_end_comes_with_it() {
    let (a, b) = pair();
    let c = Region::new(3, Writers::One);
    hand_over(&a, &b).unwrap();
    send(&a, &b).unwrap();
    open_epoch(&b).unwrap();
    hand_over(&b, &a).unwrap();
    send(&b, &c).unwrap();
    let word = c.table().writer_word();
    let expected =
        WriterWord { epoch: Epoch(2), writer: b.origin, successor: Some(a.origin), accepts: false };
    assert_eq!(word, expected);
    assert_eq!(word.next_writer(), a.origin);
}

#[test]
fn handover_of_long_ago_opens_nothing() {
    let (a, b) = pair();
    hand_over(&a, &b).unwrap();
    send(&a, &b).unwrap();
    open_epoch(&b).unwrap();
    send(&b, &a).unwrap();
    // A region with an empty disk takes the log again, and has come to the handover.
    let again = Region::new(2, Writers::One);
    let entries = entries_after(&a.table(), Lsn(0));
    let pending =
        again.table().apply(a.origin, a.table().epoch(), Lsn(0), Lsn(1), entries[..1].to_vec());
    again.finish(pending).unwrap();
    assert_eq!(again.table().writer_word().successor, Some(Origin(2)));
    assert!(is_fenced(open_epoch(&again)));
}

#[test]
fn crash_before_the_handover_is_durable_leaves_the_writer() {
    let (mut a, b) = pair();
    a.write(put(1, 1)).unwrap();
    let pending = a.table().hand_over(b.origin);
    // Nothing is accepted from that moment on, though it is not durable yet.
    let mut write = a.table().write(vec![put(1, 2)], false);
    assert!(matches!(write.try_take(), Some(Err(StoreError::NotWritable { .. }))));
    drop(pending);
    a.restart();
    a.write(put(1, 3)).unwrap();
}

#[test]
fn tables_with_several_writers_are_handed_over_to_nobody() {
    let many = Region::new(1, Writers::ManyByColumn);
    let pending = many.table().hand_over(Origin(2));
    assert!(matches!(many.finish(pending), Err(StoreError::BadSchema(_))));
}

#[test]
fn what_others_wrote_between_is_not_taken_for_lost() {
    let (mut a, b) = pair();
    let c = Region::new(3, Writers::One);
    // c has met the life in which a wrote first.
    a.write(put(1, 1)).unwrap();
    c.table().meet(a.table().life());
    send(&a, &c).unwrap();
    hand_over(&a, &b).unwrap();
    send(&a, &b).unwrap();
    open_epoch(&b).unwrap();
    assert_eq!(b.table().life().origin, b.origin);
    b.write(put(1, 2)).unwrap();
    send(&b, &a).unwrap();
    a.clock.advance(10_000);
    a.restart();
    b.write(put(1, 3)).unwrap();
    hand_over(&b, &a).unwrap();
    for to in [&a, &c] {
        to.table().meet(b.table().life());
        send(&b, to).unwrap();
        assert_eq!(to.table().life(), b.table().life());
    }
    open_epoch(&a).unwrap();
    assert_eq!(a.table().life().origin, a.origin);
    let (life, held) = (c.table().life_met(a.origin), c.table().durable_lsn());
    assert!(life < a.table().life().hlc && !a.table().lacks(life, held));
    // Of this epoch it is noticed as ever.
    assert!(a.table().lacks(life, held.next()));
}
