//! The state of one partition: where its log ends and begins, and what it has applied.
//!
//! It is written in every batch that moves it, so that it always tells of exactly the rows and
//! entries beside it.

use bytes::Bytes;
use isthmus_model::commit::{MadeRange, Term};
use isthmus_model::expiry::Expiry;
use isthmus_model::family::FamilySet;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, Timestamp};
use isthmus_model::row::Trim;

use crate::codec::{Corrupt, Reader, corrupt, put_signed, put_stamp, put_varint};
use crate::digest::Rules;
use crate::keys::{KIND_PARTITION, decode_number_key, number_key};
use crate::lives::{Lives, Run};

const VERSION: u8 = 6;
/// Tells nothing of terms. Still written where there are none, so that earlier programs read it.
const VERSION_WITHOUT_TERMS: u8 = 5;
/// Told nothing of lives.
const VERSION_WITHOUT_LIVES: u8 = 4;
/// Expiries are of all columns.
const VERSION_WITHOUT_FAMILIES: u8 = 3;
/// Did not tell where the log is whole of all origins.
const VERSION_WITHOUT_WHOLE: u8 = 2;
/// Had no digest.
const VERSION_WITHOUT_DIGEST: u8 = 1;
const WATERMARK_BYTES_MIN: usize = 10;
const TRIM_BYTES_MIN: usize = 10;
const RUN_BYTES_MIN: usize = 9;
const MET_BYTES_MIN: usize = 9;
const MADE_BYTES_MIN: usize = 4;

/// Everything of one origin at or before it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Whose.
    pub origin: Origin,
    /// Address in the origin's log.
    pub lsn: Lsn,
    /// Moment of the last entry there.
    pub hlc: Hlc,
}

/// What a partition knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The last entry of its log.
    pub lsn: Lsn,
    /// The greatest moment of any entry in its log.
    pub hlc: Hlc,
    /// The newest epoch it has obeyed.
    pub epoch: Epoch,
    /// Entries at or before it are gone from its log.
    pub log_start: Lsn,
    /// What is applied of each origin that was heard from.
    pub watermarks: Vec<Watermark>,
    /// Expiries of all rows; none covers another.
    pub expiry: Vec<Expiry>,
    /// The last counter given to an auto-increment column.
    pub auto_increment: u64,
    /// Groups committed so far.
    pub groups: u64,
    /// What of its rows the digest counts.
    pub rules: Rules,
    /// Bytes ever appended to its log; set when it is written.
    pub log_bytes: u64,
    /// Of them, those at or before the log's start; about.
    pub log_bytes_before: u64,
    /// When the log's first entry was made, about.
    pub log_start_millis: i64,
    /// With several writers: at or before it the log may lack entries of other origins, which
    /// came as rows of a copy.
    pub whole_after: Lsn,
    /// The lives of the log that this region makes.
    pub lives: Lives,
    /// By origin: the life of which the last of its entries is that was applied.
    pub met: Vec<Stamp>,
    /// Nothing is prepared here of earlier terms.
    pub promised: Term,
    /// What was prepared in earlier terms is in the log or void.
    pub settled: Term,
    /// What was prepared in other terms and is in the log, by rising term and number.
    pub made: Vec<MadeRange>,
}

impl PartitionState {
    /// The watermark of an origin, once it has one of its own.
    pub fn watermark(&self, origin: Origin) -> Option<Watermark> {
        self.watermarks.iter().find(|known| known.origin == origin).copied()
    }

    /// What is applied of each origin, by moment.
    pub(crate) fn seen(&self) -> Vec<Stamp> {
        let stamp = |known: &Watermark| Stamp { hlc: known.hlc, origin: known.origin };
        self.watermarks.iter().map(stamp).collect()
    }

    /// The life of which the last entry of an origin is that was applied; `Hlc::MIN`: not known.
    pub fn life_met(&self, origin: Origin) -> Hlc {
        self.met.iter().find(|met| met.origin == origin).map_or(Hlc::MIN, |met| met.hlc)
    }

    /// Entries of that life of an origin are applied from here on; `Hlc::MIN`: of one that is not
    /// known.
    pub(crate) fn meet(&mut self, life: Stamp) {
        match self.met.iter_mut().find(|met| met.origin == life.origin) {
            Some(met) => *met = life,
            None => self.met.push(life),
        }
    }

    /// Sets the watermark of an origin; the moment never goes back.
    pub fn set_watermark(&mut self, new: Watermark) {
        match self.watermarks.iter_mut().find(|known| known.origin == new.origin) {
            Some(known) => {
                known.lsn = new.lsn;
                known.hlc = known.hlc.max(new.hlc);
            }
            None => {
                self.watermarks.push(new);
                self.watermarks.sort_by_key(|known| known.origin);
            }
        }
    }
}

/// The key of a partition's state.
pub fn encode_key(partition: PartitionId) -> Bytes {
    number_key(KIND_PARTITION, partition.0)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<PartitionId, Corrupt> {
    decode_number_key(KIND_PARTITION, key).map(PartitionId)
}

/// The stored form.
pub fn encode_value(state: &PartitionState) -> Bytes {
    let mut out = Vec::with_capacity(96);
    let tells_terms = state.promised.max(state.settled) > Term::default() || !state.made.is_empty();
    out.push(if tells_terms { VERSION } else { VERSION_WITHOUT_TERMS });
    put_varint(&mut out, state.lsn.0);
    put_hlc(&mut out, state.hlc);
    put_varint(&mut out, state.epoch.0);
    put_varint(&mut out, state.log_start.0);
    put_varint(&mut out, state.watermarks.len() as u64);
    for watermark in &state.watermarks {
        put_stamp(&mut out, Stamp { hlc: watermark.hlc, origin: watermark.origin });
        put_varint(&mut out, watermark.lsn.0);
    }
    put_trims(&mut out, &state.expiry);
    put_varint(&mut out, state.auto_increment);
    put_varint(&mut out, state.groups);
    put_rules(&mut out, &state.rules);
    put_varint(&mut out, state.log_bytes);
    put_varint(&mut out, state.log_bytes_before);
    put_signed(&mut out, state.log_start_millis);
    put_varint(&mut out, state.whole_after.0);
    put_varint(&mut out, state.rules.families);
    let all = state.expiry.iter().chain(&state.rules.base);
    all.for_each(|expiry| put_varint(&mut out, expiry.spared.0));
    put_lives(&mut out, &state.lives);
    put_varint(&mut out, state.met.len() as u64);
    state.met.iter().for_each(|met| put_stamp(&mut out, *met));
    if tells_terms {
        for term in [state.promised, state.settled] {
            put_varint(&mut out, term.epoch);
            put_varint(&mut out, term.life);
        }
        put_varint(&mut out, state.made.len() as u64);
        for (term, first, last) in &state.made {
            let numbers = [term.epoch, term.life, *first, *last];
            numbers.into_iter().for_each(|number| put_varint(&mut out, number));
        }
    }
    out.into()
}

fn put_lives(out: &mut Vec<u8>, lives: &Lives) {
    put_hlc(out, lives.begun);
    put_varint(out, lives.after.0);
    put_hlc(out, lives.run);
    put_varint(out, lives.runs.len() as u64);
    for run in &lives.runs {
        put_hlc(out, run.begun);
        put_varint(out, run.through.0);
    }
}

fn read_lives(reader: &mut Reader<'_>) -> Result<Lives, Corrupt> {
    let (begun, after, run) = (reader.hlc()?, Lsn(reader.varint()?), reader.hlc()?);
    let mut lives = Lives { begun, after, run, runs: Vec::new() };
    for _ in 0..reader.count(RUN_BYTES_MIN)? {
        lives.runs.push(Run { begun: reader.hlc()?, through: Lsn(reader.varint()?) });
    }
    Ok(lives)
}

/// Without the families that they spare.
fn put_trims(out: &mut Vec<u8>, expiries: &[Expiry]) {
    put_varint(out, expiries.len() as u64);
    for Expiry { trim, .. } in expiries {
        put_signed(out, trim.below.0);
        put_stamp(out, trim.stamp);
    }
}

fn read_trims(reader: &mut Reader<'_>) -> Result<Vec<Expiry>, Corrupt> {
    let count = reader.count(TRIM_BYTES_MIN)?;
    let trim = |reader: &mut Reader<'_>| {
        Ok(Trim { below: Timestamp(reader.signed()?), stamp: reader.stamp()? }.into())
    };
    (0..count).map(|_| trim(reader)).collect()
}

fn put_rules(out: &mut Vec<u8>, rules: &Rules) {
    out.push(u8::from(rules.time_lanes));
    put_signed(out, rules.time_floor);
    put_varint(out, rules.kills_floor);
    put_trims(out, &rules.base);
}

fn read_rules(reader: &mut Reader<'_>) -> Result<Rules, Corrupt> {
    let time_lanes = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return corrupt("flag of a digest"),
    };
    let time_floor = reader.signed()?;
    let kills_floor = reader.varint()?;
    Ok(Rules { time_lanes, time_floor, kills_floor, base: read_trims(reader)?, families: 0 })
}

fn put_hlc(out: &mut Vec<u8>, hlc: Hlc) {
    out.extend_from_slice(&hlc.0.to_le_bytes());
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<PartitionState, Corrupt> {
    let mut reader = Reader::new(bytes);
    let version = reader.byte()?;
    if !(VERSION_WITHOUT_DIGEST..=VERSION).contains(&version) {
        return corrupt("version of the state of a partition");
    }
    let mut state = PartitionState {
        lsn: Lsn(reader.varint()?),
        hlc: reader.hlc()?,
        epoch: Epoch(reader.varint()?),
        log_start: Lsn(reader.varint()?),
        ..PartitionState::default()
    };
    for _ in 0..reader.count(WATERMARK_BYTES_MIN)? {
        let Stamp { hlc, origin } = reader.stamp()?;
        state.watermarks.push(Watermark { origin, lsn: Lsn(reader.varint()?), hlc });
    }
    state.expiry = read_trims(&mut reader)?;
    state.auto_increment = reader.varint()?;
    if version >= VERSION_WITHOUT_WHOLE {
        state.groups = reader.varint()?;
        state.rules = read_rules(&mut reader)?;
        state.log_bytes = reader.varint()?;
        state.log_bytes_before = reader.varint()?;
        state.log_start_millis = reader.signed()?;
    }
    state.whole_after = match version {
        VERSION_WITHOUT_FAMILIES..=VERSION => Lsn(reader.varint()?),
        // Nothing was passed on then, so nobody knows: not before its end.
        _ => state.lsn,
    };
    if version >= VERSION_WITHOUT_LIVES {
        state.rules.families = reader.varint()?;
        for expiry in state.expiry.iter_mut().chain(&mut state.rules.base) {
            expiry.spared = FamilySet(reader.varint()?);
        }
    }
    if version >= VERSION_WITHOUT_TERMS {
        state.lives = read_lives(&mut reader)?;
        for _ in 0..reader.count(MET_BYTES_MIN)? {
            state.met.push(reader.stamp()?);
        }
    }
    if version == VERSION {
        let mut term = || Ok(Term { epoch: reader.varint()?, life: reader.varint()? });
        (state.promised, state.settled) = (term()?, term()?);
        for _ in 0..reader.count(MADE_BYTES_MIN)? {
            let term = Term { epoch: reader.varint()?, life: reader.varint()? };
            state.made.push((term, reader.varint()?, reader.varint()?));
        }
    }
    reader.end()?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;
    use crate::codec::entry::tests::expiries;

    fn states() -> impl Strategy<Value = PartitionState> {
        let watermark = (any::<u8>(), any::<u64>(), any::<u64>()).prop_map(|(o, lsn, hlc)| {
            Watermark { origin: Origin(o), lsn: Lsn(lsn), hlc: Hlc(hlc) }
        });
        let watermarks = proptest::collection::vec(watermark, 0..4);
        let expiry = proptest::collection::vec(expiries(), 0..3).boxed();
        let families = prop_oneof![proptest::strategy::Just(0), any::<u64>()];
        let rules = (any::<bool>(), any::<i64>(), any::<u64>(), expiry.clone(), families).prop_map(
            |(time_lanes, time_floor, kills_floor, base, families)| Rules {
                time_lanes,
                time_floor,
                kills_floor,
                base,
                families,
            },
        );
        let parts = (any::<[u64; 8]>(), watermarks, expiry, rules);
        parts.prop_map(|(n, watermarks, expiry, rules)| PartitionState {
            lsn: Lsn(n[0]),
            hlc: Hlc(n[1]),
            epoch: Epoch(n[2]),
            log_start: Lsn(n[3]),
            watermarks,
            expiry,
            auto_increment: n[6],
            groups: n[7],
            rules,
            log_bytes: n[4],
            log_bytes_before: n[5],
            log_start_millis: n[4] as i64,
            whole_after: Lsn(n[5]),
            lives: Lives {
                begun: Hlc(n[0]),
                after: Lsn(n[1]),
                run: Hlc(n[2]),
                runs: vec![Run { begun: Hlc(n[3]), through: Lsn(n[4]) }; (n[5] % 4) as usize],
            },
            met: vec![Stamp { hlc: Hlc(n[6]), origin: Origin(3) }; (n[7] % 3) as usize],
            promised: Term { epoch: n[0] % 2, life: n[1] * (n[0] % 2) },
            made: vec![
                (Term { epoch: n[2], life: n[3] }, n[4], n[5]);
                (n[0] % 2 * (n[6] % 3)) as usize
            ],
            settled: Term { epoch: n[0] % 2, life: n[2] * (n[0] % 2) },
        })
    }

    #[test]
    fn states_of_older_formats_are_read() {
        let state = PartitionState {
            lsn: Lsn(7),
            auto_increment: 3,
            whole_after: Lsn(7),
            ..PartitionState::default()
        };
        let mut bytes = encode_value(&state).to_vec();
        // Two moments and three numbers came last.
        bytes.truncate(bytes.len() - 2 * 8 - 3);
        for version in [VERSION_WITHOUT_LIVES, VERSION_WITHOUT_FAMILIES] {
            bytes[0] = version;
            assert_eq!(decode_value(&bytes.clone().into()), Ok(state.clone()));
            bytes.truncate(bytes.len() - 1);
        }
        bytes[0] = VERSION_WITHOUT_WHOLE;
        assert_eq!(decode_value(&bytes.clone().into()), Ok(state.clone()));
        // Eight more numbers came after the counter, all of them zero here.
        bytes.truncate(bytes.len() - 8);
        bytes[0] = VERSION_WITHOUT_DIGEST;
        assert_eq!(decode_value(&bytes.into()), Ok(state));
    }

    proptest! {
        #[test]
        fn state_round_trips_and_truncations_are_refused(id: u64, state in states()) {
            prop_assert_eq!(decode_key(&encode_key(PartitionId(id))), Ok(PartitionId(id)));
            let bytes = encode_value(&state);
            prop_assert_eq!(decode_value(&bytes), Ok(state));
            for length in 0..bytes.len() {
                prop_assert!(decode_value(&bytes.slice(..length)).is_err());
            }
        }
    }
}
