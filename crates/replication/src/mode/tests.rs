use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const HERE: PartitionId = PartitionId(7);

#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn wall_millis(&self) -> i64 {
        self.monotonic().as_millis() as i64
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

struct World {
    hand: Arc<Hand>,
    modes: Modes,
}

impl World {
    fn new() -> World {
        let hand = Arc::new(Hand::default());
        World { modes: Modes::new(hand.clone()), hand }
    }

    fn set(&self, held_by: usize, regions: &[u8], fallback: Fallback) {
        let asked = SemiSync {
            held_by,
            bound_entries: 1000,
            bound: Duration::from_millis(100),
            patience: Duration::from_millis(400),
            fallback,
        };
        let counting = regions.iter().map(|region| Origin(*region)).collect();
        self.modes.set(HERE, asked, &counting, None);
    }

    fn wait(&self, lsn: u64) -> Option<Wait> {
        match self.modes.wait(HERE, Lsn(lsn)) {
            Begun::Over(_) => None,
            Begun::Waits(wait) => Some(wait),
        }
    }

    fn held(&self, region: u8, lsn: u64) {
        self.modes.held(HERE, Origin(region), Some(Lsn(lsn)));
    }

    fn later(&self, millis: u64) {
        self.hand.0.fetch_add(millis, Ordering::Relaxed);
        self.modes.tick(&BTreeSet::new());
    }

    fn counts(&self) -> Counts {
        self.modes.report(HERE).unwrap().counts
    }
}

#[test]
fn without_a_mode_nobody_waits() {
    let world = World::new();
    assert!(world.wait(5).is_none());
    assert_eq!(world.modes.admit(HERE), Ok(()));
    assert_eq!(world.modes.report(HERE), None);
}

#[test]
fn a_write_is_answered_when_so_many_hold_it_and_each_acknowledgement_answers_many() {
    let world = World::new();
    world.set(2, &[2, 3, 4], Fallback::Wait);
    let mut waits: Vec<Wait> = (1..=9).map(|lsn| world.wait(lsn).unwrap()).collect();
    world.held(2, 9);
    assert!(waits.iter_mut().all(|wait| wait.try_take().is_none()));
    world.held(4, 6);
    let answered = waits.iter_mut().filter_map(Wait::try_take).count();
    assert_eq!(answered, 6);
    // A region that does not count changes nothing.
    world.held(9, 9);
    assert!(waits[8].try_take().is_none());
    world.held(3, 9);
    assert_eq!(waits[8].try_take(), Some(Answer::Held));
    assert!(world.wait(9).is_none());
    assert_eq!(world.counts(), Counts { held: 10, ..Counts::default() });
}

#[test]
fn the_same_region_counts_once_and_what_it_has_lost_counts_no_more() {
    let world = World::new();
    world.set(2, &[2, 3], Fallback::Wait);
    world.held(2, 9);
    world.held(3, 9);
    world.modes.held(HERE, Origin(3), None);
    let mut wait = world.wait(10).unwrap();
    world.held(2, 10);
    assert_eq!(wait.try_take(), None);
    world.held(3, 10);
    assert_eq!(wait.try_take(), Some(Answer::Held));
}

#[test]
fn past_the_bound_writes_are_answered_without_waiting_once_that_is_recorded() {
    let world = World::new();
    world.set(1, &[2], Fallback::Async);
    let mut first = world.wait(1).unwrap();
    world.later(101);
    assert_eq!(first.try_take(), None);
    let changes = world.modes.take_changes();
    assert!(changes[0].fallen_back && changes.len() == 1);
    let mut second = world.wait(2).unwrap();
    world.modes.recorded(&changes[0]);
    assert_eq!(first.try_take(), Some(Answer::NotHeld));
    assert_eq!(second.try_take(), Some(Answer::NotHeld));
    assert!(world.wait(3).is_none());
    // It climbs back by itself, and waits again.
    world.held(2, 3);
    let changes = world.modes.take_changes();
    assert!(!changes[0].fallen_back && changes.len() == 1);
    assert!(world.wait(4).is_some());
    let counts = world.counts();
    assert_eq!((counts.not_held, counts.fallen_back), (3, 1));
}

#[test]
fn a_record_of_a_state_that_has_passed_lets_nobody_through() {
    let world = World::new();
    world.set(1, &[2], Fallback::Async);
    let first = world.wait(1).unwrap();
    world.later(101);
    let fallen = world.modes.take_changes().remove(0).unwrap();
    world.held(2, 1);
    world.modes.recorded(&fallen);
    let mut second = world.wait(2).unwrap();
    assert_eq!(second.try_take(), None);
    drop((first, second));
    assert_eq!(world.modes.report(HERE).unwrap().waiting, 0);
}

#[test]
fn refusing_begins_past_the_bound_and_ends_when_all_is_held() {
    let world = World::new();
    world.set(1, &[2], Fallback::Refuse);
    let wait = world.wait(1).unwrap();
    assert_eq!(world.modes.admit(HERE), Ok(()));
    world.later(101);
    assert!(matches!(world.modes.admit(HERE), Err(Refusal::FallenBack(why)) if !why.is_empty()));
    wait.give_up();
    world.held(2, 1);
    assert_eq!(world.modes.admit(HERE), Ok(()));
    let counts = world.counts();
    assert_eq!((counts.gave_up, counts.refused), (1, 1));
}

#[test]
fn a_mode_is_changed_and_taken_back_while_writes_wait() {
    let world = World::new();
    world.set(2, &[2, 3], Fallback::Wait);
    world.held(2, 5);
    let mut wait = world.wait(5).unwrap();
    world.set(1, &[2, 3], Fallback::Wait);
    assert_eq!(wait.try_take(), Some(Answer::Held));
    let mut wait = world.wait(6).unwrap();
    world.modes.unset(HERE);
    assert_eq!(wait.try_take(), Some(Answer::NotHeld));
    assert!(world.wait(7).is_none());
}

#[test]
fn who_had_fallen_back_before_a_restart_goes_on_so() {
    let world = World::new();
    let asked = SemiSync {
        held_by: 1,
        bound_entries: 10,
        bound: Duration::from_millis(100),
        patience: Duration::from_millis(400),
        fallback: Fallback::Async,
    };
    world.modes.set(HERE, asked, &BTreeSet::from([Origin(2)]), Some("it did".to_owned()));
    assert!(world.wait(3).is_none());
    world.held(2, 3);
    assert!(world.wait(4).is_some());
    assert_eq!(world.modes.take_changes().len(), 1);
}

#[test]
fn who_writes_no_more_answers_what_waits_by_what_is_told_and_by_nothing_else() {
    let world = World::new();
    world.set(2, &[2, 3], Fallback::Wait);
    let mut waits: Vec<Wait> = (1..=3).map(|lsn| world.wait(lsn).unwrap()).collect();
    world.modes.leave(HERE);
    assert!(world.modes.end_left().is_empty());
    // One became durable before the last entry of the epoch, and comes to wait only now.
    waits.push(world.wait(4).unwrap());
    world.held(2, 9);
    assert!(waits.iter_mut().all(|wait| wait.try_take().is_none()));
    world.held(3, 3);
    let answers: Vec<_> = waits.iter_mut().filter_map(Wait::try_take).collect();
    assert_eq!(answers, [Answer::Held; 3]);
    assert!(world.modes.end_left().is_empty());
    waits.pop().unwrap().give_up();
    assert!(world.modes.end_left().is_empty());
    world.later(401);
    assert_eq!(world.modes.end_left(), [HERE]);
    assert_eq!(world.modes.report(HERE), None);
}

#[test]
fn who_writes_again_goes_on_with_the_mode() {
    let world = World::new();
    world.set(1, &[2], Fallback::Wait);
    world.modes.leave(HERE);
    world.later(401);
    world.set(1, &[2, 3], Fallback::Wait);
    assert!(world.modes.end_left().is_empty());
    let mut wait = world.wait(5).unwrap();
    world.held(3, 5);
    assert_eq!(wait.try_take(), Some(Answer::Held));
}

#[test]
fn the_bound_is_short_only_where_those_that_are_left_are_too_few() {
    let world = World::new();
    let asked = SemiSync {
        held_by: 1,
        bound_entries: 1000,
        bound: Duration::from_secs(60),
        patience: Duration::from_secs(60),
        fallback: Fallback::Wait,
    };
    let has_fallen_back = || world.modes.report(HERE).unwrap().fallen_back;
    world.modes.set(HERE, asked, &[Origin(2), Origin(3)].into(), None);
    let _waits = world.wait(1);
    for (suspended, falls) in [(vec![2], false), (vec![1, 3], false), (vec![2, 3], true)] {
        world.hand.0.fetch_add(1000, Ordering::Relaxed);
        world.modes.tick(&suspended.into_iter().map(Origin).collect());
        assert_eq!(has_fallen_back(), falls);
    }
}
