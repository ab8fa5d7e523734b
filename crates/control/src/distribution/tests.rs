use isthmus_model::value::Text;
use proptest::prelude::{any, prop_assert, proptest};

use super::wish::{Named, Rebalance, Wish};
use super::*;

fn known(count: usize) -> Vec<Member> {
    let member = |number: usize| Member {
        name: format!("r{number}"),
        weight: 1,
        labels: BTreeMap::from([("country".to_owned(), format!("c{}", number % 2))]),
    };
    (1..=count).map(member).collect()
}

fn wish(by: By) -> Wish {
    Wish {
        by,
        partitions: (by == By::Hash).then_some(12),
        replicas: 2,
        regions: Vec::new(),
        place: Place::Balanced,
        weights: BTreeMap::new(),
        keep: Vec::new(),
        split_points: Vec::new(),
        seed: None,
        moves_at_once: None,
    }
}

fn plan(wish: &Wish, key: KeyKind) -> Result<Distribution, DistributionError> {
    let named = Named { name: "t", id: "ds-1", base: "r1", key, seed: 9, spec: "", replaces: None };
    wish.plan(named, &known(4))
}

fn text(value: &str) -> KeyValue {
    KeyValue::String(Text::from(value))
}

#[test]
fn names_of_partitions_are_none_that_clients_give() {
    assert_eq!(name_of_partition("t", 3), "t/0003");
    assert_eq!(partition_named("t/0003"), Some(("t", 3)));
    for other in ["t", "t/", "t/3", "t/x003", "t/00 3", "/"] {
        assert_eq!(partition_named(other), None, "{other}");
    }
}

#[test]
fn wrong_wishes_are_refused_with_what_is_wrong() {
    let told = |change: &dyn Fn(&mut Wish), by: By, key| {
        let mut wish = wish(by);
        change(&mut wish);
        plan(&wish, key).unwrap_err().0
    };
    let string = KeyKind::String;
    type Spoil<'a> = &'a dyn Fn(&mut Wish);
    let cases: [(Spoil<'_>, By, &str); 11] = [
        (&|w| w.partitions = Some(0), By::Hash, "1 to 256 partitions"),
        (&|w| w.partitions = Some(257), By::Hash, "1 to 256 partitions"),
        (&|w| w.partitions = None, By::Hash, "how many partitions"),
        (&|w| w.replicas = 0, By::Hash, "1 to 10 replicas"),
        (&|w| w.replicas = 5, By::Hash, "there are 4"),
        (&|w| w.regions = vec!["r9".into()], By::Hash, "region r9 is not configured"),
        (&|w| w.weights = BTreeMap::from([("r1".into(), 101)]), By::Hash, "0 to 100"),
        (&|w| w.split_points = vec!["a".into()], By::Hash, "divided by range"),
        (&|w| w.moves_at_once = Some(0), By::Hash, "move at once"),
        (&|_| (), By::Range, "at least one split point"),
        (&|w| w.split_points = vec!["a".into(), "a".into()], By::Range, "given twice"),
    ];
    for (change, by, expected) in cases {
        let error = told(change, by, string);
        assert!(error.contains(expected), "{error}");
    }
    let rule = |only| Rule { prefix: "de".into(), only };
    let error = told(&|w| w.keep = vec![rule(Only::Regions(vec!["r2".into()]))], By::Range, string);
    assert!(error.contains("allows 1 regions"), "{error}");
    let label = Only::Label("country".into(), "xx".into());
    let error = told(&|w| w.keep = vec![rule(label.clone())], By::Range, string);
    assert!(error.contains("allows 0 regions"), "{error}");
    let error = told(&|w| w.split_points = vec!["x".into()], By::Range, KeyKind::Integer);
    assert!(error.contains("is an integer"), "{error}");
}

#[test]
fn rules_divide_the_table_and_are_kept_when_regions_come() {
    let mut wish = wish(By::Range);
    wish.regions = vec!["r1".into(), "r2".into(), "r3".into()];
    wish.split_points = vec!["m".into()];
    wish.keep =
        vec![Rule { prefix: "de".into(), only: Only::Label("country".into(), "c1".into()) }];
    let table = plan(&wish, KeyKind::String).unwrap();
    assert_eq!(table.partitions.len(), 4);
    let place = table.place_of(&text("de-7"));
    assert_eq!(place, 1);
    assert!(table.rule_at(place).is_some() && table.rule_at(0).is_none());
    let held = |table: &Distribution| {
        let mut held = table.partitions[1].wanted.clone();
        held.sort();
        held
    };
    assert_eq!(held(&table), ["r1", "r3"]);
    let active = Distribution { state: State::Active, ..table.clone() };
    let asked = Rebalance { add: vec!["r4".into()], ..Rebalance::default() };
    let next = active.rebalanced(&asked, &known(4)).unwrap();
    assert_eq!(held(&next), ["r1", "r3"]);
    assert!(table.rebalanced(&asked, &known(4)).is_err(), "it is not made yet");
    let gone = Rebalance { empty: vec!["r1".into()], ..Rebalance::default() };
    assert!(active.rebalanced(&gone, &known(4)).is_err(), "the rule would not be kept");
}

#[test]
fn a_region_that_comes_is_told_what_moves_to_it() {
    let mut wish = wish(By::Hash);
    wish.regions = vec!["r1".into(), "r2".into(), "r3".into()];
    let mut table = plan(&wish, KeyKind::String).unwrap();
    table.state = State::Active;
    let asked = Rebalance { add: vec!["r4".into()], ..Rebalance::default() };
    let next = table.rebalanced(&asked, &known(4)).unwrap();
    let moves = table.moves_to(&next);
    let to_new = moves.iter().filter(|one| one.to.as_deref() == Some("r4")).count();
    assert_eq!((to_new, moves.iter().filter(|one| one.to.is_some()).count()), (6, 6));
    assert!(next.is_moving() && next.version == table.version + 1);
    let same = table.rebalanced(&Rebalance::default(), &known(4)).unwrap();
    assert!(!same.is_moving() && table.moves_to(&same).is_empty());
}

#[test]
fn ranges_ask_only_the_partitions_they_can_be_in() {
    let mut wish = wish(By::Range);
    wish.split_points = vec!["b".into(), "d".into()];
    let table = plan(&wish, KeyKind::String).unwrap();
    let (low, high) = (KeyBound::Min, KeyBound::Max);
    assert_eq!(table.places_between(&low, &high), 0..3);
    let at = |value: &str| KeyBound::Value(text(value));
    assert_eq!(table.places_between(&at("b"), &at("c")), 1..2);
    assert_eq!(table.places_between(&at("a"), &at("d")), 0..3);
    let hashed = plan(&self::wish(By::Hash), KeyKind::String).unwrap();
    assert_eq!(hashed.places_between(&low, &high), 0..12);
    assert_eq!(hashed.places_between(&at("b"), &at("b")).len(), 1);
}

#[test]
fn records_are_read_again_and_damaged_ones_refused() {
    let table = plan(&wish(By::Hash), KeyKind::Binary).unwrap();
    assert_eq!(Distribution::from_json(&table.to_json()).unwrap(), table);
    let mut twice = table.clone();
    twice.partitions[1].number = twice.partitions[0].number;
    assert!(Distribution::from_json(&twice.to_json()).is_err());
    let mut gap = table.clone();
    gap.partitions.remove(0);
    assert!(Distribution::from_json(&gap.to_json()).is_err());
    gap.partitions.clear();
    assert!(Distribution::from_json(&gap.to_json()).is_err());
}

proptest! {
    #[test]
    fn every_key_has_exactly_one_partition(
        number in any::<i64>(),
        partitions in 1usize..=PARTITIONS_MAX,
    ) {
        let mut wish = wish(By::Hash);
        wish.partitions = Some(partitions);
        let table = plan(&wish, KeyKind::Integer).unwrap();
        let point = table.point_of(&KeyValue::Integer(number));
        let holds = |place: usize| {
            let end = table.partitions.get(place + 1);
            table.partitions[place].from <= point && end.is_none_or(|end| point < end.from)
        };
        let found: Vec<usize> = (0..partitions).filter(|place| holds(*place)).collect();
        prop_assert!(found == [table.place_of(&KeyValue::Integer(number))], "{:?}", found);
    }
}
