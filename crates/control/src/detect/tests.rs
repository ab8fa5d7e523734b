use super::*;
use proptest::prelude::*;

fn settings() -> Settings {
    Settings::of_lease(millis(2_000))
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn is_suspect(detector: &Detector, now: u64) -> bool {
    matches!(detector.verdict(millis(now)), Verdict::Suspect { .. })
}

/// A region that has renewed as it should until a moment, and a quorum that goes on.
fn steady(detection: Detection, until: u64) -> Detector {
    let settings = Settings { detection, ..settings() };
    let mut detector = Detector::new(settings, Duration::ZERO);
    for (number, at) in (0..=until).step_by(400).enumerate() {
        detector.renewed(1, number as u64, millis(at));
        detector.answered(millis(3), millis(at));
        detector.heard(millis(at));
    }
    detector
}

fn others_agree(detector: &mut Detector, from: u64, until: u64) {
    for at in (from..=until).step_by(200) {
        detector.agreed(millis(at));
    }
}

fn evidence(detector: &Detector, now: u64) -> (u64, u64, String) {
    match detector.verdict(millis(now)) {
        Verdict::Suspect { renewal, outlives, evidence, .. } => (renewal, outlives, evidence),
        other => panic!("it is suspect, not {other:?}"),
    }
}

#[test]
fn three_renewals_must_be_missing_and_the_latest_is_kept() {
    let mut detector = steady(Detection::Passive, 40_000);
    others_agree(&mut detector, 40_000, 42_000);
    assert!(!is_suspect(&detector, 41_199), "the times between were even, and yet");
    assert!(is_suspect(&detector, 41_200));
    let (renewal, outlives, told) = evidence(&detector, 41_600);
    assert_eq!((renewal, outlives), (100, 0));
    assert!(told.contains("no renewal for 1600 ms"), "{told}");
    // Arrivals that vary a lot make it slower, up to the latest.
    let mut detector = Detector::new(settings(), Duration::ZERO);
    let mut now = 0;
    for number in 1..200 {
        now += if number % 2 == 0 { 20 } else { 1_100 };
        detector.renewed(1, number, millis(now));
    }
    others_agree(&mut detector, now, now + 2_000);
    assert!(!is_suspect(&detector, now + 1_599));
    assert!(is_suspect(&detector, now + 1_600));
}

#[test]
fn a_region_that_is_heard_and_hears_nothing_is_suspected() {
    let mut detector = steady(Detection::Mixed, 8_000);
    for at in (8_400..=9_600).step_by(400) {
        detector.renewed(1, 20, millis(at));
        detector.heard(millis(at));
    }
    let (renewal, _, told) = evidence(&detector, 9_600);
    assert_eq!(renewal, 20);
    assert!(told.contains("has not heard the answers"), "{told}");
}

#[test]
fn time_without_a_quorum_counts_for_nobody() {
    let mut detector = steady(Detection::Mixed, 8_000);
    assert!(!is_suspect(&detector, 60_000), "nothing was agreed on at all");
    others_agree(&mut detector, 60_000, 60_600);
    assert!(!is_suspect(&detector, 60_600), "it may renew at once");
    others_agree(&mut detector, 60_800, 60_800);
    assert!(is_suspect(&detector, 60_800));
}

#[test]
fn who_comes_back_must_be_steady_before_a_suspicion_is_taken_back() {
    let mut detector = steady(Detection::Passive, 8_000);
    others_agree(&mut detector, 8_000, 10_000);
    assert_eq!(evidence(&detector, 10_000).0, 20);
    detector.renewed(1, 22, millis(10_000));
    for (number, at) in [(23, 10_400), (24, 10_800)] {
        assert_eq!(detector.verdict(millis(at)), Verdict::Unsteady);
        detector.renewed(1, number, millis(at));
    }
    assert_eq!(detector.verdict(millis(11_100)), Verdict::Unsteady);
    detector.renewed(1, 25, millis(11_200));
    assert_eq!(detector.verdict(millis(11_200)), Verdict::Alive);
}

/// Renews as it should and answers no probe.
fn renew_unanswered(detector: &mut Detector, from: u64, until: u64) {
    for at in (from..=until).step_by(400) {
        detector.renewed(1, at / 400, millis(at));
        detector.probed();
        detector.failed("connection refused");
    }
}

#[test]
fn probes_and_links_that_are_silent_together_outweigh_renewals() {
    let mut mixed = steady(Detection::Mixed, 8_000);
    renew_unanswered(&mut mixed, 8_400, 12_400);
    assert!(!is_suspect(&mixed, 12_400));
    renew_unanswered(&mut mixed, 12_800, 12_800);
    let (renewal, outlives, told) = evidence(&mixed, 12_800);
    assert_eq!((renewal, outlives), (32, OUTLIVES));
    assert!(told.contains("12 probes not answered"), "{told}");
    assert!(told.contains("last error: connection refused"), "{told}");
    mixed.heard(millis(12_800));
    assert!(!is_suspect(&mixed, 12_800), "its links are alive");
    mixed.heard(millis(12_700));
    assert_eq!(mixed.told(millis(12_900)).frame, Some(millis(100)), "an older one says nothing");
}

#[test]
fn only_probes_count_where_detection_is_active() {
    let mut active = steady(Detection::Active, 8_000);
    renew_unanswered(&mut active, 8_400, 9_200);
    active.heard(millis(9_300));
    active.asked(millis(9_300));
    assert!(is_suspect(&active, 9_600), "neither frames nor its own probes are answers");
    // Once it answers again, it must be steady.
    renew_unanswered(&mut active, 9_600, 9_600);
    for at in [9_700, 10_100, 10_500, 10_900] {
        active.renewed(1, at / 100, millis(at));
        active.answered(millis(2), millis(at));
        let is_steady = at >= 10_900;
        assert_eq!(active.verdict(millis(at)) == Verdict::Alive, is_steady, "{at}");
    }
    // After a time without a quorum it has time to say that it is well again.
    let mut unheard = steady(Detection::Active, 8_000);
    for at in (8_400..=60_000).step_by(400) {
        unheard.probed();
        assert!(!is_suspect(&unheard, at));
    }
    others_agree(&mut unheard, 60_000, 61_400);
    assert!(!is_suspect(&unheard, 61_400));
    others_agree(&mut unheard, 61_600, 61_600);
    assert!(is_suspect(&unheard, 61_600));
    // It is not asked where the asking region is at fault.
    let mut asleep = steady(Detection::Active, 8_000);
    others_agree(&mut asleep, 20_000, 20_800);
    assert!(!is_suspect(&asleep, 20_800), "no probe was sent meanwhile");
}

#[test]
fn a_link_that_owes_no_answer_may_be_silent() {
    let renew = |detector: &mut Detector, until: u64| {
        for at in (8_400..=until).step_by(400) {
            detector.renewed(1, at / 400, millis(at));
            detector.failed("the stream was closed");
        }
    };
    let mut passive = steady(Detection::Passive, 8_000);
    renew(&mut passive, 60_000);
    assert!(!is_suspect(&passive, 60_000), "nothing was to be said");
    passive.awaits(Some(millis(56_000)));
    assert!(!is_suspect(&passive, 60_000));
    passive.awaits(Some(millis(55_200)));
    let (_, outlives, told) = evidence(&passive, 60_000);
    assert_eq!(outlives, OUTLIVES);
    assert!(told.contains("owe an answer") && told.contains("stream was closed"), "{told}");
    passive.heard(millis(59_900));
    assert!(!is_suspect(&passive, 60_000), "its answers are slow, and come");
}

#[test]
fn a_new_run_is_a_sign_of_life() {
    let mut detector = steady(Detection::Passive, 8_000);
    others_agree(&mut detector, 8_000, 9_000);
    detector.renewed(2, 0, millis(9_000));
    detector.renewed(1, 90, millis(9_100));
    others_agree(&mut detector, 9_200, 12_000);
    let Verdict::Suspect { run, renewal, .. } = detector.verdict(millis(10_600)) else {
        panic!("it renewed once and never again")
    };
    assert_eq!((run, renewal), (2, 0));
}

proptest! {
    #[test]
    fn nobody_is_suspected_too_early_or_too_late(
        waits in proptest::collection::vec(1..1_000_u64, 0..300),
        silence in 0..4_000_u64,
    ) {
        let settings = Settings { detection: Detection::Passive, ..settings() };
        let mut detector = Detector::new(settings, Duration::ZERO);
        let mut now = 0;
        for (number, wait) in waits.iter().enumerate() {
            now += wait;
            detector.renewed(1, number as u64 + 1, millis(now));
            prop_assert!(!is_suspect(&detector, now), "no wait was too long");
        }
        others_agree(&mut detector, now, now + silence);
        let suspect = is_suspect(&detector, now + silence);
        prop_assert!(!suspect || silence >= 1_000);
        prop_assert!(suspect || silence < 1_600);
    }
}
