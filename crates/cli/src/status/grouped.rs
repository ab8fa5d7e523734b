//! Partitions of distributed tables in one line for each region.

use std::collections::BTreeMap;

use isthmus_control::distribution::partition_named;
use isthmus_server::status::{LinkState, LinkStatus, Status, TableStatus};

use crate::output;

/// What a region has of a distributed table, as a row of the tables.
pub(super) fn rows(status: &Status) -> Vec<Vec<String>> {
    let mut by_table: BTreeMap<&str, Vec<&TableStatus>> = BTreeMap::new();
    for table in &status.tables {
        if let Some(name) = &table.distribution {
            by_table.entry(name).or_default().push(table);
        }
    }
    let row = |(name, partitions): (&str, Vec<&TableStatus>)| {
        let written = partitions.iter().filter(|partition| partition.writable).count();
        let differing: u64 = partitions.iter().flat_map(|p| &p.differing).map(|d| d.rows).sum();
        vec![
            output::plain(name),
            output::plain(&status.region),
            format!("{written} of {}", partitions.len()),
            "distributed".to_owned(),
            String::new(),
            partitions.len().to_string(),
            partitions.iter().map(|partition| partition.entries).sum::<u64>().to_string(),
            String::new(),
            if differing == 0 { "no".to_owned() } else { format!("{differing} rows") },
        ]
    };
    by_table.into_iter().map(row).collect()
}

/// Whether a link is one of many that are as they should be.
pub(super) fn is_quiet(link: &LinkStatus) -> bool {
    partition_named(&link.table).is_some() && link.state == LinkState::Following
}
