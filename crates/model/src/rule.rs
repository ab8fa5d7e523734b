//! How conflicts of a column are decided: the rules of a table.
//!
//! Rules are part of the schema, so every region takes a change of them at the same place of the
//! log. Merging never looks at them: what a region writes under a rule bears the rule with it
//! (`share.rs`), so that old and new writes merge alike everywhere, whatever the rule is by then.

use crate::ids::Origin;
use crate::value::Text;

/// How a conflict is decided: two writes of one column of which neither region had seen the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// The later one stays.
    #[default]
    LastWriter,
    /// That of the region with the higher priority stays; the later one among equals.
    Priority,
    /// The greater value stays.
    Max,
    /// The smaller value stays.
    Min,
    /// Increments of all regions count.
    Counter,
    /// Values are JSON arrays; the elements of both stay.
    Set,
}

/// All rules, with their names.
const RULES: [(Rule, &str); 6] = [
    (Rule::LastWriter, "last-writer"),
    (Rule::Priority, "priority"),
    (Rule::Max, "max"),
    (Rule::Min, "min"),
    (Rule::Counter, "counter"),
    (Rule::Set, "set"),
];

impl Rule {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        RULES.iter().find(|(rule, _)| *rule == self).map_or("last-writer", |(_, name)| *name)
    }

    /// The rule of that name.
    pub fn named(name: &str) -> Option<Rule> {
        RULES.iter().find(|(_, known)| *known == name).map(|(rule, _)| *rule)
    }

    /// The names of all rules.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RULES.iter().map(|(_, name)| *name)
    }
}

/// The rules of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflictRules {
    /// Of columns that have none of their own.
    pub default: Rule,
    /// Of single columns, by rising name.
    pub columns: Vec<(Text, Rule)>,
    /// For `Priority`: regions, the one that wins over all others first. Regions that are not
    /// named come last.
    pub priority: Vec<Origin>,
}

impl ConflictRules {
    /// The rule of a column.
    pub fn of(&self, name: &Text) -> Rule {
        let own = self.columns.binary_search_by(|(known, _)| known.cmp(name));
        own.ok().and_then(|place| self.columns.get(place)).map_or(self.default, |(_, rule)| *rule)
    }

    /// Whether they make sense where whole rows conflict: columns that are decided one by one
    /// would make a row that no region wrote.
    pub fn suit_whole_rows(&self) -> bool {
        self.columns.is_empty() && matches!(self.default, Rule::LastWriter | Rule::Priority)
    }

    /// How high a region's priority is; 0: it is not named.
    pub fn rank(&self, origin: Origin) -> u8 {
        let place = self.priority.iter().position(|known| *known == origin);
        place.map_or(0, |place| (self.priority.len() - place).min(usize::from(u8::MAX)) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_its_own_rule_or_that_of_the_table() {
        let rules = ConflictRules {
            default: Rule::Max,
            columns: vec![("stock".into(), Rule::Counter), ("tags".into(), Rule::Set)],
            priority: vec![Origin(3), Origin(1)],
        };
        assert_eq!(rules.of(&"tags".into()), Rule::Set);
        assert_eq!(rules.of(&"other".into()), Rule::Max);
        assert!(!rules.suit_whole_rows());
        let ranked = ConflictRules { default: Rule::Priority, ..ConflictRules::default() };
        assert!(ranked.suit_whole_rows() && ConflictRules::default().suit_whole_rows());
        assert!(rules.rank(Origin(3)) > rules.rank(Origin(1)));
        assert!(rules.rank(Origin(1)) > rules.rank(Origin(2)));
        assert!(Rule::names().all(|name| Rule::named(name).unwrap().as_str() == name));
    }
}
