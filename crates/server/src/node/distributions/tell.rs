//! What is told of distributed tables.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use isthmus_control::distribution::{
    By, Distribution, Partition, name_of_partition, partition_named,
};
use isthmus_store::digest::DigestState;
use isthmus_store::{Table, Writing};
use serde_json::{Value as Json, json};

use super::ask::{Look, Seen, SeenCopy};
use super::filling::Progress;
use super::is_alive;
use crate::api_error::ApiError;
use crate::node::Node;

impl Node {
    /// The distributed tables, in short.
    pub fn distributions_json(&self) -> Json {
        let alive = self.distributions.all();
        let told = alive.iter().filter(|record| is_alive(record)).map(|record| {
            json!({
                "name": record.name,
                "base": record.base,
                "state": record.state,
                "by": record.by,
                "partitions": record.partitions.len(),
                "replicas": record.replicas,
                "moving": record.partitions.iter().filter(|partition| partition.moving).count(),
                "reshaping": record.reshape.is_some(),
            })
        });
        json!({ "distributions": told.collect::<Vec<_>>() })
    }

    /// A distributed table and all its partitions, as all regions that are reached tell.
    pub async fn distribution_json(&self, name: &str) -> Result<Json, ApiError> {
        let record = self.distribution(name).ok_or_else(ApiError::no_table)?;
        let looks = self.looks(&record).await;
        let partitions: Vec<Json> = record
            .partitions
            .iter()
            .enumerate()
            .map(|(place, partition)| self.partition_json(&record, place, partition, &looks))
            .collect();
        let members = record.members.iter().map(|member| {
            let holds = |partition: &&Partition| partition.held.contains(&member.name);
            let writes = |partition: &&Partition| partition.primary == member.name;
            json!({
                "name": member.name,
                "weight": member.weight,
                "labels": member.labels,
                "partitions": record.partitions.iter().filter(holds).count(),
                "written": record.partitions.iter().filter(writes).count(),
                "round_trip_ms": self.distributions.ways.round_trip(&member.name)
                    .map(|took| took.as_secs_f64() * 1000.0),
            })
        });
        let silent: Vec<&String> = self
            .others
            .keys()
            .filter(|region| !looks.iter().any(|(told, _)| told == *region))
            .collect();
        Ok(json!({
            "name": record.name,
            "id": record.id,
            "base": record.base,
            "version": record.version,
            "state": record.state,
            "by": record.by,
            "place": record.place,
            "seed": record.seed,
            "replicas": record.replicas,
            "moves_at_once": record.moves_at_once,
            "rules": record.rules,
            "mode": record.mode,
            "failover": record.failover,
            "regions": members.collect::<Vec<_>>(),
            "silent": silent,
            "moving": record.partitions.iter().filter(|partition| partition.moving).count(),
            "limits": record.limits,
            "reshape": self.reshape_json(&record, &looks),
            "partitions": partitions,
        }))
    }

    fn partition_json(
        &self,
        record: &Distribution,
        place: usize,
        partition: &Partition,
        looks: &[(String, Look)],
    ) -> Json {
        let number = partition.number;
        let seen: Vec<(&String, &Seen)> = looks
            .iter()
            .flat_map(|(region, look)| look.partitions.iter().map(move |seen| (region, seen)))
            .filter(|(_, seen)| seen.number == number)
            .collect();
        let writer = seen.iter().find(|(region, _)| **region == partition.primary);
        let requests = looks.iter().flat_map(|(_, look)| &look.requests);
        let requests = requests.filter(|(of, _, _)| *of == number);
        let (count, rate) = requests.fold((0, 0.0), |(count, rate), (_, more, each_second)| {
            (count + more, rate + each_second)
        });
        let name = name_of_partition(&record.name, number);
        let replicas: BTreeMap<&String, Json> = seen
            .iter()
            .map(|(region, seen)| (*region, json!({ "rows": seen.rows, "entries": seen.entries })))
            .collect();
        let copies = seen.iter().flat_map(|(_, seen)| &seen.copies);
        let state = match (partition.made, partition.moving) {
            (false, _) => "making",
            (true, true) => "moving",
            (true, false) => "settled",
        };
        json!({
            "number": number,
            "table": name,
            "from": partition.from,
            "from_text": (record.by == By::Range).then(|| partition.from.to_text()),
            "to": record.partitions.get(place + 1).map(|next| &next.from),
            "share": (record.by == By::Hash)
                .then(|| partition.from.share(record.end_of(place))),
            "rule": record.rule_at(place).map(|rule| &rule.prefix),
            "wanted": partition.wanted,
            "held": partition.held,
            "primary": partition.primary,
            "state": state,
            "waits": self.distributions.trouble.lock().get(&name),
            "rows": writer.and_then(|(_, seen)| seen.rows),
            "bytes": writer.and_then(|(_, seen)| seen.bytes),
            "entries": writer.map(|(_, seen)| seen.entries),
            "replicas": replicas,
            "copies": copies.collect::<Vec<_>>(),
            "requests": count,
            "requests_per_second": rate,
        })
    }

    /// The split or merge that is under way; null: there is none.
    fn reshape_json(&self, record: &Distribution, looks: &[(String, Look)]) -> Json {
        let Some(reshape) = &record.reshape else { return Json::Null };
        let filling = looks.iter().find_map(|(_, look)| look.filling.as_ref());
        let name = name_of_partition(&record.name, reshape.id());
        let waits = filling.and_then(|filling| filling.waits.clone());
        let waits = waits.or_else(|| self.distributions.trouble.lock().get(&name).cloned());
        json!({
            "sources": reshape.sources,
            "targets": reshape.targets,
            "phase": reshape.phase,
            "why": reshape.why,
            "begun_ms": reshape.begun_millis,
            "doing": filling.map(|filling| filling.doing),
            "rows_done": filling.map(|filling| filling.rows),
            "rows_total": filling.and_then(|filling| filling.rows_total),
            "seconds_left": filling.and_then(Progress::seconds_left),
            "waits": waits,
        })
    }

    /// What this region holds of a table, and knows of the one with that id.
    pub(super) fn on_look(&self, name: &str, id: &str) -> Look {
        let loads = self.distributions.loads.read();
        let requests = loads.iter().filter_map(|(partition, load)| {
            let (table, number) = partition_named(partition)?;
            let count = load.requests.load(Ordering::Relaxed);
            (table == name).then(|| (number, count, load.rate.lock().1))
        });
        let partitions = self.partitions_here(name);
        Look {
            known: self.known_of(name, id),
            labels: self.config.region.labels.clone(),
            requests: requests.collect(),
            partitions: partitions.iter().filter_map(|table| self.seen(table)).collect(),
            filling: self.filling_of(id),
            knows_plans: true,
        }
    }

    fn seen(&self, table: &Table) -> Option<Seen> {
        let (_, number) = partition_named(table.name().as_str())?.to_owned();
        let rows = match table.digest_state() {
            DigestState::Ready => table.digest_view().ok().map(|view| view.tree().rows()),
            DigestState::Off | DigestState::Building { .. } => None,
        };
        let is_writer = table.spec().writing == Writing::Accept;
        let copies = self.others.iter().filter(|_| is_writer).filter_map(|(region, other)| {
            let copy = other.links().report(table.partition())?.copy?;
            Some(SeenCopy {
                to: region.clone(),
                rows_done: copy.rows_done,
                rows_total: copy.rows_total,
            })
        });
        Some(Seen {
            number,
            table: self.record(table.id()).map(|record| record.table),
            rows,
            entries: table.durable_lsn().0,
            copies: copies.collect(),
            has_ended: table.is_dropped(),
            // What it was when this region wrote it last says nothing.
            bytes: table
                .writer_word()
                .accepts
                .then(|| self.distributions.sizes.of(table.name().as_str()))
                .flatten(),
        })
    }
}
