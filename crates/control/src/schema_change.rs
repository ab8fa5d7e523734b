//! What a person may change of a table's schema beyond what the public API has.
//!
//! A change is a small JSON document, as those of global tables are, and goes to the same place:
//! the base region, whose log carries the schema to the others. A change that is refused changes
//! nothing.

use std::collections::BTreeMap;

use isthmus_model::check::{CheckError, check_schema};
use isthmus_model::family::{Families, Family, FamilyTime};
use isthmus_model::ids::Origin;
use isthmus_model::rule::{ConflictRules, Rule};
use isthmus_model::schema::Schema;
use isthmus_model::value::Text;
use serde::{Deserialize, Serialize};

use crate::global_table::ControlError;

/// A change of a table's schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SchemaChange {
    /// Sets how conflicts are decided.
    SetRules {
        /// Rule of columns that have none of their own; absent: as it is.
        #[serde(default)]
        default: Option<String>,
        /// Rules of single columns; null: that of the table.
        #[serde(default)]
        columns: BTreeMap<String, Option<String>>,
        /// Names of regions, the one that wins over all others first; absent: as it is.
        #[serde(default)]
        priority: Option<Vec<String>>,
    },
    /// Makes a column family, or lets one live otherwise.
    SetFamily(SetFamily),
    /// Drops the table in every region.
    Drop {},
}

/// What a column family is to be. What is absent is as it is; of a new one, as the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFamily {
    /// Its name.
    pub family: String,
    /// Columns that it takes by name. Said when it is made, and never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// It takes all columns whose names begin so. Said when it is made, and never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Seconds that its cells live; -1: for ever; 0: as those of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_live: Option<i64>,
    /// Versions kept per column; 0: as many as the table keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_versions: Option<u32>,
}

impl SchemaChange {
    /// Whether a change of that name is one of a schema.
    pub fn is_named(name: &str) -> bool {
        matches!(name, "set-rules" | "set-family" | "drop")
    }

    /// The schema after it. `number_of` tells the number of a region.
    pub fn apply(
        &self,
        schema: &Schema,
        number_of: impl Fn(&str) -> Option<Origin>,
    ) -> Result<Schema, ControlError> {
        let mut changed = schema.clone();
        match self {
            SchemaChange::SetRules { default, columns, priority } => {
                let rules = changed.options.rules.get_or_insert_default();
                set_rules(rules, default.as_deref(), columns)?;
                if let Some(names) = priority {
                    let number = |name: &String| {
                        number_of(name).ok_or_else(|| ControlError::NoRegion(name.clone()))
                    };
                    rules.priority = names.iter().map(number).collect::<Result<_, _>>()?;
                }
            }
            SchemaChange::SetFamily(asked) => {
                changed.options.families = set_family(&changed.options.families, asked)?;
            }
            SchemaChange::Drop {} => changed.options.is_dropped = true,
        }
        check_schema(&changed)?;
        Ok(changed)
    }
}

fn set_rules(
    rules: &mut ConflictRules,
    default: Option<&str>,
    columns: &BTreeMap<String, Option<String>>,
) -> Result<(), ControlError> {
    let named =
        |name: &str| Rule::named(name).ok_or_else(|| ControlError::UnknownRule(name.to_owned()));
    if let Some(name) = default {
        rules.default = named(name)?;
    }
    let mut own: BTreeMap<Text, Rule> = rules.columns.drain(..).collect();
    for (column, rule) in columns {
        let column = Text::from(column.as_str());
        match rule {
            Some(name) => own.insert(column, named(name)?),
            None => own.remove(&column),
        };
    }
    rules.columns = own.into_iter().collect();
    Ok(())
}

fn set_family(families: &Families, asked: &SetFamily) -> Result<Families, ControlError> {
    let mut list = families.list().to_vec();
    let mut columns: Option<Vec<Text>> = asked
        .columns
        .as_ref()
        .map(|names| names.iter().map(|name| Text::from(name.as_str())).collect());
    columns.iter_mut().for_each(|names| names.sort());
    let prefix = asked.prefix.as_ref().filter(|prefix| !prefix.is_empty());
    let prefix = prefix.map(|prefix| Text::from(prefix.as_str()));
    if families.named(&asked.family).is_none() {
        list.push(Family {
            name: asked.family.as_str().into(),
            columns: columns.clone().unwrap_or_default(),
            prefix: prefix.clone(),
            time_to_live: FamilyTime::AsTable,
            max_versions: None,
        });
    }
    let family = list.iter_mut().find(|known| known.name.as_str() == asked.family);
    if let Some(family) = family {
        let is_other = columns.is_some_and(|columns| columns != family.columns)
            || (asked.prefix.is_some() && prefix != family.prefix);
        if is_other {
            return Err(ControlError::FamilyStays(asked.family.clone()));
        }
        match asked.time_to_live {
            None => {}
            Some(-1) => family.time_to_live = FamilyTime::Forever,
            Some(0) => family.time_to_live = FamilyTime::AsTable,
            Some(seconds) => {
                let seconds = u32::try_from(seconds).map_err(|_| CheckError::TimeToLive)?;
                family.time_to_live = FamilyTime::Seconds(seconds);
            }
        }
        if let Some(versions) = asked.max_versions {
            family.max_versions = (versions > 0).then_some(versions);
        }
    }
    Ok(Families::new(list))
}

#[cfg(test)]
mod tests {
    use isthmus_model::ids::SchemaNumber;
    use isthmus_model::key::KeyKind;
    use isthmus_model::schema::{DefinedColumn, KeyColumn, TableOptions};
    use isthmus_model::value::ValueKind;

    use super::*;

    fn schema() -> Schema {
        Schema {
            number: SchemaNumber(1),
            key_columns: vec![KeyColumn {
                name: "id".into(),
                kind: KeyKind::String,
                auto_increment: false,
            }],
            defined_columns: vec![DefinedColumn { name: "text".into(), kind: ValueKind::String }],
            options: TableOptions::default(),
        }
    }

    fn applied(json: &str) -> Result<Schema, ControlError> {
        let change: SchemaChange = serde_json::from_str(json).unwrap();
        let number_of = |name: &str| (name == "r2").then_some(Origin(2));
        change.apply(&schema(), number_of)
    }

    #[test]
    fn rules_are_set_column_by_column() {
        let json = r#"{"change": "set-rules", "default": "max",
            "columns": {"stock": "counter", "tags": "set", "text": null}, "priority": ["r2"]}"#;
        let rules = applied(json).unwrap().options.rules.unwrap();
        assert_eq!(rules.default, Rule::Max);
        assert_eq!(rules.of(&"stock".into()), Rule::Counter);
        assert_eq!(rules.of(&"text".into()), Rule::Max);
        assert_eq!(rules.priority, [Origin(2)]);
    }

    #[test]
    fn a_family_is_made_and_lives_otherwise_later_and_takes_what_it_took() {
        let made = applied(
            r#"{"change": "set-family", "family": "meta", "columns": ["b", "a"], "prefix": "m_",
                "time_to_live": 90000, "max_versions": 3}"#,
        );
        let made = made.unwrap();
        let family = &made.options.families.list()[0];
        assert_eq!(family.columns, ["a".into(), "b".into()]);
        assert_eq!(family.time_to_live, FamilyTime::Seconds(90_000));
        let again = |json: &str| {
            let change: SchemaChange = serde_json::from_str(json).unwrap();
            change.apply(&made, |_| None)
        };
        let later = r#"{"change": "set-family", "family": "meta", "time_to_live": -1}"#;
        let later = again(later).unwrap().options.families.list()[0].clone();
        assert_eq!((later.time_to_live, later.max_versions), (FamilyTime::Forever, Some(3)));
        let same = r#"{"change": "set-family", "family": "meta", "columns": ["a", "b"]}"#;
        assert_eq!(again(same).unwrap(), made);
        for json in [
            r#"{"change": "set-family", "family": "meta", "columns": ["a"]}"#,
            r#"{"change": "set-family", "family": "meta", "prefix": ""}"#,
            r#"{"change": "set-family", "family": "more", "columns": ["a"]}"#,
            r#"{"change": "set-family", "family": "more", "prefix": "m_x"}"#,
            r#"{"change": "set-family", "family": "more"}"#,
            r#"{"change": "set-family", "family": "rest", "columns": ["c"]}"#,
            r#"{"change": "set-family", "family": "more", "columns": ["id"]}"#,
            r#"{"change": "set-family", "family": "more", "columns": ["c", "c"]}"#,
            r#"{"change": "set-family", "family": "meta", "time_to_live": 60}"#,
            r#"{"change": "set-family", "family": "meta", "time_to_live": -2}"#,
        ] {
            assert!(again(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_drop_leaves_all_else_as_it_is() {
        let dropped = applied(r#"{"change": "drop"}"#).unwrap();
        let options = TableOptions { is_dropped: true, ..schema().options };
        assert_eq!(dropped, Schema { options, ..schema() });
        let more = r#"{"change": "drop", "table": "t"}"#;
        assert!(serde_json::from_str::<SchemaChange>(more).is_err());
        assert!(SchemaChange::is_named("drop") && !SchemaChange::is_named("set-link"));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for columns in
            [r#"{"text": "counter"}"#, r#"{"id": "max"}"#, r#"{"a": "best"}"#, r#"{"a b": "max"}"#]
        {
            let json = format!(r#"{{"change": "set-rules", "columns": {columns}}}"#);
            assert!(applied(&json).is_err(), "{json}");
        }
        assert!(applied(r#"{"change": "set-rules", "default": "counter"}"#).is_err());
        assert!(applied(r#"{"change": "set-rules", "priority": ["r9"]}"#).is_err());
        assert!(applied(r#"{"change": "set-rules", "priority": ["r2", "r2"]}"#).is_err());
    }
}
