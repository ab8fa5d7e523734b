//! What messages tell of a table: what has expired, and which columns its families take.

use isthmus_model::expiry::Expiry;
use isthmus_model::family::{Families, Family, FamilySet, FamilyTime};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Origin, Timestamp};
use isthmus_model::row::Trim;
use isthmus_model::value::Text;

/// An expiry that is logged.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExpiredBefore {
    /// Cells with a timestamp below it, exclusive.
    #[prost(sint64, tag = "1")]
    pub below: i64,
    /// Of its stamp.
    #[prost(uint64, tag = "2")]
    pub hlc: u64,
    /// Of its stamp.
    #[prost(uint32, tag = "3")]
    pub origin: u32,
    /// The families that it spares, as a set of bits.
    #[prost(uint64, tag = "4")]
    pub spared: u64,
}

impl ExpiredBefore {
    /// Tells of an expiry.
    pub fn of(expiry: &Expiry) -> ExpiredBefore {
        ExpiredBefore {
            below: expiry.trim.below.0,
            hlc: expiry.trim.stamp.hlc.0,
            origin: u32::from(expiry.trim.stamp.origin.0),
            spared: expiry.spared.0,
        }
    }

    /// The expiry that it tells of; `None`: no region has such a number.
    pub fn expiry(&self) -> Option<Expiry> {
        let stamp = Stamp { hlc: Hlc(self.hlc), origin: Origin(u8::try_from(self.origin).ok()?) };
        let trim = Trim { below: Timestamp(self.below), stamp };
        Some(Expiry { trim, spared: FamilySet(self.spared) })
    }
}

/// Which columns a family takes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FamilyColumns {
    /// By name, ascending.
    #[prost(string, repeated, tag = "1")]
    pub columns: Vec<String>,
    /// All that begin so; empty: no others.
    #[prost(string, tag = "2")]
    pub prefix: String,
}

impl FamilyColumns {
    /// Tells which columns the families of a table take.
    pub fn of(families: &Families) -> Vec<FamilyColumns> {
        let text = |text: &Text| text.as_str().to_owned();
        let told = families.list().iter().map(|family| FamilyColumns {
            columns: family.columns.iter().map(text).collect(),
            prefix: family.prefix.as_ref().map(text).unwrap_or_default(),
        });
        told.collect()
    }

    /// Families that take these columns, and of which nothing else is known.
    pub fn families(told: &[FamilyColumns]) -> Families {
        let family = |told: &FamilyColumns| Family {
            name: Text::default(),
            columns: told.columns.iter().map(|name| Text::from(name.as_str())).collect(),
            prefix: (!told.prefix.is_empty()).then(|| Text::from(told.prefix.as_str())),
            time_to_live: FamilyTime::AsTable,
            max_versions: None,
        };
        Families::new(told.iter().map(family).collect())
    }
}
