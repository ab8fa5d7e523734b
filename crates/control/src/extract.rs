//! What of a table a replica takes, where that is not all of it and always: some columns, a range
//! of keys, the rows that pass a filter; once, or only what comes from now on.
//!
//! Such a replica is no peer, passes nothing on and cannot take the place of another. It is said
//! when a region is bound and stays until it is unbound.

use std::collections::BTreeSet;

use isthmus_model::change::{ColumnFilter, Comparator, Filter};
use isthmus_model::family::NO_FAMILY;
use isthmus_model::key::{EncodedKey, KeyValue, PrimaryKey};
use isthmus_model::limits::{
    FAMILIES_MAX, FILTER_NODES_MAX, KEY_COLUMNS_MAX, KEY_VALUE_BYTES_MAX, NAME_BYTES_MAX,
    READ_COLUMNS_MAX, VALUE_BYTES_MAX,
};
use isthmus_model::value::Value;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::global_table::{ControlError, GlobalTable, Progress, Serve};

/// What is taken when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyKind {
    /// What is there is copied, and the link stops.
    Full,
    /// What is there is left out, and what comes is taken.
    Incremental,
    /// What is there is copied, and what comes is taken.
    #[default]
    FullThenIncremental,
}

/// What a replica takes of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extract {
    /// What is taken when.
    pub copy: CopyKind,
    /// Keys from here, inclusive: the first values of a key. None: from the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub range_from: Vec<Json>,
    /// Keys to here, exclusive. None: to the last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub range_to: Vec<Json>,
    /// Attribute columns. None: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Column families, `rest` for the columns that none takes. None: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<String>,
    /// Rows that pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterRule>,
}

impl Eq for Extract {}

/// A filter of rows, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FilterRule {
    /// Where all hold.
    And(Vec<FilterRule>),
    /// Where one holds.
    Or(Vec<FilterRule>),
    /// Where it does not hold.
    Not(Box<FilterRule>),
    /// Compares a column.
    Column(ColumnRule),
}

/// Compares a column with a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnRule {
    /// Its name; a key column has one, too.
    pub name: String,
    /// How.
    pub is: Is,
    /// With what; none where existence is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,
    /// Whether rows without the column pass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_missing: bool,
    /// Whether any version may match, and not the newest alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_version: bool,
}

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Is {
    /// The same.
    #[serde(rename = "=")]
    Equal,
    /// Not the same.
    #[serde(rename = "!=")]
    NotEqual,
    /// Greater.
    #[serde(rename = ">")]
    Greater,
    /// Greater or the same.
    #[serde(rename = ">=")]
    GreaterEqual,
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// Less or the same.
    #[serde(rename = "<=")]
    LessEqual,
    /// It is there.
    #[serde(rename = "exists")]
    Exists,
    /// It is not there.
    #[serde(rename = "not-exists")]
    NotExists,
}

/// A region that is bound with less than all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindExtract {
    /// The region.
    pub region: String,
    /// What its replica takes.
    pub extract: Extract,
}

impl Extract {
    /// Whether all is taken, always.
    pub fn is_all(&self) -> bool {
        *self == Extract::default()
    }

    /// Whether what is taken is all that there is, as far as it is taken at all.
    pub fn is_of_everything(&self) -> bool {
        *self == Extract { copy: self.copy, ..Extract::default() }
    }

    /// Where the keys begin and end; `None`: at the last.
    pub fn range(&self) -> Result<(EncodedKey, Option<EncodedKey>), String> {
        let start = bound("range_from", &self.range_from)?;
        let end = bound("range_to", &self.range_to)?;
        if !self.range_to.is_empty() && end <= start {
            return Err("range_to is not after range_from".to_owned());
        }
        Ok((start, (!self.range_to.is_empty()).then_some(end)))
    }

    /// The filter in the form that rows are judged by.
    pub fn filter(&self) -> Result<Option<Filter>, String> {
        let mut left = FILTER_NODES_MAX;
        self.filter.as_ref().map(|rule| filter(rule, &mut left)).transpose()
    }

    fn check(&self) -> Result<(), String> {
        self.range()?;
        self.filter()?;
        let columns: BTreeSet<&String> = self.columns.iter().collect();
        if columns.len() != self.columns.len() || columns.len() > READ_COLUMNS_MAX {
            return Err(format!("columns are named twice, or more than {READ_COLUMNS_MAX}"));
        }
        let families: BTreeSet<&String> = self.families.iter().collect();
        if families.len() != self.families.len() || families.len() > FAMILIES_MAX + 1 {
            return Err(format!("families are named twice, or more than {FAMILIES_MAX}"));
        }
        self.columns.iter().chain(&self.families).try_for_each(|name| check_name(name))
    }
}

impl GlobalTable {
    /// Adds a replica that takes less than all.
    pub(crate) fn bind_extract(&mut self, asked: &BindExtract) -> Result<(), ControlError> {
        asked.extract.check().map_err(ControlError::BadExtract)?;
        if self.serve != Serve::PrimarySecondary {
            let reason = "a table that all regions write has no such replicas".to_owned();
            return Err(ControlError::BadExtract(reason));
        }
        let mut bound = self.clone().with_replica(&asked.region, false, 0)?;
        bound.version = self.version;
        let replica = bound.replica_mut(&asked.region)?;
        replica.extract = (!asked.extract.is_all()).then(|| asked.extract.clone());
        *self = bound;
        Ok(())
    }

    /// Whether a region takes what is there once, and nothing that comes.
    pub fn is_taken_once(&self, region: &str) -> bool {
        let extract = self.replica(region).and_then(|replica| replica.extract.as_ref());
        extract.is_some_and(|extract| extract.copy == CopyKind::Full)
    }

    /// Whether a region was to take what was there once, and has.
    pub fn has_enough(&self, region: &str) -> bool {
        let progress = self.replica(region).map(|replica| replica.progress);
        self.is_taken_once(region) && progress == Some(Progress::Active)
    }

    /// The first region that takes the columns which no family takes, and not all columns.
    pub fn takes_rest(&self) -> Option<&str> {
        let takes = |extract: &Extract| extract.families.iter().any(|name| name == NO_FAMILY);
        let mut replicas = self.replicas.iter();
        let replica = replicas.find(|replica| replica.extract.as_ref().is_some_and(takes));
        replica.map(|replica| replica.region.as_str())
    }

    /// Whether a region takes less than all, and so passes nothing on.
    pub fn takes_extract(&self, region: &str) -> bool {
        self.replica(region).is_some_and(|replica| replica.extract.is_some())
    }
}

fn check_name(name: &str) -> Result<(), String> {
    match name.is_empty() || name.len() > NAME_BYTES_MAX {
        true => Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes")),
        false => Ok(()),
    }
}

fn bound(what: &str, values: &[Json]) -> Result<EncodedKey, String> {
    if values.len() > KEY_COLUMNS_MAX {
        return Err(format!("{what} has more values than a key may have"));
    }
    let value = |value: &Json| match value {
        Json::String(text) if text.len() <= KEY_VALUE_BYTES_MAX => {
            Ok(KeyValue::String(text.as_str().into()))
        }
        Json::Number(number) => number
            .as_i64()
            .map(KeyValue::Integer)
            .ok_or_else(|| format!("{what}: {number} is no integer of a key")),
        _ => Err(format!("{what}: values of a key are texts of 1024 bytes or integers")),
    };
    values.iter().map(value).collect::<Result<_, _>>().map(|key| PrimaryKey(key).encode())
}

fn filter(rule: &FilterRule, left: &mut usize) -> Result<Filter, String> {
    let too_many = || format!("a filter has at most {FILTER_NODES_MAX} nodes");
    *left = left.checked_sub(1).ok_or_else(too_many)?;
    let mut all = |parts: &[FilterRule]| match parts.is_empty() {
        true => Err("and, or need a part".to_owned()),
        false => parts.iter().map(|part| filter(part, left)).collect::<Result<Vec<_>, _>>(),
    };
    Ok(match rule {
        FilterRule::And(parts) => Filter::And(all(parts)?),
        FilterRule::Or(parts) => Filter::Or(all(parts)?),
        FilterRule::Not(part) => Filter::Not(Box::new(filter(part, left)?)),
        FilterRule::Column(rule) => Filter::Column(column(rule)?),
    })
}

fn column(rule: &ColumnRule) -> Result<ColumnFilter, String> {
    check_name(&rule.name)?;
    let of_existence = matches!(rule.is, Is::Exists | Is::NotExists);
    let value = match (&rule.value, of_existence) {
        (None, true) => Value::Boolean(true),
        (Some(_), true) => return Err("existence is asked for without a value".to_owned()),
        (None, false) => return Err(format!("column {} is compared with no value", rule.name)),
        (Some(value), false) => cell_value(value)?,
    };
    Ok(ColumnFilter {
        name: rule.name.as_str().into(),
        comparator: match rule.is {
            Is::Equal => Comparator::Equal,
            Is::NotEqual => Comparator::NotEqual,
            Is::Greater => Comparator::Greater,
            Is::GreaterEqual => Comparator::GreaterEqual,
            Is::Less => Comparator::Less,
            Is::LessEqual => Comparator::LessEqual,
            Is::Exists => Comparator::Exists,
            Is::NotExists => Comparator::NotExists,
        },
        value,
        filter_if_missing: !rule.if_missing,
        latest_version_only: !rule.any_version,
        transfer: None,
    })
}

fn cell_value(value: &Json) -> Result<Value, String> {
    match value {
        Json::Bool(value) => Ok(Value::Boolean(*value)),
        Json::String(text) if text.len() <= VALUE_BYTES_MAX => {
            Ok(Value::String(text.as_str().into()))
        }
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(Value::Integer(integer)),
            (None, Some(double)) => Ok(Value::Double(double)),
            (None, None) => Err(format!("{number} is no number of a column")),
        },
        _ => Err("a column is compared with a text, a number or a boolean".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::edges::{Edge, SetEdges};
    use crate::global_table::Sync;

    fn table(serve: Serve) -> GlobalTable {
        GlobalTable::new("t", 1, "r1", Sync::Row, serve).with_replica("r2", false, 0).unwrap()
    }

    fn bind(extract: &str) -> Change {
        let text = format!(r#"{{"change":"bind-extract","region":"r3","extract":{extract}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_replica_that_takes_less_is_bound_once_and_passes_nothing_on() {
        let mut table = table(Serve::PrimarySecondary);
        let change = bind(
            r#"{"copy":"incremental","range_from":["a"],"range_to":["b",7],"columns":["x"],
               "filter":{"and":[{"column":{"name":"x","is":">=","value":5}},
                                {"not":{"column":{"name":"y","is":"exists"}}}]}}"#,
        );
        assert_eq!(table.change(&change), Ok(true));
        assert!(table.change(&change).is_err());
        assert!(table.takes_extract("r3") && !table.takes_extract("r2"));
        assert_eq!(GlobalTable::from_json(&table.to_json()).unwrap(), table);
        let extract = table.replica("r3").and_then(|r| r.extract.clone()).unwrap();
        assert!(matches!(extract.filter(), Ok(Some(Filter::And(_)))));
        let (start, end) = extract.range().unwrap();
        assert!(end.unwrap() > start);
        let through = vec![Edge::new("r1", "r3"), Edge::new("r3", "r2")];
        assert!(table.change(&Change::SetEdges(SetEdges { edges: through })).is_err());
        let beside = vec![Edge::new("r1", "r2"), Edge::new("r3", "r2")];
        assert_eq!(table.change(&Change::SetEdges(SetEdges { edges: beside })), Ok(true));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut one = table(Serve::PrimarySecondary);
        let before = one.clone();
        for extract in [
            r#"{"range_from":["b"],"range_to":["a"]}"#,
            r#"{"range_from":[1.5]}"#,
            r#"{"range_from":[1,2,3,4,5]}"#,
            r#"{"columns":["x","x"]}"#,
            r#"{"columns":[""]}"#,
            r#"{"filter":{"or":[]}}"#,
            r#"{"filter":{"column":{"name":"x","is":"="}}}"#,
            r#"{"filter":{"column":{"name":"x","is":"exists","value":1}}}"#,
            r#"{"filter":{"column":{"name":"x","is":"=","value":[1]}}}"#,
        ] {
            assert!(matches!(one.change(&bind(extract)), Err(ControlError::BadExtract(_))));
        }
        assert_eq!(one, before);
        let mut many = table(Serve::PeerToPeer);
        assert!(many.change(&bind(r#"{"copy":"full"}"#)).is_err());
    }
}
