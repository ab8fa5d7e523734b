//! What a table is: key columns, defined columns, options; numbered, because it changes.

use crate::family::Families;
use crate::ids::SchemaNumber;
use crate::key::KeyKind;
use crate::rule::ConflictRules;
use crate::value::{Text, ValueKind};

/// A primary key column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Name, unique among all columns of the table.
    pub name: Text,
    /// Type.
    pub kind: KeyKind,
    /// The server gives the value at a put. At most one such column, never the first.
    pub auto_increment: bool,
}

/// An attribute column that is part of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinedColumn {
    /// Name.
    pub name: Text,
    /// Type.
    pub kind: ValueKind,
}

/// What a table does with its cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// Seconds a cell lives, from its timestamp. `None`: for ever.
    pub time_to_live_seconds: Option<u32>,
    /// Versions kept per column, at least 1.
    pub max_versions: u32,
    /// How far a given timestamp may lie from the server's time, in seconds, at least 1.
    pub deviation_seconds: i64,
    /// Whether UpdateRow is allowed.
    pub allow_update: bool,
    /// How conflicts are decided, where several regions write column by column. `None`: no rule
    /// was ever set; once there are rules, rows may hold what was written under them.
    pub rules: Option<ConflictRules>,
    /// Groups of columns that live and are kept otherwise.
    pub families: Families,
    /// The table is dropped: this is its last schema, and clients see no table from here on.
    pub is_dropped: bool,
}

impl Default for TableOptions {
    fn default() -> TableOptions {
        TableOptions {
            time_to_live_seconds: None,
            max_versions: 1,
            deviation_seconds: 86_400,
            allow_update: true,
            rules: None,
            families: Families::default(),
            is_dropped: false,
        }
    }
}

/// The schema of a table. The key columns never change; the rest does, and each change has the
/// next number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Grows by one with each change, from 1.
    pub number: SchemaNumber,
    /// 1 to 4 columns; their order is the key's order, the first one is the partition key.
    pub key_columns: Vec<KeyColumn>,
    /// 0 to 32 columns.
    pub defined_columns: Vec<DefinedColumn>,
    /// Options.
    pub options: TableOptions,
}

impl Schema {
    /// The place of a key column.
    pub fn key_column(&self, name: &Text) -> Option<usize> {
        self.key_columns.iter().position(|column| column.name == *name)
    }

    /// The place of the key column whose value the server gives.
    pub fn auto_increment_column(&self) -> Option<usize> {
        self.key_columns.iter().position(|column| column.auto_increment)
    }

    /// As it is for changes that were taken before under this or an earlier number: of a table only
    /// the key never changes, so that nothing else refuses them now.
    pub fn for_taken(&self) -> Schema {
        let options = TableOptions { deviation_seconds: i64::MAX, ..TableOptions::default() };
        Schema { defined_columns: Vec::new(), options, ..self.clone() }
    }

    /// Merges two schemas of one table: the greater number holds. Only the base region makes
    /// schemas, so equal numbers are equal schemas, and merging is commutative, associative and
    /// idempotent.
    pub fn newer_of(self, other: Schema) -> Schema {
        if other.number > self.number { other } else { self }
    }

    /// Bytes of all key column names, as the capacity units count them.
    pub fn key_names_size(&self) -> usize {
        self.key_columns.iter().map(|column| column.name.len()).sum()
    }
}
