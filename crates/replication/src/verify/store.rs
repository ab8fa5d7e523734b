//! Views of the tables of a store.

use std::sync::Arc;

use isthmus_digest::{Hasher, Parts, Tree};
use isthmus_model::error::Kind;
use isthmus_model::expiry::Expiry;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, TableId};
use isthmus_model::key::EncodedKey;
use isthmus_store::digest::{DigestView, Rules, ViewRow as StoreRow};
use isthmus_store::{Store, StoreError, Watermark as Mark};
use xxhash_rust::xxh3::xxh3_64;

use crate::frame::Watermark;
use crate::verify::answer::Floors;
use crate::verify::error::VerifyError;
use crate::verify::view::{Head, View, ViewRow, Viewed, Views, fingerprint_of};

/// What the store itself does not know of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The safe time: everything of every origin below it is durable here. Counts only where
    /// several regions write.
    pub safe: Hlc,
    /// All rows were read from disk since then.
    pub scrubbed_since_millis: Option<i64>,
}

/// Tells what the store does not know. It is asked before a view is taken.
pub type TellBeside = dyn Fn(TableId) -> Beside + Send + Sync;

/// Views of the tables of a store.
pub struct StoreViews {
    store: Arc<Store>,
    beside: Box<TellBeside>,
}

impl StoreViews {
    /// Of all its tables.
    pub fn new(store: Arc<Store>, beside: Box<TellBeside>) -> StoreViews {
        StoreViews { store, beside }
    }
}

impl Views for StoreViews {
    fn view(&self, id: TableId) -> Result<Viewed, VerifyError> {
        let Some(table) = self.store.table(id) else { return Ok(Viewed::NoTable) };
        // A safe time from before the snapshot holds for it, too.
        let beside = (self.beside)(id);
        match table.digest_view() {
            Ok(view) => Ok(Viewed::View(Box::new(StoreView::new(view, beside)))),
            Err(StoreError::NoTable(_)) => Ok(Viewed::NoTable),
            Err(StoreError::NoDigest(state)) => {
                Ok(Viewed::Unready(format!("has no digest to compare: it is {}", state.words())))
            }
            Err(StoreError::Busy) => Ok(Viewed::Unready("changes too fast".into())),
            Err(error) => Err(read(&error)),
        }
    }
}

fn read(error: &StoreError) -> VerifyError {
    VerifyError::Read(error.to_string())
}

/// What of a row is in the digest now, if the row still is what a comparison knew it by; to be
/// expected when it is repaired.
pub fn parts_if_still(
    view: &DigestView,
    floors: Floors,
    key: &EncodedKey,
    fingerprint: u64,
) -> Result<Option<Parts>, VerifyError> {
    let row = view.row(key).map_err(|error| read(&error))?;
    let known = fingerprint_of(view.hasher(), floors, &key.0, &row.parts);
    Ok((known == fingerprint).then_some(row.parts))
}

struct StoreView {
    view: DigestView,
    head: Head,
}

impl StoreView {
    fn new(view: DigestView, beside: Beside) -> StoreView {
        let snapshot = view.snapshot();
        let mark = |mark: Mark| Watermark {
            origin: mark.origin.0.into(),
            lsn: mark.lsn.0,
            hlc: mark.hlc.0,
            life: 0,
        };
        let head = Head {
            epoch: snapshot.epoch(),
            lsn: snapshot.lsn(),
            hlc: snapshot.hlc(),
            safe: beside.safe,
            vector: snapshot.vector().into_iter().map(mark).collect(),
            expiry: snapshot.expiry().to_vec(),
            families: snapshot.schema().options.families.clone(),
            schema: snapshot.schema().number,
            many_writers: snapshot.spec().writers.are_many(),
            rules: rules(view.rules()),
            scrubbed_since_millis: beside.scrubbed_since_millis,
        };
        StoreView { view, head }
    }
}

/// Alike only for rules that measure rows alike, floors aside.
fn rules(rules: &Rules) -> u64 {
    let mut bytes = vec![u8::from(rules.time_lanes)];
    for Expiry { trim, spared } in &rules.base {
        bytes.extend_from_slice(&trim.below.0.to_le_bytes());
        bytes.extend_from_slice(&trim.stamp.hlc.0.to_le_bytes());
        bytes.push(trim.stamp.origin.0);
        // As regions of an older program say it, where there are no families.
        if spared.0 != 0 {
            bytes.extend_from_slice(&spared.0.to_le_bytes());
        }
    }
    if rules.families != 0 {
        bytes.extend_from_slice(&rules.families.to_le_bytes());
    }
    xxh3_64(&bytes)
}

fn view_row(row: StoreRow) -> ViewRow {
    ViewRow { key: row.key.0, packed: row.packed, parts: row.parts, moved: row.moved }
}

impl View for StoreView {
    fn head(&self) -> &Head {
        &self.head
    }

    fn tree(&self) -> &Tree {
        self.view.tree()
    }

    fn hasher(&self) -> &Hasher {
        self.view.hasher()
    }

    fn floors(&self) -> Floors {
        let (time, kills) = self.view.floors();
        Floors { time, kills }
    }

    fn roll_back_to_lsn(&mut self, lsn: Lsn) -> bool {
        self.view.roll_back_to_lsn(lsn)
    }

    fn roll_back_to_hlc(&mut self, hlc: Hlc) {
        self.view.roll_back_to_hlc(hlc);
    }

    fn rows(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(ViewRow) -> bool,
    ) -> Result<(), VerifyError> {
        let key = bytes::Bytes::copy_from_slice;
        self.rows_of(&[(key(start), end.map(key))], each)
    }

    fn rows_of(
        &self,
        ranges: &[(bytes::Bytes, Option<bytes::Bytes>)],
        each: &mut dyn FnMut(ViewRow) -> bool,
    ) -> Result<(), VerifyError> {
        let range = |(start, end): &(bytes::Bytes, Option<bytes::Bytes>)| {
            (EncodedKey(start.clone()), end.clone().map(EncodedKey))
        };
        for row in self.view.rows_of(ranges.iter().map(range).collect()) {
            match row {
                Ok(row) => {
                    if !each(view_row(row)) {
                        break;
                    }
                }
                // A row that cannot be read is not there; the sum of its leaf tells that.
                Err(error) if error.kind() == Kind::Corrupt => {}
                Err(error) => return Err(read(&error)),
            }
        }
        Ok(())
    }

    fn row(&self, key: &[u8]) -> Result<ViewRow, VerifyError> {
        let key = EncodedKey(bytes::Bytes::copy_from_slice(key));
        match self.view.row(&key) {
            Ok(row) => Ok(view_row(row)),
            Err(error) if error.kind() == Kind::Corrupt => {
                Ok(ViewRow { key: key.0, packed: None, parts: Parts::new(), moved: false })
            }
            Err(error) => Err(read(&error)),
        }
    }
}
