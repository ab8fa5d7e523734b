//! Whether a row passes a filter or the column part of a condition.
//!
//! Comparing is typed: values of different types are not equal and have no order, so of all
//! comparators only `NotEqual` holds between them. Doubles compare by IEEE 754 (NaN is not equal
//! to itself), texts and binaries by their bytes, `false` before `true`. Nothing is allocated but
//! by a transfer to text.

use std::cmp::Ordering;

use crate::change::{Cast, ColumnFilter, Comparator, Filter, Transfer};
use crate::value::{Text, Value};

/// The cells that a filter can see.
pub trait FilterCells {
    /// Shows the versions of a column, newest first, until `stop` says true. Tells whether the
    /// column has any.
    fn visit(&self, name: &Text, stop: &mut dyn FnMut(&Value) -> bool) -> bool;
}

/// Whether the cells pass. Paging passes always: it chooses columns, not rows.
pub fn passes(filter: &Filter, cells: &impl FilterCells) -> bool {
    match filter {
        Filter::Column(column) => column_passes(column, cells),
        Filter::Not(part) => !passes(part, cells),
        Filter::And(parts) => parts.iter().all(|part| passes(part, cells)),
        Filter::Or(parts) => parts.iter().any(|part| passes(part, cells)),
        Filter::Page { .. } => true,
    }
}

/// The first paging in a filter: columns to skip and columns to return.
pub fn page(filter: &Filter) -> Option<(u32, u32)> {
    match filter {
        Filter::Page { offset, limit } => Some((*offset, *limit)),
        Filter::And(parts) => parts.iter().find_map(page),
        Filter::Column(_) | Filter::Not(_) | Filter::Or(_) => None,
    }
}

fn column_passes(filter: &ColumnFilter, cells: &impl FilterCells) -> bool {
    match filter.comparator {
        Comparator::Exists => return cells.visit(&filter.name, &mut |_| true),
        Comparator::NotExists => return !cells.visit(&filter.name, &mut |_| true),
        Comparator::Equal
        | Comparator::NotEqual
        | Comparator::Greater
        | Comparator::GreaterEqual
        | Comparator::Less
        | Comparator::LessEqual => {}
    }
    let mut matched = false;
    let found = cells.visit(&filter.name, &mut |value| {
        matched = version_matches(filter, value);
        matched || filter.latest_version_only
    });
    if found { matched } else { !filter.filter_if_missing }
}

fn version_matches(filter: &ColumnFilter, value: &Value) -> bool {
    let Some(transfer) = &filter.transfer else {
        return compare(filter.comparator, value, &filter.value);
    };
    // What the expression does not find or cannot be cast matches nothing.
    match transferred(transfer, value) {
        Some(part) => compare(filter.comparator, &part, &filter.value),
        None => false,
    }
}

fn transferred(transfer: &Transfer, value: &Value) -> Option<Value> {
    let Value::String(text) = value else { return None };
    let captures = transfer.regex.captures(text.as_str())?;
    // An expression without a group is a group of its own.
    let found = captures.get(usize::from(captures.len() > 1))?;
    let part = || text.bytes().slice(found.range());
    match transfer.cast {
        Cast::Integer => found.as_str().parse().ok().map(Value::Integer),
        Cast::Double => found.as_str().parse().ok().map(Value::Double),
        Cast::String => Text::from_bytes(part()).ok().map(Value::String),
        Cast::Binary => Some(Value::Binary(part())),
    }
}

fn compare(comparator: Comparator, value: &Value, with: &Value) -> bool {
    let order = order(value, with);
    match comparator {
        Comparator::Equal => order == Some(Ordering::Equal),
        Comparator::NotEqual => order != Some(Ordering::Equal),
        Comparator::Greater => order == Some(Ordering::Greater),
        Comparator::GreaterEqual => order.is_some_and(Ordering::is_ge),
        Comparator::Less => order == Some(Ordering::Less),
        Comparator::LessEqual => order.is_some_and(Ordering::is_le),
        Comparator::Exists | Comparator::NotExists => false,
    }
}

/// `None` between different types and where a double is not a number.
fn order(value: &Value, with: &Value) -> Option<Ordering> {
    match (value, with) {
        (Value::Integer(a), Value::Integer(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Boolean(a), Value::Boolean(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Binary(a), Value::Binary(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Versions(Vec<Value>);

    impl FilterCells for Versions {
        fn visit(&self, name: &Text, stop: &mut dyn FnMut(&Value) -> bool) -> bool {
            let there = name.as_bytes() == b"c" && !self.0.is_empty();
            there && {
                let _ = self.0.iter().any(stop);
                true
            }
        }
    }

    fn filter(name: &str, comparator: Comparator, value: Value) -> ColumnFilter {
        ColumnFilter {
            name: name.into(),
            comparator,
            value,
            filter_if_missing: true,
            latest_version_only: true,
            transfer: None,
        }
    }

    fn holds(have: Value, comparator: Comparator, want: Value) -> bool {
        passes(&Filter::Column(filter("c", comparator, want)), &Versions(vec![have]))
    }

    #[test]
    fn comparing_is_typed_and_doubles_go_by_ieee() {
        use Comparator::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
        let int = Value::Integer;
        let double = Value::Double;
        let text = |text: &str| Value::String(text.into());
        let table = [
            (int(5), Equal, int(5), true),
            (int(5), NotEqual, int(5), false),
            (int(5), Equal, double(5.0), false),
            (int(5), NotEqual, double(5.0), true),
            (int(9), Greater, double(5.0), false),
            (int(-1), Less, int(0), true),
            (int(0), LessEqual, int(0), true),
            (int(0), GreaterEqual, int(1), false),
            (double(0.0), Equal, double(-0.0), true),
            (double(f64::NAN), Equal, double(f64::NAN), false),
            (double(f64::NAN), NotEqual, double(f64::NAN), true),
            (double(f64::NAN), LessEqual, double(1.0), false),
            (double(f64::NEG_INFINITY), Less, double(f64::MIN), true),
            (Value::Boolean(true), Greater, Value::Boolean(false), true),
            (text("b"), Greater, text("abc"), true),
            (text("a"), Equal, Value::Binary("a".into()), false),
            (Value::Binary(vec![255].into()), Greater, Value::Binary(vec![1, 2].into()), true),
        ];
        for (have, comparator, want, result) in table {
            let told = format!("{have:?} {comparator:?} {want:?}");
            assert_eq!(holds(have, comparator, want), result, "{told}");
        }
    }

    #[test]
    fn a_missing_column_passes_unless_it_is_filtered() {
        let none = Versions(Vec::new());
        let mut column = filter("c", Comparator::Equal, Value::Integer(1));
        assert!(!passes(&Filter::Column(column.clone()), &none));
        column.filter_if_missing = false;
        assert!(passes(&Filter::Column(column.clone()), &none));
        assert!(!passes(&Filter::Not(Box::new(Filter::Column(column.clone()))), &none));
        column.comparator = Comparator::Exists;
        assert!(!passes(&Filter::Column(column.clone()), &none));
        column.comparator = Comparator::NotExists;
        assert!(passes(&Filter::Column(column), &none));
    }

    #[test]
    fn older_versions_count_only_where_asked() {
        let cells = Versions(vec![Value::Integer(2), Value::Integer(1)]);
        let mut column = filter("c", Comparator::Equal, Value::Integer(1));
        assert!(!passes(&Filter::Column(column.clone()), &cells));
        column.latest_version_only = false;
        assert!(passes(&Filter::Column(column), &cells));
    }

    #[test]
    fn a_transfer_compares_the_first_group() {
        let mut column = filter("c", Comparator::Equal, Value::Integer(42));
        let regex = regex::Regex::new("n=([0-9]+);").unwrap();
        column.transfer = Some(Transfer { regex, cast: Cast::Integer });
        let have = |text: &str| Versions(vec![Value::String(text.into())]);
        assert!(passes(&Filter::Column(column.clone()), &have("a;n=42;b")));
        assert!(!passes(&Filter::Column(column.clone()), &have("a;n=43;b")));
        column.comparator = Comparator::NotEqual;
        assert!(!passes(&Filter::Column(column.clone()), &have("nothing")));
        assert!(!passes(&Filter::Column(column.clone()), &have("n=99999999999999999999;")));
        assert!(!passes(&Filter::Column(column), &Versions(vec![Value::Integer(42)])));
    }

    #[test]
    fn composites_combine() {
        let yes = || Filter::Column(filter("c", Comparator::Equal, Value::Integer(1)));
        let no = || Filter::Column(filter("c", Comparator::Equal, Value::Integer(2)));
        let cells = Versions(vec![Value::Integer(1)]);
        assert!(passes(&Filter::Or(vec![no(), yes()]), &cells));
        assert!(!passes(&Filter::And(vec![no(), yes()]), &cells));
        assert!(passes(&Filter::Not(Box::new(no())), &cells));
        let paged = Filter::And(vec![yes(), Filter::Page { offset: 1, limit: 2 }]);
        assert!(passes(&paged, &cells));
        assert_eq!(page(&paged), Some((1, 2)));
    }
}
