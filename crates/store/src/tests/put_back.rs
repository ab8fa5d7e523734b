//! Old disks that were put back.

use isthmus_model::change::Direction;
use isthmus_model::hlc::Hlc;

use super::replicas::copy;
use super::*;
use crate::engine::{Batch, Space};

/// What is on a region's disk.
fn disk_of(region: &Region) -> Batch {
    let snapshot = region.engine.snapshot().unwrap();
    let mut batch = Batch::default();
    for space in Space::ALL {
        for pair in snapshot.scan(space, &[], None, Direction::Forward) {
            let (key, value) = pair.unwrap();
            batch.put(space, key, value);
        }
    }
    batch
}

/// The region started from an old disk.
fn put_back(region: &Region, disk: Batch) -> Region {
    let engine = Arc::new(FaultyEngine::new(9, FaultOdds::default()));
    engine.commit(disk).unwrap();
    let (clock, origin) = (region.clock.clone(), region.origin);
    let store = open(engine.clone(), clock.clone(), origin);
    Region { origin, engine, clock, store }
}

/// After a crash the clock starts so far ahead.
const PAUSE_MILLIS: i64 = 10_000;

/// Sends what `to` lacks of what `from` has made, and of which life it is.
fn follow(from: &Region, to: &Region) {
    from.clock.advance(PAUSE_MILLIS);
    to.clock.advance(PAUSE_MILLIS);
    to.table().meet(from.table().life());
    ship(from, to, from.origin).unwrap();
}

/// What `holder` holds of the log of `of`, and by which life.
fn held(holder: &Region, of: &Region) -> (Hlc, Lsn) {
    (holder.table().life_met(of.origin), holder.table().watermark(of.origin).0)
}

#[test]
fn restarts_continue_what_others_hold() {
    let (mut a, mut b) =
        (Region::new(1, Writers::ManyByColumn), Region::new(2, Writers::ManyByColumn));
    for n in 0..4 {
        a.write(put(n, n)).unwrap();
        follow(&a, &b);
        let (life, lsn) = held(&b, &a);
        assert_eq!(life, a.table().life().hlc);
        for _ in 0..2 {
            a.clock.advance(PAUSE_MILLIS);
            b.clock.advance(PAUSE_MILLIS);
            a.restart();
            assert!(a.table().life().hlc > life, "each start is a life");
            assert!(!a.table().lacks(life, lsn) && !a.table().has_made_entries());
        }
        b.restart();
        assert_eq!(held(&b, &a), (life, lsn), "it is at rest");
    }
}

#[test]
fn old_disk_among_several_writers_is_found_out_and_takes_back_what_others_hold() {
    let (a, b) = (Region::new(1, Writers::ManyByRow), Region::new(2, Writers::ManyByRow));
    a.write(put(1, 1)).unwrap();
    a.write(put(2, 2)).unwrap();
    follow(&a, &b);
    let old = disk_of(&a);
    a.clock.advance(PAUSE_MILLIS);
    a.write(put(3, 3)).unwrap();
    a.write(delete(1)).unwrap();
    follow(&a, &b);
    let a = put_back(&a, old);
    a.clock.advance(PAUSE_MILLIS);
    let (life, lsn) = held(&b, &a);
    assert!(a.table().lacks(life, lsn));
    // Written before it heard of that, in the place of what is lost.
    assert_eq!(a.write(put(4, 4)).unwrap().lsn, Lsn(3));
    let taken = a.table().take_back(life, lsn);
    a.finish(taken).unwrap();
    assert!(!a.table().lacks(life, lsn));
    assert_eq!(a.table().durable_lsn(), Lsn(5));
    b.clock.advance(2 * PAUSE_MILLIS);
    copy(&b, &a, 1);
    copy(&a, &b, 1);
    assert_eq!(a.rows(), b.rows());
    let shown = |n: i64| integer(a.table().get(&key(n).encode()).unwrap().as_ref(), "v");
    assert_eq!([1, 2, 3, 4].map(shown), [None, Some(2), Some(3), Some(4)]);
    assert!(a.write(put(5, 5)).unwrap().lsn > lsn, "no address is given twice");
    follow(&a, &b);
    assert_eq!(a.rows(), b.rows());
    assert_eq!(held(&b, &a).0, a.table().life().hlc);
}

#[test]
fn old_disk_of_the_only_writer_goes_on_after_what_a_replica_held() {
    let (a, b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    a.write(put(1, 1)).unwrap();
    follow(&a, &b);
    let old = disk_of(&a);
    for n in 2..5 {
        a.write(put(n, n)).unwrap();
    }
    a.write(delete(1)).unwrap();
    follow(&a, &b);
    let mut a = put_back(&a, old);
    a.clock.advance(PAUSE_MILLIS);
    let (life, lsn) = held(&b, &a);
    assert!(a.table().lacks(life, lsn) && !a.table().has_made_entries());
    let refuse = a.store.set_writing(TABLE, Writing::Refuse, Writers::One, Epoch(1));
    a.finish(refuse).unwrap();
    copy(&b, &a, 2);
    let taken = a.table().take_back(life, lsn);
    a.finish(taken).unwrap();
    let accept = a.store.set_writing(TABLE, Writing::Accept, Writers::One, Epoch(1));
    a.finish(accept).unwrap();
    assert_eq!(a.write(put(9, 9)).unwrap().lsn, lsn.next());
    follow(&a, &b);
    assert_eq!(a.rows(), b.rows());
    a.restart();
    assert!(!a.table().lacks(held(&b, &a).0, held(&b, &a).1));
}
