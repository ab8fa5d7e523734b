use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::witness::WitnessFile;
use super::{Config, Detection, StorageConfig, check};

/// A directory of its own for one test, emptied when it ends.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Place {
        let name = format!("isthmus-config-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn load(&self, text: &str) -> Result<Config, String> {
        let file = self.write("isthmus.toml", text, 0o600);
        Config::load(&file).map_err(|error| {
            let line = error.to_string();
            assert!(!line.contains('\n'), "one line: {line}");
            line.rsplit_once("isthmus.toml").unwrap().1.to_owned()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SMALL: &str = r#"
[instance]
name = "demo"
[region]
name = "r1"
number = 1
[storage]
data = "data"
[[credentials]]
access_key_id = "id"
access_key_secret = "hush-hush"
"#;

#[test]
fn a_small_file_gets_the_defaults_and_round_trips() {
    let place = Place::new("small");
    let config = place.load(SMALL).unwrap();
    assert_eq!(config.instance.table_quota, 64);
    assert_eq!(config.storage, StorageConfig::at(place.0.join("data")));
    assert_eq!(config.public.endpoint, "http://127.0.0.1:8110");
    assert_eq!(config.credentials[0].secret(), "hush-hush");
    assert_eq!(config.instance_of("r1"), Some("demo"));
    assert_eq!(place.load(&config.to_toml()).unwrap(), config);
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn what_is_wrong_is_told_with_line_and_key() {
    let place = Place::new("wrong");
    let other = |keys: &str| format!("{SMALL}[[regions]]\npeer = \"h:1\"\n{keys}");
    let end = "endpoint = \"http://h:2\"";
    let cases = [
        (SMALL.replace("name = \"r1\"", "nam = \"r1\""), ":5: region.nam: unknown field"),
        (SMALL.replace("number = 1", "number = \"1\""), ":6: region.number: invalid type"),
        (SMALL.replace("number = 1", "number = 0"), ":6: region.number: is 0"),
        (SMALL.replace("number = 1", "number = 256"), ":6: region.number: invalid value"),
        (SMALL.replace("number = 1", ""), ":4: region: missing field"),
        (SMALL.replace("\"demo\"", "\"x\""), ":3: instance.name: must be 3 to 16"),
        (SMALL.replace("\"hush-hush\"", "\"\""), ":11: credentials[0].access_key_secret: is empty"),
        (SMALL.replace("access_key_secret", "#"), ":9: credentials[0].access_key_secret: is miss"),
        (format!("[public]\nlisten = \"127.0.0.1:8111\"\n{SMALL}"), ":1: admin.listen: 127.0.0.1"),
        (format!("{SMALL}[peer]\nlisten = \"0.0.0.0:8111\""), ":13: peer.listen: 0.0.0.0:8111 is"),
        (format!("{SMALL}[peer]\nwindow_parcels = 0"), ":13: peer.window_parcels: is 0, it must"),
        (format!("{SMALL}[peer]\nwindow_parcels = -1"), ":13: peer.window_parcels: invalid"),
        (format!("{SMALL}[peer]\nformat_max = 0"), ":13: peer.format_max: is 0, it must be in 1"),
        (format!("{SMALL}[peer]\nformat_max = 99"), ":13: peer.format_max: is 99, it must"),
        (other(&format!("name = \"r1\"\nnumber = 2\n{end}")), ":14: regions[0].name: r1 is"),
        (other(&format!("name = \"r2\"\nnumber = 1\n{end}")), ":15: regions[0].number: 1 is"),
        (other(&format!("name = \"r2\"\nnumber = 2\n{end}")), ":1: peer.certificate: is missing"),
        (format!("{SMALL}[scrub]\nevery_hours = 0"), ":13: scrub.every_hours: is 0, it must"),
        (format!("{SMALL}[verify]\nauto_repair = \"on\""), ":13: verify.auto_repair: unknown"),
        (format!("{SMALL}[metrics]\ntoken = \"short\""), ":13: metrics.token: must be 16 to"),
        (format!("{SMALL}[metrics]\ntables_max = 10001"), ":13: metrics.tables_max: is 10001"),
        (format!("{SMALL}[probe]\nevery_seconds = 3601"), ":13: probe.every_seconds: is 3601"),
        (format!("{SMALL}[trace]\nendpoint = \"h:1\""), ":13: trace.endpoint: must be a URL"),
        (format!("{SMALL}[trace]\nsample = 1.5"), ":13: trace.sample: is 1.5, it must"),
        (format!("{SMALL}expires = \"tomorrow\""), ":12: credentials[0].expires: is no time"),
        (
            format!("{SMALL}[[credentials]]\naccess_key_id = \"id\"\naccess_key_secret = \"b\""),
            ":13: credentials[1].access_key_id: id is given twice",
        ),
        (SMALL[..SMALL.find("[[cred").unwrap()].to_owned(), ":1: credentials: none is given"),
        ("[instance".to_owned(), ":1: file: "),
        (" \n".to_owned(), ": is empty"),
        ("#".repeat(2 << 20), ": has 2097152 bytes"),
    ];
    for (text, expected) in cases {
        let found = place.load(&text).unwrap_err();
        assert!(found.starts_with(expected), "expected {expected:?}, found {found:?}");
        assert!(!found.contains("hush"), "{found}");
    }
}

/// Three regions with keys, the first of them.
fn three(place: &Place, end: &str) -> String {
    for file in ["r.pem", "r.key"] {
        place.write(file, "pem", 0o600);
    }
    let files = "[peer]\ncertificate = \"r.pem\"\nkey = \"r.key\"\nauthority = \"r.pem\"\n";
    let other = |number: u8| {
        format!(
            "[[regions]]\nname = \"r{number}\"\nnumber = {number}\npeer = \"h:{number}\"\n\
             endpoint = \"http://h:10{number}\"\n"
        )
    };
    format!("{SMALL}{files}{}{}{end}", other(2), other(3))
}

#[test]
fn how_regions_are_observed_is_set_and_checked() {
    let place = Place::new("suspicion");
    let load = |quorum: &str| place.load(&three(&place, &format!("[quorum]\n{quorum}")));
    let millis = Duration::from_millis;
    let usual = load("").unwrap().quorum.unwrap();
    let settings = usual.settings();
    assert_eq!(settings.detection, Detection::Mixed);
    assert_eq!((settings.probe_every, settings.earliest), (millis(400), millis(1_000)));
    assert_eq!((settings.latest, usual.disk_slow()), (millis(1_600), millis(500)));
    let set = "detection = \"active\"\ndisk_slow_ms = 700\n[quorum.suspicion]\n\
               probe_every_ms = 250\nafter_ms = 900\nwithin_ms = 1300\n\
               probe_bytes_per_second_max = 9000\n";
    let set = load(set).unwrap().quorum.unwrap();
    let settings = set.settings();
    assert_eq!(settings.detection, Detection::Active);
    assert_eq!((settings.probe_every, settings.earliest), (millis(250), millis(900)));
    assert_eq!((settings.latest, set.disk_slow()), (millis(1_300), millis(700)));
    assert_eq!(settings.probe_bytes_per_second_max, 9_000);

    let passive = "detection = \"passive\"\n[quorum.suspicion]\nprobe_bytes_per_second_max = 1\n";
    assert!(load(passive).is_ok(), "nothing is probed");
    let suspicion = |set: &str| format!("[quorum.suspicion]\n{set}\n");
    for (text, told) in [
        ("detection = \"both\"\n".to_owned(), "quorum.detection: unknown variant"),
        ("disk_slow_ms = 2001\n".to_owned(), "quorum.disk_slow_ms: is 2001"),
        (suspicion("probe_every_ms = 19"), "probe_every_ms: is 19, it must be in 20 to 60000"),
        (suspicion("probe_every_ms = 600"), "within_ms: is 1600, it must be in 1800 to 20000"),
        (suspicion("within_ms = 1199"), "within_ms: is 1199, it must be in 1200 to"),
        (suspicion("after_ms = 1601"), "after_ms: is 1601, it must be in 500 to 1600"),
        (
            suspicion("probe_bytes_per_second_max = 100"),
            "probe_bytes_per_second_max: is 100, it must be at least 3200: to probe 2 others",
        ),
    ] {
        let error = load(&text).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_quorum_is_of_all_regions_and_a_witness() {
    let place = Place::new("quorum");
    let config = place.load(&three(&place, "[quorum]\n")).unwrap();
    let quorum = config.quorum.clone().unwrap();
    assert_eq!((quorum.lease_ms, &quorum.witness), (2000, &None));
    assert_eq!(place.load(&config.to_toml()).unwrap(), config);
    let witness = "[quorum.witness]\nname = \"w1\"\nnumber = 200\npeer = \"h:9\"\n";
    let voters = "[quorum]\nlease_ms = 500\nvoters = [\"r1\", \"r3\", \"w1\", \"r2\"]\n";
    let config = place.load(&three(&place, &format!("{voters}{witness}"))).unwrap();
    assert_eq!(config.quorum.unwrap().witness.unwrap().number, 200);

    let changed = |from: &str, to: &str| format!("[quorum]\n{witness}").replace(from, to);
    let cases = [
        (voters.to_owned(), "quorum.voters: w1 is no region of this file"),
        ("[quorum]\nvoters = [\"r1\", \"r2\"]\n".into(), "quorum.voters: r3 is missing; all"),
        ("[quorum]\nvoters = [\"r1\", \"r1\"]\n".into(), "quorum.voters: names one twice"),
        ("[quorum]\nlease_ms = 499\n".into(), "quorum.lease_ms: is 499, it must be in 500 to"),
        ("[quorum]\nleases = 1\n".into(), "quorum.leases: unknown field"),
        (changed("\"w1\"", "\"r2\""), "quorum.witness.name: r2 is the name of a region"),
        (changed("200", "3"), "quorum.witness.number: 3 is the number of a region"),
        (changed("200", "0"), "quorum.witness.number: is 0"),
        (changed("h:9", "h"), "quorum.witness.peer: is no host:port"),
    ];
    for (text, expected) in cases {
        let found = place.load(&three(&place, &text)).unwrap_err();
        assert!(found.contains(expected), "expected {expected:?}, found {found:?}");
    }
    let alone = place.load(&format!("{SMALL}[quorum]\n")).unwrap_err();
    assert!(alone.contains("quorum: has 1 voters") && alone.contains("by hand"), "{alone}");
    let undialled = three(&place, "[quorum]\n").replace("peer = \"h:3\"\n", "");
    let undialled = place.load(&undialled).unwrap_err();
    assert!(undialled.contains("regions[1].peer: is missing; with [quorum]"), "{undialled}");
}

#[test]
fn the_file_of_a_witness_is_checked_like_that_of_a_region() {
    let place = Place::new("witness");
    for file in ["w.pem", "w.key"] {
        place.write(file, "pem", 0o600);
    }
    let text = "[witness]\nname = \"w1\"\nnumber = 200\nlisten = \"127.0.0.1:8102\"\n\
                data = \"data\"\ncertificate = \"w.pem\"\nkey = \"w.key\"\n\
                authority = \"w.pem\"\n\
                [[voters]]\nname = \"r1\"\nnumber = 1\npeer = \"h:1\"\n\
                [[voters]]\nname = \"r2\"\nnumber = 2\npeer = \"h:2\"\n";
    let load = |text: &str| {
        let loaded = WitnessFile::load(&place.write("witness.toml", text, 0o600));
        loaded.map_err(|error| error.to_string())
    };
    let config = load(text).unwrap();
    assert_eq!(config.witness.data, place.0.join("data"));
    assert_eq!(load(&config.to_toml()).unwrap(), config);
    let cases = [
        (text.replace("\"r2\"", "\"w1\""), ":14: voters[1].name: w1 is the name of another"),
        (text.replace("number = 2\n", "number = 200\n"), ":15: voters[1].number: 200 is the"),
        (text.replace("h:2", "h"), ":16: voters[1].peer: is no host:port"),
        (text.replace("w.key", "none"), ":7: witness.key: "),
        (text.replace("number = 200\n", "number = 0\n"), ":3: witness.number: is 0"),
        (
            text.replace("[[voters]]\nname = \"r1", "lease_ms = 1\n[[voters]]\nname = \"r1"),
            ":9: wit",
        ),
        (
            text.replace(
                "[[voters]]\nname = \"r1",
                "[witness.suspicion]\nwithin_ms = 1\n\
                          [[voters]]\nname = \"r1",
            ),
            "witness.suspicion.within_ms: is 1, it must be in 1200",
        ),
        (text[..text.rfind("[[").unwrap()].to_owned(), "voters: 2 voters with the witness itself"),
    ];
    for (text, expected) in cases {
        let found = load(&text).unwrap_err();
        assert!(found.contains(expected), "expected {expected:?}, found {found:?}");
    }
}

#[test]
fn digests_rules_and_the_scrub_are_read() {
    let place = Place::new("verify");
    let small = place.load(SMALL).unwrap();
    assert!(small.storage.digests);
    assert_eq!((small.scrub.mib_per_second, small.scrub.every_hours), (4, 168));
    assert!(small.scrub.repair);
    let text = SMALL.replace("data = \"data\"", "data = \"data\"\ndigests = false");
    let text = format!(
        "{text}[verify]\nauto_repair = \"from-primary\"\nauto_repair_rows_max = 5\n\
         [scrub]\nmib_per_second = 0\nrepair = false\n"
    );
    let config = place.load(&text).unwrap();
    assert!(!config.storage.digests);
    assert_eq!(config.verify.auto_repair, super::AutoRepair::FromPrimary);
    assert_eq!((config.verify.auto_repair_rows_max, config.scrub.mib_per_second), (5, 0));
    assert!(!config.scrub.repair);
    assert_eq!(place.load(&config.to_toml()).unwrap(), config);
}

#[test]
fn tokens_are_read_from_a_file_of_their_owner_and_never_shown() {
    let place = Place::new("token");
    for (room, key) in [("metrics", "token"), ("admin", "trigger_token")] {
        let text = format!("{SMALL}[{room}]\n{key}_file = \"token\"\n");
        place.write("token", "0123456789abcdef\n", 0o640);
        assert!(place.load(&text).unwrap_err().contains("has mode 640"));
        place.write("token", "0123456789abcdef\n", 0o600);
        let config = place.load(&text).unwrap();
        let tokens = [&config.metrics.token, &config.admin.trigger_token];
        let tokens: Vec<&str> = tokens.into_iter().flatten().map(|token| token.expose()).collect();
        assert_eq!(tokens, ["0123456789abcdef"]);
        assert!(!format!("{config:?}").contains("0123456789"));
        assert_eq!(place.load(&config.to_toml()).unwrap(), config);
        let twice = format!("{text}{key} = \"0123456789abcdef\"\n");
        let refused = place.load(&twice).unwrap_err();
        assert!(refused.contains(&format!("{room}.{key}_file: is given twice")), "{refused}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let place = Place::new("unreadable");
    let error = Config::load(&place.0.join("missing.toml")).unwrap_err().to_string();
    assert!(error.contains("missing.toml: cannot be read: No such file"), "{error}");
    let error = Config::load(&place.0).unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
    let file = place.0.join("binary.toml");
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(Config::load(&file).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let place = Place::new("modes");
    place.write("node.key", "key", 0o640);
    let text = format!("{SMALL}[peer]\nkey = \"node.key\"");
    let error = place.load(&text).unwrap_err();
    assert!(error.starts_with(":13: peer.key: "), "{error}");
    assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
    place.write("node.key", "key", 0o600);
    place.load(&text).unwrap();
}

#[test]
fn a_secret_comes_from_its_file() {
    let place = Place::new("secret");
    let line = "access_key_secret = \"hush-hush\"";
    let text = SMALL.replace(line, "access_key_secret_file = \"secret\"");
    place.write("secret", "from a file\n", 0o600);
    assert_eq!(place.load(&text).unwrap().credentials[0].secret(), "from a file");
    place.write("secret", "from a file\n", 0o644);
    assert!(place.load(&text).unwrap_err().contains("others can read it"));
    let both = format!("{SMALL}access_key_secret_file = \"secret\"");
    assert!(place.load(&both).unwrap_err().contains("is given twice"));
}

#[test]
fn the_public_secret_does_not_guard_an_open_port() {
    let place = Place::new("open");
    let text = SMALL.replace("hush-hush", super::UP_ACCESS_KEY_SECRET);
    place.load(&text).unwrap();
    let open = format!("{text}[public]\nlisten = \"0.0.0.0:8110\"");
    assert!(place.load(&open).unwrap_err().contains("public secret"));
}

#[test]
fn times_are_read_as_the_calendar_has_them() {
    assert_eq!(check::utc_millis("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(check::utc_millis("2000-02-29T12:34:56.7Z"), Some(951_827_696_700));
    assert_eq!(check::utc_millis("2030-01-31T12:00:00Z"), Some(1_896_091_200_000));
    for wrong in
        ["2030-02-29T00:00:00Z", "2030-01-01T24:00:00Z", "2030-01-01", "2030-01-01T00:00:00+00:00"]
    {
        assert_eq!(check::utc_millis(wrong), None, "{wrong}");
    }
}
