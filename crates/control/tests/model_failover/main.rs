//! Searches all that three regions can do while the writer of a table changes.
//!
//! What is agreed on is the real state machine; every region sees its log late. Entries, answers,
//! renewals and rejoins are under way for as long as they like, detectors may be wrong, processes
//! start again and stop for good. Time is what it allows: a lease that may have run out, and one
//! that surely has, which comes later. Each mutant forgets one rule, and the search must find what
//! comes of it; otherwise the search would be too small to say anything.

#![cfg(test)]

mod agreed;
mod model;
mod regions;
mod rules;
mod world;

use stateright::{Checker, HasDiscoveries, Model, UniformChooser};

use crate::model::{Failover, Mutant};
use crate::rules::{HEARD, KEPT, ONE, RULES, THIRD};
use crate::world::Budget;

const ALL: [bool; 3] = [true; 3];
const NONE: [bool; 3] = [false; 3];
/// Worlds that are looked at where there are too many; `WAYS_WORLDS` sets another number.
const WORLDS: usize = 60_000;

/// Nobody may do anything yet, and all see late what is agreed on.
fn model(held_by: u8, budget: Budget) -> Failover {
    let mutant = Mutant::None;
    Failover {
        mutant,
        held_by,
        budget,
        suspecting: ALL,
        is_repeating: false,
        is_exact: false,
        lags: ALL,
    }
}

fn once() -> Budget {
    Budget { suspicions: 1, ..Budget::default() }
}

fn twice() -> Budget {
    Budget { suspicions: 2, ..Budget::default() }
}

/// Searches everything.
fn holds(model: Failover) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    eprintln!("{} worlds", checker.unique_state_count());
    RULES.into_iter().for_each(|rule| checker.assert_no_discovery(rule));
}

/// Goes ways by chance through what is too large to be searched.
fn holds_by_chance(model: Failover) {
    let model = Failover { is_exact: true, ..model };
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let worlds = number("WAYS_WORLDS").map_or(WORLDS, |worlds: u64| worlds as usize);
    let search = model.checker().target_state_count(worlds);
    let seed = number("SEED").unwrap_or(7);
    let checker = search.spawn_simulation(seed, UniformChooser).join();
    eprintln!("{} worlds on ways of up to {} steps", checker.state_count(), checker.max_depth());
    RULES.into_iter().for_each(|rule| checker.assert_no_discovery(rule));
    checker.assert_any_discovery(THIRD);
}

/// Searches until a rule is seen broken.
fn breaks(mutant: Mutant, rule: &'static str, model: Failover) {
    let search = Failover { mutant, ..model }.checker().threads(2);
    let checker = search.finish_when(HasDiscoveries::AnyOf([rule].into())).spawn_bfs().join();
    eprintln!("{} worlds", checker.unique_state_count());
    assert!(checker.discovery(rule).is_some(), "the search is too small to find it");
}

#[test]
fn one_failover_holds_where_all_see_late() {
    holds(model(0, Budget { writes: 1, deaths: 1, ..once() }));
    holds(model(1, Budget { writes: 2, ..once() }));
}

#[test]
fn failover_holds_with_renewals_and_restarts_on_the_way() {
    holds(Failover { lags: [true, true, false], ..model(0, Budget { renewals: 1, ..once() }) });
    holds(model(1, Budget { writes: 1, restarts: 1, ..once() }));
    let both = Budget { writes: 1, renewals: 1, restarts: 1, ..once() };
    holds(Failover { lags: NONE, ..model(1, both) });
}

#[test]
fn two_failovers_hold() {
    holds(Failover { lags: NONE, ..model(1, Budget { writes: 2, ..twice() }) });
    holds(Failover { lags: [false, true, false], ..model(0, twice()) });
}

#[test]
fn late_rejoins_hold() {
    holds(Failover { lags: [true, false, false], is_repeating: true, ..model(0, twice()) });
}

#[test]
fn a_planned_change_that_meets_a_failover_holds() {
    holds(Failover { lags: [true, true, false], ..model(0, Budget { handovers: 1, ..once() }) });
}

#[test]
fn who_is_cut_off_from_one_other_is_not_suspended() {
    let budget = Budget { writes: 1, renewals: 2, ..twice() };
    holds(Failover { suspecting: [false, false, true], ..model(0, budget) });
}

#[test]
fn many_failovers_hold_on_ways_by_chance() {
    let budget =
        Budget { writes: 4, renewals: 3, suspicions: 4, restarts: 1, deaths: 0, handovers: 1 };
    holds_by_chance(Failover { is_repeating: true, ..model(1, budget) });
    holds_by_chance(model(0, Budget { deaths: 1, ..budget }));
}

#[test]
fn a_forgotten_seal_is_found() {
    breaks(Mutant::ForgottenSeal, KEPT, model(1, Budget { writes: 1, ..once() }));
}

#[test]
fn a_lease_without_margin_is_found() {
    breaks(Mutant::NoMargin, ONE, model(0, once()));
}

#[test]
fn too_few_claims_are_found() {
    breaks(Mutant::TooFewClaims, KEPT, model(1, Budget { writes: 1, ..once() }));
}

#[test]
fn a_suspicion_of_one_region_is_found() {
    let cut = Failover { suspecting: [false, false, true], ..model(0, twice()) };
    breaks(Mutant::OneVoice, HEARD, cut);
}

#[test]
fn a_rejoin_that_ends_a_later_suspension_is_found() {
    let repeating = Failover { is_repeating: true, lags: NONE, ..model(0, twice()) };
    breaks(Mutant::OldRejoin, ONE, repeating);
}

#[test]
fn the_longest_log_of_an_older_epoch_is_found() {
    let prompt = Failover { lags: NONE, ..model(1, Budget { writes: 3, ..twice() }) };
    breaks(Mutant::LongestLog, KEPT, prompt);
}

#[test]
fn a_region_that_rejoins_and_writes_on_is_found() {
    breaks(Mutant::RejoinUnfenced, ONE, model(0, once()));
}
