use super::*;
use crate::agreed::Tenure;

const LEASE: Duration = Duration::from_millis(2000);

fn at(millis: u64) -> Duration {
    Duration::from_secs(100) + Duration::from_millis(millis)
}

fn renew(agreed: &mut Agreed, region: &str, number: u64, acked: u64) {
    let lease_millis = 2000;
    let region = region.to_owned();
    let index = number * 10;
    agreed.apply(
        index,
        &Command::Renew { region, run: 1, number, acked, lease_millis, at_millis: 0 },
    );
}

#[test]
fn a_region_that_is_not_heard_or_does_not_hear_is_suspected() {
    let mut agreed = Agreed::default();
    let mut watch = Watch::new("r1", Settings::of_lease(LEASE), at(0));
    for step in 0..10 {
        renew(&mut agreed, "r1", step + 1, step);
        if step < 3 {
            renew(&mut agreed, "r2", step + 1, step);
        }
        // Heard, and hears nothing.
        renew(&mut agreed, "r3", step + 1, 0);
        watch.saw(&agreed, at(step * 400));
        let words = watch.words(&agreed, at(step * 400), 7);
        assert_eq!(words.is_empty(), step < 4, "{step}: {words:?}");
    }
    let words = watch.words(&agreed, at(3600), 7);
    let named: Vec<&str> = words
        .iter()
        .map(|word| match word {
            Command::Suspect { region, .. } => region.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(named, ["r2", "r3"]);
    // The last renewal of r2 was seen at 800 ms.
    assert!(!watch.is_over("r2", at(3090)) && watch.is_over("r2", at(3110)));
    assert!(!watch.is_over("r3", at(3600)));
}

#[test]
fn who_is_back_has_time_to_be_heard() {
    let mut agreed = Agreed::default();
    let mut watch = Watch::new("r1", Settings::of_lease(LEASE), at(0));
    renew(&mut agreed, "r2", 1, 0);
    for step in 0..12 {
        renew(&mut agreed, "r1", step + 1, step);
        watch.saw(&agreed, at(step * 400));
    }
    assert_eq!(watch.words(&agreed, at(4400), 7).len(), 1);
    let (region, who, why) = ("r2".to_owned(), "r1".to_owned(), "drill".to_owned());
    agreed.apply(200, &Command::SuspendByHand { region, who, why, at_millis: 7 });
    watch.saw(&agreed, at(4500));
    let (region, who) = ("r2".to_owned(), "r1".to_owned());
    agreed.apply(201, &Command::Release { region, who, at_millis: 7 });
    let (region, run, suspended_at) = ("r2".to_owned(), 1, 200);
    agreed.apply(202, &Command::Rejoin { region, run, suspended_at, at_millis: 7 });
    assert!(!agreed.is_suspended("r2"));
    watch.saw(&agreed, at(4510));
    assert!(watch.words(&agreed, at(4900), 7).is_empty());
}

#[test]
fn nobody_is_judged_while_nothing_is_decided() {
    let mut agreed = Agreed::default();
    let mut watch = Watch::new("r1", Settings::of_lease(LEASE), at(0));
    for step in 0..5 {
        renew(&mut agreed, "r1", step + 1, step);
        renew(&mut agreed, "r2", step + 1, step);
        watch.saw(&agreed, at(step * 400));
    }
    assert!(watch.words(&agreed, at(9000), 7).is_empty());
    renew(&mut agreed, "r1", 6, 5);
    watch.saw(&agreed, at(9000));
    assert!(watch.words(&agreed, at(9100), 7).is_empty(), "it has time to be heard");
    renew(&mut agreed, "r1", 7, 6);
    watch.saw(&agreed, at(9500));
    renew(&mut agreed, "r1", 8, 7);
    watch.saw(&agreed, at(9900));
    assert_eq!(watch.words(&agreed, at(9900), 7).len(), 1);
}

/// A voter that has seen two regions renew, and a quorum that goes on.
fn watching(settings: Settings) -> (Agreed, Watch) {
    let mut agreed = Agreed::default();
    let mut watch = Watch::new("r1", settings, at(0));
    for region in ["r1", "r2", "r3"] {
        renew(&mut agreed, region, 1, 0);
    }
    watch.saw(&agreed, at(0));
    (agreed, watch)
}

fn with(detection: Detection) -> Settings {
    Settings { detection, ..Settings::of_lease(LEASE) }
}

#[test]
fn probes_are_sent_where_and_when_the_setting_says() {
    let count = |detection, hears_r3: bool| {
        let (agreed, mut watch) = watching(with(detection));
        let mut sent = Vec::new();
        for now in (0..10_000).step_by(50) {
            if hears_r3 {
                watch.heard("r3", Some(at(now)), None);
            }
            for region in watch.to_probe(&agreed, at(now)) {
                watch.answered(&region, at(now), at(now));
                sent.push(region);
            }
        }
        ["r1", "r2", "r3"].map(|name| sent.iter().filter(|region| *region == name).count())
    };
    assert_eq!(count(Detection::Passive, true), [0, 0, 0]);
    assert_eq!(count(Detection::Active, true), [0, 25, 25]);
    assert_eq!(count(Detection::Mixed, true), [0, 24, 0], "no probe where a link is heard");
    assert_eq!(count(Detection::Mixed, false), [0, 24, 24]);
}

#[test]
fn a_probe_of_who_hears_this_region_saves_one() {
    let (agreed, mut watch) = watching(with(Detection::Mixed));
    watch.asked("r2", Some(Duration::from_millis(100)), at(300));
    watch.asked("r3", Some(Duration::from_millis(1_500)), at(300));
    assert_eq!(watch.to_probe(&agreed, at(400)), ["r3"], "r2 hears and is heard");
    assert_eq!(watch.heard_ago("r2", at(400)), Some(Duration::from_millis(100)));
    assert_eq!(watch.heard_ago("r3", at(400)), None);
}

#[test]
fn probes_keep_to_their_bytes_and_their_number() {
    let bytes = 4 * PROBE_BYTES;
    let (agreed, mut watch) =
        watching(Settings { probe_bytes_per_second_max: bytes, ..with(Detection::Active) });
    let mut turns = BTreeMap::<String, u64>::new();
    for now in (0..20_000).step_by(50) {
        for region in watch.to_probe(&agreed, at(now)) {
            watch.answered(&region, at(now), at(now));
            *turns.entry(region).or_default() += 1;
        }
    }
    let sent: u64 = turns.values().sum();
    assert!(turns["r2"].abs_diff(turns["r3"]) <= 1, "{turns:?}");
    assert!((80..=84).contains(&sent), "{sent}: four in a second, and those saved at first");
    let figures = watch.figures(&agreed, at(20_000));
    assert_eq!(figures.probe_bytes, sent * u64::from(PROBE_BYTES));
    assert!(figures.probe_bytes_per_second <= f64::from(bytes) * 1.1);
    // Nobody answers.
    let (agreed, mut watch) = watching(with(Detection::Active));
    let sent: usize =
        (0..60_000).step_by(50).map(|now| watch.to_probe(&agreed, at(now)).len()).sum();
    assert_eq!(sent as u32, 2 * UNDER_WAY_MAX);
    watch.failed("r2", "no answer in time");
    assert_eq!(watch.to_probe(&agreed, at(60_000)), ["r2"]);
}

#[test]
fn each_verdict_is_told_once_with_its_evidence() {
    let (mut agreed, mut watch) = watching(with(Detection::Mixed));
    let mut told = Vec::new();
    let mut number = 1;
    for now in (400..20_000).step_by(400) {
        number += 1;
        renew(&mut agreed, "r1", number, number - 1);
        renew(&mut agreed, "r3", number, number - 1);
        if !(4_000..9_000).contains(&now) {
            renew(&mut agreed, "r2", number, number - 1);
        }
        if now == 4_800 {
            let renewal = agreed.regions["r2"].healthy_renewal;
            let (by, region, run) = ("r3".to_owned(), "r2".to_owned(), 1);
            let evidence = "no renewal".to_owned();
            let suspect =
                Command::Suspect { by, region, run, renewal, outlives: 0, evidence, at_millis: 0 };
            agreed.apply(1_000_000, &suspect);
        }
        watch.saw(&agreed, at(now));
        told.extend(watch.news(&agreed, at(now)));
        assert!(watch.is_another_well(&agreed, at(now)), "r3 renews");
    }
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].is_suspected && told[0].region == "r2" && told[0].phi > 8.0);
    assert_eq!(told[0].silence, Duration::from_millis(1_200));
    assert_eq!(told[0].heard.renewal, Some(Duration::from_millis(1_200)));
    assert!(told[0].evidence.contains("no renewal for 1200 ms"), "{}", told[0].evidence);
    assert_eq!(told[0].also_suspected_by, ["r3"]);
    assert!(!told[1].is_suspected && told[1].evidence.contains("steady again"));
    let figures = watch.figures(&agreed, at(20_000));
    assert_eq!(figures.detections, 1);
    assert_eq!(figures.detected_after_p50, Some(Duration::from_millis(1_200)));
    assert_eq!(figures.detected_after_last, figures.detected_after_p50);
    let verdicts: Vec<_> =
        figures.regions.iter().map(|one| (one.region.as_str(), one.verdict)).collect();
    assert_eq!(verdicts, [("r2", "alive"), ("r3", "alive")]);
}

#[test]
fn who_writes_is_relieved_where_another_replica_takes_over_by_itself() {
    let relieved = |writer: &str, replicas: &[&str], automatic: bool, last: u64| {
        let (mut agreed, mut watch) = watching(Settings::of_lease(LEASE));
        let tenure = Tenure {
            name: "t".to_owned(),
            epoch: 1,
            writer: writer.to_owned(),
            vacant: None,
            replicas: replicas.iter().map(|name| (*name).to_owned()).collect(),
            held_by: 0,
            automatic,
            version: 1,
            history: Vec::new(),
        };
        agreed.tables.insert(7, tenure);
        for step in 1..=10 {
            renew(&mut agreed, "r1", step + 1, step);
            if step <= last {
                renew(&mut agreed, "r2", step + 1, step);
            }
            watch.saw(&agreed, at(step * 400));
        }
        watch.would_be_relieved(&agreed, at(4000))
    };
    assert!(relieved("r1", &["r1", "r2"], true, 10));
    assert!(!relieved("r1", &["r1", "r2"], true, 2), "r2 does not renew");
    assert!(!relieved("r1", &["r1", "r2"], false, 10), "a person would have to say so");
    assert!(!relieved("r1", &["r1"], true, 10), "nobody else has it");
    assert!(!relieved("r2", &["r1", "r2"], true, 10), "r1 does not write it");
}
