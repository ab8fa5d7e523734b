use proptest::prelude::*;

use super::*;

const AT: u64 = 1_700_000_000_000;

fn names(regions: &[&str]) -> Vec<String> {
    regions.iter().map(|region| (*region).to_owned()).collect()
}

fn renew(region: &str, number: u64, acked: u64) -> Command {
    let region = region.to_owned();
    Command::Renew { region, run: 1, number, acked, lease_millis: 2_000, at_millis: AT }
}

fn enrol(writer: &str, epoch: u64, held_by: u8, version: u64) -> Command {
    Command::Enrol {
        table: 7,
        name: "flights".to_owned(),
        epoch,
        writer: writer.to_owned(),
        replicas: names(&["r1", "r2", "r3"]),
        held_by,
        automatic: true,
        version,
        at_millis: AT,
    }
}

fn suspect(by: &str, region: &str, renewal: u64) -> Command {
    Command::Suspect {
        by: by.to_owned(),
        region: region.to_owned(),
        run: 1,
        renewal,
        outlives: 0,
        evidence: "no renewal for 1600 ms".to_owned(),
        at_millis: AT,
    }
}

fn claim(region: &str, epoch: u64, log_epoch: u64, lsn: u64) -> Command {
    let region = region.to_owned();
    Command::Claim { table: 7, region, epoch, log_epoch, lsn, known_end: lsn, at_millis: AT }
}

fn settle(epoch: u64) -> Command {
    Command::Settle { table: 7, epoch, by: "r3".to_owned(), at_millis: AT }
}

fn open(region: &str, epoch: u64, after: u64) -> Command {
    Command::Open { table: 7, epoch, region: region.to_owned(), after, at_millis: AT }
}

fn rejoin(region: &str, suspended_at: u64) -> Command {
    Command::Rejoin { region: region.to_owned(), run: 1, suspended_at, at_millis: AT }
}

fn by_hand(region: &str) -> Command {
    Command::SuspendByHand {
        region: region.to_owned(),
        who: "ann".to_owned(),
        why: "its power is cut at noon".to_owned(),
        at_millis: AT,
    }
}

fn decide(region: &str, epoch: u64) -> Command {
    let (region, who) = (region.to_owned(), "ann".to_owned());
    Command::Decide { table: 7, epoch, region, who, at_millis: AT }
}

fn accept_loss(region: &str, epoch: u64) -> Command {
    let (region, who) = (region.to_owned(), "ann".to_owned());
    Command::AcceptLoss { table: 7, epoch, region, who, at_millis: AT }
}

/// What is agreed on, and the index of the newest command.
struct Quorum {
    agreed: Agreed,
    index: u64,
}

impl Quorum {
    /// Three regions, of which the first writes table 7.
    fn new(held_by: u8) -> Quorum {
        let mut quorum = Quorum { agreed: Agreed::default(), index: 0 };
        for region in ["r1", "r2", "r3"] {
            quorum.done(&renew(region, 1, 0));
        }
        quorum.done(&enrol("r1", 1, held_by, 1));
        quorum
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.agreed.apply(self.index, command)
    }

    fn done(&mut self, command: &Command) {
        assert_eq!(self.apply(command), Outcome::Done, "{command:?}");
    }

    fn refused(&mut self, command: &Command) -> Refusal {
        let before = self.agreed.clone();
        let Outcome::Refused(refusal) = self.apply(command) else { panic!("{command:?}") };
        assert_eq!(self.agreed, before, "a refused command changes nothing");
        refusal
    }

    /// Both others hold a region to be gone.
    fn lose(&mut self, region: &str) {
        let renewal = self.agreed.regions[region].healthy_renewal;
        for by in ["r1", "r2", "r3"].into_iter().filter(|by| *by != region) {
            self.done(&suspect(by, region, renewal));
        }
        assert!(self.agreed.is_suspended(region));
    }

    fn tenure(&self) -> &Tenure {
        self.agreed.tenure(7).unwrap()
    }

    fn writes(&self) -> (u64, &str) {
        assert_eq!(self.tenure().vacant, None);
        (self.tenure().epoch, &self.tenure().writer)
    }
}

#[test]
fn the_most_complete_log_takes_over_once_all_that_are_there_have_claimed() {
    let mut quorum = Quorum::new(0);
    quorum.lose("r1");
    assert!(quorum.tenure().vacant.is_some());
    assert_eq!(quorum.agreed.vacancies_for("r2").count(), 1);
    assert_eq!(quorum.agreed.vacancies_for("r1").count(), 0);
    assert_eq!(quorum.refused(&renew("r1", 2, 1)), Refusal::Suspended("r1".into()));
    assert_eq!(quorum.agreed.may_renew("r1", 2), Err(Refusal::Suspended("r1".into())));
    quorum.done(&claim("r2", 2, 1, 10));
    let granted = Outcome::Granted { epoch: 2, after: 12 };
    assert_eq!(quorum.apply(&claim("r3", 2, 1, 12)), granted);
    assert_eq!(quorum.writes(), (2, "r3"));
    assert_eq!(quorum.apply(&claim("r3", 2, 1, 12)), granted, "asked again");
    assert!(matches!(quorum.refused(&claim("r2", 2, 1, 10)), Refusal::Held { .. }));
    assert_eq!(quorum.agreed.leases_to_outlast(7).collect::<Vec<_>>(), ["r1"]);
    assert_eq!(quorum.agreed.may_write(7, "r3", 2), Ok(()));
    assert!(quorum.agreed.may_write(7, "r1", 1).is_err());
    // Who has rejoined has fenced itself.
    let at = quorum.agreed.regions["r1"].suspended_at;
    quorum.done(&rejoin("r1", at));
    quorum.done(&renew("r1", 2, 1));
    assert_eq!(quorum.agreed.leases_to_outlast(7).count(), 0);
    assert!(matches!(quorum.agreed.may_write(7, "r1", 1), Err(Refusal::Held { .. })));
    let told = &quorum.agreed.audit;
    assert!(told.iter().any(|one| one.why.contains("r2: no renewal for 1600 ms; r3")), "{told:?}");
}

#[test]
fn the_log_of_the_later_epoch_is_the_more_complete_one_and_then_rank_decides() {
    let mut quorum = Quorum::new(0);
    quorum.lose("r1");
    quorum.done(&claim("r2", 2, 0, 50));
    quorum.done(&settle(2));
    assert_eq!(quorum.writes(), (2, "r2"));
    let at = quorum.agreed.regions["r1"].suspended_at;
    quorum.done(&rejoin("r1", at));
    quorum.lose("r2");
    quorum.done(&claim("r3", 3, 2, 40));
    quorum.done(&claim("r1", 3, 1, 60));
    assert_eq!(quorum.writes(), (3, "r3"));
    let at = quorum.agreed.regions["r2"].suspended_at;
    quorum.done(&rejoin("r2", at));
    quorum.lose("r3");
    quorum.done(&claim("r2", 4, 3, 41));
    assert_eq!(quorum.apply(&claim("r1", 4, 3, 41)), Outcome::Granted { epoch: 4, after: 41 });
}

#[test]
fn semi_sync_takes_so_many_claims_that_one_holds_what_was_acknowledged() {
    let mut quorum = Quorum::new(1);
    quorum.lose("r1");
    quorum.done(&claim("r3", 2, 1, 9));
    let few = Refusal::TooFewClaims { table: 7, have: 1, needed: 2 };
    assert_eq!(quorum.refused(&settle(2)), few);
    // Nor when nobody else is there, unless a person says so.
    quorum.done(&by_hand("r2"));
    assert_eq!(quorum.refused(&settle(2)), few);
    assert!(matches!(quorum.refused(&decide("r2", 2)), Refusal::NotClaimed { .. }));
    quorum.done(&decide("r3", 2));
    assert_eq!(quorum.writes(), (2, "r3"));
    quorum.done(&decide("r3", 2));

    let mut quorum = Quorum::new(2);
    quorum.lose("r1");
    quorum.done(&claim("r3", 2, 1, 9));
    quorum.done(&settle(2));
    assert_eq!(quorum.writes(), (2, "r3"));
}

#[test]
fn a_claim_of_a_region_that_is_gone_does_not_count() {
    let mut quorum = Quorum::new(1);
    quorum.lose("r1");
    quorum.done(&claim("r2", 2, 1, 10));
    quorum.done(&by_hand("r2"));
    quorum.done(&claim("r3", 2, 1, 9));
    assert!(matches!(quorum.refused(&settle(2)), Refusal::TooFewClaims { have: 1, .. }));
    let suspended = Refusal::Suspended("r2".into());
    assert_eq!(quorum.refused(&claim("r2", 2, 1, 10)), suspended);
    // The old writer comes back; its log is the most complete one.
    let at = quorum.agreed.regions["r1"].suspended_at;
    quorum.done(&rejoin("r1", at));
    assert_eq!(quorum.apply(&claim("r1", 2, 1, 11)), Outcome::Granted { epoch: 2, after: 11 });
}

#[test]
fn stale_evidence_suspends_nobody() {
    let mut quorum = Quorum::new(0);
    quorum.done(&suspect("r2", "r1", 0));
    quorum.done(&suspect("r2", "r1", 0));
    assert!(!quorum.agreed.is_suspended("r1"), "one voice");
    quorum.done(&renew("r1", 2, 0));
    assert_eq!(quorum.agreed.regions["r1"].suspicions.len(), 1, "it did not hear the answer");
    quorum.done(&renew("r1", 3, 2));
    assert_eq!(quorum.agreed.regions["r1"].suspicions.len(), 0);
    let overtaken = Refusal::Overtaken { region: "r1".into(), newest: 2 };
    assert_eq!(quorum.refused(&suspect("r3", "r1", 0)), overtaken);
    quorum.done(&suspect("r3", "r1", 2));
    quorum.done(&Command::Unsuspect { by: "r3".into(), region: "r1".into() });
    quorum.done(&suspect("r2", "r1", 2));
    assert!(!quorum.agreed.is_suspended("r1"));
    assert_eq!(quorum.refused(&suspect("r1", "r1", 2)), Refusal::OnItself("r1".into()));
    quorum.lose("r3");
    assert!(matches!(quorum.refused(&suspect("r3", "r1", 2)), Refusal::Suspended(_)));
    // A suspicion may outlive some renewals, if it is of something else.
    let mut quorum = Quorum::new(0);
    let mut lasting = suspect("r2", "r1", 0);
    if let Command::Suspect { outlives, .. } = &mut lasting {
        *outlives = 2;
    }
    quorum.done(&lasting);
    for (number, suspicions) in [(2, 1), (3, 1), (4, 0)] {
        quorum.done(&renew("r1", number, number - 1));
        assert_eq!(quorum.agreed.regions["r1"].suspicions.len(), suspicions, "{number}");
    }
}

#[test]
fn an_old_rejoin_does_not_end_a_new_suspension() {
    let mut quorum = Quorum::new(0);
    quorum.lose("r1");
    let first = quorum.agreed.regions["r1"].suspended_at;
    quorum.done(&rejoin("r1", first));
    quorum.done(&rejoin("r1", first));
    quorum.lose("r1");
    let at = quorum.agreed.regions["r1"].suspended_at;
    let again = Refusal::SuspendedAgain { region: "r1".into(), at };
    assert_eq!(quorum.refused(&rejoin("r1", first)), again);
    quorum.done(&by_hand("r1"));
    assert!(matches!(quorum.refused(&rejoin("r1", at)), Refusal::SuspendedByHand(_)));
    quorum.done(&Command::Release { region: "r1".into(), who: "ann".into(), at_millis: AT });
    quorum.done(&rejoin("r1", at));
    assert!(!quorum.agreed.is_suspended("r1"));
}

#[test]
fn a_planned_change_is_granted_once_and_not_while_the_table_is_vacant() {
    let mut quorum = Quorum::new(0);
    let granted = Outcome::Granted { epoch: 2, after: 20 };
    assert_eq!(quorum.apply(&open("r2", 2, 20)), granted);
    assert_eq!(quorum.apply(&open("r2", 2, 20)), granted);
    assert!(matches!(quorum.refused(&open("r3", 2, 20)), Refusal::Held { .. }));
    assert!(matches!(quorum.refused(&open("r3", 4, 20)), Refusal::Held { .. }));
    assert_eq!(quorum.agreed.leases_to_outlast(7).count(), 0);
    quorum.lose("r2");
    assert!(matches!(quorum.refused(&open("r3", 3, 21)), Refusal::Vacant { .. }));
    assert_eq!(quorum.refused(&open("r2", 2, 20)), Refusal::Suspended("r2".into()));
    quorum.done(&claim("r3", 3, 2, 21));
    assert_eq!(quorum.apply(&claim("r1", 3, 2, 21)), Outcome::Granted { epoch: 3, after: 21 });
    assert!(matches!(quorum.refused(&open("r3", 3, 21)), Refusal::Held { .. }));
}

#[test]
fn a_table_by_hand_waits_for_a_person_or_for_its_writer() {
    let mut quorum = Quorum::new(0);
    let mut terms = enrol("r1", 1, 0, 2);
    if let Command::Enrol { automatic, .. } = &mut terms {
        *automatic = false;
    }
    quorum.done(&terms);
    quorum.lose("r1");
    quorum.done(&claim("r2", 2, 1, 10));
    quorum.done(&claim("r3", 2, 1, 10));
    assert_eq!(quorum.refused(&settle(2)), Refusal::AwaitsPerson(7));
    let mut returned = Quorum { agreed: quorum.agreed.clone(), index: quorum.index };
    quorum.done(&decide("r3", 2));
    assert_eq!(quorum.writes(), (2, "r3"));
    let at = returned.agreed.regions["r1"].suspended_at;
    returned.done(&rejoin("r1", at));
    assert_eq!(returned.apply(&claim("r1", 2, 1, 10)), Outcome::Granted { epoch: 2, after: 10 });
}

#[test]
fn a_loss_is_accepted_once_of_the_epoch_that_was_granted_and_of_no_other() {
    let mut quorum = Quorum::new(1);
    assert_eq!(
        quorum.refused(&accept_loss("r2", 2)),
        Refusal::Held { table: 7, epoch: 1, writer: "r1".into() }
    );
    quorum.done(&by_hand("r1"));
    quorum.done(&by_hand("r3"));
    quorum.done(&claim("r2", 2, 1, 5));
    // It is said of an epoch that was granted, so that a voter which does not know it grants
    // nothing else by it.
    assert_eq!(quorum.refused(&accept_loss("r2", 2)), Refusal::Vacant { table: 7, epoch: 2 });
    let accepts = |quorum: &Quorum| quorum.tenure().history.last().unwrap().accepts_loss;
    // One claim of two is enough for a person; what was prepared is waited for all the same.
    quorum.done(&decide("r2", 2));
    assert_eq!((quorum.writes(), accepts(&quorum)), ((2, "r2"), false));
    quorum.refused(&accept_loss("r3", 2));
    quorum.refused(&accept_loss("r2", 3));
    for _ in 0..2 {
        quorum.done(&accept_loss("r2", 2));
        assert_eq!((quorum.writes(), accepts(&quorum)), ((2, "r2"), true));
    }
    let told = quorum.agreed.audit.iter().filter(|one| one.why.contains("loss is accepted"));
    assert_eq!(told.map(|one| one.who.as_str()).collect::<Vec<_>>(), ["ann"]);
    // The next epoch asks again.
    quorum.done(&by_hand("r2"));
    for region in ["r2", "r3"] {
        quorum.done(&Command::Release { region: region.into(), who: "ann".into(), at_millis: AT });
        let at = quorum.agreed.regions[region].suspended_at;
        quorum.done(&rejoin(region, at));
        quorum.apply(&claim(region, 3, 2, 6));
    }
    quorum.apply(&decide("r2", 3));
    assert_eq!((quorum.writes(), accepts(&quorum)), ((3, "r2"), false));
}

#[test]
fn terms_follow_the_record_and_never_change_who_writes() {
    let mut quorum = Quorum::new(0);
    quorum.done(&enrol("r1", 1, 0, 1));
    assert!(matches!(quorum.refused(&enrol("r1", 1, 1, 1)), Refusal::OldVersion { .. }));
    quorum.done(&enrol("r1", 1, 1, 2));
    assert_eq!(quorum.tenure().claims_needed(), 2);
    assert!(matches!(quorum.refused(&enrol("r2", 2, 0, 3)), Refusal::Held { .. }));
    quorum.lose("r1");
    assert!(matches!(quorum.refused(&enrol("r2", 1, 2, 3)), Refusal::Vacant { .. }));
    quorum.done(&claim("r2", 2, 1, 10));
    quorum.done(&claim("r3", 2, 1, 10));
    assert!(matches!(quorum.refused(&enrol("r1", 1, 0, 3)), Refusal::Suspended(_)));
    quorum.done(&enrol("r2", 2, 0, 3));
    let leave = |version| Command::Leave { table: 7, version, by: "r2".into(), at_millis: AT };
    assert!(matches!(quorum.refused(&leave(2)), Refusal::OldVersion { .. }));
    quorum.done(&leave(4));
    assert!(matches!(quorum.refused(&enrol("r2", 2, 0, 4)), Refusal::OldVersion { .. }));
    assert_eq!(quorum.refused(&settle(3)), Refusal::NoTable(7));
    quorum.done(&enrol("r2", 2, 0, 5));
}

#[test]
fn who_cannot_go_on_resigns_and_who_is_gone_for_good_is_forgotten() {
    let mut quorum = Quorum::new(0);
    let resign = |region: &str, epoch| Command::Resign {
        table: 7,
        epoch,
        region: region.to_owned(),
        why: "its disk was replaced".to_owned(),
        at_millis: AT,
    };
    assert!(matches!(quorum.refused(&resign("r2", 1)), Refusal::Held { .. }));
    quorum.done(&resign("r1", 1));
    quorum.done(&resign("r1", 1));
    assert!(!quorum.agreed.is_suspended("r1"));
    quorum.done(&claim("r2", 2, 1, 10));
    quorum.done(&settle(2));
    assert_eq!(quorum.agreed.leases_to_outlast(7).count(), 0);
    let forget =
        |region: &str| Command::Forget { region: region.into(), who: "ann".into(), at_millis: AT };
    assert!(matches!(quorum.refused(&forget("r1")), Refusal::NotSuspended(_)));
    quorum.done(&by_hand("r1"));
    assert!(matches!(quorum.refused(&forget("r1")), Refusal::InUse { .. }));
    let mut terms = enrol("r2", 2, 0, 2);
    if let Command::Enrol { replicas, .. } = &mut terms {
        *replicas = names(&["r2", "r3"]);
    }
    quorum.done(&terms);
    quorum.done(&forget("r1"));
    assert!(!quorum.agreed.regions.contains_key("r1"));
}

#[test]
fn an_older_process_of_a_region_renews_nothing() {
    let mut quorum = Quorum::new(0);
    let mut newer = renew("r1", 1, 0);
    if let Command::Renew { run, .. } = &mut newer {
        *run = 2;
    }
    quorum.done(&suspect("r2", "r1", 0));
    quorum.done(&newer);
    assert_eq!(quorum.agreed.regions["r1"].suspicions.len(), 0);
    assert!(matches!(quorum.refused(&newer), Refusal::OldRenewal { newest: 1, .. }));
    assert!(matches!(quorum.refused(&renew("r1", 9, 0)), Refusal::OldRun { run: 2, .. }));
    assert!(matches!(quorum.refused(&suspect("r2", "r1", 0)), Refusal::Overtaken { .. }));
}

#[test]
fn a_tail_begins_where_the_log_that_goes_on_does_not_have_it() {
    let opening = |epoch, after, log_epoch, how| Opening {
        epoch,
        writer: "r1".to_owned(),
        after,
        log_epoch,
        how,
        accepts_loss: false,
    };
    let mut quorum = Quorum::new(0);
    let tenure = quorum.agreed.tables.get_mut(&7).unwrap();
    // Epoch 4 went on from epoch 2, so nothing of 3 is part of it.
    tenure.history = vec![
        opening(1, 0, 0, How::Enrolled),
        opening(2, 10, 1, How::Failover),
        opening(3, 20, 2, How::Failover),
        opening(4, 15, 2, How::Failover),
    ];
    tenure.epoch = 4;
    for ((log_epoch, lsn), through) in [
        ((4, 17), Some(17)),
        ((3, 25), Some(15)),
        ((2, 18), Some(15)),
        ((2, 12), Some(12)),
        ((1, 13), Some(10)),
        ((1, 3), Some(3)),
        ((0, 3), Some(3)),
        ((5, 20), None),
    ] {
        assert_eq!(tenure.agrees_through(log_epoch, lsn), through, "{log_epoch} {lsn}");
    }
    // What is no longer kept cannot be told.
    tenure.history.remove(0);
    assert_eq!(tenure.agrees_through(1, 13), Some(10));
    assert_eq!(tenure.agrees_through(0, 3), None);
    tenure.history.remove(0);
    assert_eq!(tenure.agrees_through(1, 13), None);
    assert_eq!(tenure.agrees_through(2, 18), Some(15));
}

#[test]
fn what_is_kept_has_bounds_and_is_the_same_after_it_was_written() {
    let mut quorum = Quorum::new(0);
    let long = "ä".repeat(TEXT_BYTES_MAX);
    for _ in 0..AUDIT_MAX + 5 {
        quorum.done(&Command::Note { who: "ann".into(), what: long.clone(), at_millis: AT });
    }
    assert_eq!(quorum.agreed.audit.len(), AUDIT_MAX);
    assert!(quorum.agreed.audit.iter().all(|one| one.what.len() <= TEXT_BYTES_MAX));
    assert!(matches!(quorum.refused(&renew(&long, 1, 0)), Refusal::Invalid(_)));
    for epoch in 2..200 {
        let region = if epoch % 2 == 0 { "r2" } else { "r1" };
        assert!(matches!(quorum.apply(&open(region, epoch, epoch)), Outcome::Granted { .. }));
    }
    assert_eq!(quorum.tenure().history.len(), HISTORY_MAX);
    for number in quorum.agreed.regions.len()..REGIONS_MAX {
        quorum.done(&renew(&format!("x{number}"), 1, 0));
    }
    assert!(matches!(quorum.refused(&renew("one more", 1, 0)), Refusal::Invalid(_)));
    let written = serde_json::to_vec(&quorum.agreed).unwrap();
    assert_eq!(serde_json::from_slice::<Agreed>(&written).unwrap(), quorum.agreed);
    let command = claim("r2", 3, 2, 9);
    let written = serde_json::to_vec(&command).unwrap();
    assert_eq!(serde_json::from_slice::<Command>(&written).unwrap(), command);
}

#[test]
fn terms_that_make_no_sense_are_refused() {
    let mut quorum = Quorum::new(0);
    let wrong = [
        (names(&["r2", "r3"]), 0),
        (names(&["r1", "r1"]), 0),
        (names(&["r1", "r2"]), 2),
        (names(&["r1", ""]), 0),
        ((0..11).map(|number| format!("r{number}")).collect(), 0),
    ];
    for (regions, held) in wrong {
        let mut terms = enrol("r1", 1, held, 9);
        if let Command::Enrol { replicas, .. } = &mut terms {
            *replicas = regions;
        }
        assert!(matches!(quorum.refused(&terms), Refusal::Invalid(_)), "{terms:?}");
    }
    assert!(matches!(quorum.refused(&enrol("r9", 1, 0, 9)), Refusal::Invalid(_)));
    assert!(matches!(quorum.refused(&claim("r2", 2, 2, 9)), Refusal::Held { .. }));
    quorum.lose("r1");
    assert!(matches!(quorum.refused(&claim("r2", 2, 2, 9)), Refusal::Invalid(_)));
}

fn any_region() -> impl Strategy<Value = String> {
    (1..=4_u8).prop_map(|number| format!("r{number}"))
}

/// Any command of a small world, sensible or not.
fn any_command() -> impl Strategy<Value = Command> {
    let epoch = || 1..6_u64;
    prop_oneof![
        (any_region(), 1..3_u64, 1..30_u64, 0..30_u64).prop_map(|(region, run, number, acked)| {
            Command::Renew { region, run, number, acked, lease_millis: 2_000, at_millis: AT }
        }),
        (any_region(), any_region(), 1..3_u64, 0..4_u64, 0..3_u64).prop_map(
            |(by, region, run, renewal, outlives)| Command::Suspect {
                by,
                region,
                run,
                renewal,
                outlives,
                evidence: String::new(),
                at_millis: AT
            }
        ),
        (any_region(), any_region()).prop_map(|(by, region)| Command::Unsuspect { by, region }),
        (any_region(), epoch(), 0..5_u64, 0..20_u64)
            .prop_map(|(region, epoch, log_epoch, lsn)| claim(&region, epoch, log_epoch, lsn)),
        (any_region(), epoch(), 0..5_u64, 0..20_u64)
            .prop_map(|(region, epoch, log_epoch, lsn)| claim(&region, epoch, log_epoch, lsn)),
        epoch().prop_map(settle),
        (any_region(), epoch()).prop_map(|(region, epoch)| open(&region, epoch, 9)),
        (any_region(), 1..3_u64, 1..60_u64).prop_map(|(region, run, suspended_at)| {
            Command::Rejoin { region, run, suspended_at, at_millis: AT }
        }),
        any_region().prop_map(|region| by_hand(&region)),
        any_region().prop_map(|region| Command::Release {
            region,
            who: "ann".into(),
            at_millis: AT
        }),
        (any_region(), epoch()).prop_map(|(region, epoch)| decide(&region, epoch)),
        (any_region(), epoch()).prop_map(|(region, epoch)| accept_loss(&region, epoch)),
        (any_region(), epoch()).prop_map(|(region, epoch)| Command::Resign {
            table: 7,
            epoch,
            region,
            why: String::new(),
            at_millis: AT
        }),
        (any_region(), epoch(), 0..3_u8, any::<bool>(), 1..5_u64).prop_map(
            |(writer, epoch, held_by, is_automatic, version)| {
                let mut terms = enrol(&writer, epoch, held_by, version);
                if let Command::Enrol { automatic, .. } = &mut terms {
                    *automatic = is_automatic;
                }
                terms
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever comes, in whatever order and however often.
    #[test]
    fn an_epoch_is_granted_once_and_to_none_that_is_suspended(
        commands in proptest::collection::vec(any_command(), 1..60),
        again in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        held_by in 0..3_u8,
    ) {
        let mut quorum = Quorum::new(held_by);
        let repeated: Vec<Command> =
            again.iter().map(|index| index.get(&commands).clone()).collect();
        let mut granted: BTreeMap<u64, String> = BTreeMap::new();
        granted.insert(1, "r1".to_owned());
        for command in commands.iter().chain(&repeated) {
            let before = quorum.agreed.clone();
            let outcome = quorum.apply(command);
            if matches!(outcome, Outcome::Refused(_)) {
                prop_assert_eq!(&quorum.agreed, &before);
                continue;
            }
            let (old, new) = (&before.tables[&7], &quorum.agreed.tables[&7]);
            prop_assert!(new.epoch >= old.epoch);
            if new.epoch > old.epoch {
                prop_assert_eq!(new.epoch, old.epoch + 1);
                prop_assert!(new.vacant.is_none());
                prop_assert!(!quorum.agreed.is_suspended(&new.writer));
                prop_assert!(new.has_replica(&new.writer));
                prop_assert_eq!(granted.insert(new.epoch, new.writer.clone()), None);
                let is_planned = matches!(command, Command::Open { .. });
                let is_by_hand = matches!(command, Command::Decide { .. });
                prop_assert_eq!(old.vacant.is_none(), is_planned);
                if !is_planned && !is_by_hand {
                    // The claim that completes them is not there before.
                    let claims = &old.vacant.as_ref().unwrap().claims;
                    let mut all: BTreeMap<&str, (u64, u64)> = claims
                        .iter()
                        .map(|(by, claim)| (by.as_str(), (claim.log_epoch, claim.lsn)))
                        .collect();
                    if let Command::Claim { region, log_epoch, lsn, .. } = command {
                        all.insert(region, (*log_epoch, *lsn));
                    }
                    all.retain(|region, _| !quorum.agreed.is_suspended(region));
                    prop_assert!(all.len() >= new.claims_needed());
                    prop_assert_eq!(all.get(new.writer.as_str()), all.values().max());
                    prop_assert!(new.automatic || new.writer == old.writer);
                }
            }
            if let Outcome::Granted { epoch, .. } = outcome {
                prop_assert_eq!(epoch, new.epoch);
            }
            // A vacancy ends only by a grant, and the writer of what is held is not suspended.
            prop_assert!(old.vacant.is_none() || new.vacant.is_some() || new.epoch > old.epoch);
            prop_assert!(new.vacant.is_some() || !quorum.agreed.is_suspended(&new.writer));
            if let Some(vacancy) = &new.vacant {
                prop_assert_eq!(vacancy.epoch, new.epoch + 1);
                prop_assert!(vacancy.claims.keys().all(|by| !quorum.agreed.is_suspended(by)));
            }
        }
    }
}
