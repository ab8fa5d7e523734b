//! The numbers that name things: regions, tables, partitions, places in a log.
//!
//! Two kinds of number never share a type. Each is a plain integer with an order and nothing
//! else, so that the compiler keeps them apart.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The number of a region, 1 to 255, alike in all regions. As an origin it names the region
    /// that first accepted a change.
    Origin,
    u8
);
number!(
    /// Names a table for ever; alike in all regions and never used again.
    TableId,
    u64
);
number!(
    /// Names a partition for ever; alike in all regions and never used again.
    PartitionId,
    u64
);
number!(
    /// The address of an entry in one partition's change log. The first entry has 1; 0 means
    /// "before the first".
    Lsn,
    u64
);
number!(
    /// Grows at each change of primary; older ones are fenced.
    Epoch,
    u64
);
number!(
    /// Numbers the schemas of one table, from 1.
    SchemaNumber,
    u64
);
number!(
    /// A cell's version: milliseconds since the Unix epoch, 0 to `i64::MAX / 1000`. It is the
    /// user's data and never decides an order between regions.
    Timestamp,
    i64
);

impl Lsn {
    /// The address after this one.
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// The number of the region `origin` and a counter, folded into one id that no other region makes.
///
/// `counter` must be below 2^56.
pub fn id_of_region(origin: Origin, counter: u64) -> u64 {
    assert!(counter < 1 << 56, "id counter is far below its bound");
    counter << 8 | u64::from(origin.0)
}
