//! Column families: named groups of columns that live for a time of their own and keep a number of
//! versions of their own.
//!
//! Which columns a family takes is fixed when it is made: some by name, and all whose names begin
//! with its prefix. Of several families that would take a column the one that was made first has
//! it, so a column has one family and, once it has one, always the same. That is what lets an
//! expiry name families by number (`expiry.rs`) and mean the same columns for ever.

use std::sync::Arc;

use crate::schema::TableOptions;
use crate::value::Text;

/// What the columns that no family takes are called where families are named.
pub const NO_FAMILY: &str = "rest";

/// How long cells of a family live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FamilyTime {
    /// As those of the table.
    #[default]
    AsTable,
    /// Until they are deleted.
    Forever,
    /// Seconds from their timestamps.
    Seconds(u32),
}

/// A named group of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, unique in the table.
    pub name: Text,
    /// Columns that it takes by name, ascending.
    pub columns: Vec<Text>,
    /// It takes all columns whose names begin so; `None`: no others.
    pub prefix: Option<Text>,
    /// How long its cells live.
    pub time_to_live: FamilyTime,
    /// Versions kept per column, at least 1; `None`: as the table.
    pub max_versions: Option<u32>,
}

impl Family {
    /// Whether a column of that name would be taken by it.
    pub fn takes(&self, column: &Text) -> bool {
        self.columns.binary_search(column).is_ok()
            || self
                .prefix
                .as_ref()
                .is_some_and(|prefix| column.as_bytes().starts_with(prefix.as_bytes()))
    }
}

/// A family of a table, by its place; 0: the columns that no family takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FamilyNumber(pub u8);

impl FamilyNumber {
    /// The columns that no family takes.
    pub const NONE: FamilyNumber = FamilyNumber(0);
}

/// Some of the families that a table has or may have some day; bit 0 are the columns that no
/// family takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FamilySet(pub u64);

impl FamilySet {
    /// A set of one.
    pub fn of(number: FamilyNumber) -> FamilySet {
        FamilySet(1 << u32::from(number.0.min(63)))
    }

    /// Whether a family is in it.
    pub fn has(self, number: FamilyNumber) -> bool {
        self.0 & FamilySet::of(number).0 != 0
    }

    /// This one and another.
    #[must_use]
    pub fn with(self, other: FamilySet) -> FamilySet {
        FamilySet(self.0 | other.0)
    }

    /// All others, those that a table may have some day among them.
    #[must_use]
    pub fn others(self) -> FamilySet {
        FamilySet(!self.0)
    }

    /// Whether all that are in it are in another.
    pub fn is_within(self, other: FamilySet) -> bool {
        self.0 & !other.0 == 0
    }
}

/// The families of a table, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Families(Option<Arc<[Family]>>);

/// Those of a table that has none.
pub static NO_FAMILIES: Families = Families(None);

impl Families {
    /// Of a list in the order in which they were made.
    pub fn new(list: Vec<Family>) -> Families {
        Families((!list.is_empty()).then(|| list.into()))
    }

    /// All of them.
    pub fn list(&self) -> &[Family] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The family that takes a column.
    pub fn of(&self, column: &Text) -> FamilyNumber {
        let place = self.list().iter().position(|family| family.takes(column));
        place.map_or(FamilyNumber::NONE, |place| FamilyNumber(place as u8 + 1))
    }

    /// The family of a number.
    pub fn get(&self, number: FamilyNumber) -> Option<&Family> {
        self.list().get(usize::from(number.0).checked_sub(1)?)
    }

    /// The number of the family of a name.
    pub fn named(&self, name: &str) -> Option<FamilyNumber> {
        let place = self.list().iter().position(|family| family.name.as_str() == name);
        place.map(|place| FamilyNumber(place as u8 + 1))
    }

    /// 0 and the numbers of all families.
    pub fn numbers(&self) -> impl Iterator<Item = FamilyNumber> + use<> {
        (0..=self.list().len() as u8).map(FamilyNumber)
    }

    /// Those that do not live as long as the table says.
    pub fn with_own_time(&self) -> FamilySet {
        let own = self.list().iter().enumerate();
        let own = own.filter(|(_, family)| family.time_to_live != FamilyTime::AsTable);
        own.map(|(place, _)| FamilySet::of(FamilyNumber(place as u8 + 1)))
            .fold(FamilySet::default(), FamilySet::with)
    }
}

impl TableOptions {
    /// Seconds that cells of a family live. `None`: for ever.
    pub fn time_to_live_of(&self, number: FamilyNumber) -> Option<u32> {
        match self.families.get(number).map(|family| family.time_to_live) {
            None | Some(FamilyTime::AsTable) => self.time_to_live_seconds,
            Some(FamilyTime::Forever) => None,
            Some(FamilyTime::Seconds(seconds)) => Some(seconds),
        }
    }

    /// Versions kept per column of a family, at least 1.
    pub fn max_versions_of(&self, number: FamilyNumber) -> u32 {
        let own = self.families.get(number).and_then(|family| family.max_versions);
        own.unwrap_or(self.max_versions).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(name: &str, columns: &[&str], prefix: Option<&str>) -> Family {
        Family {
            name: name.into(),
            columns: columns.iter().map(|name| Text::from(*name)).collect(),
            prefix: prefix.map(Text::from),
            time_to_live: FamilyTime::AsTable,
            max_versions: None,
        }
    }

    #[test]
    fn a_column_is_of_the_first_family_that_takes_it() {
        let families = Families::new(vec![
            family("first", &["m_a", "z"], None),
            family("second", &[], Some("m_")),
            family("third", &["other"], Some("m")),
        ]);
        let of = |name: &str| families.of(&name.into()).0;
        assert_eq!((of("m_a"), of("m_b"), of("mine"), of("other"), of("z")), (1, 2, 3, 3, 1));
        assert_eq!((of("a"), of("M_b"), of("")), (0, 0, 0));
        assert_eq!(families.named("third"), Some(FamilyNumber(3)));
        assert_eq!(families.named("fourth"), None);
    }

    #[test]
    fn what_a_family_does_not_say_is_as_the_table_says() {
        let mut own = family("own", &["a"], None);
        own.time_to_live = FamilyTime::Seconds(90_000);
        own.max_versions = Some(7);
        let mut kept = family("kept", &["b"], None);
        kept.time_to_live = FamilyTime::Forever;
        let options = TableOptions {
            time_to_live_seconds: Some(100_000),
            max_versions: 2,
            families: Families::new(vec![own, kept, family("plain", &["c"], None)]),
            ..TableOptions::default()
        };
        let numbers = || options.families.numbers();
        let lives: Vec<_> = numbers().map(|number| options.time_to_live_of(number)).collect();
        assert_eq!(lives, [Some(100_000), Some(90_000), None, Some(100_000)]);
        let kept: Vec<_> = numbers().map(|number| options.max_versions_of(number)).collect();
        assert_eq!(kept, [2, 7, 2, 2]);
        assert_eq!(options.families.with_own_time(), FamilySet(0b110));
    }
}
