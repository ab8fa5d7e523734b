//! Sorting records by key in bounded memory: sorted runs on disk, merged at the end.
//!
//! What must hold: the memory taken is the bound that was given and one buffer per open run; the
//! number of open runs grows with the logarithm of the records; a key that comes twice is an error
//! that tells both lines; the files have no names, so that nothing is left behind whatever ends
//! the process.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use bytes::Bytes;

/// Runs of one level that are merged into one of the next.
const RUNS_MAX: usize = 64;
/// Bytes of the buffer of a run.
const BUFFER_BYTES: usize = 64 * 1024;
/// The least such buffer.
const BUFFER_BYTES_MIN: usize = 4096;
/// Head of a record on disk: length of the key, line, length of the body.
const HEAD_BYTES: usize = 16;

/// Why records cannot be sorted.
#[derive(Debug)]
pub(super) enum SortError {
    /// The disk.
    Io(io::Error),
    /// A key comes twice.
    Duplicate { key: Bytes, first: u64, second: u64 },
}

impl From<io::Error> for SortError {
    fn from(error: io::Error) -> SortError {
        SortError::Io(error)
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Bytes,
    pub(super) line: u64,
    pub(super) body: Bytes,
}

/// Where a record is in the arena: its key, then its body.
#[derive(Clone, Copy)]
struct Slot {
    start: usize,
    key: u32,
    body: u32,
    line: u64,
}

/// Takes records in any order.
pub(super) struct Sorter {
    directory: Option<PathBuf>,
    bytes_max: usize,
    arena: Vec<u8>,
    slots: Vec<Slot>,
    /// Runs, by how often they were merged.
    levels: Vec<Vec<File>>,
}

impl Sorter {
    /// Sorts in so much memory; spills to this directory, or to the system's.
    pub(super) fn new(directory: Option<PathBuf>, bytes_max: usize) -> Sorter {
        Sorter { directory, bytes_max, arena: Vec::new(), slots: Vec::new(), levels: Vec::new() }
    }

    /// Takes a record.
    pub(super) fn push(&mut self, key: &[u8], line: u64, body: &[u8]) -> Result<(), SortError> {
        let more = key.len() + body.len();
        let taken = self.arena.len() + (self.slots.len() + 1) * size_of::<Slot>();
        if !self.slots.is_empty() && taken + more > self.bytes_max {
            self.spill()?;
        }
        if self.arena.capacity() == 0 {
            // Grown by doubling it would take half as much again.
            self.arena.reserve_exact(self.bytes_max);
        }
        let start = self.arena.len();
        self.arena.extend(key);
        self.arena.extend(body);
        self.slots.push(Slot { start, key: key.len() as u32, body: body.len() as u32, line });
        Ok(())
    }

    /// Gives the records in the order of their keys.
    pub(super) fn finish(mut self) -> Result<Sorted, SortError> {
        let mut runs: Vec<Run> = vec![self.sorted_memory()];
        for file in self.levels.drain(..).flatten() {
            runs.push(Run::of_file(file, buffer_bytes(self.bytes_max))?);
        }
        Sorted::new(runs)
    }

    /// How many runs are on disk.
    #[cfg(test)]
    fn runs(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
    }

    fn sorted_memory(&mut self) -> Run {
        let arena = std::mem::take(&mut self.arena);
        let mut slots = std::mem::take(&mut self.slots);
        let key = |slot: &Slot| &arena[slot.start..slot.start + slot.key as usize];
        slots.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.line.cmp(&b.line)));
        Run::Memory { arena: Bytes::from(arena), slots: slots.into_iter() }
    }

    fn spill(&mut self) -> Result<(), SortError> {
        let mut run = vec![self.sorted_memory()];
        for level in 0.. {
            let file = self.write(run)?;
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let runs = &mut self.levels[level];
            runs.push(file);
            if runs.len() < RUNS_MAX {
                break;
            }
            let buffer = buffer_bytes(self.bytes_max);
            run =
                runs.drain(..).map(|file| Run::of_file(file, buffer)).collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// Writes runs as one.
    fn write(&self, runs: Vec<Run>) -> Result<File, SortError> {
        let file = match &self.directory {
            Some(directory) => tempfile::tempfile_in(directory)?,
            None => tempfile::tempfile()?,
        };
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut sorted = Sorted::new(runs)?;
        while let Some(Record { key, line, body }) = sorted.next_record()? {
            out.write_all(&(key.len() as u32).to_be_bytes())?;
            out.write_all(&line.to_be_bytes())?;
            out.write_all(&(body.len() as u32).to_be_bytes())?;
            out.write_all(&key)?;
            out.write_all(&body)?;
        }
        out.into_inner().map_err(|error| SortError::Io(error.into_error()))
    }
}

fn buffer_bytes(bytes_max: usize) -> usize {
    (bytes_max / RUNS_MAX).clamp(BUFFER_BYTES_MIN, BUFFER_BYTES)
}

/// Records in order.
enum Run {
    Memory { arena: Bytes, slots: std::vec::IntoIter<Slot> },
    File(BufReader<File>),
}

impl Run {
    fn of_file(mut file: File, buffer: usize) -> Result<Run, SortError> {
        file.seek(SeekFrom::Start(0))?;
        Ok(Run::File(BufReader::with_capacity(buffer, file)))
    }

    fn next_record(&mut self) -> Result<Option<Record>, SortError> {
        match self {
            Run::Memory { arena, slots } => Ok(slots.next().map(|slot| {
                let middle = slot.start + slot.key as usize;
                Record {
                    key: arena.slice(slot.start..middle),
                    line: slot.line,
                    body: arena.slice(middle..middle + slot.body as usize),
                }
            })),
            Run::File(reader) => read_record(reader),
        }
    }
}

fn read_record(reader: &mut BufReader<File>) -> Result<Option<Record>, SortError> {
    let mut head = [0; HEAD_BYTES];
    // The files are our own: they end between two records.
    match reader.read(&mut head[..1])? {
        0 => return Ok(None),
        _ => reader.read_exact(&mut head[1..])?,
    }
    let (key, rest) = head.split_at(4);
    let (line, body) = rest.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let key = number(key) as usize;
    let mut bytes = vec![0; key + number(body) as usize];
    reader.read_exact(&mut bytes)?;
    let mut bytes = Bytes::from(bytes);
    Ok(Some(Record { key: bytes.split_to(key), line: number(line), body: bytes }))
}

/// Merges runs.
pub(super) struct Sorted {
    runs: Vec<Run>,
    heads: BinaryHeap<Reverse<(Bytes, u64, usize)>>,
    bodies: Vec<Bytes>,
    last: Option<(Bytes, u64)>,
}

impl Sorted {
    fn new(runs: Vec<Run>) -> Result<Sorted, SortError> {
        let bodies = vec![Bytes::new(); runs.len()];
        let heads = BinaryHeap::with_capacity(runs.len());
        let mut sorted = Sorted { runs, heads, bodies, last: None };
        for run in 0..sorted.runs.len() {
            sorted.advance(run)?;
        }
        Ok(sorted)
    }

    fn advance(&mut self, run: usize) -> Result<(), SortError> {
        if let Some(Record { key, line, body }) = self.runs[run].next_record()? {
            self.bodies[run] = body;
            self.heads.push(Reverse((key, line, run)));
        }
        Ok(())
    }

    /// The next record.
    pub(super) fn next_record(&mut self) -> Result<Option<Record>, SortError> {
        let Some(Reverse((key, line, run))) = self.heads.pop() else { return Ok(None) };
        let body = std::mem::take(&mut self.bodies[run]);
        self.advance(run)?;
        if let Some((last, first)) = &self.last
            && *last == key
        {
            return Err(SortError::Duplicate { key, first: *first, second: line });
        }
        self.last = Some((key.clone(), line));
        Ok(Some(Record { key, line, body }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn all(mut sorted: Sorted) -> Result<Vec<Record>, SortError> {
        std::iter::from_fn(|| sorted.next_record().transpose()).collect()
    }

    fn sort(records: &[(Vec<u8>, Vec<u8>)], bytes_max: usize) -> Result<Vec<Record>, SortError> {
        let mut sorter = Sorter::new(None, bytes_max);
        for (at, (key, body)) in records.iter().enumerate() {
            sorter.push(key, at as u64 + 1, body)?;
        }
        all(sorter.finish()?)
    }

    proptest! {
        #[test]
        fn records_come_in_the_order_of_their_keys_whatever_the_memory(
            records in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 0..4),
                proptest::collection::vec(any::<u8>(), 0..20),
                0..200,
            ),
            seed in any::<u64>(),
            bytes_max in 0usize..600,
        ) {
            let mut mixed: Vec<(Vec<u8>, Vec<u8>)> =
                records.iter().map(|(key, body)| (key.clone(), body.clone())).collect();
            mixed.sort_by_key(|(key, _)| {
                key.iter().fold(seed, |sum, byte| {
                    (sum ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
                })
            });
            let found = sort(&mixed, bytes_max).unwrap();
            let found: BTreeMap<Vec<u8>, Vec<u8>> = {
                prop_assert!(found.is_sorted_by(|a, b| a.key < b.key));
                found.iter().map(|record| (record.key.to_vec(), record.body.to_vec())).collect()
            };
            prop_assert_eq!(found, records);
        }
    }

    #[test]
    fn runs_are_merged_before_they_become_many() {
        let mut sorter = Sorter::new(None, 0);
        for number in 0..5000u32 {
            sorter.push(&number.reverse_bits().to_be_bytes(), u64::from(number), b"x").unwrap();
            assert!(sorter.runs() < 2 * RUNS_MAX);
        }
        assert!(sorter.runs() > 1);
        let found = all(sorter.finish().unwrap()).unwrap();
        assert_eq!(found.len(), 5000);
        assert!(found.is_sorted_by(|a, b| a.key < b.key));
    }

    #[test]
    fn a_key_that_comes_twice_is_told_with_both_lines() {
        for bytes_max in [0, 100, 1 << 20] {
            let record = |key: &[u8]| (key.to_vec(), b"body".to_vec());
            let records = [record(b"b"), record(b"a"), record(b"c"), record(b"a")];
            let Err(SortError::Duplicate { key, first, second }) = sort(&records, bytes_max) else {
                panic!("the key comes twice");
            };
            assert_eq!((&key[..], first, second), (&b"a"[..], 2, 4));
        }
    }
}
