//! Along which edges the regions of a table give each other entries, and who feeds whom.
//!
//! Edges have no direction. Without any, every region gives its own entries to every other one.
//! With edges, the entries of each origin flow along a shortest-path tree from it: every region
//! has one feeder per origin, so an entry crosses an edge at most once and never in a circle.
//! Everything here is a pure function of the record, so all regions that have the same version of
//! it agree without asking. A region that the base cannot reach passes nothing on, if the others
//! can be reached without it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::global_table::{ControlError, GlobalTable, Progress, Serve};

/// Two regions that give each other entries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge(pub String, pub String);

impl Edge {
    /// The edge between two regions, whichever is named first.
    pub fn new(one: &str, other: &str) -> Edge {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        Edge(first.to_owned(), second.to_owned())
    }

    /// The other end, if the region is one of the two.
    pub fn other(&self, region: &str) -> Option<&str> {
        match (self.0 == region, self.1 == region) {
            (true, _) => Some(&self.1),
            (_, true) => Some(&self.0),
            (false, false) => None,
        }
    }
}

/// What edges there are to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetEdges {
    /// None: every region gives its entries to every other one.
    pub edges: Vec<Edge>,
}

impl GlobalTable {
    /// Sets the edges. They must join all replicas and no others.
    pub(crate) fn set_edges(&mut self, asked: &SetEdges) -> Result<(), ControlError> {
        let edges: BTreeSet<Edge> = asked.edges.iter().map(|e| Edge::new(&e.0, &e.1)).collect();
        for edge in &edges {
            for region in [&edge.0, &edge.1] {
                if self.replica(region).is_none_or(|r| r.progress == Progress::Unbinding) {
                    return Err(ControlError::NoReplica(region.clone()));
                }
            }
            if edge.0 == edge.1 {
                return Err(ControlError::EdgeToItself(edge.0.clone()));
            }
        }
        let before = std::mem::replace(&mut self.edges, edges.into_iter().collect());
        if let Some(apart) = self.first_apart() {
            let apart = apart.to_owned();
            self.edges = before;
            return Err(ControlError::EdgesApart(self.base.clone(), apart));
        }
        if self.edges.is_empty() {
            self.away.clear();
        }
        Ok(())
    }

    /// A new replica is joined to the base, if there are edges at all.
    pub(crate) fn join_edges(&mut self, region: &str) {
        if !self.edges.is_empty() {
            self.edges.push(Edge::new(&self.base, region));
            self.edges.sort_unstable();
        }
    }

    /// Takes a region off the edges. Where others would fall apart by that, its neighbours are
    /// joined to the first of them.
    pub(crate) fn leave_edges(&mut self, region: &str) {
        // Those that pass nothing on come last.
        let neighbours = self.edges.iter().filter_map(|edge| edge.other(region));
        let neighbours: BTreeSet<(bool, String)> =
            neighbours.map(|name| (self.takes_extract(name), name.to_owned())).collect();
        self.edges.retain(|edge| edge.other(region).is_none());
        let mut neighbours = neighbours.into_iter().map(|(_, name)| name);
        let Some(first) = neighbours.next() else { return };
        for other in neighbours {
            let reached = self.reach(&first, |relay| !self.takes_extract(relay));
            if !reached.contains_key(other.as_str()) {
                self.edges.push(Edge::new(&first, &other));
            }
        }
        self.edges.sort_unstable();
    }

    /// Notes which regions the base has not reached for long. Returns whether that is news.
    pub fn set_away(&mut self, away: BTreeSet<String>) -> bool {
        if self.edges.is_empty() && self.away.is_empty() {
            return false;
        }
        let known = |region: &String| self.replica(region).is_some() && *region != self.base;
        let away: Vec<String> = match self.edges.is_empty() {
            true => Vec::new(),
            false => away.into_iter().filter(known).collect(),
        };
        if away == self.away {
            return false;
        }
        self.away = away;
        self.version += 1;
        true
    }

    /// Whether two regions are joined by an edge.
    pub fn are_joined(&self, one: &str, other: &str) -> bool {
        let edge = Edge::new(one, other);
        self.edges.contains(&edge)
    }

    /// Whether two regions tell each other how their replicas stand: over edges, and where one
    /// region writes all, so that any of them can take its place.
    pub fn are_neighbours(&self, one: &str, other: &str) -> bool {
        match self.has_edges() {
            true => self.are_joined(one, other),
            false => {
                self.tells_standings()
                    && one != other
                    && self.takes_part(one)
                    && self.takes_part(other)
            }
        }
    }

    /// Whether any regions tell each other so.
    pub fn tells_standings(&self) -> bool {
        self.has_edges() || self.serve == Serve::PrimarySecondary
    }

    /// Whether regions pass on entries of others.
    pub fn has_edges(&self) -> bool {
        !self.edges.is_empty()
    }

    /// The region that gives a region the entries of an origin; `None`: nobody does.
    pub fn feeder<'a>(&'a self, origin: &'a str, region: &str) -> Option<&'a str> {
        let is_fed = self.takes_part(region) && !self.has_enough(region);
        if !self.originates(origin) || origin == region || !is_fed {
            return None;
        }
        if !self.has_edges() {
            return Some(origin);
        }
        // Those that are away pass nothing on, unless there is no other way.
        let around =
            |relay: &str| !self.takes_extract(relay) && !self.away.iter().any(|away| away == relay);
        let found = self.reach(origin, around).get(region).copied();
        found
            .or_else(|| self.reach(origin, |relay| !self.takes_extract(relay)).get(region).copied())
    }

    /// The origins whose entries a region gives to another one, by name.
    pub fn feeds<'a>(&'a self, from: &'a str, to: &'a str) -> impl Iterator<Item = &'a str> {
        let mut origins: Vec<&str> = self.replicas.iter().map(|r| r.region.as_str()).collect();
        origins.sort_unstable();
        origins.into_iter().filter(move |origin| self.feeder(origin, to) == Some(from))
    }

    /// The first region that the base cannot give entries to over the edges.
    fn first_apart(&self) -> Option<&str> {
        if !self.has_edges() {
            return None;
        }
        let reached = self.reach(&self.base, |relay| !self.takes_extract(relay));
        let mut all = self.replicas.iter().map(|replica| replica.region.as_str());
        all.find(|region| {
            *region != self.base && self.takes_part(region) && !reached.contains_key(region)
        })
    }

    /// The regions that can be reached over edges, each with the one before it; shortest ways,
    /// ties by name. Only regions that `passes_on` holds for, and the first one, lead further.
    fn reach<'a>(
        &'a self,
        origin: &'a str,
        passes_on: impl Fn(&str) -> bool,
    ) -> BTreeMap<&'a str, &'a str> {
        let mut before = BTreeMap::new();
        let mut next = VecDeque::from([origin]);
        while let Some(region) = next.pop_front() {
            if region != origin && !passes_on(region) {
                continue;
            }
            let mut neighbours: Vec<&str> =
                self.edges.iter().filter_map(|edge| edge.other(region)).collect();
            neighbours.sort_unstable();
            for neighbour in neighbours {
                if neighbour != origin && !before.contains_key(neighbour) {
                    before.insert(neighbour, region);
                    next.push_back(neighbour);
                }
            }
        }
        before
    }

    fn takes_part(&self, region: &str) -> bool {
        self.replica(region).is_some_and(|replica| replica.progress != Progress::Unbinding)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::change::Change;
    use crate::global_table::Sync;

    fn table(regions: usize, serve: Serve) -> GlobalTable {
        (2..=regions).fold(GlobalTable::new("t", 1, "r1", Sync::Row, serve), |table, number| {
            table.with_replica(&format!("r{number}"), false, 0).unwrap()
        })
    }

    fn edges(pairs: &[(&str, &str)]) -> Change {
        let edges = pairs.iter().map(|(one, other)| Edge::new(one, other)).collect();
        Change::SetEdges(SetEdges { edges })
    }

    fn chain() -> GlobalTable {
        let mut table = table(4, Serve::PeerToPeer);
        table.change(&edges(&[("r1", "r2"), ("r3", "r2"), ("r3", "r4")])).unwrap();
        table
    }

    #[test]
    fn regions_of_a_chain_pass_on_what_they_are_given() {
        let table = chain();
        assert_eq!(table.feeds("r2", "r3").collect::<Vec<_>>(), ["r1", "r2"]);
        assert_eq!(table.feeds("r3", "r2").collect::<Vec<_>>(), ["r3", "r4"]);
        assert_eq!(table.feeds("r1", "r3").count(), 0);
        assert_eq!(table.ships_to("r2").collect::<Vec<_>>(), ["r1", "r3"]);
        assert_eq!(table.feeder("r4", "r1"), Some("r2"));
    }

    #[test]
    fn one_writer_is_passed_on_away_from_it_only() {
        let mut table = table(3, Serve::PrimarySecondary);
        table.change(&edges(&[("r1", "r2"), ("r2", "r3")])).unwrap();
        assert_eq!(table.ships_to("r1").collect::<Vec<_>>(), ["r2"]);
        assert_eq!(table.ships_to("r2").collect::<Vec<_>>(), ["r3"]);
        assert_eq!(table.ships_to("r3").count(), 0);
    }

    #[test]
    fn edges_that_leave_a_region_out_are_refused() {
        let mut table = table(4, Serve::PeerToPeer);
        let before = table.clone();
        let refused = [
            edges(&[("r1", "r2"), ("r3", "r4")]),
            edges(&[("r1", "r2"), ("r2", "r3")]),
            edges(&[("r1", "r2"), ("r2", "r3"), ("r3", "r9")]),
            edges(&[("r1", "r1"), ("r1", "r2"), ("r2", "r3"), ("r3", "r4")]),
        ];
        for change in refused {
            assert!(table.change(&change).is_err(), "{change:?}");
        }
        assert_eq!(table, before);
    }

    #[test]
    fn ways_lead_around_regions_that_are_away_where_there_is_one() {
        let mut table = table(4, Serve::PeerToPeer);
        let ring = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r1")];
        table.change(&edges(&ring)).unwrap();
        assert_eq!(table.feeder("r1", "r3"), Some("r2"));
        assert!(table.set_away(BTreeSet::from(["r2".to_owned()])));
        assert!(!table.set_away(BTreeSet::from(["r2".to_owned()])));
        assert_eq!(table.feeder("r1", "r3"), Some("r4"));
        assert_eq!(table.feeder("r1", "r2"), Some("r1"));
        assert_eq!(table.feeder("r2", "r3"), Some("r2"));
        let mut chain = chain();
        chain.set_away(BTreeSet::from(["r2".to_owned()]));
        assert_eq!(chain.feeder("r1", "r3"), Some("r2"));
        assert!(!chain.set_away(BTreeSet::from(["r2".to_owned(), "r1".to_owned()])));
    }

    #[test]
    fn regions_come_and_go_and_the_others_stay_joined() {
        let table = chain().with_replica("r5", true, 0).unwrap();
        assert!(table.are_joined("r5", "r1"));
        let mut table = table;
        table.unbind("r3", 0).unwrap();
        assert!(table.are_joined("r2", "r4") && !table.are_joined("r2", "r3"));
        assert_eq!(table.first_apart(), None);
    }

    #[test]
    fn edges_are_plain_json() {
        let text = r#"{"change":"set-edges","edges":[["r1","r2"]]}"#;
        assert_eq!(serde_json::from_str::<Change>(text).unwrap(), edges(&[("r2", "r1")]));
    }

    proptest! {
        #[test]
        fn every_entry_reaches_every_region_once_over_a_tree(
            regions in 2usize..10, joins in proptest::collection::vec(0usize..100, 9),
            more in proptest::collection::vec((0usize..10, 0usize..10), 0..12),
        ) {
            let name = |place: usize| format!("r{}", place + 1);
            let mut table = table(regions, Serve::PeerToPeer);
            let mut asked: Vec<Edge> = (1..regions)
                .map(|place| Edge::new(&name(place), &name(joins[place - 1] % place)))
                .collect();
            let more = more.into_iter().filter(|(a, b)| a != b && *a < regions && *b < regions);
            asked.extend(more.map(|(a, b)| Edge::new(&name(a), &name(b))));
            prop_assert_eq!(table.change(&Change::SetEdges(SetEdges { edges: asked })), Ok(true));
            for origin in 0..regions {
                let origin = name(origin);
                for region in (0..regions).map(name).filter(|region| *region != origin) {
                    // Up the tree, at most as many steps as there are regions.
                    let mut at = region.clone();
                    let mut steps = 0;
                    while at != origin {
                        let feeder = table.feeder(&origin, &at).unwrap().to_owned();
                        prop_assert!(table.are_joined(&feeder, &at));
                        prop_assert!(table.feeds(&feeder, &at).any(|fed| fed == origin));
                        at = feeder;
                        steps += 1;
                        prop_assert!(steps < regions);
                    }
                }
            }
        }
    }
}
