use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::VoteRequest;

use super::world::{LONG, World, member};
use super::{Command, Ledger};
use crate::error::{ProposeError, RegistryError};
use crate::limits::{COMMAND_BYTES_MAX, SNAPSHOT_EVERY};
use crate::message::{self, Question};
use crate::raft::Vote;

const SHORT: Duration = Duration::from_secs(3);

#[test]
fn all_members_see_one_order_whoever_proposes() {
    let world = World::of(3);
    for number in 0..30 {
        let (_, count) = world.propose(number % 3 + 1, number).unwrap();
        assert_eq!(count as u64, number + 1);
    }
    let expected: Vec<u64> = (0..30).collect();
    for id in 1..=3 {
        assert_eq!(world.numbers(id), expected);
        let standing = world.node(id).standing();
        assert_eq!(standing.members, world.members);
        assert!(standing.leader.is_some() && standing.last_index >= standing.applied_index);
        assert!(standing.term > 0 && standing.applied_index > 0);
    }
}

#[test]
fn one_member_alone_agrees_with_itself() {
    let mut world = World::of(1);
    assert_eq!(world.propose(1, 7).unwrap().1, 1);
    world.stop(1);
    world.start(1);
    assert_eq!(world.numbers(1), [7]);
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_learns_of_it_later() {
    let world = World::of(3);
    world.propose(1, 0).unwrap();
    let old = world.leader_among(&[1, 2, 3]);
    world.isolate(old);
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    world.eventually("another leader", || world.propose_within(others[0], 1, SHORT).is_ok());
    let new = world.leader_among(&others);
    assert_ne!(new, old);
    world.eventually("the old one to see it", || world.node(old).standing().leader.is_none());
    let refused = world.propose_within(old, 2, SHORT);
    assert_eq!(refused, Err(ProposeError::NoLeader), "surely not done");
    assert_eq!(world.wait(world.node(old).observe(SHORT)), Err(ProposeError::NoLeader));

    world.heal();
    world.eventually("the old one to follow", || world.propose_within(old, 3, SHORT).is_ok());
    let numbers = world.numbers(old);
    assert!(numbers.starts_with(&[0, 1]) && !numbers.contains(&2), "{numbers:?}");
    assert!((1..=3).all(|id| world.numbers(id) == numbers));
}

#[test]
fn a_leader_that_is_heard_but_hears_nothing_is_replaced() {
    let world = World::of(3);
    world.propose(1, 0).unwrap();
    let old = world.leader_among(&[1, 2, 3]);
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    for other in &others {
        world.cut(*other, old);
    }
    world.eventually("another leader", || world.propose_within(others[0], 1, SHORT).is_ok());
    assert_ne!(world.leader_among(&others), old);
    world.heal();
    world.eventually("the old one to follow", || world.propose_within(old, 2, SHORT).is_ok());
    let numbers = world.numbers(old);
    assert!((1..=3).all(|id| world.numbers(id) == numbers));
}

#[test]
fn what_was_agreed_on_is_there_after_all_have_stopped() {
    let mut world = World::of(3);
    for number in 0..5 {
        world.propose(1, number).unwrap();
    }
    let before = world.numbers(2);
    for id in 1..=3 {
        world.stop(id);
    }
    for id in 1..=3 {
        world.start(id);
    }
    assert_eq!(world.numbers(3), before);
    world.propose(3, 5).unwrap();
    assert_eq!(world.numbers(1).len(), 6);
}

#[test]
fn nothing_that_was_told_is_lost_when_members_are_killed() {
    let mut world = World::of(3);
    let (mut told, mut maybe) = (BTreeSet::new(), BTreeSet::new());
    let mut number = 0;
    for victim in [1, 2, 3, 1, 2, 3] {
        for _ in 0..10 {
            let through = world.ids()[number as usize % world.ids().len()];
            match world.propose_within(through, number, LONG) {
                Ok(_) => drop(told.insert(number)),
                Err(ProposeError::Unknown(_)) => drop(maybe.insert(number)),
                Err(ProposeError::NoLeader) => {}
                Err(error) => panic!("{error}"),
            }
            number += 1;
        }
        // One proposal is under way when it is killed.
        let node = world.node(victim);
        let under_way = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let command = Command::Append(number);
            runtime.unwrap().block_on(node.propose(command, SHORT)).is_ok()
        });
        world.kill(victim);
        match under_way.join() {
            Ok(true) => drop(told.insert(number)),
            Ok(false) | Err(_) => drop(maybe.insert(number)),
        }
        number += 1;
        let rest = world.ids();
        let known = world.numbers(rest[0]);
        assert!(told.iter().all(|number| known.contains(number)));
        world.start(victim);
    }
    let numbers = world.numbers(1);
    assert!((1..=3).all(|id| world.numbers(id) == numbers));
    let found: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(found.len(), numbers.len(), "nothing is done twice");
    assert!(told.is_subset(&found) && told.len() > 30);
    assert!(found.iter().all(|number| told.contains(number) || maybe.contains(number)));
}

#[test]
fn members_come_and_go_while_it_runs() {
    let mut world = World::of(3);
    world.propose(1, 0).unwrap();
    world.members = (1..=4).map(member).collect();
    world.start(4);
    let four = world.members.clone();
    world.wait(world.node(2).change_members(four.clone(), LONG)).unwrap();
    world.eventually("the new one to vote", || {
        let standing = world.node(4).standing();
        standing.votes && standing.members == four
    });
    assert_eq!(world.numbers(4), [0]);

    let gone = world.leader_among(&[1, 2, 3, 4]);
    let rest: Vec<_> = four.into_iter().filter(|member| member.id != gone).collect();
    let through = rest[0].id;
    // The leader itself goes: whether it could tell is another matter.
    world.eventually("the leader to go", || {
        let _ = world.wait(world.node(through).change_members(rest.clone(), SHORT));
        world.node(through).members() == rest
    });
    world.stop(gone);
    let (_, count) = world.propose(through, 1).unwrap();
    assert_eq!(count, 2);
    let ids: Vec<u64> = rest.iter().map(|member| member.id).collect();
    world.leader_among(&ids);
    assert!(ids.iter().all(|id| world.numbers(*id) == [0, 1]));

    let twice = vec![member(1), member(1)];
    let refused = world.wait(world.node(through).change_members(twice, SHORT));
    assert!(matches!(refused, Err(ProposeError::Refused(_))));
}

#[test]
fn a_member_that_was_away_long_is_sent_a_snapshot() {
    let mut world = World::of(3);
    let leader = world.leader_among(&[1, 2, 3]);
    let away = if leader == 3 { 2 } else { 3 };
    let ballast = "x".repeat(COMMAND_BYTES_MAX / 2);
    world.wait(world.node(1).propose(Command::Load(ballast.clone()), LONG)).unwrap();
    world.stop(away);
    let node = world.node(leader);
    let count = SNAPSHOT_EVERY + 600;
    world.wait(async {
        let mut under_way = tokio::task::JoinSet::new();
        for number in 0..count {
            if under_way.len() >= 64 {
                under_way.join_next().await;
            }
            let node = node.clone();
            under_way.spawn(async move { node.propose(Command::Append(number), LONG).await });
        }
        while let Some(done) = under_way.join_next().await {
            done.unwrap().unwrap();
        }
    });
    world.eventually("the log to be purged", || {
        node.raft.metrics().borrow().purged.is_some_and(|purged| purged.index > 500)
    });
    let back = world.start(away);
    assert_eq!(world.numbers(away).len() as u64, count);
    assert_eq!(back.state().borrow().state.ballast, ballast);
    let (purged, snapshot) = {
        let metrics = back.raft.metrics();
        let seen = metrics.borrow();
        (seen.purged, seen.snapshot)
    };
    assert!(purged.is_some() && snapshot >= purged, "it was sent a snapshot");
    world.stop(away);
    world.start(away);
    assert_eq!(world.numbers(away), world.numbers(leader));
}

#[test]
fn a_member_that_lost_its_disk_votes_only_when_it_has_learnt_all() {
    let mut world = World::of(3);
    let leader = world.leader_among(&[1, 2, 3]);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (behind, lost) = (others[0], others[1]);
    // One is behind and the other loses what it had: no majority of them has it.
    world.isolate(behind);
    world.propose(leader, 7).unwrap();
    world.stop(lost);
    world.lose_disk(lost);
    world.stop(leader);
    world.heal();
    world.start(lost);
    world.pause(SHORT);
    assert!(!world.node(lost).standing().votes);
    assert!(world.node(behind).standing().leader.is_none_or(|name| name == member(leader).name));
    let refused = world.propose_within(behind, 8, SHORT);
    assert!(matches!(refused, Err(ProposeError::NoLeader)), "{refused:?}");

    world.start(leader);
    assert_eq!(world.numbers(lost), [7]);
    world.eventually("the vote", || world.node(lost).standing().votes);
    assert_eq!(world.numbers(behind), [7]);
}

#[test]
fn nobody_but_a_member_is_listened_to_and_for_itself_only() {
    let world = World::of(3);
    world.propose(1, 0).unwrap();
    let node = world.node(1);
    let answer = |from: &str, message: Bytes| world.wait(node.answer(from, message));
    let probe = message::pack(&Question::<Ledger>::Probe, &[]).unwrap();
    assert!(answer("m2", probe.clone()).is_ok());
    assert!(matches!(answer("m9", probe), Err(RegistryError::NoMember(_))));

    let term = node.standing().term + 5;
    let vote = |id| {
        let vote = VoteRequest { vote: Vote::new(term, id), last_log_id: None };
        message::pack(&Question::<Ledger>::Vote(vote), &[]).unwrap()
    };
    assert!(matches!(answer("m2", vote(3)), Err(RegistryError::NoMember(_))));
    assert!(answer("m2", vote(2)).is_ok());
    assert!(matches!(answer("m2", Bytes::from_static(b"hello")), Err(RegistryError::Version(_))));
    assert!(matches!(answer("m2", Bytes::new()), Err(RegistryError::Garbage)));

    let large = Command::Load("x".repeat(COMMAND_BYTES_MAX));
    let refused = world.wait(node.propose(large, SHORT));
    assert!(matches!(refused, Err(ProposeError::Refused(_))));
    assert_eq!(world.numbers(1), [0]);
}

#[test]
fn a_registry_whose_disk_is_gone_says_so() {
    let world = World::of(1);
    world.propose(1, 0).unwrap();
    let node = world.node(1);
    node.file.close();
    assert!(matches!(world.propose_within(1, 1, SHORT), Err(ProposeError::Unknown(_))));
    assert!(!world.wait(node.failed()).is_empty());
}
