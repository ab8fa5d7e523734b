//! Searches all that the replicas of a table with one writer can do while its writes are committed
//! synchronously.
//!
//! What a participant remembers, how votes are counted and what is taken over are the real code.
//! Prepared changes and votes are under way for as long as they like and come again; entries come
//! one by one; writers start again, are superseded, stop for good, and go on without knowing that
//! another one has been granted an epoch. The quorum is one step: what it does is searched in
//! `model_failover`. Each mutant forgets one rule, and the search must find what comes of it.

#![cfg(test)]

mod model;
mod rules;
mod takeover;
mod world;
mod writes;

use isthmus_control::commit::Form;
use stateright::{Checker, HasDiscoveries, Model, UniformChooser};

use crate::model::{Commit, Mutant};
use crate::rules::{ATOMIC, KEPT, ORDER, REFUSED, RULES, SECOND, TWICE};
use crate::world::Budget;

/// Worlds that are looked at where there are too many; `WAYS_WORLDS` sets another number.
const WORLDS: usize = 20_000;

fn model(form: Form, replicas: u8, budget: Budget) -> Commit {
    Commit {
        mutant: Mutant::None,
        form,
        replicas,
        rows: 1,
        parts: 1,
        budget,
        is_leased: false,
        is_exact: false,
    }
}

/// Searches everything.
fn holds(model: Commit) {
    let what = format!("{:?} {} {:?}", model.form, model.replicas, model.budget);
    let checker = model.checker().threads(2).spawn_bfs().join();
    eprintln!("{} worlds: {what}", checker.unique_state_count());
    for rule in RULES {
        checker.assert_no_discovery(rule);
    }
}

/// Goes ways by chance through what is too large to be searched.
fn holds_by_chance(model: Commit) {
    let model = Commit { is_exact: true, ..model };
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let worlds = number("WAYS_WORLDS").map_or(WORLDS, |worlds: u64| worlds as usize);
    let search = model.checker().target_state_count(worlds);
    let seed = number("SEED").unwrap_or(7);
    let checker = search.spawn_simulation(seed, UniformChooser).join();
    eprintln!("{} worlds on ways of up to {} steps", checker.state_count(), checker.max_depth());
    RULES.into_iter().for_each(|rule| checker.assert_no_discovery(rule));
    checker.assert_any_discovery(SECOND);
}

/// Searches until a rule is seen broken.
fn breaks(mutant: Mutant, rule: &'static str, model: Commit) {
    let search = Commit { mutant, ..model }.checker().threads(2);
    let checker = search.finish_when(HasDiscoveries::AnyOf([rule].into())).spawn_bfs().join();
    eprintln!("{} worlds: {mutant:?}", checker.unique_state_count());
    assert!(checker.discovery(rule).is_some(), "the search is too small to find it");
}

fn once() -> Budget {
    Budget { writes: 1, failovers: 1, ..Budget::default() }
}

fn three(budget: Budget) -> Commit {
    model(Form::ThreePhase, 3, budget)
}

fn two(budget: Budget) -> Commit {
    model(Form::TwoPhase, 3, budget)
}

#[test]
fn one_failover_holds() {
    holds(three(Budget { writes: 2, ..once() }));
    holds(two(Budget { writes: 2, ..once() }));
    holds(Commit { is_leased: true, ..three(Budget { writes: 2, ..once() }) });
}

#[test]
fn changes_of_several_parts_hold() {
    holds(Commit { parts: 2, ..three(once()) });
    holds(Commit { parts: 2, ..two(Budget { writes: 2, ..once() }) });
}

#[test]
fn changes_of_several_rows_at_once_hold() {
    holds(Commit { rows: 2, ..three(Budget { writes: 2, ..once() }) });
}

#[test]
fn restarts_hold() {
    holds(three(Budget { writes: 2, restarts: 1, ..Budget::default() }));
    holds(three(Budget { restarts: 1, ..once() }));
    holds(two(Budget { restarts: 1, ..once() }));
}

#[test]
fn two_failovers_hold() {
    holds(three(Budget { failovers: 2, ..once() }));
    holds(two(Budget { failovers: 2, ..once() }));
}

#[test]
fn the_loss_of_any_one_region_holds() {
    holds(three(Budget { deaths: 1, ..once() }));
    holds(two(Budget { deaths: 1, ..once() }));
}

#[test]
fn four_replicas_hold() {
    holds(model(Form::ThreePhase, 4, Budget { failovers: 0, deaths: 1, ..once() }));
}

#[test]
fn who_leaves_and_comes_back_holds() {
    holds(two(Budget { changes: 2, ..once() }));
    holds(three(Budget { changes: 1, ..once() }));
}

#[test]
fn writes_without_the_others_in_between_hold() {
    holds(three(Budget { asynchronous: 1, ..once() }));
}

#[test]
fn much_at_once_holds_on_ways_by_chance() {
    let budget = Budget {
        writes: 4,
        failovers: 3,
        restarts: 2,
        deaths: 1,
        changes: 2,
        asynchronous: 1,
        accepts: 0,
    };
    let several = Commit { rows: 2, parts: 2, ..model(Form::ThreePhase, 5, budget) };
    holds_by_chance(several.clone());
    holds_by_chance(Commit { replicas: 3, ..several.clone() });
    holds_by_chance(Commit { replicas: 4, form: Form::TwoPhase, ..several });
}

#[test]
fn a_loss_that_a_person_accepts_is_all_that_is_lost() {
    let accepts = |budget| Budget { accepts: 1, ..budget };
    holds(three(accepts(once())));
    holds(three(accepts(Budget { writes: 2, ..once() })));
    holds(three(accepts(Budget { failovers: 2, ..once() })));
    holds(two(accepts(Budget { failovers: 2, ..once() })));
    let budget = Budget { writes: 3, failovers: 3, restarts: 1, deaths: 2, ..Budget::default() };
    holds_by_chance(model(Form::ThreePhase, 5, accepts(budget)));
}

#[test]
fn a_loss_that_is_accepted_without_settling_is_found() {
    let budget = Budget { writes: 2, failovers: 2, accepts: 1, ..Budget::default() };
    breaks(Mutant::AcceptedUnsettled, ORDER, three(budget));
}

#[test]
fn a_vote_that_counts_twice_is_found() {
    breaks(Mutant::VoteTwice, KEPT, two(once()));
}

#[test]
fn one_vote_too_few_is_found() {
    breaks(Mutant::FewerVotes, KEPT, three(once()));
}

#[test]
fn an_answer_before_the_decision_is_found() {
    breaks(Mutant::EarlyAnswer, KEPT, three(once()));
}

#[test]
fn a_forgotten_promise_is_found() {
    breaks(Mutant::ForgottenPromise, KEPT, three(once()));
}

#[test]
fn a_new_writer_that_asks_too_few_is_found() {
    breaks(Mutant::FewerAnswers, KEPT, three(once()));
}

#[test]
fn a_term_that_is_not_waited_for_is_found() {
    breaks(Mutant::Unsettled, ORDER, three(Budget { writes: 2, restarts: 1, ..once() }));
}

#[test]
fn void_changes_that_are_kept_are_found() {
    breaks(Mutant::KeptVoid, ORDER, three(Budget { writes: 2, restarts: 1, ..once() }));
}

#[test]
fn ignored_names_of_entries_are_found() {
    breaks(Mutant::IgnoredTag, TWICE, three(once()));
}

#[test]
fn parts_that_come_one_by_one_are_found() {
    let budget = Budget { failovers: 2, ..once() };
    breaks(Mutant::PartsAlone, ATOMIC, Commit { parts: 2, ..three(budget) });
}

#[test]
fn answers_of_who_does_not_follow_are_found() {
    breaks(Mutant::AnswerBehind, TWICE, three(once()));
}

#[test]
fn a_tail_that_is_forgotten_is_found() {
    breaks(Mutant::CutForgets, KEPT, three(once()));
}

#[test]
fn a_refusal_after_a_change_was_sent_is_found() {
    breaks(Mutant::RefusedForAll, REFUSED, three(once()));
}

#[test]
fn who_leaves_before_the_quorum_agrees_is_found() {
    breaks(Mutant::LeftAtOnce, KEPT, two(Budget { changes: 1, ..once() }));
}

#[test]
fn who_comes_back_without_all_that_was_committed_is_found() {
    breaks(Mutant::JoinedAtOnce, KEPT, two(Budget { changes: 2, ..once() }));
}

#[test]
fn writes_that_are_synchronous_again_without_a_new_term_are_found() {
    breaks(Mutant::SynchronousAtOnce, ORDER, three(Budget { asynchronous: 1, ..once() }));
}
