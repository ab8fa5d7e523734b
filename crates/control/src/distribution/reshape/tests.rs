use isthmus_model::key::{KeyKind, KeyValue};
use isthmus_model::value::Text;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::automatic::{
    Choice, LOAD_PARTITIONS_MAX, LOAD_REST_MILLIS, Measure, REST_MILLIS, VAIN_REST_MILLIS, Wanted,
    choose_point,
};
use super::*;
use crate::distribution::wish::{Named, Wish};
use crate::distribution::{Member, Only, Place, Rule};
use crate::global_table::{Progress, Serve, Sync};

const ASKED: (Why, i64) = (Why::Asked, 7);

fn table(by: By, change: impl FnOnce(&mut Wish)) -> Distribution {
    let mut wish = Wish {
        by,
        partitions: (by == By::Hash).then_some(4),
        replicas: 2,
        regions: Vec::new(),
        place: Place::Balanced,
        weights: Default::default(),
        keep: Vec::new(),
        split_points: Vec::new(),
        seed: None,
        moves_at_once: None,
    };
    change(&mut wish);
    let key = KeyKind::String;
    let named = Named { name: "t", id: "ds-1", base: "r1", key, seed: 9, spec: "", replaces: None };
    let member = |n: usize| Member { name: format!("r{n}"), weight: 1, labels: Default::default() };
    let known: Vec<Member> = (1..=3).map(member).collect();
    let mut table = wish.plan(named, &known).unwrap();
    table.state = State::Active;
    table.partitions.iter_mut().for_each(|partition| partition.made = true);
    table
}

fn ranges(points: &[&str]) -> Distribution {
    table(By::Range, |wish| wish.split_points = points.iter().map(|p| (*p).to_owned()).collect())
}

fn point(text: &str) -> Point {
    Point::of_key(&KeyValue::String(Text::from(text)))
}

/// A global table that is held by these regions, of which the first writes.
fn held_by(regions: &[String]) -> GlobalTable {
    let (first, others) = regions.split_first().unwrap();
    let mut table = GlobalTable::new("t/0001", 1, first, Sync::Row, Serve::PrimarySecondary);
    for region in others {
        table = table.with_replica(region, false, 0).unwrap();
        table.advance(region, Progress::Active, 0).unwrap();
    }
    table
}

#[test]
fn a_split_takes_the_place_of_its_partition_in_one_version() {
    let before = ranges(&["m"]);
    let planned = before.with_split(0, &point("g"), ASKED).unwrap();
    planned.check().unwrap();
    assert_eq!(planned.partitions, before.partitions, "what is planned serves nobody");
    let after = planned.reshaped(9).unwrap();
    after.check().unwrap();
    let numbers: Vec<u32> = after.partitions.iter().map(|partition| partition.number).collect();
    assert_eq!(numbers, [2, 3, 1]);
    assert_eq!((after.version, after.reshape.is_none()), (planned.version + 1, true));
    assert_eq!(after.partitions[1].from, point("g"));
    assert_eq!(after.partitions[0].primary, before.partitions[0].primary);
    // Numbers are never given again.
    let again = after.with_split(3, &point("h"), ASKED).unwrap().reshaped(9).unwrap();
    let merged = again.with_merge([4, 5], ASKED).unwrap();
    assert_eq!(merged.reshape.as_ref().unwrap().id(), 6);
    let merged = merged.reshaped(9).unwrap();
    assert_eq!(merged.with_split(1, &point("x"), ASKED).unwrap().reshape.unwrap().id(), 7);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let before = ranges(&["g", "m"]);
    let why = |result: Result<Distribution, DistributionError>| result.unwrap_err().0;
    assert!(why(before.with_split(9, &point("a"), ASKED)).contains("no partition 9"));
    assert!(why(before.with_split(1, &point("g"), ASKED)).contains("not within"));
    assert!(why(before.with_split(1, &point("m"), ASKED)).contains("not within"));
    assert!(why(before.with_merge([0, 2], ASKED)).contains("where the other begins"));
    assert!(why(before.with_merge([1, 1], ASKED)).contains("where the other begins"));
    let busy = before.with_split(1, &point("h"), ASKED).unwrap();
    assert!(why(busy.with_split(0, &point("a"), ASKED)).contains("cancel it"));
    assert!(why(busy.rebalanced(&Default::default(), &[])).contains("cancel it"));
    let mut moving = before.clone();
    moving.partitions[1].moving = true;
    assert!(why(moving.with_split(1, &point("h"), ASKED)).contains("being moved"));
    let only = Only::Regions(vec!["r1".to_owned(), "r2".to_owned()]);
    let ruled = table(By::Range, |wish| {
        wish.split_points = vec!["a".to_owned()];
        wish.keep = vec![Rule { prefix: "de".to_owned(), only }];
    });
    assert!(why(ruled.with_merge([1, 2], ASKED)).contains("different rules"));
    let hashed = table(By::Hash, |_| {});
    assert!(why(hashed.point_named("user").map(|_| hashed.clone())).contains("16 hexadecimal"));
}

#[test]
fn a_merge_brings_its_partitions_together_first() {
    let mut before = table(By::Hash, |_| {});
    before.partitions[0].held = vec!["r1".to_owned(), "r2".to_owned()];
    before.partitions[0].primary = "r2".to_owned();
    before.partitions[1].held = vec!["r1".to_owned(), "r3".to_owned()];
    before.partitions[1].primary = "r1".to_owned();
    let planned = before.with_merge([1, 0], ASKED).unwrap();
    let other = &planned.partitions[1];
    assert_eq!((other.wanted.join(" "), other.moving), ("r2 r1".to_owned(), true));
    let step = planned.reshape_step(|_| None, &[]);
    assert!(matches!(step, Some(ReshapeStep::Wait(why)) if why.contains("moves")));
    // Given up before it has moved: each writer is asked, and it moves back.
    let mut cancelled = planned.clone();
    cancelled.reshape.as_mut().unwrap().phase = Phase::Cancelling;
    let (one, two) = (held_by(&["r2".to_owned()]), held_by(&["r1".to_owned()]));
    let of =
        |number: u32| Some(Seen { table: if number == 0 { &one } else { &two }, ended_in: &[] });
    let both = ["r1".to_owned(), "r2".to_owned()];
    assert_eq!(cancelled.reshape_step(of, &[]), Some(ReshapeStep::Stop(both.to_vec())));
    cancelled.reshape.as_mut().unwrap().phase = Phase::Removing;
    let back = &cancelled.given_up(false).unwrap().partitions[1];
    assert_eq!((&back.wanted, back.moving), (&before.partitions[1].wanted, true));
    // No region leaves one that is written synchronously.
    let mut sync = before.clone();
    sync.mode = serde_json::from_str(r#"{"answers":"sync","form":"two-phase"}"#).unwrap();
    let refused = sync.with_merge([0, 1], ASKED).unwrap_err();
    assert!(refused.0.contains("another mode"));
    let after = planned.reshaped(9).unwrap();
    after.check().unwrap();
    assert_eq!(after.partitions.len(), 3);
    assert_eq!(after.end_of(0), before.end_of(1));
}

#[test]
fn a_part_of_what_was_too_much_is_written_elsewhere() {
    let mut before = table(By::Hash, |_| {});
    for partition in &mut before.partitions {
        partition.held = vec!["r1".to_owned(), "r2".to_owned()];
        partition.wanted = partition.held.clone();
        partition.primary = "r1".to_owned();
    }
    let from = before.partitions[1].from.clone();
    let at = from.middle(before.end_of(1));
    assert!((from.share(before.end_of(1)) - 0.25).abs() < 1e-9);
    let after = before.with_split(1, &at, (Why::Load, 7)).unwrap().reshaped(9).unwrap();
    let (one, other) = (&after.partitions[1], &after.partitions[2]);
    assert_eq!((one.sibling, other.sibling), (Some(other.number), Some(one.number)));
    assert!(!one.moving && one.wanted[0] == one.primary);
    assert_eq!(other.moving, other.wanted[0] != other.primary);
    assert!(other.moving, "another region writes fewer");
}

#[test]
fn a_part_of_what_was_hot_is_written_by_who_bears_least() {
    let mut before = table(By::Hash, |_| {});
    for (place, partition) in before.partitions.iter_mut().enumerate() {
        partition.held = vec!["r1".to_owned(), "r2".to_owned()];
        partition.wanted = partition.held.clone();
        partition.primary = if place == 1 { "r1" } else { "r2" }.to_owned();
    }
    let at = before.partitions[1].from.middle(before.end_of(1));
    let planned = before.with_split(1, &at, (Why::Load, 7)).unwrap();
    let writer = |of_others: f64| {
        let rate = |number: u32| if number == 1 { 900.0 } else { of_others };
        let after = planned.reshaped_by_load(9, rate).unwrap();
        after.partitions[2].wanted[0].clone()
    };
    assert_eq!(writer(1.0), "r2", "it writes more partitions, and bears less");
    assert_eq!(writer(100.0), "r2");
    assert_eq!(writer(200.0), "r1", "then it would bear more than both parts are");
}

#[test]
fn steps_follow_what_is() {
    let before = ranges(&["m"]);
    let mut planned = before.with_split(0, &point("g"), ASKED).unwrap();
    let regions = in_order(&before.partitions[0].primary, &before.partitions[0].held);
    let writer = regions[0].clone();
    let source = held_by(&regions);
    let (one, two) = (held_by(&regions), held_by(&regions[..1]));
    let ended = [writer.clone()];
    let step = |planned: &Distribution, found: &[(u32, &GlobalTable)], has_ended: bool| {
        let seen = |number: u32| {
            let (_, table) = found.iter().find(|(of, _)| *of == number)?;
            let ended_in = if has_ended && number == 0 { &ended[..] } else { &[] };
            Some(Seen { table, ended_in })
        };
        planned.reshape_step(seen, &[]).unwrap()
    };
    assert!(matches!(step(&planned, &[], false), ReshapeStep::Wait(_)));
    let made = ReshapeStep::Make(2, writer.clone());
    assert_eq!(step(&planned, &[(0, &source)], false), made);
    let made = ReshapeStep::Make(3, writer.clone());
    assert_eq!(step(&planned, &[(0, &source), (2, &one)], false), made);
    let bind = ReshapeStep::Bring(3, Step::Bind(regions[1].clone()));
    assert_eq!(step(&planned, &[(0, &source), (2, &one), (3, &two)], false), bind);
    // One that is on its way holds up no other.
    let mut copied = two.clone();
    copied = copied.with_replica(&regions[1], false, 0).unwrap();
    let made = ReshapeStep::Make(3, writer.clone());
    assert_eq!(step(&planned, &[(0, &source), (2, &copied)], false), made);
    let bind = ReshapeStep::Bring(3, Step::Bind(regions[1].clone()));
    assert_eq!(step(&planned, &[(0, &source), (2, &copied), (3, &two)], false), bind);
    let waits = step(&planned, &[(0, &source), (2, &copied), (3, &one)], false);
    assert!(matches!(waits, ReshapeStep::Wait(why) if why.contains("takes partition 2")));
    let all = [(0, &source), (2, &one), (3, &one)];
    assert_eq!(step(&planned, &all, false), ReshapeStep::Fill(writer.clone()));
    // What has ended is finished by whoever writes what goes on.
    let other: Vec<String> = regions.iter().rev().cloned().collect();
    let other = held_by(&other);
    let all = [(0, &source), (2, &other), (3, &other)];
    assert_eq!(step(&planned, &all, true), ReshapeStep::Fill(regions[1].clone()));
    // Where different regions write that, one comes to write all of it.
    let all = [(0, &source), (2, &other), (3, &one)];
    let bring = ReshapeStep::Bring(3, Step::Switchover(regions[1].clone()));
    assert_eq!(step(&planned, &all, true), bring);
    // What has ended goes on in one that was made before, whoever is silent now.
    assert!(matches!(step(&planned, &all[..2], true), ReshapeStep::Wait(_)));
    planned.reshape.as_mut().unwrap().phase = Phase::Cancelling;
    assert_eq!(step(&planned, &[(0, &source)], false), ReshapeStep::Stop(vec![writer]));
    assert_eq!(step(&planned, &[(0, &source)], true), ReshapeStep::Finish);
    planned.reshape.as_mut().unwrap().phase = Phase::Removing;
    assert_eq!(step(&planned, &[(0, &source), (3, &one)], false), ReshapeStep::Remove(3));
    assert_eq!(step(&planned, &[(0, &source)], false), ReshapeStep::Forget);
}

#[test]
fn what_is_silent_may_hold_what_is_not_seen() {
    let before = ranges(&["m"]);
    let mut planned = before.with_split(0, &point("g"), ASKED).unwrap();
    let held = &before.partitions[0].held;
    let source = held_by(&in_order(&before.partitions[0].primary, held));
    let other = (1..=3).map(|n| format!("r{n}")).find(|region| !held.contains(region)).unwrap();
    let of = |number: u32| (number == 0).then_some(Seen { table: &source, ended_in: &[] });
    let step = |planned: &Distribution, silent: &str| {
        planned.reshape_step(of, &[silent.to_owned()]).unwrap()
    };
    assert!(matches!(step(&planned, &held[1]), ReshapeStep::Wait(why) if why.contains("silent")));
    assert!(matches!(step(&planned, &other), ReshapeStep::Make(2, _)));
    // A region that is lost for good keeps nothing from being given up.
    planned.reshape.as_mut().unwrap().phase = Phase::Removing;
    assert_eq!(step(&planned, &held[1]), ReshapeStep::Forget);
    let after = planned.given_up(true).unwrap();
    after.check().unwrap();
    assert_eq!((after.given_up, after.reshape), (vec![2, 3], None));
    assert_eq!(planned.given_up(false).unwrap().given_up, Vec::<u32>::new());
    planned.given_up = (100..100 + GIVEN_UP_MAX as u32).collect();
    assert!(matches!(step(&planned, &held[1]), ReshapeStep::Wait(_)));
}

#[test]
fn a_point_divides_the_sample_and_one_key_cannot_be_divided() {
    let at =
        |texts: &[&str]| choose_point(&point("b"), texts.iter().map(|text| point(text)).collect());
    assert_eq!(at(&["b", "c", "d", "e"]), Choice::At(point("d")));
    assert_eq!(at(&["c", "c", "c", "d", "e"]), Choice::At(point("d")));
    assert_eq!(at(&["b", "b", "b", "b", "b", "c"]), Choice::OneKey(83));
    assert_eq!(at(&["c", "c", "c"]), Choice::OneKey(100));
    assert_eq!(at(&[]), Choice::Unknown);
}

#[test]
fn nothing_flaps() {
    let mut table = ranges(&["g", "m", "t"]);
    let measure = |bytes: u64, rate: f64| {
        move |_: u32| Measure { bytes: Some(bytes), rate, is_resting: false }
    };
    assert_eq!(table.wanted_reshape(measure(1 << 40, 1e9), 0), None, "nothing is set");
    table.limits = Limits {
        split_bytes: Some(100 << 20),
        split_rate: Some(1000),
        merge_bytes: Some(50 << 20),
    };
    table.limits.check().unwrap();
    let now = 10 * REST_MILLIS;
    let size = Some(Wanted::Split(3, Why::Size));
    assert_eq!(table.wanted_reshape(measure(200 << 20, 0.0), now), size);
    assert!(matches!(
        table.wanted_reshape(measure(1 << 20, 2000.0), now),
        Some(Wanted::Split(_, Why::Load))
    ));
    let merge = Some(Wanted::Merge([0, 1], Why::Size));
    assert_eq!(table.wanted_reshape(measure(1 << 20, 1.0), now), merge);
    for quiet in [measure(26 << 20, 1.0), measure(1 << 20, 200.0)] {
        assert_eq!(table.wanted_reshape(quiet, now), None);
    }
    table.partitions.iter_mut().for_each(|one| one.born_millis = now - REST_MILLIS + 1);
    assert_eq!(table.wanted_reshape(measure(1 << 20, 1.0), now), None, "they rest");
    table.partitions.iter_mut().for_each(|one| one.born_millis = 0);
    let resting = |_: u32| Measure { bytes: Some(200 << 20), rate: 2000.0, is_resting: true };
    assert_eq!(table.wanted_reshape(resting, now), None, "it was refused a moment ago");
    let wrong = Limits { merge_bytes: Some(60 << 20), ..table.limits };
    assert!(wrong.check().unwrap_err().0.contains("split again"));
}

#[test]
fn what_follows_keys_that_rise_is_not_split_for_its_load_for_ever() {
    let mut table = ranges(&["a"]);
    table.limits = Limits { split_rate: Some(1000), ..Limits::default() };
    let split = |table: &Distribution, number, at: &str, now| {
        let planned = table.with_split(number, &point(at), (Why::Load, 0)).unwrap();
        let mut next = planned.reshaped(now).unwrap();
        next.partitions.iter_mut().for_each(|one| one.moving = false);
        next
    };
    let table = split(&table, 1, "m", 1_000);
    let now = 1_000 + LOAD_REST_MILLIS;
    let rates = |one: f64, two: f64| {
        move |number: u32| {
            let rate = [(2, one), (3, two)].into_iter().find(|(of, _)| *of == number);
            Measure { rate: rate.map_or(0.0, |(_, rate)| rate), ..Measure::default() }
        }
    };
    let hot = Some(Wanted::Split(3, Why::Load));
    assert_eq!(table.wanted_reshape(rates(10.0, 5000.0), now), None, "the other half is idle");
    assert_eq!(table.wanted_reshape(rates(900.0, 5000.0), now), hot);
    assert_eq!(table.wanted_reshape(rates(10.0, 5000.0), now + VAIN_REST_MILLIS), hot);
    // What is asked of both halves may be divided on, and one that is idle hides no other.
    let table = split(&table, 2, "g", now);
    let later = now + LOAD_REST_MILLIS;
    assert_eq!(table.wanted_reshape(rates(0.0, 5000.0), later), hot);
}

#[test]
fn room_is_left_for_partitions_that_grow() {
    let mut table = table(By::Hash, |wish| wish.partitions = Some(LOAD_PARTITIONS_MAX));
    table.limits =
        Limits { split_rate: Some(1000), split_bytes: Some(100 << 20), merge_bytes: None };
    let measure =
        |bytes| move |_: u32| Measure { bytes: Some(bytes), rate: 2e3, ..Measure::default() };
    assert_eq!(table.wanted_reshape(measure(1), 0), None);
    let wanted = table.wanted_reshape(measure(200 << 20), 0);
    assert!(matches!(wanted, Some(Wanted::Split(_, Why::Size))));
}

proptest! {
    #[test]
    fn whatever_is_split_and_merged_each_key_has_one_partition(
        choices: Vec<(bool, u8, u64)>,
        probes: [u64; 8],
    ) {
        let mut table = table(By::Hash, |_| {});
        for (is_split, place, seed) in choices.into_iter().take(40) {
            let count = table.partitions.len();
            let place = usize::from(place) % count;
            let number = table.partitions[place].number;
            let next = match is_split {
                true => {
                    let from = table.partitions[place].from.clone();
                    let at = from.middle(table.end_of(place));
                    table.with_split(number, &at, (Why::Load, seed as i64))
                }
                false => match table.partitions.get(place + 1) {
                    Some(other) => table.with_merge([number, other.number], ASKED),
                    None => continue,
                },
            };
            let Ok(planned) = next else { continue };
            planned.check().unwrap();
            let json = planned.to_json();
            prop_assert_eq!(&Distribution::from_json(&json).unwrap(), &planned);
            let reshape = planned.reshape.clone().unwrap();
            let after = planned.reshaped(9).unwrap();
            after.check().unwrap();
            for probe in probes {
                let value = KeyValue::Integer(probe as i64);
                let (old, new) = (planned.place_of(&value), after.place_of(&value));
                let (old, new) = (planned.partitions[old].number, after.partitions[new].number);
                match reshape.sources.contains(&old) {
                    true => prop_assert_eq!(reshape.target_of(&planned.point_of(&value)), new),
                    false => prop_assert_eq!(old, new),
                }
            }
            table = after;
            table.partitions.iter_mut().for_each(|partition| partition.moving = false);
        }
    }

    #[test]
    fn a_chosen_point_is_within_and_leaves_something_on_both_sides(points: Vec<u8>, from: u8) {
        let of = |number: u8| Point::of_key(&KeyValue::Integer(i64::from(number)));
        let within: Vec<u8> = points.into_iter().filter(|point| *point >= from).collect();
        if let Choice::At(at) = choose_point(&of(from), within.iter().map(|n| of(*n)).collect()) {
            prop_assert!(at > of(from));
            let before = within.iter().filter(|point| of(**point) < at).count();
            prop_assert!(before > 0 && before < within.len());
        }
    }
}
