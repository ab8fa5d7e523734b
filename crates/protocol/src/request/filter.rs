//! Filters and column conditions.
//!
//! A filter nests through bytes that hold further messages, so the depth is counted here: each
//! node is counted before it is looked into, and there are at most 32.

use bytes::Bytes;
use isthmus_model::change::{Cast, ColumnFilter, Comparator, Filter, Transfer};
use isthmus_model::limits::FILTER_NODES_MAX;
use isthmus_model::value::Value;
use regex::{Regex, RegexBuilder};

use crate::error::ProtocolError;
use crate::messages;
use crate::plainbuffer::{Variant, decode_variant};
use crate::request::fields::{Result, message, required, text};
use crate::request::shape::Field;

/// Bytes of the text of a regular expression.
const REGEX_BYTES_MAX: usize = 1024;
/// Bytes of memory of one compiled expression.
const REGEX_MEMORY_MAX: usize = 256 * 1024;

const COMPOSITE: &[Field] =
    &[Field { number: 2, max: FILTER_NODES_MAX, over: too_many, inner: &[] }];

/// Decodes a serialized filter. Only a read may page over columns.
pub fn decode_filter(bytes: Bytes, is_read: bool) -> std::result::Result<Filter, ProtocolError> {
    let wire: messages::Filter = message(bytes, &[])?;
    let mut nodes = Nodes { left: FILTER_NODES_MAX, is_read };
    nodes.filter(wire)
}

fn too_many(_: usize) -> ProtocolError {
    ProtocolError::invalid(format!("The count of filter exceeds the max: {FILTER_NODES_MAX}."))
}

struct Nodes {
    left: usize,
    is_read: bool,
}

impl Nodes {
    fn filter(&mut self, wire: messages::Filter) -> Result<Filter> {
        self.left = self.left.checked_sub(1).ok_or_else(|| too_many(0))?;
        let kind = required(wire.kind)?;
        let inner = required(wire.filter)?;
        match kind {
            1 => column(message(inner, &[])?).map(Filter::Column),
            2 => self.composite(message(inner, COMPOSITE)?),
            3 if self.is_read => page(&message(inner, &[])?),
            3 => Err(ProtocolError::invalid("A condition must not page over columns.")),
            _ => Err(ProtocolError::Malformed("type of a filter is unknown")),
        }
    }

    fn composite(&mut self, wire: messages::CompositeColumnValueFilter) -> Result<Filter> {
        let combinator = required(wire.combinator)?;
        let count = wire.sub_filters.len();
        match combinator {
            1 if count != 1 => {
                return Err(ProtocolError::invalid(
                    "Invalid NOT operator: the number of sub-filters must be 1.",
                ));
            }
            2 | 3 if count < 2 => {
                return Err(ProtocolError::invalid(
                    "Invalid AND/OR operator: the number of sub-filters must be more than 1.",
                ));
            }
            1..=3 => {}
            _ => return Err(ProtocolError::Malformed("logical operator is unknown")),
        }
        if count > self.left {
            return Err(too_many(count));
        }
        let parts = wire.sub_filters.into_iter();
        let mut parts = parts.map(|part| self.filter(part)).collect::<Result<Vec<Filter>>>()?;
        Ok(match (combinator, parts.pop()) {
            (1, Some(part)) => Filter::Not(Box::new(part)),
            (2, last) => Filter::And(parts.into_iter().chain(last).collect()),
            (_, last) => Filter::Or(parts.into_iter().chain(last).collect()),
        })
    }
}

fn column(wire: messages::SingleColumnValueFilter) -> Result<ColumnFilter> {
    let comparator = match required(wire.comparator)? {
        1 => Comparator::Equal,
        2 => Comparator::NotEqual,
        3 => Comparator::Greater,
        4 => Comparator::GreaterEqual,
        5 => Comparator::Less,
        6 => Comparator::LessEqual,
        7 => Comparator::Exists,
        8 => Comparator::NotExists,
        _ => return Err(ProtocolError::Malformed("comparator is unknown")),
    };
    let bytes = required(wire.column_value)?;
    let value = match comparator {
        // Whatever stands there is not compared.
        Comparator::Exists | Comparator::NotExists => {
            decode_variant(&bytes).ok().and_then(plain).unwrap_or(Value::Boolean(true))
        }
        Comparator::Equal
        | Comparator::NotEqual
        | Comparator::Greater
        | Comparator::GreaterEqual
        | Comparator::Less
        | Comparator::LessEqual => plain(decode_variant(&bytes)?)
            .ok_or(ProtocolError::Malformed("value of a filter is not a plain value"))?,
    };
    Ok(ColumnFilter {
        name: text(required(wire.column_name)?)?,
        comparator,
        value,
        filter_if_missing: required(wire.filter_if_missing)?,
        latest_version_only: required(wire.latest_version_only)?,
        transfer: wire.value_trans_rule.map(transfer).transpose()?,
    })
}

fn plain(variant: Variant) -> Option<Value> {
    match variant {
        Variant::Value(value) => Some(value),
        Variant::Min | Variant::Max | Variant::AutoIncrement => None,
    }
}

fn transfer(wire: messages::ValueTransferRule) -> Result<Transfer> {
    let pattern = text(required(wire.regex)?)?;
    let cast = match wire.cast_type {
        Some(0) => Cast::Integer,
        Some(1) => Cast::Double,
        None | Some(3) => Cast::String,
        Some(7) => Cast::Binary,
        Some(_) => return Err(ProtocolError::Malformed("cast type is unknown")),
    };
    Ok(Transfer { regex: regex(pattern.as_str())?, cast })
}

fn regex(pattern: &str) -> Result<Regex> {
    let refused = || ProtocolError::invalid("Invalid regular expression in a filter.");
    if pattern.len() > REGEX_BYTES_MAX {
        return Err(refused());
    }
    RegexBuilder::new(pattern)
        .size_limit(REGEX_MEMORY_MAX)
        .dfa_size_limit(REGEX_MEMORY_MAX)
        .build()
        .map_err(|_| refused())
}

fn page(wire: &messages::ColumnPaginationFilter) -> Result<Filter> {
    let number = |field: Option<i32>| {
        u32::try_from(required(field)?).map_err(|_| {
            ProtocolError::invalid("Offset and limit of a column page must not be negative.")
        })
    };
    Ok(Filter::Page { offset: number(wire.offset)?, limit: number(wire.limit)? })
}
