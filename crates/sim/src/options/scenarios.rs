//! What is otherwise in the worlds of each scenario.

use isthmus_control::change::Change;
use isthmus_control::edges::{Edge, SetEdges};
use isthmus_control::extract::BindExtract;
use isthmus_control::global_table::{ControlError, GlobalTable, REPLICAS_MAX, Serve, Sync};
use isthmus_replication::frame::FORMAT;
use isthmus_replication::retention::Retention;
use isthmus_store::Writers;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::extracts;
use crate::roles::region_name;

use super::{MILLI, Nature, SECOND, half, one_of};

impl Nature {
    pub(super) fn with_restores(&mut self, rng: &mut SmallRng) {
        self.put_back_every = Some(rng.random_range(300..2500) * MILLI);
        self.formats.fill(FORMAT);
        // A clock that goes back could not tell a life from an earlier one, nor keep a promise of
        // which the disk knows nothing; and what a disk loses by lies is lost.
        self.clock_step_every = None;
        self.disk_full_every = None;
        self.read_fails_per_million = 0;
        self.chaos_micros += 6 * SECOND;
        for plan in &mut self.tables {
            plan.shared_at = plan.shared_at.min(SECOND);
        }
    }

    pub(super) fn with_switches(&mut self, rng: &mut SmallRng) {
        self.tables.iter_mut().for_each(|plan| plan.writers = Writers::One);
        self.formats.fill(FORMAT);
        if rng.random() {
            self.with_edges(rng);
        }
        self.switch_every = Some(rng.random_range(60..1500) * MILLI);
    }

    pub(super) fn with_bindings(&mut self, rng: &mut SmallRng) {
        match rng.random_range(0..4) {
            0 => self.with_edges(rng),
            _ => {
                self.regions = rng.random_range(3..6);
                self.tables.iter_mut().for_each(|p| p.base = rng.random_range(0..self.regions));
            }
        }
        self.formats = vec![FORMAT; self.regions];
        for plan in &mut self.tables {
            plan.shared_at = plan.shared_at.min(2 * SECOND);
        }
        self.chaos_micros += 8 * SECOND;
        self.bind_every = Some(rng.random_range(100..1500) * MILLI);
        self.binds_all = rng.random();
    }

    pub(super) fn with_extracts(&mut self, rng: &mut SmallRng) {
        self.regions = rng.random_range(3..5);
        self.formats = vec![FORMAT; self.regions];
        // One that takes what comes and falls out of the log needs a person.
        self.retention = None;
        self.chaos_micros += 8 * SECOND;
        self.bind_every = Some(rng.random_range(300..3000) * MILLI);
        self.extracts = true;
        for plan in &mut self.tables {
            plan.shared_at = plan.shared_at.min(2 * SECOND);
            plan.base = rng.random_range(0..self.regions);
            plan.writers = Writers::One;
            plan.options.time_to_live_seconds = None;
            let (base, sync) = (region_name(plan.base), Sync::Row);
            let serve = Serve::PrimarySecondary;
            plan.record = GlobalTable::new(plan.name, plan.id.0, &base, sync, serve);
            for node in (0..self.regions).filter(|node| *node != plan.base) {
                let bound = bind_extract(&plan.record, rng, &region_name(node));
                plan.record = bound.expect("there are fewer regions than may be");
            }
        }
    }

    pub(super) fn with_timings(&mut self, rng: &mut SmallRng) {
        self.is_timed = true;
        self.ask_every = Some(rng.random_range(50..900) * MILLI);
        self.begins_millis = rng.random_range(0..60_000);
        self.chaos_micros += rng.random_range(0..40) * SECOND;
        self.client_pause_max *= 3;
    }

    pub(super) fn with_edges(&mut self, rng: &mut SmallRng) {
        self.regions = match rng.random_range(0..8) {
            0 => rng.random_range(7..=REPLICAS_MAX),
            _ => rng.random_range(3..7),
        };
        self.formats = vec![FORMAT; self.regions];
        self.ask_every = None;
        self.edges_change_every = half(rng, |rng| rng.random_range(700..4000) * MILLI);
        self.quiet = rng.random_range(0..4) == 0;
        for plan in &mut self.tables {
            plan.base = rng.random_range(0..self.regions);
            plan.fill_record(self.regions);
            let edges = draw_edges(rng, self.regions);
            // They join all regions, so nothing is refused.
            let _ = plan.record.change(&Change::SetEdges(SetEdges { edges }));
        }
        if self.quiet {
            // Where edges change, links are opened anew.
            self.edges_change_every = self.edges_change_every.filter(|_| rng.random());
            self.breaks_nothing();
            self.retention = None;
        }
    }

    pub(super) fn with_week(&mut self, rng: &mut SmallRng) {
        self.quiet = true;
        self.breaks_nothing();
        self.formats.fill(FORMAT);
        self.ask_every = None;
        self.clock_offset_max = 10;
        self.chaos_micros = 5 * SECOND;
        self.queue_bytes_max = 1 << 26;
        self.keys = rng.random_range(20..80);
        self.client_pause_max = 120 * MILLI;
        // Most of a second is lived through at this pace for each twenty minutes.
        self.pump_pause_max = 60 * MILLI;
        self.commit_pause_max = 60 * MILLI;
        self.retention = Some(Retention {
            keep_bytes: one_of(rng, &[20_000, 100_000, 1 << 26]),
            keep_millis: one_of(rng, &[24, 72]) * 3_600_000,
        });
        for plan in &mut self.tables {
            plan.shared_at = 0;
            // A new row with each write is no matter of what is kept.
            plan.auto_increment = false;
            // Who is away does not write alone.
            plan.base = rng.random_range(0..2);
        }
    }

    fn breaks_nothing(&mut self) {
        for every in [
            &mut self.crash_every,
            &mut self.break_every,
            &mut self.cut_every,
            &mut self.clog_every,
            &mut self.clock_step_every,
            &mut self.disk_full_every,
        ] {
            *every = None;
        }
        self.copy_breaks_per_million = 0;
        self.corrupt_per_million = 0;
        self.commit_fails_per_million = 0;
        self.read_fails_per_million = 0;
    }
}

/// The record with one more replica, which mostly takes less than all.
pub(crate) fn bind_extract(
    record: &GlobalTable,
    rng: &mut SmallRng,
    region: &str,
) -> Result<GlobalTable, ControlError> {
    if rng.random_range(0..4) == 0 {
        return record.clone().with_replica(region, false, 0);
    }
    let (mut bound, extract) = (record.clone(), extracts::draw(rng));
    let asked = BindExtract { region: region.to_owned(), extract };
    bound.change(&Change::BindExtract(asked))?;
    Ok(bound)
}

/// Edges that join all regions, or none at all.
pub(crate) fn draw_edges(rng: &mut SmallRng, regions: usize) -> Vec<Edge> {
    let edge = |one: usize, other: usize| Edge::new(&region_name(one), &region_name(other));
    match rng.random_range(0..5) {
        0 => (1..regions).map(|node| edge(node - 1, node)).collect(),
        1 => (0..regions).map(|node| edge(node, (node + 1) % regions)).collect(),
        2 => {
            let hub = rng.random_range(0..regions);
            (0..regions).filter(|node| *node != hub).map(|node| edge(hub, node)).collect()
        }
        3 => {
            let mut edges: Vec<Edge> =
                (1..regions).map(|node| edge(rng.random_range(0..node), node)).collect();
            for _ in 0..rng.random_range(0..regions) {
                let (one, other) = (rng.random_range(0..regions), rng.random_range(0..regions));
                if one != other {
                    edges.push(edge(one, other));
                }
            }
            edges
        }
        _ => Vec::new(),
    }
}
