//! Searches all that partitions can do while batches are made in several of them or in none.
//!
//! What locks rows, and what is said of a batch, are the real code. Each partition has one row and
//! a log of which the part that is not durable is lost in a crash, with all that was in memory;
//! what becomes of logs when their regions are lost is searched in `model_failover` and
//! `model_commit`.
//! Messages are under way for as long as they like, and may never come. Each mutant forgets one
//! rule, and the search must find what comes of it.

#![cfg(test)]

mod model;
mod rules;
mod world;

use stateright::{Checker, HasDiscoveries, Model};

use crate::model::{Batches, Mutant};
use crate::rules::{ANSWERED, ATOMIC, GOES_ON, LOCKED, RULES};

/// Batches by the partitions that they are about; the first one is the anchor.
fn model(batches: &'static [&'static [u8]], crashes: u8) -> Batches {
    Batches { mutant: Mutant::None, batches, crashes }
}

/// Searches everything.
fn holds(model: Batches) {
    let what = format!("{:?} with {} crashes", model.batches, model.crashes);
    let checker = model.checker().threads(2).spawn_bfs().join();
    eprintln!("{} worlds: {what}", checker.unique_state_count());
    for rule in RULES {
        checker.assert_no_discovery(rule);
    }
}

/// Searches until a rule is seen broken.
fn breaks(mutant: Mutant, rule: &'static str, model: Batches) {
    let search = Batches { mutant, ..model }.checker().threads(2);
    let checker = search.finish_when(HasDiscoveries::AnyOf([rule].into())).spawn_bfs().join();
    eprintln!("{} worlds: {mutant:?}", checker.unique_state_count());
    assert!(checker.discovery(rule).is_some(), "the search is too small to find it");
}

const ONE: &[&[u8]] = &[&[0, 1]];
const WIDE: &[&[u8]] = &[&[0, 1, 2]];
const CROSSED: &[&[u8]] = &[&[0, 1], &[1, 0]];
const SAME_ANCHOR: &[&[u8]] = &[&[0, 1], &[0, 1]];

#[test]
fn one_batch_holds_through_crashes() {
    holds(model(ONE, 3));
    holds(model(WIDE, 1));
}

#[test]
fn batches_of_the_same_rows_hold() {
    holds(model(SAME_ANCHOR, 1));
    holds(model(CROSSED, 1));
}

#[test]
fn giving_up_for_ever_what_is_still_open_is_found() {
    breaks(Mutant::OpenIsAbandoned, ATOMIC, model(ONE, 0));
}

#[test]
fn a_decision_before_all_intents_are_kept_is_found() {
    breaks(Mutant::EarlyDecision, ATOMIC, model(WIDE, 0));
}

#[test]
fn an_intent_that_is_told_of_before_it_is_durable_is_found() {
    breaks(Mutant::IntentNotDurable, ATOMIC, model(ONE, 1));
}

#[test]
fn a_decision_that_is_told_before_it_is_durable_is_found() {
    breaks(Mutant::DecisionNotDurable, ATOMIC, model(ONE, 1));
}

#[test]
fn a_decision_that_is_forgotten_before_all_have_settled_it_is_found() {
    breaks(Mutant::ForgottenEarly, ATOMIC, model(ONE, 1));
}

#[test]
fn members_that_settle_without_keeping_it_are_found() {
    breaks(Mutant::SettledNotDurable, ATOMIC, model(ONE, 1));
}

#[test]
fn locks_that_a_restart_forgets_are_found() {
    breaks(Mutant::LocksForgotten, LOCKED, model(CROSSED, 1));
}

#[test]
fn a_term_that_goes_on_after_a_restart_is_found() {
    breaks(Mutant::SameTerm, ATOMIC, model(&[&[0, 1], &[0, 1]], 1));
}

#[test]
fn members_that_never_ask_are_found() {
    breaks(Mutant::NobodyAsks, GOES_ON, model(ONE, 1));
}

#[test]
fn an_answer_before_the_decision_is_found() {
    breaks(Mutant::EarlyAnswer, ANSWERED, model(ONE, 1));
}
