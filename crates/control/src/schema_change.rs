//! What a person may change of a table's schema beyond what the public API has.
//!
//! A change is a small JSON document, as those of global tables are, and goes to the same place:
//! the base region, whose log carries the schema to the others. A change that is refused changes
//! nothing.

use std::collections::BTreeMap;

use isthmus_model::check::check_schema;
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
    /// Drops the table in every region.
    Drop {},
}

impl SchemaChange {
    /// Whether a change of that name is one of a schema.
    pub fn is_named(name: &str) -> bool {
        matches!(name, "set-rules" | "drop")
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
    fn a_drop_leaves_all_else_as_it_is() {
        let dropped = applied(r#"{"change": "drop"}"#).unwrap();
        let options = TableOptions { is_dropped: true, ..schema().options };
        assert_eq!(dropped, Schema { options, ..schema() });
        assert!(applied(r#"{"change": "drop", "table": "t"}"#).is_err());
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
