//! Dictionaries: what many small parcels of one table have in common, told to a replica once.
//!
//! A parcel of a few rows is too short for zstd to find repetition in it. So the origin gathers
//! some small parcels of a table, makes a dictionary of them, and packs further ones against it.
//! Now and then both ways are tried, and a dictionary that does not pay goes: another one is made
//! of what is shipped now, or, if that was the second, none for a while.
//!
//! What must hold: `choose` costs next to nothing; making a dictionary is a step of background
//! work, bounded in bytes; and memory is bounded, whatever the number of tables.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::ids::PartitionId;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use crate::error::ReplicationError;
use crate::frame;
use crate::frame::Packed;
use crate::limits::{
    DICTIONARIES_MAX, DICTIONARY_BYTES_MAX, DICTIONARY_PARCEL_BYTES_MAX, DICTIONARY_SAMPLE_BYTES,
    DICTIONARY_SAMPLES, DICTIONARY_SAMPLES_BYTES_MAX,
};
use crate::pack::{decompress_with, length};

/// One in so many parcels is packed both ways.
const JUDGED_EVERY: u64 = 8;
/// A dictionary is judged by so many of them.
const JUDGED_TOGETHER: u64 = 32;
/// What it must save, as a part of what goes without it: one in so many bytes.
const SAVES_ONE_IN: usize = 10;
/// After a dictionary that did not pay, so many small parcels go without.
const REST_PARCELS: u64 = 10_000;
/// Fewer bytes of samples teach nothing.
const LESSON_BYTES_MIN: usize = 4 * 1024;
/// Levels of zstd for which a dictionary is kept ready.
const LEVELS_MAX: usize = 4;

/// What parcels of one partition are packed against.
pub struct Dictionary {
    /// Never used again for another one by this process.
    pub number: u32,
    bytes: Bytes,
    encoders: Mutex<Vec<(i32, Arc<EncoderDictionary<'static>>)>>,
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dictionary {} of {} bytes", self.number, self.bytes.len())
    }
}

impl Dictionary {
    fn new(number: u32, bytes: Vec<u8>) -> Dictionary {
        Dictionary { number, bytes: bytes.into(), encoders: Mutex::default() }
    }

    /// What tells it to a replica.
    pub fn frame(&self, partition: PartitionId) -> frame::Dictionary {
        frame::Dictionary {
            partition: partition.0,
            number: self.number,
            checksum: xxh3_64(&self.bytes),
            data: self.bytes.clone(),
        }
    }

    /// The bytes packed against it.
    pub fn compress(&self, bytes: &[u8], level: i32) -> Option<Vec<u8>> {
        let encoder = self.encoder(level);
        Compressor::with_prepared_dictionary(&encoder).ok()?.compress(bytes).ok()
    }

    fn encoder(&self, level: i32) -> Arc<EncoderDictionary<'static>> {
        let mut encoders = self.encoders.lock();
        if let Some((_, encoder)) = encoders.iter().find(|(known, _)| *known == level) {
            return encoder.clone();
        }
        let encoder = Arc::new(EncoderDictionary::copy(&self.bytes, level));
        if encoders.len() >= LEVELS_MAX {
            encoders.remove(0);
        }
        encoders.push((level, encoder.clone()));
        encoder
    }
}

/// What is known of the small parcels of one partition. Reads no clock, does no I/O.
#[derive(Debug)]
struct Learner {
    state: State,
    /// The dictionary before this one did not pay.
    failed_before: bool,
    /// When it was asked last, counted in questions.
    asked: u64,
}

#[derive(Debug)]
enum State {
    /// Small parcels are gathered.
    Gathering { samples: Vec<u8>, sizes: Vec<usize> },
    /// Enough are gathered; a dictionary is to be made, or is being made.
    Learning { samples: Vec<u8>, sizes: Vec<usize> },
    /// Parcels are packed against it.
    Using { dictionary: Arc<Dictionary>, parcels: u64, judged: u64, plain: usize, with: usize },
    /// So many parcels go without.
    Resting(u64),
}

impl State {
    fn gathering() -> State {
        State::Gathering { samples: Vec::new(), sizes: Vec::new() }
    }
}

impl Learner {
    /// The dictionary for a small parcel, from which it learns.
    fn choose(&mut self, bytes: &[u8], samples_wanted: usize) -> Option<Arc<Dictionary>> {
        match &mut self.state {
            State::Gathering { samples, sizes } => {
                let sample = &bytes[..bytes.len().min(DICTIONARY_SAMPLE_BYTES)];
                samples.extend_from_slice(sample);
                sizes.push(sample.len());
                let is_enough = sizes.len() >= samples_wanted && samples.len() >= LESSON_BYTES_MIN
                    || samples.len() >= DICTIONARY_SAMPLES_BYTES_MAX;
                if is_enough {
                    let (samples, sizes) = (std::mem::take(samples), std::mem::take(sizes));
                    self.state = State::Learning { samples, sizes };
                }
                None
            }
            State::Learning { .. } => None,
            State::Using { dictionary, parcels, .. } => {
                *parcels += 1;
                Some(dictionary.clone())
            }
            State::Resting(left) => {
                *left -= 1;
                if *left == 0 {
                    self.state = State::gathering();
                }
                None
            }
        }
    }

    fn judge(&mut self, dictionary: &Dictionary, plain_bytes: usize, with_bytes: usize) {
        let State::Using { dictionary: known, judged, plain, with, .. } = &mut self.state else {
            return;
        };
        if known.number != dictionary.number {
            return;
        }
        *judged += 1;
        *plain += plain_bytes;
        *with += with_bytes;
        if *judged < JUDGED_TOGETHER {
            return;
        }
        let pays = *with <= *plain - *plain / SAVES_ONE_IN;
        (*judged, *plain, *with) = (0, 0, 0);
        match pays {
            true => self.failed_before = false,
            false => self.give_up(),
        }
    }

    /// What is shipped now may be other than it was; if that was tried, it rests.
    fn give_up(&mut self) {
        self.state = match self.failed_before {
            false => State::gathering(),
            true => State::Resting(REST_PARCELS),
        };
        self.failed_before = !self.failed_before;
    }
}

/// The dictionaries of all partitions that ship small parcels.
#[derive(Debug)]
pub struct Dictionaries {
    learners: Mutex<Learners>,
    samples_wanted: usize,
}

#[derive(Debug, Default)]
struct Learners {
    partitions: BTreeMap<PartitionId, Learner>,
    questions: u64,
    numbers: u32,
}

impl Default for Dictionaries {
    fn default() -> Dictionaries {
        Dictionaries::new(DICTIONARY_SAMPLES)
    }
}

impl Dictionaries {
    /// None yet. A dictionary is made of about so many parcels.
    pub fn new(samples_wanted: usize) -> Dictionaries {
        Dictionaries { learners: Mutex::default(), samples_wanted }
    }

    /// What a parcel is to be packed against, if it is small and there is anything.
    pub fn choose(&self, partition: PartitionId, bytes: &[u8]) -> Option<Arc<Dictionary>> {
        if bytes.len() > DICTIONARY_PARCEL_BYTES_MAX {
            return None;
        }
        let mut learners = self.learners.lock();
        learners.questions += 1;
        let asked = learners.questions;
        if !learners.partitions.contains_key(&partition) {
            learners.make_room();
            let state = State::gathering();
            learners.partitions.insert(partition, Learner { state, failed_before: false, asked });
        }
        let learner = learners.partitions.get_mut(&partition)?;
        learner.asked = asked;
        learner.choose(bytes, self.samples_wanted)
    }

    /// Whether the parcel chosen for last is to be packed both ways and `judge`d.
    pub fn is_to_be_judged(&self, partition: PartitionId) -> bool {
        let learners = self.learners.lock();
        match learners.partitions.get(&partition).map(|learner| &learner.state) {
            Some(State::Using { parcels, .. }) => parcels % JUDGED_EVERY == 1,
            Some(State::Gathering { .. } | State::Learning { .. } | State::Resting(_)) | None => {
                false
            }
        }
    }

    /// Notes what a parcel takes without and with its dictionary.
    pub fn judge(&self, partition: PartitionId, of: &Dictionary, plain: usize, with: usize) {
        if let Some(learner) = self.learners.lock().partitions.get_mut(&partition) {
            learner.judge(of, plain, with);
        }
    }

    /// Makes one dictionary, if one is due; takes some milliseconds. Returns whether one was.
    pub fn learn_step(&self) -> bool {
        let lesson =
            self.learners.lock().partitions.iter().find_map(|(partition, learner)| match &learner
                .state
            {
                State::Learning { samples, sizes } => {
                    Some((*partition, samples.clone(), sizes.clone()))
                }
                State::Gathering { .. } | State::Using { .. } | State::Resting(_) => None,
            });
        let Some((partition, samples, sizes)) = lesson else { return false };
        // Learned outside of the lock, which shipping takes.
        let bytes_max = DICTIONARY_BYTES_MAX.min(samples.len() / 4).max(1024);
        let learned = zstd::dict::from_continuous(&samples, &sizes, bytes_max);
        let mut learners = self.learners.lock();
        learners.numbers += 1;
        let number = learners.numbers;
        if let Some(learner) = learners.partitions.get_mut(&partition) {
            learner.state = match learned {
                Ok(bytes) => State::Using {
                    dictionary: Arc::new(Dictionary::new(number, bytes)),
                    parcels: 0,
                    judged: 0,
                    plain: 0,
                    with: 0,
                },
                // Too little to learn from: samples that are all alike, for one.
                Err(_) => State::Resting(REST_PARCELS),
            };
        }
        true
    }

    /// Number of the dictionary that is in use for a partition.
    pub fn in_use(&self, partition: PartitionId) -> Option<u32> {
        match &self.learners.lock().partitions.get(&partition)?.state {
            State::Using { dictionary, .. } => Some(dictionary.number),
            State::Gathering { .. } | State::Learning { .. } | State::Resting(_) => None,
        }
    }
}

impl Learners {
    fn make_room(&mut self) {
        if self.partitions.len() < DICTIONARIES_MAX {
            return;
        }
        let oldest = self.partitions.iter().min_by_key(|(_, learner)| learner.asked);
        if let Some(partition) = oldest.map(|(partition, _)| *partition) {
            self.partitions.remove(&partition);
        }
    }
}

/// The dictionaries that a peer has told, the newest last.
#[derive(Default)]
pub struct ToldDictionaries {
    told: VecDeque<Told>,
}

struct Told {
    partition: u64,
    number: u32,
    decoder: DecoderDictionary<'static>,
}

impl ToldDictionaries {
    /// Takes one in.
    pub fn take(&mut self, told: &frame::Dictionary) -> Result<(), ReplicationError> {
        if told.data.len() > DICTIONARY_BYTES_MAX {
            return Err(ReplicationError::Damaged("a dictionary is larger than any may be"));
        }
        if xxh3_64(&told.data) != told.checksum {
            return Err(ReplicationError::Damaged("a dictionary's checksum does not match"));
        }
        // Two of one table: what was packed against the one before may still be on its way.
        let of_table = |known: &Told| known.partition == told.partition;
        let known = self.told.iter().filter(|known| of_table(known)).count();
        let oldest = match known {
            0 | 1 if self.told.len() < 2 * DICTIONARIES_MAX => None,
            0 | 1 => Some(0),
            _ => self.told.iter().position(of_table),
        };
        oldest.map(|place| self.told.remove(place));
        self.told.push_back(Told {
            partition: told.partition,
            number: told.number,
            decoder: DecoderDictionary::copy(&told.data),
        });
        Ok(())
    }

    /// Unpacks what was packed against one of them.
    pub fn unpack(&self, partition: u64, packed: &Packed) -> Result<Bytes, ReplicationError> {
        length(packed)?;
        let named =
            |known: &&Told| known.partition == partition && known.number == packed.dictionary;
        let known = self.told.iter().find(named).ok_or(ReplicationError::PriorMissing)?;
        let mut decompressor = Decompressor::with_prepared_dictionary(&known.decoder)
            .map_err(|_| ReplicationError::Damaged("a dictionary cannot be used"))?;
        decompress_with(packed, &mut decompressor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{Method, PackedLogs, unpack};

    const PARTITION: PartitionId = PartitionId(7);
    const METHOD: Method = Method::Zstd { level: 1, with_priors: true };

    fn row(number: u64) -> Vec<u8> {
        format!(
            "customer-{number:06} street: Long Lane {} city: Isthmus country: Panama status: {} \
             balance: {} note: delivered by the second carrier on a {} morning",
            number % 97,
            ["open", "closed", "waiting"][number as usize % 3],
            number * 7919 % 100_003,
            ["fine", "rainy", "cold"][number as usize / 3 % 3],
        )
        .into_bytes()
    }

    /// Bytes of no pattern.
    fn noise(number: u64) -> Vec<u8> {
        (0..40)
            .flat_map(|place| {
                xxh3_64(&[number, place].map(u64::to_le_bytes).concat()).to_le_bytes()
            })
            .collect()
    }

    #[test]
    fn small_parcels_are_packed_against_what_they_have_in_common() {
        let logs = PackedLogs::default();
        let mut told = ToldDictionaries::default();
        let (mut number, mut plain_bytes, mut bytes) = (0, 0, 0);
        while !logs.dictionaries.learn_step() {
            let (packed, dictionary) = logs.pack(PARTITION, row(number), METHOD);
            assert!(dictionary.is_none());
            assert_eq!(unpack(&packed).unwrap(), row(number));
            number += 1;
            assert!(number < 100_000, "it learns some time");
        }
        for number in number..number + 500 {
            let plain = crate::pack::pack(row(number), METHOD);
            let (packed, dictionary) = logs.pack(PARTITION, row(number), METHOD);
            let dictionary = dictionary.unwrap();
            if number % 100 == 0 {
                told.take(&dictionary.frame(PARTITION)).unwrap();
            }
            if !told.told.is_empty() {
                assert_eq!(told.unpack(PARTITION.0, &packed).unwrap(), row(number));
            }
            plain_bytes += plain.data.len();
            bytes += packed.data.len();
        }
        assert!(bytes * 2 < plain_bytes, "{bytes} of {plain_bytes}");
        assert!(logs.dictionaries.in_use(PARTITION).is_some());
        let large = row(1).repeat(1000);
        assert!(logs.pack(PARTITION, large, METHOD).1.is_none());
        assert!(logs.pack(PARTITION, row(1), Method::Plain).1.is_none());
    }

    #[test]
    fn dictionary_that_does_not_pay_goes() {
        let logs = PackedLogs::default();
        let mut lessons = 0;
        for number in 0..8_000 {
            let (packed, dictionary) = logs.pack(PARTITION, noise(number), METHOD);
            assert_eq!(packed.data.len(), 320);
            assert!(dictionary.is_none());
            lessons += usize::from(logs.dictionaries.learn_step());
        }
        assert!((1..=2).contains(&lessons), "{lessons}");
        assert_eq!(logs.dictionaries.in_use(PARTITION), None);
    }

    #[test]
    fn dictionaries_of_many_tables_are_bounded() {
        let dictionaries = Dictionaries::new(1);
        for partition in 0..3 * DICTIONARIES_MAX as u64 {
            dictionaries.choose(PartitionId(partition), &row(partition));
        }
        assert_eq!(dictionaries.learners.lock().partitions.len(), DICTIONARIES_MAX);
    }

    fn told(partition: u64, number: u32) -> frame::Dictionary {
        let data = Bytes::from(row(number.into()));
        frame::Dictionary { partition, number, checksum: xxh3_64(&data), data }
    }

    #[test]
    fn wrong_dictionaries_are_refused_and_few_are_kept() {
        let mut known = ToldDictionaries::default();
        let mut damaged = told(1, 1);
        damaged.checksum ^= 1;
        assert!(known.take(&damaged).is_err());
        let data = Bytes::from(vec![0; DICTIONARY_BYTES_MAX + 1]);
        let large = frame::Dictionary { checksum: xxh3_64(&data), data, ..told(1, 1) };
        assert!(known.take(&large).is_err());
        assert!(known.told.is_empty());
        for number in 1..9 {
            known.take(&told(1, number)).unwrap();
        }
        assert_eq!(known.told.len(), 2);
        for partition in 2..5 * DICTIONARIES_MAX as u64 {
            known.take(&told(partition, 1)).unwrap();
        }
        assert_eq!(known.told.len(), 2 * DICTIONARIES_MAX);
        let packed = Packed { dictionary: 1, bytes_unpacked: 5, ..Packed::default() };
        assert!(matches!(known.unpack(1, &packed), Err(ReplicationError::PriorMissing)));
    }

    #[test]
    fn parcel_packed_against_another_dictionary_is_refused() {
        let mut known = ToldDictionaries::default();
        known.take(&told(1, 1)).unwrap();
        let other = Dictionary::new(1, row(99).repeat(3));
        let bytes = row(99);
        let data = other.compress(&bytes, 1).unwrap();
        let packed = Packed { dictionary: 1, ..crate::pack::packed(2, &bytes, data.into()) };
        assert!(matches!(known.unpack(1, &packed), Err(ReplicationError::Damaged(_))));
        let bomb = Packed { bytes_unpacked: 1 << 40, ..packed };
        assert!(matches!(known.unpack(1, &bomb), Err(ReplicationError::Damaged(_))));
    }
}
