//! Names, schemas and options of tables.

use crate::check::error::CheckError;
use crate::family::{Family, FamilyTime, NO_FAMILY};
use crate::key::KeyKind;
use crate::limits;
use crate::rule::Rule;
use crate::schema::{Schema, TableOptions};
use crate::value::{Text, ValueKind};

/// Checks a table's name.
pub fn check_table_name(name: &str) -> Result<(), CheckError> {
    if is_name(name.as_bytes()) {
        return Ok(());
    }
    Err(CheckError::TableName { name: name.to_owned() })
}

/// Checks the name of a key or attribute column.
pub fn check_column_name(name: &Text) -> Result<(), CheckError> {
    if is_name(name.as_bytes()) {
        return Ok(());
    }
    Err(CheckError::ColumnName { name: name.clone() })
}

fn is_name(name: &[u8]) -> bool {
    let Some((first, rest)) = name.split_first() else { return false };
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.len() <= limits::NAME_BYTES_MAX
        && letter(*first)
        && rest.iter().all(|byte| letter(*byte) || byte.is_ascii_digit())
}

/// Checks the schema of a new or changed table.
pub fn check_schema(schema: &Schema) -> Result<(), CheckError> {
    let keys = &schema.key_columns;
    if keys.is_empty() || keys.len() > limits::KEY_COLUMNS_MAX {
        return Err(CheckError::KeyColumnCount);
    }
    for (place, column) in keys.iter().enumerate() {
        check_column_name(&column.name)?;
        if keys.iter().take(place).any(|other| other.name == column.name) {
            return Err(CheckError::KeyNameTwice { name: column.name.clone() });
        }
        match column.auto_increment {
            true if place == 0 => return Err(CheckError::AutoIncrementFirst),
            true if column.kind != KeyKind::Integer => return Err(CheckError::AutoIncrementKind),
            true | false => {}
        }
    }
    if keys.iter().filter(|column| column.auto_increment).count() > 1 {
        return Err(CheckError::AutoIncrementCount);
    }
    check_defined_columns(schema)?;
    check_rules(schema)?;
    check_families(schema)?;
    check_options(&schema.options)
}

fn check_families(schema: &Schema) -> Result<(), CheckError> {
    let families = schema.options.families.list();
    if families.len() > limits::FAMILIES_MAX {
        return Err(CheckError::FamilyCount { limit: limits::FAMILIES_MAX });
    }
    for (place, family) in families.iter().enumerate() {
        let before = &families[..place];
        let name = || family.name.clone();
        check_column_name(&family.name)?;
        if family.name.as_str() == NO_FAMILY || before.iter().any(|one| one.name == family.name) {
            return Err(CheckError::FamilyName { name: name() });
        }
        if family.columns.len() > limits::FAMILY_COLUMNS_MAX {
            let limit = limits::FAMILY_COLUMNS_MAX;
            return Err(CheckError::FamilyColumnCount { name: name(), limit });
        }
        check_family_columns(schema, before, family)?;
        if let FamilyTime::Seconds(seconds) = family.time_to_live
            && seconds < limits::TIME_TO_LIVE_SECONDS_MIN
        {
            return Err(CheckError::TimeToLiveShort);
        }
        if family.max_versions.is_some_and(|most| most == 0 || most > i32::MAX as u32) {
            return Err(CheckError::MaxVersions);
        }
    }
    Ok(())
}

/// It takes something, and nothing that a family before it takes already.
fn check_family_columns(
    schema: &Schema,
    before: &[Family],
    family: &Family,
) -> Result<(), CheckError> {
    let taken = |column: &Text| before.iter().find(|one| one.takes(column));
    for column in &family.columns {
        check_column_name(column)?;
        if schema.key_column(column).is_some() {
            return Err(CheckError::ColumnNamedAsKey { name: column.clone() });
        }
        if let Some(other) = taken(column) {
            let (column, family) = (column.clone(), other.name.clone());
            return Err(CheckError::ColumnInFamily { column, family });
        }
    }
    if !family.columns.is_sorted_by(|a, b| a < b) {
        return Err(CheckError::FamilyColumns { name: family.name.clone() });
    }
    match &family.prefix {
        None if family.columns.is_empty() => {
            Err(CheckError::FamilyColumns { name: family.name.clone() })
        }
        None => Ok(()),
        Some(prefix) => {
            check_column_name(prefix)?;
            let is_covered = |one: &&Family| {
                let other = one.prefix.as_ref();
                other.is_some_and(|other| prefix.as_bytes().starts_with(other.as_bytes()))
            };
            match before.iter().find(is_covered) {
                None => Ok(()),
                Some(other) => Err(CheckError::ColumnInFamily {
                    column: prefix.clone(),
                    family: other.name.clone(),
                }),
            }
        }
    }
}

fn check_defined_columns(schema: &Schema) -> Result<(), CheckError> {
    let defined = &schema.defined_columns;
    if defined.len() > limits::DEFINED_COLUMNS_MAX {
        return Err(CheckError::DefinedColumnCount);
    }
    for (place, column) in defined.iter().enumerate() {
        check_column_name(&column.name)?;
        if schema.key_column(&column.name).is_some() {
            return Err(CheckError::ColumnNamedAsKey { name: column.name.clone() });
        }
        if defined.iter().take(place).any(|other| other.name == column.name) {
            return Err(CheckError::DefinedColumnTwice { name: column.name.clone() });
        }
    }
    Ok(())
}

fn check_rules(schema: &Schema) -> Result<(), CheckError> {
    let Some(rules) = &schema.options.rules else { return Ok(()) };
    if rules.columns.len() > limits::RULES_MAX {
        return Err(CheckError::RuleCount { limit: limits::RULES_MAX });
    }
    // What adds up or unites is of one type, which not every column of a table has.
    if matches!(rules.default, Rule::Counter | Rule::Set) {
        return Err(CheckError::DefaultRule { rule: rules.default.as_str() });
    }
    for (name, rule) in &rules.columns {
        check_column_name(name)?;
        if schema.key_column(name).is_some() {
            return Err(CheckError::ColumnNamedAsKey { name: name.clone() });
        }
        let defined = schema.defined_columns.iter().find(|column| column.name == *name);
        let fits = match rule {
            Rule::Counter => defined.is_none_or(|column| column.kind == ValueKind::Integer),
            Rule::Set => defined.is_none_or(|column| column.kind == ValueKind::String),
            Rule::LastWriter | Rule::Priority | Rule::Max | Rule::Min => true,
        };
        if !fits {
            return Err(CheckError::RuleOfColumn { name: name.clone(), rule: rule.as_str() });
        }
    }
    let regions = &rules.priority;
    let is_twice = |place: usize| regions[..place].contains(&regions[place]);
    if regions.len() > limits::PRIORITY_REGIONS_MAX || (0..regions.len()).any(is_twice) {
        return Err(CheckError::PriorityOfRegions { limit: limits::PRIORITY_REGIONS_MAX });
    }
    Ok(())
}

/// Checks the options of a table.
pub fn check_options(options: &TableOptions) -> Result<(), CheckError> {
    match options.time_to_live_seconds {
        Some(0) => return Err(CheckError::TimeToLive),
        Some(seconds) if seconds < limits::TIME_TO_LIVE_SECONDS_MIN => {
            return Err(CheckError::TimeToLiveShort);
        }
        Some(_) | None => {}
    }
    if options.max_versions == 0 || options.max_versions > i32::MAX as u32 {
        return Err(CheckError::MaxVersions);
    }
    if !(1..=limits::DEVIATION_SECONDS_MAX).contains(&options.deviation_seconds) {
        return Err(CheckError::Deviation);
    }
    Ok(())
}

/// The time to live that a request means; -1 is for ever.
pub fn check_time_to_live(seconds: i32) -> Result<Option<u32>, CheckError> {
    match u32::try_from(seconds) {
        Err(_) if seconds == -1 => Ok(None),
        Err(_) | Ok(0) => Err(CheckError::TimeToLive),
        Ok(seconds) if seconds < limits::TIME_TO_LIVE_SECONDS_MIN => {
            Err(CheckError::TimeToLiveShort)
        }
        Ok(seconds) => Ok(Some(seconds)),
    }
}

/// The versions to keep that a request means.
pub fn check_max_versions(versions: i32) -> Result<u32, CheckError> {
    match u32::try_from(versions) {
        Err(_) | Ok(0) => Err(CheckError::MaxVersions),
        Ok(versions) => Ok(versions),
    }
}
