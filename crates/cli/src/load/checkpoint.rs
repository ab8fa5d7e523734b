//! Where a load stands: in memory, batch by batch, and in a file beside the loaded one.
//!
//! What must hold: the place is the end of the last batch before which all are acknowledged; the
//! file is replaced whole, so that a killed load leaves the old place or the new one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use isthmus_connectors::source::Place;
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// Which batches are acknowledged.
pub(super) struct Done {
    place: Place,
    /// Batches that have begun, by number: their ends, and whether they are acknowledged.
    open: BTreeMap<u64, (Place, bool)>,
    rows: u64,
}

impl Done {
    pub(super) fn new(place: Place) -> Done {
        Done { place, open: BTreeMap::new(), rows: 0 }
    }

    pub(super) fn start(&mut self, number: u64, end: Place) {
        self.open.insert(number, (end, false));
    }

    /// A batch is acknowledged, with so many rows.
    pub(super) fn end(&mut self, number: u64, rows: u64) {
        self.rows += rows;
        if let Some(batch) = self.open.get_mut(&number) {
            batch.1 = true;
        }
        while let Some(first) = self.open.first_entry().filter(|first| first.get().1) {
            self.place = first.remove().0;
        }
    }

    /// All rows before it are acknowledged.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Rows acknowledged in this run.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }
}

/// The file with the place.
pub(super) struct Checkpoint {
    path: PathBuf,
    table: String,
    size: u64,
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    table: String,
    file_bytes: u64,
    place: Place,
}

impl Checkpoint {
    /// For this file and table; `path` where it is not to be beside the file.
    pub(super) fn at(file: &Path, path: Option<&Path>, table: &str, size: u64) -> Checkpoint {
        let path = path.map_or_else(
            || {
                let mut name = file.as_os_str().to_owned();
                name.push(".isthmus-load");
                PathBuf::from(name)
            },
            Path::to_path_buf,
        );
        Checkpoint { path, table: table.to_owned(), size }
    }

    /// The place, if an earlier load left one.
    pub(super) fn read(&self) -> Result<Option<Place>, CliError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.wrong(&error.to_string())),
        };
        let kept: Kept =
            serde_json::from_slice(&text).map_err(|error| self.wrong(&error.to_string()))?;
        if kept.table != self.table || kept.file_bytes != self.size {
            return Err(self.wrong(&format!(
                "is of table {} and a file of {} bytes, not {} and {}",
                kept.table, kept.file_bytes, self.table, self.size
            )));
        }
        Ok(Some(kept.place))
    }

    fn wrong(&self, why: &str) -> CliError {
        CliError::usage(format!("{}: {why}", self.path.display()))
            .hint("remove it to load from the beginning, or name another with --checkpoint")
    }

    /// Keeps a place; none where nothing was loaded.
    pub(super) fn write(&self, place: Place) -> Result<(), CliError> {
        if place.rows == 0 {
            return Ok(());
        }
        let kept = Kept { table: self.table.clone(), file_bytes: self.size, place };
        let text =
            serde_json::to_vec(&kept).map_err(|error| CliError::failed(error.to_string()))?;
        let part = self.path.with_extension("isthmus-load-part");
        let written = || -> std::io::Result<()> {
            let mut file = File::create(&part)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&part, &self.path)
        };
        written().map_err(|error| self.failed(&error))
    }

    /// Forgets the place of a load that is complete.
    pub(super) fn remove(&self) -> Result<(), CliError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.failed(&error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: &std::io::Error) -> CliError {
        CliError::failed(format!("checkpoint {}: {error}", self.path.display()))
            .hint("name another place with --checkpoint")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(rows: u64) -> Place {
        Place { bytes: rows * 10, line: rows + 2, rows }
    }

    #[test]
    fn the_place_never_passes_a_batch_that_is_not_acknowledged() {
        let mut done = Done::new(place(5));
        for number in 0..3 {
            done.start(number, place(10 * (number + 1)));
        }
        done.end(2, 10);
        assert_eq!(done.place(), place(5));
        done.end(0, 10);
        assert_eq!(done.place(), place(10));
        done.end(1, 10);
        assert_eq!((done.place(), done.rows()), (place(30), 30));
    }

    #[test]
    fn a_place_is_kept_and_only_for_the_same_load() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.csv");
        let checkpoint = Checkpoint::at(&file, None, "t", 100);
        assert_eq!(checkpoint.read().unwrap(), None);
        checkpoint.write(place(0)).unwrap();
        assert_eq!(checkpoint.read().unwrap(), None);
        checkpoint.write(place(7)).unwrap();
        assert_eq!(checkpoint.read().unwrap(), Some(place(7)));
        assert!(directory.path().join("a.csv.isthmus-load").exists());
        let other = Checkpoint::at(&file, None, "t", 101).read().unwrap_err();
        assert!(other.message.contains("file of 100 bytes, not t and 101"), "{}", other.message);
        checkpoint.remove().unwrap();
        checkpoint.remove().unwrap();
        assert_eq!(checkpoint.read().unwrap(), None);
    }
}
