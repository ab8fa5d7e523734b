//! Column families: cells expire and are trimmed by family, alike in all regions, and what had
//! expired stays so.

use isthmus_model::family::{Families, Family, FamilyTime};
use isthmus_model::row::{Column, EXPIRY_BUCKET_MILLIS};

use super::digest::{check_digest, lanes};
use super::*;

const DAY: u32 = 86_400;
const DAY_MILLIS: i64 = 86_400_000;

/// The families with one of that column, which has its name.
pub(crate) fn set(
    families: &Families,
    column: &str,
    time_to_live: FamilyTime,
    max_versions: Option<u32>,
) -> Families {
    let mut list = families.list().to_vec();
    match list.iter_mut().find(|family| family.name.as_str() == column) {
        Some(family) => family.time_to_live = time_to_live,
        None => list.push(Family {
            name: column.into(),
            columns: vec![column.into()],
            prefix: None,
            time_to_live,
            max_versions,
        }),
    }
    Families::new(list)
}

fn change_options(region: &Region, change: impl FnOnce(&mut TableOptions)) {
    let pending = region.table().change_schema(|schema| {
        let mut schema = schema.clone();
        change(&mut schema.options);
        Ok(schema)
    });
    region.finish(pending).unwrap();
}

fn set_time(region: &Region, column: &str, time_to_live: FamilyTime) {
    change_options(region, |options| {
        options.families = set(&options.families, column, time_to_live, None);
    });
}

/// Lets time pass, logs what has expired, sweeps and keeps the digest up.
fn pass(region: &Region, millis: i64) {
    region.clock.advance(millis);
    region.store.expire_step();
    while region.store.commit_step() {}
    upkeep(region);
}

fn upkeep(region: &Region) {
    // More than lies between two passes of the sweep.
    region.clock.advance(700_000);
    while region.store.sweep_step() || region.store.digest_step() {
        while region.store.commit_step() {}
    }
    while region.store.commit_step() {}
    check_digest(region);
}

/// The columns that a row shows now, and those that are still on the disk.
fn columns(region: &Region, number: i64) -> (Vec<String>, Vec<String>) {
    let names = |columns: Vec<&Column>| {
        columns.iter().map(|column| column.name.as_str().to_owned()).collect()
    };
    let row = region.table().get(&key(number).encode()).unwrap().unwrap_or_default();
    let view = region.table().view(region.clock.wall_millis());
    let shown = row.columns.iter().filter(|column| view.versions(column).next().is_some());
    (names(shown.collect()), names(row.columns.iter().collect()))
}

fn two(number: i64) -> CheckedChange {
    change(number, RowAction::Put(vec![cell("a", number), cell("b", number)]))
}

#[test]
fn a_family_expires_by_its_own_time_from_reads_disk_and_digest() {
    let region = Region::new(1, Writers::One);
    set_time(&region, "a", FamilyTime::Seconds(DAY));
    region.write(two(1)).unwrap();
    pass(&region, DAY_MILLIS + 1);
    assert_eq!(columns(&region, 1).0, ["b"], "reads go by the clock");
    pass(&region, EXPIRY_BUCKET_MILLIS);
    assert_eq!(columns(&region, 1), (vec!["b".into()], vec!["b".into()]));
    pass(&region, 100 * DAY_MILLIS);
    assert_eq!(columns(&region, 1).1, ["b"]);
}

#[test]
fn a_family_outlives_its_table() {
    let region = Region::new(1, Writers::One);
    change_options(&region, |options| options.time_to_live_seconds = Some(DAY));
    set_time(&region, "a", FamilyTime::Forever);
    set_time(&region, "b", FamilyTime::AsTable);
    region.write(two(1)).unwrap();
    pass(&region, DAY_MILLIS + EXPIRY_BUCKET_MILLIS);
    let row = region.table().get(&key(1).encode()).unwrap().unwrap();
    assert_eq!(columns(&region, 1), (vec!["a".into()], vec!["a".into()]));
    assert_eq!(row.marker, None, "the marker lives as the table says");
}

#[test]
fn what_has_expired_in_a_family_stays_so_whatever_becomes_of_it() {
    let region = Region::new(1, Writers::One);
    set_time(&region, "a", FamilyTime::Seconds(DAY));
    region.write(two(1)).unwrap();
    region.clock.advance(DAY_MILLIS + 5);
    region.write(two(2)).unwrap();
    for time in [FamilyTime::Forever, FamilyTime::AsTable, FamilyTime::Seconds(3 * DAY)] {
        set_time(&region, "a", time);
        assert_eq!(columns(&region, 1).0, ["b"], "{time:?}");
        assert_eq!(columns(&region, 2).0, ["a", "b"], "{time:?}");
        upkeep(&region);
    }
}

#[test]
fn what_has_expired_in_the_table_does_not_come_back_in_a_new_family() {
    let region = Region::new(1, Writers::One);
    change_options(&region, |options| options.time_to_live_seconds = Some(DAY));
    region.write(two(1)).unwrap();
    region.clock.advance(DAY_MILLIS + 5);
    set_time(&region, "a", FamilyTime::Forever);
    assert_eq!(columns(&region, 1).0, Vec::<String>::new());
    upkeep(&region);
    assert_eq!(columns(&region, 1).0, Vec::<String>::new());
}

#[test]
fn versions_are_kept_by_family() {
    let region = Region::new(1, Writers::One);
    change_options(&region, |options| {
        options.max_versions = 1;
        options.families = set(&options.families, "a", FamilyTime::AsTable, Some(3));
    });
    for value in 0..5 {
        region.clock.advance(10);
        region.write(update(1, "a", value)).unwrap();
        region.write(update(1, "b", value)).unwrap();
    }
    let row = region.table().get(&key(1).encode()).unwrap().unwrap();
    let kept = |name: &str| row.column(name.as_bytes()).unwrap().cells.len();
    assert_eq!((kept("a"), kept("b")), (3, 1));
}

#[test]
fn regions_agree_through_the_expiry_of_families() {
    for writers in [Writers::One, Writers::ManyByColumn] {
        let (first, second) = (Region::new(1, writers), Region::new(2, writers));
        set_time(&first, "a", FamilyTime::Seconds(DAY));
        for number in 0..50 {
            first.write(two(number)).unwrap();
        }
        ship(&first, &second, Origin(1)).unwrap();
        for region in [&first, &second] {
            region.clock.advance(DAY_MILLIS + EXPIRY_BUCKET_MILLIS);
        }
        assert!(first.store.expire_step());
        assert!(!second.store.expire_step(), "only the base says what has expired");
        while first.store.commit_step() {}
        ship(&first, &second, Origin(1)).unwrap();
        // One has swept, the other has not.
        upkeep(&first);
        while second.store.digest_step() {
            while second.store.commit_step() {}
        }
        check_digest(&second);
        assert_ne!(first.rows(), second.rows());
        let live = |region: &Region| {
            let kills =
                |lane: &isthmus_digest::Lane| matches!(lane, isthmus_digest::Lane::Kills(_));
            let mut lanes = lanes(&region.table());
            lanes.retain(|(lane, ..)| !kills(lane));
            lanes
        };
        assert_eq!(live(&first), live(&second));
        upkeep(&second);
        assert_eq!(live(&first), live(&second));
    }
}
