//! What a client asks for: changes of rows, conditions, filters, projections.
//!
//! These are wishes, not yet checked against a schema (`check.rs`) and not yet decided
//! (`apply.rs`).

use crate::ids::Timestamp;
use crate::key::{KeyBound, KeyValue, PrimaryKey};
use crate::value::{Text, Value};

/// One named value of a primary key, as a client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKeyPart {
    /// Column name.
    pub name: Text,
    /// Value.
    pub part: KeyPart,
}

/// A value of a primary key in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// A value.
    Value(KeyValue),
    /// The server shall give the value.
    AutoIncrement,
    /// Below every value; only in ranges.
    Min,
    /// Above every value; only in ranges.
    Max,
    /// A value of a type that no key column can have.
    NotAKeyType(Value),
}

/// A cell to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellWrite {
    /// Column name.
    pub name: Text,
    /// Value.
    pub value: Value,
    /// Version; the server's time where absent.
    pub timestamp: Option<Timestamp>,
}

/// One step of an UpdateRow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellChange {
    /// Writes a version.
    Put(CellWrite),
    /// Deletes one version.
    DeleteVersion {
        /// Column name.
        name: Text,
        /// Version.
        timestamp: Timestamp,
    },
    /// Deletes all versions.
    DeleteColumn {
        /// Column name.
        name: Text,
    },
    /// Adds to the newest version, an integer; an absent one counts as 0.
    Increment {
        /// Column name.
        name: Text,
        /// What is added.
        delta: i64,
    },
}

/// What to do with the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowAction {
    /// Replaces the whole row.
    Put(Vec<CellWrite>),
    /// Changes parts of it.
    Update(Vec<CellChange>),
    /// Deletes it.
    Delete,
}

/// A change of one row, as a client asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// The key, as sent.
    pub key: Vec<NamedKeyPart>,
    /// What to do.
    pub action: RowAction,
    /// Whether to do it.
    pub condition: Condition,
    /// What to answer.
    pub returned: Returned,
}

/// What must hold of the row as it is before the change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    /// Whether it exists.
    pub existence: Existence,
    /// What its columns hold.
    pub columns: Option<Filter>,
}

/// Whether the row must exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existence {
    /// Either.
    #[default]
    Ignore,
    /// It must.
    MustExist,
    /// It must not.
    MustNotExist,
}

/// What the answer to a write shows of the row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Returned {
    /// Nothing.
    #[default]
    Nothing,
    /// The primary key.
    Key,
    /// The key and the new values of these columns.
    AfterModify(Vec<Text>),
}

/// A filter of a read, or the column part of a condition. At most 32 nodes.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Compares one column.
    Column(ColumnFilter),
    /// True where the part is false.
    Not(Box<Filter>),
    /// True where all parts are.
    And(Vec<Filter>),
    /// True where any part is.
    Or(Vec<Filter>),
    /// Pages over the attribute columns of each row; only in reads.
    Page {
        /// Columns to skip.
        offset: u32,
        /// Columns to return.
        limit: u32,
    },
}

/// Compares one column with a value.
#[derive(Clone, Debug)]
pub struct ColumnFilter {
    /// Column name.
    pub name: Text,
    /// How to compare.
    pub comparator: Comparator,
    /// With what. Values of different types never match.
    pub value: Value,
    /// What a missing column gives: `false` lets the row pass.
    pub filter_if_missing: bool,
    /// Compares the newest version only, else any may match.
    pub latest_version_only: bool,
    /// Takes a part of a text before comparing.
    pub transfer: Option<Transfer>,
}

/// How to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparator {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// Greater.
    Greater,
    /// Greater or the same.
    GreaterEqual,
    /// Less.
    Less,
    /// Less or the same.
    LessEqual,
    /// The column exists.
    Exists,
    /// The column does not exist.
    NotExists,
}

/// Takes the first group of a regular expression, cast to a type, before comparing.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The expression.
    pub regex: regex::Regex,
    /// Type of the result.
    pub cast: Cast,
}

/// Type of the result of a `Transfer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// 64-bit signed.
    Integer,
    /// IEEE 754 binary64.
    Double,
    /// Text.
    String,
    /// Bytes.
    Binary,
}

/// Filters are the same when they would print the same.
impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// What a read shows of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Projection {
    /// Names of attribute or key columns; empty: all.
    pub columns: Vec<Text>,
    /// First attribute column, inclusive.
    pub start_column: Option<Text>,
    /// Last attribute column, exclusive.
    pub end_column: Option<Text>,
    /// Versions per column at most; the table's own bound holds too.
    pub max_versions: Option<u32>,
    /// Versions in `[start, end)` only.
    pub time_range: Option<(Timestamp, Timestamp)>,
    /// Judged on what the rest of the projection leaves.
    pub filter: Option<Filter>,
    /// Continue a cut row at this column and, within it, below this version.
    pub resume: Option<RowResume>,
}

/// Where a read of a wide row goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowResume {
    /// Column to go on with.
    pub column: Text,
    /// Versions strictly below this one; `None`: all of the column.
    pub below: Option<Timestamp>,
}

/// Which way a range is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Ascending.
    #[default]
    Forward,
    /// Descending.
    Backward,
}

/// A range of keys, from inclusive to exclusive, in reading direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub start: Vec<KeyBound>,
    /// End.
    pub end: Vec<KeyBound>,
    /// Which way.
    pub direction: Direction,
}

/// A row as a read shows it: cells in column order, versions newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRow {
    /// The key.
    pub key: PrimaryKey,
    /// The cells.
    pub cells: Vec<ShownCell>,
}

/// One version of one column as a read shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCell {
    /// Column name.
    pub name: Text,
    /// Value.
    pub value: Value,
    /// Version.
    pub timestamp: Timestamp,
}
