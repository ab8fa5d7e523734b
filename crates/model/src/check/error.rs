//! Why a request is refused before any row is looked at.
//!
//! One variant per rule. Each text is a sentence of the public service, which clients compare
//! literally; so these, unlike other errors of the product, keep their capitals and full stops.

use crate::error::{Kind, Outcome};
use crate::value::Text;

/// The public code of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckCode {
    /// A parameter is wrong.
    ParameterInvalid,
    /// A primary key does not fit the table.
    InvalidPk,
    /// Too many columns.
    OutOfColumnCount,
    /// Too many bytes.
    OutOfRowSize,
    /// An atomic batch leaves its partition key.
    DataOutOfRange,
}

/// Why a request is refused. The fields are what the sentence names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the sentence of each variant says what its fields are")]
pub enum CheckError {
    /// Table names have 1 to 255 letters, digits and underscores and begin with no digit.
    #[error("Invalid table name: '{name}'.")]
    TableName { name: String },
    /// As table names.
    #[error("Invalid column name: '{name}'.")]
    ColumnName { name: Text },
    /// Of a table, or of a row whose count no table could have.
    #[error("The number of primary key columns must be in range: [1, 4].")]
    KeyColumnCount,
    /// Of a table.
    #[error("Duplicated primary key name: '{name}'.")]
    KeyNameTwice { name: Text },
    /// A value or column type that no key has.
    #[error("{kind} is an invalid type for the primary key.")]
    KeyType { kind: &'static str },
    /// The key has another number of columns than the table.
    #[error("Validate PK size fail. Input: {input}, Meta: {meta}.")]
    KeySize { input: usize, meta: usize },
    /// The key has another column in this place.
    #[error("Validate PK name fail. Input: {input}, Meta: {meta}.")]
    KeyName { input: Text, meta: Text },
    /// The column has another type.
    #[error("Validate PK type fail. Input: {input}, Meta: {meta}.")]
    KeyKind { input: &'static str, meta: &'static str },
    /// A text or binary of a key is too long.
    #[error(
        "The length of primary key column: '{name}' exceeds the MaxLength:{max} with \
         CurrentLength:{length}."
    )]
    KeyLength { name: Text, max: usize, length: usize },
    /// The column's value is the server's to give.
    #[error("PKAutoIncr can't be used for read operations.")]
    AutoIncrementRead,
    /// The column is no auto-increment column.
    #[error("Primary key column '{name}' is not an auto-increment column.")]
    NotAutoIncrement { name: Text },
    /// Only a put makes a new key.
    #[error("Invalid row to delete which with pk auto increment.")]
    AutoIncrementDelete,
    /// Only a put makes a new key.
    #[error("Invalid row to update which with pk auto increment.")]
    AutoIncrementUpdate,
    /// A new key cannot be expected to exist.
    #[error("Invalid expect: EXPECT_EXIST when modify row with pk auto increment.")]
    AutoIncrementExpect,
    /// A new row has no columns to compare.
    #[error("Can't set condition when modify row with pk auto increment.")]
    AutoIncrementCondition,
    /// A row whose key the server did not give cannot be made.
    #[error(
        "Invalid expect: EXPECT_NOT_EXIST when modify a specific row for table with pk auto \
         increment."
    )]
    AutoIncrementGiven,
    /// Of a table.
    #[error("AUTO_INCREMENT primary key must be integer.")]
    AutoIncrementKind,
    /// Of a table.
    #[error("AUTO_INCREMENT primary key count must <= 1.")]
    AutoIncrementCount,
    /// Of a table.
    #[error("PkAutoIncr cannot be set as first pk column.")]
    AutoIncrementFirst,
    /// Of a table.
    #[error("The number of defined columns must be in range: [0, 32].")]
    DefinedColumnCount,
    /// An attribute column has the name of a key column.
    #[error("Duplicated attribute column name with primary key column: '{name}'.")]
    ColumnNamedAsKey { name: Text },
    /// Of a table.
    #[error("Duplicated attribute column name: '{name}'.")]
    DefinedColumnTwice { name: Text },
    /// Two operations of one write on one version.
    #[error("Duplicated attribute column name: '{name}' while {doing} row.")]
    ColumnTwice { name: Text, doing: &'static str },
    /// A text or binary is too long.
    #[error(
        "The length of attribute column: '{name}' exceeds the MaxLength:{max} with \
         CurrentLength:{length}."
    )]
    ValueLength { name: Text, max: usize, length: usize },
    /// Too many columns in one write.
    #[error(
        "The number of attribute columns exceeds the limit, limit count: {limit}, column count: \
         {count}."
    )]
    WriteColumns { limit: usize, count: usize },
    /// Too many versions in one write.
    #[error("The number of columns in one row exceeded the limit.")]
    WriteCells,
    /// Too many bytes in one write.
    #[error("The total data size of columns in one row exceeded the limit.")]
    RowSize,
    /// An update that changes nothing.
    #[error("Attribute column is missing.")]
    NoColumns,
    /// A timestamp that no cell can have.
    #[error("Timestamp must be in range [0, INT64_MAX/1000).")]
    TimestampRange,
    /// A timestamp too far from now, or expired already.
    #[error("Invalid timestamp. Cell:{name}.")]
    TimestampDeviation { name: Text },
    /// Of a delete.
    #[error("Invalid row-existence expectation: EXPECT_NOT_EXIST.")]
    DeleteExpectsNothing,
    /// Too many columns named by a read or by the answer to a write.
    #[error(
        "The number of columns from the request exceeds the limit, limit count: {limit}, column \
         count: {count}."
    )]
    ReadColumns { limit: usize, count: usize },
    /// A range read must bound the versions.
    #[error("No version condition is specified.")]
    NoVersions,
    /// A row read must bound the versions.
    #[error("No version condition is specified while querying row.")]
    NoVersionsOfRow,
    /// Of a read.
    #[error("Invalid max versions: {versions}. Reason: Max versions must be positive.")]
    ReadVersions { versions: i64 },
    /// The start of a time range must lie before its end.
    #[error("Invalid time range: the start time must be less than the end time.")]
    TimeRange,
    /// Too many nodes.
    #[error("The count of filter exceeds the max: {max}.")]
    FilterCount { max: usize },
    /// A negation has one part.
    #[error("Invalid NOT operator: the number of sub-filters must be 1.")]
    FilterNot,
    /// A composite has at least two parts.
    #[error("Invalid AND/OR operator: the number of sub-filters must be more than 1.")]
    FilterAndOr,
    /// Paging in a condition.
    #[error("Invalid type of filter: ColumnPaginationFilter cannot be used in a condition.")]
    FilterPageInCondition,
    /// Paging chooses columns; it cannot be negated or be an alternative, and there is one.
    #[error("Invalid type of sub-filter: ColumnPaginationFilter must stand alone or under AND.")]
    FilterPagePlace,
    /// Of paging.
    #[error("Limit in ColumnPaginationFilter must be greater than 0.")]
    FilterPageLimit,
    /// A range that is empty or runs backward.
    #[error("Begin key must less than end key in FORWARD")]
    RangeForward,
    /// A range that is empty or runs forward.
    #[error("Begin key must more than end key in BACKWARD")]
    RangeBackward,
    /// After an infinite part only infinite parts make sense.
    #[error("Invalid range: a value follows INF_MIN or INF_MAX in the primary key.")]
    RangeInfinity,
    /// Of a range.
    #[error("The limit must be greater than 0.")]
    RangeLimit,
    /// Of BatchGetRow.
    #[error("No row specified in the request of BatchGetRow.")]
    NoRowToGet,
    /// Of BatchWriteRow.
    #[error("No row is specified in BatchWriteRow.")]
    NoRowToWrite,
    /// Of a batch.
    #[error("No operation is specified for table: '{table}'.")]
    NoOperation { table: String },
    /// Of a batch.
    #[error("Rows count exceeds the upper limit: {limit}.")]
    BatchRows { limit: usize },
    /// Of BatchWriteRow.
    #[error(
        "The total data size of BatchWriteRow request exceeds the limit, limit size: {limit}, \
         data size: {size}."
    )]
    BatchSize { limit: usize, size: usize },
    /// Of an atomic batch.
    #[error("Data out of scope of atomic. Atomic PartKey:{first}. Data PartKey:{other}")]
    AtomicScope { first: String, other: String },
    /// Of a new table.
    #[error("The maxVersions and timeToLive must be set while creating table.")]
    OptionsMissing,
    /// Of a table.
    #[error("TimeToLive cannot be 0 or less than -1.")]
    TimeToLive,
    /// Of a table.
    #[error("TimeToLive must be -1 or at least 86400 seconds.")]
    TimeToLiveShort,
    /// Of a table.
    #[error("The maximum versions cannot be less than or equal to 0.")]
    MaxVersions,
    /// Of a table.
    #[error("The maximum deviation must be in range [1, INT64_MAX/1000000].")]
    Deviation,
    /// Of a table.
    #[error("The number of columns with a conflict rule exceeds the limit: {limit}.")]
    RuleCount { limit: usize },
    /// A rule that is for single columns.
    #[error("The conflict rule {rule} is for single columns and cannot be that of a table.")]
    DefaultRule { rule: &'static str },
    /// The column is defined with another type.
    #[error("The conflict rule {rule} does not fit the type of column: '{name}'.")]
    RuleOfColumn { name: Text, rule: &'static str },
    /// Of a table.
    #[error("The regions with a priority must be at most {limit}, each named once.")]
    PriorityOfRegions { limit: usize },
    /// Of a table.
    #[error("The number of column families exceeds the limit, limit count: {limit}.")]
    FamilyCount { limit: usize },
    /// As column names; two have one name, or it is a word of its own.
    #[error("The column family's name is taken: '{name}'.")]
    FamilyName { name: Text },
    /// By name.
    #[error("The number of columns of family '{name}' exceeds the limit, limit count: {limit}.")]
    FamilyColumnCount { name: Text, limit: usize },
    /// It must be known what it takes.
    #[error("The column family takes no columns, or one twice: '{name}'.")]
    FamilyColumns { name: Text },
    /// A column, or all that begin so, have a family already.
    #[error("The column is in family '{family}' already: '{column}'.")]
    ColumnInFamily { column: Text, family: Text },
}

impl CheckError {
    /// The public code.
    pub fn code(&self) -> CheckCode {
        match self {
            CheckError::KeySize { .. }
            | CheckError::KeyName { .. }
            | CheckError::KeyKind { .. } => CheckCode::InvalidPk,
            CheckError::WriteCells => CheckCode::OutOfColumnCount,
            CheckError::RowSize => CheckCode::OutOfRowSize,
            CheckError::AtomicScope { .. } => CheckCode::DataOutOfRange,
            CheckError::TableName { .. }
            | CheckError::ColumnName { .. }
            | CheckError::KeyColumnCount
            | CheckError::KeyNameTwice { .. }
            | CheckError::KeyType { .. }
            | CheckError::KeyLength { .. }
            | CheckError::AutoIncrementRead
            | CheckError::NotAutoIncrement { .. }
            | CheckError::AutoIncrementDelete
            | CheckError::AutoIncrementUpdate
            | CheckError::AutoIncrementExpect
            | CheckError::AutoIncrementCondition
            | CheckError::AutoIncrementGiven
            | CheckError::AutoIncrementKind
            | CheckError::AutoIncrementCount
            | CheckError::AutoIncrementFirst
            | CheckError::DefinedColumnCount
            | CheckError::ColumnNamedAsKey { .. }
            | CheckError::DefinedColumnTwice { .. }
            | CheckError::ColumnTwice { .. }
            | CheckError::ValueLength { .. }
            | CheckError::WriteColumns { .. }
            | CheckError::NoColumns
            | CheckError::TimestampRange
            | CheckError::TimestampDeviation { .. }
            | CheckError::DeleteExpectsNothing
            | CheckError::ReadColumns { .. }
            | CheckError::NoVersions
            | CheckError::NoVersionsOfRow
            | CheckError::ReadVersions { .. }
            | CheckError::TimeRange
            | CheckError::FilterCount { .. }
            | CheckError::FilterNot
            | CheckError::FilterAndOr
            | CheckError::FilterPageInCondition
            | CheckError::FilterPagePlace
            | CheckError::FilterPageLimit
            | CheckError::RangeForward
            | CheckError::RangeBackward
            | CheckError::RangeInfinity
            | CheckError::RangeLimit
            | CheckError::NoRowToGet
            | CheckError::NoRowToWrite
            | CheckError::NoOperation { .. }
            | CheckError::BatchRows { .. }
            | CheckError::BatchSize { .. }
            | CheckError::OptionsMissing
            | CheckError::TimeToLive
            | CheckError::TimeToLiveShort
            | CheckError::MaxVersions
            | CheckError::Deviation
            | CheckError::RuleCount { .. }
            | CheckError::DefaultRule { .. }
            | CheckError::RuleOfColumn { .. }
            | CheckError::PriorityOfRegions { .. }
            | CheckError::FamilyCount { .. }
            | CheckError::FamilyName { .. }
            | CheckError::FamilyColumnCount { .. }
            | CheckError::FamilyColumns { .. }
            | CheckError::ColumnInFamily { .. } => CheckCode::ParameterInvalid,
        }
    }

    /// What kind of failure: always the request itself.
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }

    /// Nothing took effect.
    pub fn outcome(&self) -> Outcome {
        Outcome::NotApplied
    }
}
