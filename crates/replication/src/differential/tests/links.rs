//! What links between whole stores ship, and when.

use super::*;
use crate::timing::Timing;

/// Makes an entry of region 3 durable, which has come from it.
fn take(region: &Region, lsn: u64, moment: Hlc) {
    let stamp = Stamp { hlc: moment, origin: Origin(3) };
    let entry = Entry {
        lsn: Lsn(lsn),
        epoch: Epoch(1),
        stamp,
        origin_lsn: Lsn(lsn),
        schema: SchemaNumber(1),
        seen: None,
        tx: None,
        batch: None,
        body: EntryBody::Rows(vec![RowDelta { key: key(1), delta: row(1, stamp, false) }]),
    };
    drop(region.table.apply(Origin(3), Epoch(1), Lsn(lsn - 1), Lsn(lsn), vec![entry]));
    while region.store.commit_step() {}
}

/// A link from region 1 to region 2.
fn link(here: &Region, peer: &Region, terms: &Terms) -> (Outbound, Inbound) {
    let mut outbound = Outbound::new(here.shared(1, FORMAT), Origin(2));
    outbound.open(PARTITION, here.table.clone(), terms);
    outbound.connected(PUSH);
    let assigned = Arc::new(Replica(peer.table.clone()));
    (outbound, Inbound::new(peer.shared(2, FORMAT), assigned, PUSH))
}

fn peers() -> [Region; 2] {
    [1, 2].map(|number| Region::new(number, Writers::ManyByColumn, Vec::new(), 0))
}

#[test]
fn what_a_region_that_has_left_gave_to_some_comes_to_all() {
    let [here, peer] = peers();
    take(&here, 1, hlc(1));
    let (mut outbound, mut inbound) = link(&here, &peer, &Terms::default());
    let members = |numbers: &[u8]| numbers.iter().map(|number| Origin(*number)).collect();
    outbound.members(PARTITION, members(&[1, 2, 3]));
    exchange(&mut outbound, &mut inbound, &peer);
    assert_eq!(outbound.report(PARTITION).unwrap().state, State::Following);
    assert_eq!(peer.rows(), [], "the region itself ships it");
    outbound.members(PARTITION, members(&[1, 2]));
    exchange(&mut outbound, &mut inbound, &peer);
    assert_eq!(outbound.report(PARTITION).unwrap().state, State::Following);
    assert_eq!((peer.rows().len(), peer.rows()), (1, here.rows()));
}

#[test]
fn an_entry_that_is_old_enough_takes_no_younger_one_along() {
    let [here, peer] = peers();
    let now = StoppedClock.wall_millis();
    take(&here, 1, Hlc::from_millis(now - 20_000));
    take(&here, 2, Hlc::from_millis(now - 1_000));
    let timing = Timing::Delayed(Duration::from_secs(10));
    let (mut outbound, mut inbound) = link(&here, &peer, &Terms { timing, ..Terms::default() });
    exchange(&mut outbound, &mut inbound, &peer);
    outbound.tick();
    exchange(&mut outbound, &mut inbound, &peer);
    let report = outbound.report(PARTITION).unwrap();
    assert_eq!((report.shipped, report.acked), (Lsn(1), Some(Lsn(1))), "{report:?}");
}

#[test]
fn once_enough_waits_all_of_it_goes() {
    let [here, peer] = peers();
    let timing = Timing::Triggered { entries: Some(3), bytes: None };
    let (mut outbound, mut inbound) = link(&here, &peer, &Terms { timing, ..Terms::default() });
    exchange(&mut outbound, &mut inbound, &peer);
    for (lsn, goes) in [(1, 0), (2, 0), (3, 3), (4, 3)] {
        take(&here, lsn, hlc(lsn));
        outbound.appended(PARTITION, here.table.durable_lsn());
        exchange(&mut outbound, &mut inbound, &peer);
        let report = outbound.report(PARTITION).unwrap();
        assert_eq!(report.shipped, Lsn(goes), "{report:?}");
    }
}

fn has_alone(region: &Region) {
    drop(region.store.set_writing(TableId(257), Writing::Accept, Writers::One, Epoch(1)));
    while region.store.commit_step() {}
}

fn logs_something(region: &Region) {
    drop(region.table.change_schema(|schema| Ok(schema.clone())));
    while region.store.commit_step() {}
}

/// It has the table alone, and its record does not tell of that yet.
#[test]
fn a_replica_that_is_being_unbound_does_not_stop_the_writer() {
    let [here, peer] = [1, 2].map(|number| Region::new(number, Writers::One, Vec::new(), 0));
    has_alone(&here);
    let shared = here.shared(1, FORMAT);
    let put_backs = shared.put_backs.clone();
    let mut outbound = Outbound::new(shared, Origin(2));
    outbound.open(PARTITION, here.table.clone(), &Terms::default());
    let assigned = Arc::new(Replica(peer.table.clone()));
    let inbound = || Inbound::new(peer.shared(2, FORMAT), assigned.clone(), PUSH);
    outbound.connected(PUSH);
    let mut stream = inbound();
    exchange(&mut outbound, &mut stream, &peer);
    assert_eq!(outbound.report(PARTITION).unwrap().state, State::Following);
    has_alone(&peer);
    logs_something(&here);
    assert_eq!(here.table.durable_lsn(), Lsn(1));
    outbound.appended(PARTITION, here.table.durable_lsn());
    exchange(&mut outbound, &mut stream, &peer);
    let goes_on = || {
        while here.store.commit_step() {}
        here.table.writer_word().accepts && !put_backs.is_put_back(PARTITION)
    };
    let report = outbound.report(PARTITION).unwrap();
    assert!(report.state == State::Opening && goes_on(), "{report:?}");
    // What it makes by itself says nothing of what the writer has made.
    (0..3).for_each(|_| logs_something(&peer));
    outbound.disconnected(PUSH, "lost");
    outbound.connected(PUSH);
    exchange(&mut outbound, &mut inbound(), &peer);
    let report = outbound.report(PARTITION).unwrap();
    assert!(report.state == State::Opening && goes_on(), "{report:?}");
}
