//! Bugs in what a commit writes of the digest.

use bytes::Bytes;
use isthmus_digest::Change;
use isthmus_store::engine::{Batch, BatchWrite, Space};
use isthmus_store::keys::digest_redo;

use crate::plant::Plant;

fn is_redo(write: &BatchWrite) -> bool {
    write.space == Space::Log
        && write.value.is_some()
        && digest_redo::decode_key(&write.key).is_ok()
}

impl Plant {
    /// Whether the bug could strike in a batch.
    pub(crate) fn tampers_with_redo(self, batch: &Batch) -> bool {
        let concerns = matches!(self, Plant::RedoLeftOut | Plant::RedoOfOverwritesWrong);
        concerns && batch.writes().iter().any(is_redo)
    }

    /// What the bug makes of a batch.
    pub(crate) fn tamper_redo(self, batch: Batch) -> Batch {
        let mut tampered = Batch::default();
        for mut write in batch.into_writes() {
            if is_redo(&write) {
                if self == Plant::RedoLeftOut {
                    continue;
                }
                write.value = write.value.map(|record| spoil(&record));
            }
            tampered.write(write);
        }
        tampered
    }
}

/// Overwriting a part leaves something of the old one.
fn spoil(record: &Bytes) -> Bytes {
    let mut bytes = record.to_vec();
    for change in digest_redo::decode_value(record).unwrap_or_default() {
        let Change::Part { delta, rows: 0, .. } = change else { continue };
        for written in [delta.0.to_le_bytes(), delta.0.to_be_bytes()] {
            if let Some(place) = bytes.windows(16).position(|window| *window == written) {
                bytes[place] ^= 1;
            }
        }
    }
    bytes.into()
}
