//! The bytes of a Parquet file, read at many places in turn.
//!
//! What must hold: readers of different columns do not disturb each other, and nothing is
//! allocated for bytes that the file does not have.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use crate::source::Input;

/// Bytes that page headers are read in.
const HEADER_BUFFER_BYTES: usize = 1024;

/// An input that several readers share; each moves it to its own place first.
pub(super) struct SharedInput {
    input: Arc<Mutex<Box<dyn Input>>>,
    length: u64,
}

/// Reads on from a place.
pub(super) struct At {
    input: Arc<Mutex<Box<dyn Input>>>,
    position: u64,
}

fn lock(input: &Mutex<Box<dyn Input>>) -> MutexGuard<'_, Box<dyn Input>> {
    // Whoever panicked has left a place at most, and each reader sets its own.
    input.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedInput {
    pub(super) fn new(mut input: Box<dyn Input>) -> io::Result<SharedInput> {
        let length = input.seek(SeekFrom::End(0))?;
        Ok(SharedInput { input: Arc::new(Mutex::new(input)), length })
    }
}

impl Length for SharedInput {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for SharedInput {
    type T = BufReader<At>;

    fn get_read(&self, start: u64) -> Result<BufReader<At>> {
        let at = At { input: Arc::clone(&self.input), position: start };
        Ok(BufReader::with_capacity(HEADER_BUFFER_BYTES, at))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.length) {
            let text = format!("{length} bytes at {start} lie beyond the end of the file");
            return Err(ParquetError::EOF(text));
        }
        let mut bytes = vec![0; length];
        let mut input = lock(&self.input);
        input.seek(SeekFrom::Start(start))?;
        input.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut input = lock(&self.input);
        input.seek(SeekFrom::Start(self.position))?;
        let read = input.read(buffer)?;
        self.position += read as u64;
        Ok(read)
    }
}
