use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn term(epoch: u64, life: u64) -> Term {
    Term { epoch, life }
}

fn tx(epoch: u64, life: u64, number: u64) -> TxId {
    TxId { term: term(epoch, life), number }
}

fn participant(promised: Term) -> Participant {
    let mut participant = Participant::default();
    participant.promise(promised).unwrap();
    participant
}

fn votes(form: Form, others: &[&str]) -> Votes {
    Votes::begin(term(1, 0), Count::new(form, others.iter().map(|name| (*name).to_owned())))
}

fn vote(votes: &mut Votes, member: &str, number: u64) -> bool {
    votes.vote(&member.to_owned(), tx(1, 0, number))
}

fn count(form: Form, others: &[&str]) -> Count<String> {
    Count::new(form, others.iter().map(|name| (*name).to_owned()))
}

fn numbers(decided: &[TxId]) -> Vec<u64> {
    decided.iter().map(|tx| tx.number).collect()
}

#[test]
fn as_many_are_needed_that_any_who_are_asked_include_one_of_them() {
    assert_eq!([0, 1, 2, 3, 4].map(|others| Form::TwoPhase.votes_needed(others)), [0, 1, 2, 3, 4]);
    assert_eq!(
        [0, 1, 2, 3, 4].map(|others| Form::ThreePhase.votes_needed(others)),
        [0, 1, 1, 2, 2]
    );
    for form in [Form::TwoPhase, Form::ThreePhase] {
        for others in 0..30 {
            let holders = form.votes_needed(others) + 1;
            assert!(holders + form.answers_needed(others) > others + 1);
            assert!(form == Form::TwoPhase || 2 * holders > others + 1);
        }
    }
}

#[test]
fn names_are_ordered_by_epoch_then_life_then_number() {
    let ordered = [tx(1, 0, 9), tx(1, 1, 1), tx(1, 1, 2), tx(2, 0, 1)];
    assert!(ordered.is_sorted());
    assert_eq!(tx(2, 1, 7).to_string(), "2.1/7");
    for form in [Form::TwoPhase, Form::ThreePhase] {
        assert_eq!(form.to_string().parse(), Ok(form));
    }
    assert!("one-phase".parse::<Form>().is_err());
    assert!(term(2, 0) < term(2, 0).next() && term(2, 0).next() < Term::first_of(3));
}

#[test]
fn a_change_is_prepared_once_and_forgotten_when_its_last_part_is_in_the_log() {
    let mut participant = participant(term(1, 0));
    assert_eq!(participant.prepare(tx(1, 0, 1), 2), Ok(Prepared::New));
    assert_eq!(participant.prepare(tx(1, 0, 1), 2), Ok(Prepared::Known));
    assert_eq!(participant.prepare(tx(1, 0, 1), 3), Err(Refusal::Parts(3)));
    assert_eq!(participant.prepare(tx(1, 0, 2), 0), Err(Refusal::Parts(0)));
    assert!(!participant.applied(tx(1, 0, 1), 1, 2));
    assert_eq!(participant.prepared().collect::<Vec<_>>(), [(tx(1, 0, 1), 1)]);
    assert!(participant.applied(tx(1, 0, 1), 2, 2));
    assert_eq!(participant.prepared_count(), 0);
    // It comes late.
    assert_eq!(participant.prepare(tx(1, 0, 1), 2), Ok(Prepared::Known));
    assert_eq!(participant.prepared_count(), 0);
}

#[test]
fn nothing_earlier_than_what_was_promised_or_settled_is_prepared() {
    let mut participant = participant(term(1, 0));
    participant.prepare(tx(1, 0, 1), 1).unwrap();
    participant.prepare(tx(1, 1, 1), 1).unwrap();
    participant.promise(term(1, 1)).unwrap();
    assert_eq!(participant.prepare(tx(1, 0, 2), 1), Err(Refusal::Promised(term(1, 1))));
    assert_eq!(participant.promise(term(1, 0)), Err(Refusal::Promised(term(1, 1))));
    assert_eq!(participant.settle(term(1, 1)), [tx(1, 0, 1)]);
    assert_eq!(participant.settle(term(2, 0)), [tx(1, 1, 1)]);
    assert_eq!(participant.prepare(tx(1, 1, 2), 1), Err(Refusal::Settled(term(2, 0))));
    assert_eq!(participant.promise(term(1, 2)), Err(Refusal::Settled(term(2, 0))));
}

#[test]
fn what_a_tail_held_is_prepared_again() {
    let mut participant = participant(term(1, 0));
    participant.settle(term(1, 0));
    for number in 1..=3 {
        participant.prepare(tx(1, 0, number), 2).unwrap();
        participant.applied(tx(1, 0, number), 1, 2);
        participant.applied(tx(1, 0, number), 2, 2);
    }
    participant.promise(term(2, 0)).unwrap();
    let tail =
        [2, 3].map(|number| TailChange { tx: tx(1, 0, number), done: 3 - number as u32, of: 2 });
    // A crash may come before the log is cut off.
    for _ in 0..2 {
        participant.prepare_again(tail).unwrap();
        let prepared: Vec<_> = participant.prepared().collect();
        assert_eq!(prepared, [(tx(1, 0, 2), 1), (tx(1, 0, 3), 0)]);
    }
    // The next writer's log brings the first, with the part that was missing, and not the other.
    assert!(participant.applied(tx(1, 0, 2), 2, 2));
    assert_eq!(participant.settle(term(2, 0)), [tx(1, 0, 3)]);
    assert_eq!(participant.begun().count(), 0);
}

#[test]
fn a_tail_that_does_not_fit_is_not_prepared_in_part() {
    let mut participant = participant(term(1, 0));
    for number in 1..PREPARED_MAX as u64 {
        participant.prepare(tx(1, 0, number), 1).unwrap();
    }
    participant.promise(term(2, 0)).unwrap();
    let tail = |numbers: std::ops::Range<u64>| {
        numbers.map(|number| TailChange { tx: tx(1, 1, number), done: 0, of: 1 })
    };
    let before = participant.prepared_count();
    assert_eq!(participant.prepare_again(tail(1..3)), Err(Refusal::TooMany(before)));
    assert_eq!(participant.prepared_count(), before);
    participant.prepare_again(tail(1..2)).unwrap();
    participant.prepare_again(tail(1..2)).unwrap();
    assert_eq!(participant.prepared_count(), PREPARED_MAX);
}

#[test]
fn after_a_copy_the_books_are_those_of_the_log_that_was_copied() {
    let mut participant = participant(term(1, 0));
    for number in 1..=4 {
        participant.prepare(tx(1, 0, number), 1).unwrap();
    }
    // A tail: it had begun a term of its own, in which it wrote one more.
    participant.applied(tx(1, 0, 4), 1, 1);
    participant.settle(term(2, 5));
    participant.applied(tx(2, 5, 1), 1, 1);
    participant.promise(term(3, 0)).unwrap();
    let tail = [tx(1, 0, 4), tx(2, 5, 1)].map(|tx| TailChange { tx, done: 0, of: 1 });
    participant.prepare_again(tail).unwrap();
    // That other log has made one of them, and has settled less.
    assert_eq!(participant.copied(term(1, 0), &[(term(1, 0), 1, 4)]), [tx(1, 0, 4)]);
    assert_eq!(participant.settled(), term(1, 0));
    assert_eq!(participant.prepared().collect::<Vec<_>>(), [(tx(2, 5, 1), 0)]);
    assert_eq!(participant.whole().collect::<Vec<_>>(), [(term(1, 0), 1, 4)]);
    assert_eq!(participant.copied(term(3, 1), &[]), [tx(2, 5, 1)]);
}

#[test]
fn a_vote_counts_once_and_only_of_who_counts() {
    let mut votes = votes(Form::ThreePhase, &["b", "c", "d", "e"]);
    assert_eq!(votes.open(tx(1, 0, 1), 7), Ok(false));
    assert_eq!(votes.open(tx(1, 0, 3), 7), Err(Refusal::NotNext(tx(1, 0, 3))));
    assert!(!vote(&mut votes, "b", 1) && !vote(&mut votes, "b", 1));
    assert!(!vote(&mut votes, "x", 1) && !vote(&mut votes, "c", 9));
    assert!(!votes.vote(&"c".to_owned(), tx(0, 0, 1)));
    assert_eq!(votes.missing(tx(1, 0, 1)).collect::<Vec<_>>(), ["c", "d", "e"]);
    assert_eq!(votes.pending().collect::<Vec<_>>(), [(tx(1, 0, 1), 7)]);
    assert!(vote(&mut votes, "c", 1));
    assert!(!vote(&mut votes, "d", 1) && !votes.is_pending(tx(1, 0, 1)));
}

#[test]
fn a_writer_alone_decides_at_once() {
    let mut votes = votes(Form::TwoPhase, &[]);
    assert_eq!(votes.open(votes.next(), 0), Ok(true));
    assert_eq!(votes.open(votes.next(), 0), Ok(true));
    assert_eq!(votes.next().number, 3);
}

#[test]
fn who_leaves_is_waited_for_until_the_quorum_has_agreed() {
    let mut votes = votes(Form::TwoPhase, &["b", "c"]);
    for number in 1..=3 {
        votes.open(tx(1, 0, number), 0).unwrap();
    }
    assert!(!vote(&mut votes, "b", 1) && !vote(&mut votes, "b", 3));
    votes.change(count(Form::TwoPhase, &["b"]));
    assert!(!vote(&mut votes, "c", 2) && !vote(&mut votes, "b", 9));
    assert_eq!(numbers(&votes.changed()), [1, 3]);
    assert!(vote(&mut votes, "b", 2));
    assert!(votes.changed().is_empty());
}

#[test]
fn who_comes_back_is_waited_for_at_once() {
    let mut votes = votes(Form::TwoPhase, &["b"]);
    votes.change(count(Form::TwoPhase, &["b", "c"]));
    votes.open(tx(1, 0, 1), 0).unwrap();
    votes.open(tx(1, 0, 2), 0).unwrap();
    assert_eq!(votes.missing(tx(1, 0, 1)).collect::<Vec<_>>(), ["b", "c"]);
    assert!(!vote(&mut votes, "b", 1) && vote(&mut votes, "c", 1));
    assert!(!vote(&mut votes, "b", 2));
    // The quorum has refused it.
    assert_eq!(numbers(&votes.unchanged()), [2]);
}

#[test]
fn no_more_are_under_way_than_there_is_room_for() {
    let mut votes = votes(Form::TwoPhase, &["b"]);
    for _ in 0..PENDING_MAX {
        votes.open(votes.next(), 0).unwrap();
    }
    assert_eq!(votes.open(votes.next(), 0), Err(Refusal::TooMany(PENDING_MAX)));
    assert!(vote(&mut votes, "b", 5));
    assert_eq!(votes.open(votes.next(), 0), Ok(false));
    let mut participant = participant(term(1, 0));
    for number in 1..=PREPARED_MAX as u64 {
        participant.prepare(tx(1, 0, number), 1).unwrap();
    }
    let more = participant.prepare(tx(1, 0, PREPARED_MAX as u64 + 1), 1);
    assert_eq!(more, Err(Refusal::TooMany(PREPARED_MAX)));
}

#[test]
fn a_new_term_takes_over_what_those_have_who_follow_it() {
    let mut own = participant(term(2, 0));
    own.applied(tx(1, 0, 4), 1, 2);
    let mut recovery = Recovery::new(term(2, 0), ("a", &own), 2, 10).unwrap();
    assert_eq!(recovery.plan(), None);
    let mut other = participant(term(1, 0));
    for number in [7, 4, 5] {
        other.prepare(tx(1, 0, number), 2).unwrap();
    }
    other.applied(tx(1, 0, 4), 1, 2);
    assert_eq!(recovery.answer("b", other.answer(10)), Err(Refusal::Promised(term(1, 0))));
    other.promise(term(2, 0)).unwrap();
    assert_eq!(recovery.answer("b", other.answer(9)), Err(Refusal::Behind(10)));
    assert_eq!(recovery.plan(), None);
    recovery.answer("b", other.answer(10)).unwrap();
    let found = recovery.plan().unwrap();
    assert_eq!(found.commit, [(tx(1, 0, 4), 1), (tx(1, 0, 5), 0), (tx(1, 0, 7), 0)]);
    assert_eq!(found.torn, []);
    assert_eq!(recovery.holders(tx(1, 0, 5)).collect::<Vec<_>>(), [&"b"]);
}

#[test]
fn a_change_of_which_nobody_has_the_rest_is_told() {
    let mut own = participant(term(2, 0));
    own.applied(tx(1, 0, 4), 1, 2);
    let recovery = Recovery::new(term(2, 0), ("a", &own), 1, 10).unwrap();
    assert_eq!(recovery.plan().unwrap().torn, [tx(1, 0, 4)]);
    let unpromised = Recovery::new(term(2, 1), ("a", &own), 1, 10);
    assert_eq!(unpromised, Err(Refusal::Promised(term(2, 0))));
}

#[test]
fn who_begins_anew_asks_nobody_if_the_epoch_was_settled() {
    let mut own = participant(term(2, 0));
    own.prepare(tx(2, 0, 1), 1).unwrap();
    own.promise(term(2, 1)).unwrap();
    let begin = |own: &Participant| Recovery::new(term(2, 1), ("a", own), 2, 10).unwrap();
    assert_eq!(begin(&own).plan(), None);
    own.settle(term(2, 0));
    assert!(begin(&own).plan().is_some());
}

/// What happens to a participant.
#[derive(Clone, Debug)]
enum Step {
    Prepare(TxId),
    Promise(Term),
    Apply(TxId),
    Settle(Term),
}

fn any_term() -> impl Strategy<Value = Term> {
    (1..4u64, 0..2u64).prop_map(|(epoch, life)| Term { epoch, life })
}

fn any_step() -> impl Strategy<Value = Step> {
    let any_tx = || (any_term(), 1..12u64).prop_map(|(term, number)| TxId { term, number });
    prop_oneof![
        6 => any_tx().prop_map(Step::Prepare),
        6 => any_tx().prop_map(Step::Apply),
        1 => any_term().prop_map(Step::Promise),
        1 => any_term().prop_map(Step::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Against books that forget nothing.
    #[test]
    fn a_participant_does_as_plain_books_say(
        steps in proptest::collection::vec(any_step(), 1..80),
    ) {
        let mut participant = Participant::default();
        let (mut promised, mut settled) = (Term::default(), Term::default());
        let (mut prepared, mut applied) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Prepare(tx) => {
                    let is_refused = tx.term < promised || tx.term < settled;
                    let is_known = prepared.contains(&tx) || applied.contains(&tx);
                    let expected = if is_known { Prepared::Known } else { Prepared::New };
                    let got = participant.prepare(tx, 1);
                    prop_assert_eq!(got.is_err(), is_refused);
                    if let Ok(got) = got {
                        prop_assert_eq!(got, expected);
                        if !is_known {
                            prepared.insert(tx);
                        }
                    }
                }
                Step::Promise(term) => {
                    let may = term >= promised && term >= settled;
                    prop_assert_eq!(participant.promise(term).is_ok(), may);
                    if may {
                        promised = term;
                    }
                }
                // In a log nothing of an earlier term follows the entry that settles one.
                Step::Apply(tx) if tx.term >= settled => {
                    prop_assert_eq!(participant.applied(tx, 1, 1), prepared.remove(&tx));
                    applied.insert(tx);
                }
                Step::Apply(_) => {}
                Step::Settle(term) => {
                    settled = settled.max(term);
                    let void: Vec<TxId> =
                        prepared.iter().filter(|tx| tx.term < settled).copied().collect();
                    prepared.retain(|tx| tx.term >= settled);
                    prop_assert_eq!(participant.settle(term), void);
                }
            }
            let names: Vec<TxId> = participant.prepared().map(|(tx, _)| tx).collect();
            prop_assert!(names.iter().eq(prepared.iter()));
            let parts = participant.prepared().map(|(tx, _)| (tx, 1)).collect::<Vec<_>>();
            prop_assert_eq!(&Participant::restore(&participant.kept(), parts), &participant);
        }
    }

    /// Whoever votes, in whatever order and how often, and whoever leaves or comes.
    #[test]
    fn what_is_decided_is_held_by_enough(
        three_phase: bool,
        steps in proptest::collection::vec((0..6u8, 0..6u8, 1..6u64), 1..120),
    ) {
        let form = if three_phase { Form::ThreePhase } else { Form::TwoPhase };
        let term = Term::first_of(1);
        let mut count = Count::new(form, 0..4u8);
        let mut coming: Option<Count<u8>> = None;
        let mut votes = Votes::begin(term, count.clone());
        let mut held: BTreeMap<TxId, BTreeSet<u8>> = BTreeMap::new();
        let mut decided: BTreeSet<TxId> = BTreeSet::new();
        for (what, member, number) in steps {
            let tx = TxId { term, number };
            let mut now = Vec::new();
            match what {
                0 => now.extend(votes.open(votes.next(), 0).unwrap().then_some(tx)),
                1 => {
                    let others = count.others.iter().copied().filter(|it| *it != member);
                    let next = Count::new(form, others);
                    votes.change(next.clone());
                    coming = Some(next);
                }
                2 => {
                    let next = Count::new(form, count.others.iter().copied().chain([member]));
                    votes.change(next.clone());
                    coming = Some(next);
                }
                3 => {
                    now = votes.changed();
                    count = coming.take().unwrap_or(count);
                }
                _ => {
                    if tx < votes.next() {
                        held.entry(tx).or_default().insert(member);
                    }
                    now.extend(votes.vote(&member, tx).then_some(tx));
                }
            }
            for tx in now {
                let who = held.get(&tx).cloned().unwrap_or_default();
                for count in [Some(&count), coming.as_ref()].into_iter().flatten() {
                    // A change can be opened while nobody else counts; it has the next number.
                    let is_alone = count.needed == 0;
                    let counted = who.intersection(&count.others).count();
                    prop_assert!(is_alone || counted >= count.needed);
                }
                prop_assert!(what == 0 || decided.insert(tx), "decided twice");
            }
        }
    }
}
