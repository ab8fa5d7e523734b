//! Bounds of the data model, as the public service documents them.

/// Key columns of a table.
pub const KEY_COLUMNS_MAX: usize = 4;
/// Bytes of one string or binary of a primary key.
pub const KEY_VALUE_BYTES_MAX: usize = 1024;
/// Bytes of a table or column name.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of one string or binary attribute value.
pub const VALUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Attribute columns in one write.
pub const WRITE_COLUMNS_MAX: usize = 1024;
/// Versions of attribute columns in one write.
pub const WRITE_CELLS_MAX: usize = 1024;
/// Columns named in one read.
pub const READ_COLUMNS_MAX: usize = 1024;
/// Bytes of one row write or one batch.
pub const WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Defined columns of a table.
pub const DEFINED_COLUMNS_MAX: usize = 32;
/// Columns of a table that have a conflict rule of their own.
pub const RULES_MAX: usize = 1024;
/// Families of a table, ever made.
pub const FAMILIES_MAX: usize = 32;
/// Columns that a family takes by name.
pub const FAMILY_COLUMNS_MAX: usize = 64;
/// Regions that have a priority in conflicts: as many as a table has replicas.
pub const PRIORITY_REGIONS_MAX: usize = 10;
/// Rows of one BatchGetRow.
pub const BATCH_GET_ROWS_MAX: usize = 100;
/// Rows of one BatchWriteRow.
pub const BATCH_WRITE_ROWS_MAX: usize = 200;
/// Rows of one page of a range.
pub const RANGE_ROWS_MAX: usize = 5000;
/// Bytes of one page of a range, or of a row read at once.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Nodes of one filter or condition.
pub const FILTER_NODES_MAX: usize = 32;
/// Timestamps of cells lie below this.
pub const TIMESTAMP_MAX: i64 = i64::MAX / 1000;
/// Addresses in logs, epochs and versions of records lie below this, so that there is always a next
/// one. No log comes near it: a greater number that a peer tells is damage.
pub const COUNT_MAX: u64 = 1 << 62;
/// Counters of auto-increment columns that a peer tells lie below this: what is given after them
/// still fits in an id beside the number of a region.
pub const AUTO_INCREMENT_MAX: u64 = 1 << 55;
/// Seconds that cells live at least, where they do not live for ever.
pub const TIME_TO_LIVE_SECONDS_MIN: u32 = 86_400;
/// Seconds that a given timestamp may be allowed to lie from the server's time.
pub const DEVIATION_SECONDS_MAX: i64 = i64::MAX / 1_000_000;
