//! The stored form of a schema.

use isthmus_model::family::{Families, Family, FamilyTime};
use isthmus_model::ids::{Origin, SchemaNumber};
use isthmus_model::key::KeyKind;
use isthmus_model::limits::{DEFINED_COLUMNS_MAX, FAMILIES_MAX, KEY_COLUMNS_MAX};
use isthmus_model::rule::{ConflictRules, Rule};
use isthmus_model::schema::{DefinedColumn, KeyColumn, Schema, TableOptions};
use isthmus_model::value::{Text, ValueKind};

use crate::codec::{Corrupt, Reader, corrupt, put_bytes, put_signed, put_varint};

/// Without conflict rules, with them, and with flags that say what follows.
const VERSION_PLAIN: u8 = 1;
const VERSION_RULES: u8 = 2;
const VERSION_FLAGS: u8 = 3;

const FLAG_RULES: u8 = 1;
const FLAG_DROPPED: u8 = 2;
const FLAG_FAMILIES: u8 = 4;
const FLAGS: u8 = FLAG_RULES | FLAG_DROPPED | FLAG_FAMILIES;

/// Bytes of a family with an empty name.
const FAMILY_BYTES_MIN: usize = 5;

/// Bytes of a column with an empty name.
const COLUMN_BYTES_MIN: usize = 2;
const AUTO_INCREMENT: u8 = 0x80;

pub(crate) fn encode_schema_into(schema: &Schema, out: &mut Vec<u8>) {
    let rules = schema.options.rules.as_ref();
    // The oldest version that can say it, so that regions of an older program understand.
    let version = match (flags(&schema.options) & !FLAG_RULES, rules) {
        (0, None) => VERSION_PLAIN,
        (0, Some(_)) => VERSION_RULES,
        _ => VERSION_FLAGS,
    };
    out.push(version);
    put_varint(out, schema.number.0);
    put_varint(out, schema.key_columns.len() as u64);
    for column in &schema.key_columns {
        put_bytes(out, column.name.as_bytes());
        let auto = if column.auto_increment { AUTO_INCREMENT } else { 0 };
        out.push(key_kind_byte(column.kind) | auto);
    }
    put_varint(out, schema.defined_columns.len() as u64);
    for column in &schema.defined_columns {
        put_bytes(out, column.name.as_bytes());
        out.push(value_kind_byte(column.kind));
    }
    let options = &schema.options;
    put_varint(out, options.time_to_live_seconds.map_or(0, |seconds| u64::from(seconds) + 1));
    put_varint(out, u64::from(options.max_versions));
    put_signed(out, options.deviation_seconds);
    out.push(u8::from(options.allow_update));
    if version == VERSION_FLAGS {
        out.push(flags(options));
    }
    if let Some(rules) = rules {
        encode_rules(rules, out);
    }
    if !options.families.is_empty() {
        encode_families(&options.families, out);
    }
}

fn encode_families(families: &Families, out: &mut Vec<u8>) {
    put_varint(out, families.list().len() as u64);
    for family in families.list() {
        put_bytes(out, family.name.as_bytes());
        put_varint(out, family.columns.len() as u64);
        family.columns.iter().for_each(|column| put_bytes(out, column.as_bytes()));
        put_bytes(out, family.prefix.as_ref().map_or(&[], |prefix| prefix.as_bytes()));
        put_varint(
            out,
            match family.time_to_live {
                FamilyTime::AsTable => 0,
                FamilyTime::Forever => 1,
                FamilyTime::Seconds(seconds) => u64::from(seconds) + 2,
            },
        );
        put_varint(out, u64::from(family.max_versions.unwrap_or(0)));
    }
}

fn read_families(reader: &mut Reader<'_>) -> Result<Families, Corrupt> {
    let mut list = Vec::new();
    for _ in 0..reader.count(FAMILY_BYTES_MIN)? {
        let name = reader.text()?;
        let columns = reader.count(1)?;
        let columns = (0..columns).map(|_| reader.text()).collect::<Result<Vec<_>, _>>()?;
        let prefix = Some(reader.text()?).filter(|prefix| !prefix.as_bytes().is_empty());
        let time_to_live = match reader.varint()? {
            0 => FamilyTime::AsTable,
            1 => FamilyTime::Forever,
            seconds => FamilyTime::Seconds(small(seconds - 2)?),
        };
        let max_versions = Some(small(reader.varint()?)?).filter(|versions| *versions > 0);
        list.push(Family { name, columns, prefix, time_to_live, max_versions });
    }
    if list.is_empty() || list.len() > FAMILIES_MAX {
        return corrupt("number of families");
    }
    Ok(Families::new(list))
}

fn small(number: u64) -> Result<u32, Corrupt> {
    u32::try_from(number).map_err(|_| Corrupt { what: "option too large" })
}

fn flags(options: &TableOptions) -> u8 {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    flag(options.rules.is_some(), FLAG_RULES)
        | flag(options.is_dropped, FLAG_DROPPED)
        | flag(!options.families.is_empty(), FLAG_FAMILIES)
}

fn encode_rules(rules: &ConflictRules, out: &mut Vec<u8>) {
    out.push(rule_byte(rules.default));
    put_varint(out, rules.columns.len() as u64);
    for (name, rule) in &rules.columns {
        put_bytes(out, name.as_bytes());
        out.push(rule_byte(*rule));
    }
    let priority: Vec<u8> = rules.priority.iter().map(|origin| origin.0).collect();
    put_bytes(out, &priority);
}

fn read_rules(reader: &mut Reader<'_>) -> Result<ConflictRules, Corrupt> {
    let default = rule(reader.byte()?)?;
    let mut columns: Vec<(Text, Rule)> = Vec::new();
    for _ in 0..reader.count(COLUMN_BYTES_MIN)? {
        let name = reader.text()?;
        if columns.last().is_some_and(|(last, _)| *last >= name) {
            return corrupt("rules out of order");
        }
        columns.push((name, rule(reader.byte()?)?));
    }
    let priority = reader.bytes()?.iter().map(|number| Origin(*number)).collect();
    Ok(ConflictRules { default, columns, priority })
}

pub(crate) fn rule_byte(rule: Rule) -> u8 {
    match rule {
        Rule::LastWriter => 1,
        Rule::Priority => 2,
        Rule::Max => 3,
        Rule::Min => 4,
        Rule::Counter => 5,
        Rule::Set => 6,
    }
}

pub(crate) fn rule(byte: u8) -> Result<Rule, Corrupt> {
    match byte {
        1 => Ok(Rule::LastWriter),
        2 => Ok(Rule::Priority),
        3 => Ok(Rule::Max),
        4 => Ok(Rule::Min),
        5 => Ok(Rule::Counter),
        6 => Ok(Rule::Set),
        _ => corrupt("unknown rule"),
    }
}

pub(crate) fn read_schema(reader: &mut Reader<'_>) -> Result<Schema, Corrupt> {
    let version = reader.byte()?;
    if !(VERSION_PLAIN..=VERSION_FLAGS).contains(&version) {
        return corrupt("unknown version of a schema");
    }
    let number = SchemaNumber(reader.varint()?);
    let mut key_columns = Vec::new();
    for _ in 0..reader.count(COLUMN_BYTES_MIN)? {
        let name = reader.text()?;
        let byte = reader.byte()?;
        let kind = key_kind(byte & !AUTO_INCREMENT)?;
        key_columns.push(KeyColumn { name, kind, auto_increment: byte & AUTO_INCREMENT != 0 });
    }
    if key_columns.is_empty() || key_columns.len() > KEY_COLUMNS_MAX {
        return corrupt("number of key columns");
    }
    let mut defined_columns = Vec::new();
    for _ in 0..reader.count(COLUMN_BYTES_MIN)? {
        let name = reader.text()?;
        defined_columns.push(DefinedColumn { name, kind: value_kind(reader.byte()?)? });
    }
    if defined_columns.len() > DEFINED_COLUMNS_MAX {
        return corrupt("number of defined columns");
    }
    let mut options = read_options(reader)?;
    let flags = match version {
        VERSION_FLAGS => reader.byte()?,
        VERSION_RULES => FLAG_RULES,
        _ => 0,
    };
    if flags & !FLAGS != 0 || (version == VERSION_FLAGS && flags & !FLAG_RULES == 0) {
        return corrupt("flags of a schema");
    }
    options.is_dropped = flags & FLAG_DROPPED != 0;
    if flags & FLAG_RULES != 0 {
        options.rules = Some(read_rules(reader)?);
    }
    if flags & FLAG_FAMILIES != 0 {
        options.families = read_families(reader)?;
    }
    Ok(Schema { number, key_columns, defined_columns, options })
}

fn read_options(reader: &mut Reader<'_>) -> Result<TableOptions, Corrupt> {
    let time_to_live_seconds = match reader.varint()? {
        0 => None,
        seconds => Some(small(seconds - 1)?),
    };
    let max_versions = small(reader.varint()?)?;
    let deviation_seconds = reader.signed()?;
    let allow_update = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return corrupt("neither yes nor no"),
    };
    Ok(TableOptions {
        time_to_live_seconds,
        max_versions,
        deviation_seconds,
        allow_update,
        ..TableOptions::default()
    })
}

fn key_kind_byte(kind: KeyKind) -> u8 {
    match kind {
        KeyKind::Integer => 1,
        KeyKind::String => 2,
        KeyKind::Binary => 3,
    }
}

fn key_kind(byte: u8) -> Result<KeyKind, Corrupt> {
    match byte {
        1 => Ok(KeyKind::Integer),
        2 => Ok(KeyKind::String),
        3 => Ok(KeyKind::Binary),
        _ => corrupt("unknown kind of key column"),
    }
}

fn value_kind_byte(kind: ValueKind) -> u8 {
    match kind {
        ValueKind::Integer => 1,
        ValueKind::Double => 2,
        ValueKind::Boolean => 3,
        ValueKind::String => 4,
        ValueKind::Binary => 5,
    }
}

fn value_kind(byte: u8) -> Result<ValueKind, Corrupt> {
    match byte {
        1 => Ok(ValueKind::Integer),
        2 => Ok(ValueKind::Double),
        3 => Ok(ValueKind::Boolean),
        4 => Ok(ValueKind::String),
        5 => Ok(ValueKind::Binary),
        _ => corrupt("unknown kind of column"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use isthmus_model::value::Text;
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    /// Any schema that can be stored.
    pub(crate) fn schemas() -> impl Strategy<Value = Schema> {
        let key_kind = prop_oneof![
            proptest::strategy::Just(KeyKind::Integer),
            proptest::strategy::Just(KeyKind::String),
            proptest::strategy::Just(KeyKind::Binary),
        ];
        let key = (".{1,8}", key_kind, any::<bool>()).prop_map(|(name, kind, auto_increment)| {
            KeyColumn { name: Text::from(name), kind, auto_increment }
        });
        let kind = (1u8..6).prop_map(|byte| value_kind(byte).unwrap());
        let defined = (".{1,8}", kind)
            .prop_map(|(name, kind)| DefinedColumn { name: Text::from(name), kind });
        let options =
            (proptest::option::of(any::<u32>()), any::<u32>(), any::<i64>(), any::<bool>())
                .prop_map(
                    |(time_to_live_seconds, max_versions, deviation_seconds, allow_update)| {
                        TableOptions {
                            time_to_live_seconds,
                            max_versions,
                            deviation_seconds,
                            allow_update,
                            ..TableOptions::default()
                        }
                    },
                );
        let rule = (1u8..7).prop_map(|byte| rule(byte).unwrap());
        let columns = proptest::collection::btree_map("[a-z]{1,8}", rule.clone(), 0..4);
        let rules = (rule, columns, proptest::collection::vec(any::<u8>(), 0..4));
        let rules = rules.prop_map(|(default, columns, priority)| ConflictRules {
            default,
            columns: columns.into_iter().map(|(name, rule)| (name.into(), rule)).collect(),
            priority: priority.into_iter().map(Origin).collect(),
        });
        let time = prop_oneof![
            proptest::strategy::Just(FamilyTime::AsTable),
            proptest::strategy::Just(FamilyTime::Forever),
            any::<u32>().prop_map(FamilyTime::Seconds),
        ];
        let columns = proptest::collection::vec(".{0,8}", 0..3);
        let versions = proptest::option::of(1..=u32::MAX);
        let family = (".{0,8}", columns, proptest::option::of(".{1,8}"), time, versions).prop_map(
            |(name, columns, prefix, time_to_live, max_versions)| Family {
                name: name.into(),
                columns: columns.into_iter().map(Text::from).collect(),
                prefix: prefix.map(Text::from),
                time_to_live,
                max_versions,
            },
        );
        let families = proptest::collection::vec(family, 0..3).prop_map(Families::new);
        let options = (options, proptest::option::of(rules), any::<bool>(), families).prop_map(
            |(options, rules, is_dropped, families)| TableOptions {
                rules,
                is_dropped,
                families,
                ..options
            },
        );
        let keys = proptest::collection::vec(key, 1..=4);
        let columns = proptest::collection::vec(defined, 0..=32);
        (any::<u64>(), keys, columns, options).prop_map(
            |(number, key_columns, defined_columns, options)| Schema {
                number: SchemaNumber(number),
                key_columns,
                defined_columns,
                options,
            },
        )
    }

    proptest! {
        #[test]
        fn schema_round_trips_and_truncations_are_refused(schema in schemas()) {
            let mut out = Vec::new();
            encode_schema_into(&schema, &mut out);
            let bytes = Bytes::from(out);
            prop_assert_eq!(read_schema(&mut Reader::new(&bytes)), Ok(schema));
            for length in 0..bytes.len() {
                prop_assert!(read_schema(&mut Reader::new(&bytes.slice(..length))).is_err());
            }
        }
    }
}
