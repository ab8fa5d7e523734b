use std::collections::BTreeSet;

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;

fn members(weights: &[u32]) -> Vec<Member> {
    let named = weights.iter().enumerate().map(|(place, weight)| Member {
        name: format!("r{}", place + 1),
        weight: *weight,
        labels: std::collections::BTreeMap::new(),
    });
    named.collect()
}

/// All that weigh anything, for each partition.
fn everywhere(members: &[Member], partitions: usize) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..members.len()).filter(|m| members[*m].weight > 0).collect();
    vec![all; partitions]
}

fn spread_over(
    weights: &[u32],
    partitions: usize,
    replicas: usize,
    before: &[Slot],
    (place, seed): (Place, u64),
) -> Vec<Slot> {
    let members = members(weights);
    let allowed = everywhere(&members, partitions);
    let question = Question { members: &members, replicas, place, seed, allowed: &allowed };
    let nowhere = vec![Slot::default(); partitions];
    spread(&question, if before.is_empty() { &nowhere } else { before }).unwrap()
}

fn held(slots: &[Slot], members: usize) -> Vec<usize> {
    (0..members).map(|m| slots.iter().filter(|slot| slot.holders.contains(&m)).count()).collect()
}

fn written(slots: &[Slot], members: usize) -> Vec<usize> {
    (0..members).map(|m| slots.iter().filter(|slot| slot.writer == Some(m)).count()).collect()
}

fn gap(counts: &[usize]) -> usize {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

/// Replicas that are where nothing was.
fn moved(before: &[Slot], after: &[Slot]) -> usize {
    let new = |(before, after): (&Slot, &Slot)| {
        after.holders.iter().filter(|holder| !before.holders.contains(holder)).count()
    };
    before.iter().zip(after).map(new).sum()
}

fn check_whole(slots: &[Slot], replicas: usize) {
    for slot in slots {
        let different: BTreeSet<_> = slot.holders.iter().collect();
        assert_eq!((different.len(), slot.holders.len()), (replicas, replicas), "{slot:?}");
        assert!(slot.holders.contains(&slot.writer.unwrap()), "{slot:?}");
    }
}

#[test]
fn a_fourth_region_takes_a_quarter_and_nothing_else_moves() {
    let three = spread_over(&[1, 1, 1], 12, 2, &[], (Place::Balanced, 7));
    assert_eq!((held(&three, 3), written(&three, 3)), (vec![8, 8, 8], vec![4, 4, 4]));
    let four = spread_over(&[1, 1, 1, 1], 12, 2, &three, (Place::Balanced, 7));
    assert_eq!((held(&four, 4), written(&four, 4)), (vec![6; 4], vec![3; 4]));
    assert_eq!(moved(&three, &four), 6);
    let back = spread_over(&[1, 1, 1, 0], 12, 2, &four, (Place::Balanced, 7));
    assert_eq!((held(&back, 4), moved(&four, &back)), (vec![8, 8, 8, 0], 6));
}

#[test]
fn weights_are_kept_to_one() {
    let slots = spread_over(&[2, 1, 1], 12, 1, &[], (Place::Balanced, 1));
    assert_eq!((held(&slots, 3), written(&slots, 3)), (vec![6, 3, 3], vec![6, 3, 3]));
    // Half of 24 would be all of them: no more than one replica of a partition is in a region.
    let slots = spread_over(&[9, 1, 1], 12, 2, &[], (Place::Balanced, 1));
    assert_eq!(held(&slots, 3), [12, 6, 6]);
}

#[test]
fn rules_are_kept_and_the_rest_is_spread_around_them() {
    let members = members(&[1, 1, 1]);
    let mut allowed = everywhere(&members, 9);
    allowed[0] = vec![2];
    allowed[1] = vec![2];
    let question = Question {
        members: &members,
        replicas: 1,
        place: Place::Balanced,
        seed: 3,
        allowed: &allowed,
    };
    let slots = spread(&question, &vec![Slot::default(); 9]).unwrap();
    assert_eq!((&slots[0].holders, &slots[1].holders), (&vec![2], &vec![2]));
    assert_eq!(held(&slots, 3), [3, 3, 3]);
    let two = Question { replicas: 2, ..question };
    let error = spread(&two, &vec![Slot::default(); 9]).unwrap_err();
    assert!(error.0.contains("partition 0 may be in 1 regions"), "{error}");
}

#[test]
fn by_chance_a_new_region_only_takes() {
    let three = spread_over(&[1, 1, 1], 60, 2, &[], (Place::Random, 5));
    check_whole(&three, 2);
    let four = spread_over(&[1, 1, 1, 1], 60, 2, &three, (Place::Random, 5));
    assert_eq!(moved(&three, &four), held(&four, 4)[3]);
    assert!((15..=45).contains(&held(&four, 4)[3]), "{:?}", held(&four, 4));
}

proptest! {
    #[test]
    fn partitions_are_whole_spread_to_one_and_alike_for_a_seed(
        regions in 1usize..7,
        partitions in 1usize..40,
        replicas in 1usize..4,
        seed in any::<u64>(),
    ) {
        let replicas = replicas.min(regions);
        let weights = vec![1; regions];
        let slots = spread_over(&weights, partitions, replicas, &[], (Place::Balanced, seed));
        check_whole(&slots, replicas);
        prop_assert!(gap(&held(&slots, regions)) <= 1, "{:?}", held(&slots, regions));
        prop_assert!(gap(&written(&slots, regions)) <= 1, "{:?}", written(&slots, regions));
        let again = spread_over(&weights, partitions, replicas, &[], (Place::Balanced, seed));
        prop_assert_eq!(&slots, &again);
        let unmoved = spread_over(&weights, partitions, replicas, &slots, (Place::Balanced, seed));
        prop_assert_eq!(&slots, &unmoved);
    }

    #[test]
    fn what_joins_takes_its_share_and_what_leaves_gives_what_it_had(
        regions in 2usize..7,
        partitions in 1usize..40,
        replicas in 1usize..3,
        seed in any::<u64>(),
    ) {
        let weights = vec![1; regions];
        let before = spread_over(&weights, partitions, replicas, &[], (Place::Balanced, seed));
        let more = vec![1; regions + 1];
        let after = spread_over(&more, partitions, replicas, &before, (Place::Balanced, seed));
        check_whole(&after, replicas);
        prop_assert!(gap(&held(&after, regions + 1)) <= 1);
        prop_assert!(gap(&written(&after, regions + 1)) <= 1);
        prop_assert_eq!(moved(&before, &after), held(&after, regions + 1)[regions]);
        let mut less = more.clone();
        less[regions] = 0;
        let back = spread_over(&less, partitions, replicas, &after, (Place::Balanced, seed));
        check_whole(&back, replicas);
        prop_assert!(gap(&held(&back, regions)) <= 1);
        // Where what is missing is together with who has least, one more has to make room.
        let given = held(&after, regions + 1)[regions];
        prop_assert!((given..=given + 1).contains(&moved(&after, &back)));
    }

    #[test]
    fn weights_are_kept_to_one_each(
        weights in proptest::collection::vec(1u32..5, 2..6),
        partitions in 1usize..30,
        seed in any::<u64>(),
    ) {
        let slots = spread_over(&weights, partitions, 1, &[], (Place::Balanced, seed));
        let total: u32 = weights.iter().sum();
        for (has, weight) in held(&slots, weights.len()).into_iter().zip(&weights) {
            let share = partitions as f64 * f64::from(*weight) / f64::from(total);
            prop_assert!((has as f64 - share).abs() <= 1.0, "{} of {}", has, share);
        }
    }
}
