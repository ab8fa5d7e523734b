//! What a session needs of a table: one moment of its rows and of its digest tree.
//!
//! The store has it; tests have one in memory. The rows are those of a snapshot; the tree and the
//! parts of rows can be rolled back to a cut before it.

use bytes::Bytes;
use isthmus_digest::{Hasher, Parts, Tree};
use isthmus_model::expiry::Expiry;
use isthmus_model::family::Families;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Epoch, Lsn, SchemaNumber, TableId};

use crate::frame::Watermark;
use crate::verify::answer::Floors;
use crate::verify::error::VerifyError;

/// What belongs to a snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// Epoch obeyed.
    pub epoch: Epoch,
    /// Last entry in it.
    pub lsn: Lsn,
    /// Greatest moment in it.
    pub hlc: Hlc,
    /// Everything of every origin below it is in it.
    pub safe: Hlc,
    /// What is in it of each origin.
    pub vector: Vec<Watermark>,
    /// What is logged as expired.
    pub expiry: Vec<Expiry>,
    /// The families of its schema.
    pub families: Families,
    /// Number of its schema.
    pub schema: SchemaNumber,
    /// Several regions write.
    pub many_writers: bool,
    /// What the parts of its rows depend on besides the rows: sums are compared only under the
    /// same.
    pub rules: u64,
    /// All its rows were read from disk since then.
    pub scrubbed_since_millis: Option<i64>,
}

/// A row of a view.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewRow {
    /// Key.
    pub key: Bytes,
    /// The row at the snapshot, packed; none: it is not there.
    pub packed: Option<Bytes>,
    /// Its parts as of the cut.
    pub parts: Parts,
    /// It changed between the cut and the snapshot.
    pub moved: bool,
}

/// One moment of a table.
pub trait View: Send {
    /// What belongs to the snapshot.
    fn head(&self) -> &Head;

    /// The digest tree, as of the cut.
    fn tree(&self) -> &Tree;

    /// Hashes keys and rows.
    fn hasher(&self) -> &Hasher;

    /// Lanes below are dropped.
    fn floors(&self) -> Floors;

    /// Rolls tree and parts back, exactly. False: that is too far back, and the view is of no use
    /// any more.
    fn roll_back_to_lsn(&mut self, lsn: Lsn) -> bool;

    /// Rolls tree and parts back to what entries through a moment made, as far as that goes.
    fn roll_back_to_hlc(&mut self, hlc: Hlc);

    /// Gives the rows of a range, in order, until `each` says no. Rows that are gone since the cut
    /// are among them.
    fn rows(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(ViewRow) -> bool,
    ) -> Result<(), VerifyError>;

    /// The same of some ranges that ascend, none of which reaches into the next.
    fn rows_of(
        &self,
        ranges: &[(Bytes, Option<Bytes>)],
        each: &mut dyn FnMut(ViewRow) -> bool,
    ) -> Result<(), VerifyError> {
        let mut goes_on = true;
        for (start, end) in ranges {
            self.rows(start, end.as_deref(), &mut |row| {
                goes_on = each(row);
                goes_on
            })?;
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// One row, whether it is there or not.
    fn row(&self, key: &[u8]) -> Result<ViewRow, VerifyError>;
}

/// What a row is known by in a comparison: its parts above the floors; 0: it has none there.
pub(crate) fn fingerprint_of(hasher: &Hasher, floors: Floors, key: &[u8], parts: &Parts) -> u64 {
    let mut parts = parts.clone();
    parts.retain(|lane| floors.keep(lane));
    if parts.is_empty() { 0 } else { parts.fingerprint(hasher, key) }
}

/// What came of asking for a view.
pub enum Viewed {
    /// A view.
    View(Box<dyn View>),
    /// There is none by now; why, as the end of a sentence that begins with the region.
    Unready(String),
    /// There is no such table.
    NoTable,
}

/// Where views come from.
pub trait Views: Send + Sync {
    /// A view of a table as it is now.
    fn view(&self, table: TableId) -> Result<Viewed, VerifyError>;
}
