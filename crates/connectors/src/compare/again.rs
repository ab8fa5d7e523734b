//! Rows that differed when they were passed, to be looked at again.
//!
//! What must hold: any number of them takes bounded memory; they come out in the order they went
//! in, with what both sides had.

use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use isthmus_model::key::{EncodedKey, PrimaryKey};

use super::row::{Row, Versions};

/// Bytes kept in memory before a file is opened.
const MEMORY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A row that differed: its key and what each side had.
pub(super) struct Candidate {
    pub(super) key: PrimaryKey,
    pub(super) left: Option<Row>,
    pub(super) right: Option<Row>,
}

impl Candidate {
    /// What two sides have under one key, one of them at least.
    pub(super) fn new(left: Option<Row>, right: Option<Row>) -> Option<Candidate> {
        let key = left.as_ref().or(right.as_ref())?.key.clone();
        Some(Candidate { key, left, right })
    }
}

/// Bytes in memory or, where they are many, in a file without a name.
enum Store {
    Memory(io::Cursor<Vec<u8>>),
    File(BufWriter<std::fs::File>),
}

/// Candidates being put away.
pub(super) struct Spool {
    store: Store,
    directory: Option<std::path::PathBuf>,
    versions: Versions,
    buffer: Vec<u8>,
    count: u64,
}

/// Candidates being taken out.
pub(super) struct Spooled {
    reader: Box<dyn Read + Send>,
    versions: Versions,
    left: u64,
}

impl Spool {
    pub(super) fn new(directory: Option<&Path>, versions: Versions) -> Spool {
        Spool {
            store: Store::Memory(io::Cursor::new(Vec::new())),
            directory: directory.map(Path::to_owned),
            versions,
            buffer: Vec::new(),
            count: 0,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, candidate: &Candidate) -> io::Result<()> {
        self.buffer.clear();
        part(Some(&candidate.key.encode().0), &mut self.buffer);
        for row in [&candidate.left, &candidate.right] {
            let body = row.as_ref().map(|row| {
                let mut body = Vec::with_capacity(row.size());
                row.put_body(self.versions, &mut body);
                body
            });
            part(body.as_deref(), &mut self.buffer);
        }
        if let Store::Memory(memory) = &mut self.store
            && memory.get_ref().len() + self.buffer.len() > MEMORY_BYTES_MAX
        {
            let file = match &self.directory {
                Some(directory) => tempfile::tempfile_in(directory)?,
                None => tempfile::tempfile()?,
            };
            let mut file = BufWriter::new(file);
            file.write_all(memory.get_ref())?;
            self.store = Store::File(file);
        }
        match &mut self.store {
            Store::Memory(memory) => memory.write_all(&self.buffer)?,
            Store::File(file) => file.write_all(&self.buffer)?,
        }
        self.count += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<Spooled> {
        let reader: Box<dyn Read + Send> = match self.store {
            Store::Memory(memory) => Box::new(io::Cursor::new(memory.into_inner())),
            Store::File(file) => {
                let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.seek(SeekFrom::Start(0))?;
                Box::new(BufReader::new(file))
            }
        };
        Ok(Spooled { reader, versions: self.versions, left: self.count })
    }
}

impl Spooled {
    /// The next candidates, so many and about so many bytes at most.
    pub(super) fn next_batch(
        &mut self,
        rows_max: usize,
        bytes_max: usize,
    ) -> io::Result<Vec<Candidate>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while self.left > 0 && batch.len() < rows_max && bytes < bytes_max {
            let candidate = self.next_candidate()?;
            let rows = [&candidate.left, &candidate.right];
            bytes += rows.iter().filter_map(|row| row.as_ref()).map(Row::size).sum::<usize>();
            batch.push(candidate);
            self.left -= 1;
        }
        Ok(batch)
    }

    fn next_candidate(&mut self) -> io::Result<Candidate> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let key = self.take()?.ok_or_else(damaged)?;
        let mut row = || -> io::Result<Option<Row>> {
            let Some(body) = self.take()? else { return Ok(None) };
            Row::of_body(key.clone(), body, self.versions).map(Some).map_err(|_| damaged())
        };
        let (left, right) = (row()?, row()?);
        let key = PrimaryKey::decode(&EncodedKey(key)).map_err(|_| damaged())?;
        Ok(Candidate { key, left, right })
    }

    fn take(&mut self) -> io::Result<Option<Bytes>> {
        let mut length = [0; 4];
        self.reader.read_exact(&mut length)?;
        let Some(length) = u32::from_be_bytes(length).checked_sub(1) else { return Ok(None) };
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        Ok(Some(bytes.into()))
    }
}

/// Length and one, then the bytes; 0 for none.
fn part(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend(bytes.map_or(0, |bytes| bytes.len() as u32 + 1).to_be_bytes());
    out.extend(bytes.unwrap_or_default());
}
