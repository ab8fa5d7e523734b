//! What people ask of links that leave this region while the base of their table is away
//! ([`isthmus_control::link_hold`]): kept at rest, obeyed beside the record, and handed to the base
//! when that is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::change::Change;
use isthmus_control::global_table::GlobalTable;
use isthmus_control::link_hold::LinkHold;
use isthmus_control::link_rule::{LinkRule, SetLink};
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::Store;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use crate::api_error::ApiError;
use crate::node::events::EventKind;
use crate::node::global_tables::no_global_table;
use crate::node::{Node, NodeError};
use crate::peer::CALL_TIMEOUT;
use crate::peer::call::{HoldLinks, Question, TakeHold};

const NOTES: &str = "link-hold/";
/// How long the base is waited for that is to take a hold into the record.
const HAND_WITHIN: Duration = Duration::from_secs(5);

fn note_name(table: TableId, to: &str) -> Vec<u8> {
    format!("{NOTES}{:016x}/{to}", table.0).into_bytes()
}

/// By table and the region that the link ends in.
#[derive(Default)]
pub(in crate::node) struct Holds {
    kept: Mutex<BTreeMap<(TableId, String), LinkHold>>,
    /// They change one after the other, at rest as here.
    changing: tokio::sync::Mutex<()>,
    handing: AtomicBool,
}

impl Holds {
    /// What is kept.
    pub(in crate::node) fn read(store: &Store) -> Result<Holds, NodeError> {
        let mut kept = BTreeMap::new();
        for (name, value) in store.notes(NOTES.as_bytes())? {
            let damaged = || NodeError::Record(String::from_utf8_lossy(&name).into_owned());
            let name = name.strip_prefix(NOTES.as_bytes()).ok_or_else(damaged)?;
            let name = std::str::from_utf8(name).map_err(|_| damaged())?;
            let (table, to) = name.split_once('/').ok_or_else(damaged)?;
            let table = u64::from_str_radix(table, 16).map_err(|_| damaged())?;
            let hold = serde_json::from_slice(&value).map_err(|_| damaged())?;
            kept.insert((TableId(table), to.to_owned()), hold);
        }
        Ok(Holds { kept: Mutex::new(kept), ..Holds::default() })
    }

    fn of(&self, table: TableId, to: &str) -> Option<LinkHold> {
        self.kept.lock().get(&(table, to.to_owned())).cloned()
    }

    /// Keeps a hold, or nothing, in the place of what is kept of a link.
    async fn keep(
        &self,
        store: &Store,
        table: TableId,
        to: &str,
        hold: Option<LinkHold>,
    ) -> Result<(), ApiError> {
        let (name, key) = (note_name(table, to), (table, to.to_owned()));
        match hold {
            Some(hold) => {
                let note = serde_json::to_vec(&hold).map_err(|_| ApiError::internal())?;
                store.put_note(&name, &note).await?;
                self.kept.lock().insert(key, hold);
            }
            None => {
                store.delete_note(&name).await?;
                self.kept.lock().remove(&key);
            }
        }
        Ok(())
    }

    /// Ends a hold that was looked at, unless another one is kept by now; says whether it did.
    async fn end(
        &self,
        store: &Store,
        table: TableId,
        to: &str,
        ended: &LinkHold,
    ) -> Result<bool, ApiError> {
        let _one_at_a_time = self.changing.lock().await;
        let is_it = self.of(table, to).as_ref() == Some(ended);
        if is_it {
            self.keep(store, table, to, None).await?;
        }
        Ok(is_it)
    }
}

impl Node {
    /// What the link from here to a region obeys.
    pub(in crate::node) fn obeyed_rule(&self, table: &GlobalTable, to: &str) -> LinkRule {
        let rule = table.link_rule(&self.config.region.name, to);
        match self.holds.of(TableId(table.table), to).filter(|hold| !hold.is_over(table)) {
            Some(hold) => hold.held(rule),
            None => rule,
        }
    }

    /// Whether more is asked of a link here than the record says.
    pub(in crate::node) fn is_held_link(&self, table: &GlobalTable, to: &str) -> bool {
        let hold = self.holds.of(TableId(table.table), to);
        hold.is_some_and(|hold| !hold.is_over(table))
    }

    /// Asks of links where they begin what their base cannot be asked for.
    pub(in crate::node) async fn hold_links(
        &self,
        name: &str,
        change: &Bytes,
    ) -> Result<Json, ApiError> {
        let (_, record) = self.record_named(name).ok_or_else(no_global_table)?;
        let table = &record.table;
        let asked = set_link(change)?;
        let links = table.links_between(asked.from.as_deref(), asked.to.as_deref());
        let origins: BTreeSet<&String> = links.iter().map(|(from, _)| from).collect();
        let (mut held_in, mut failed) = (Vec::new(), BTreeMap::new());
        // Those that leave the base nobody else can hold.
        let is_base = |origin: &&String| **origin == table.base;
        let (of_base, origins): (Vec<_>, Vec<_>) = origins.into_iter().partition(is_base);
        for base in of_base {
            let why = "It is the base and cannot be reached; its links obey the record.";
            failed.insert(base.clone(), why.to_owned());
        }
        if origins.is_empty() {
            return Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!(
                    "Region {}, which decides about links of the table, cannot be reached, and no \
                     other region has a link that fits. Nothing was done; bring it back.",
                    table.base
                ),
            ));
        }
        let mut first = None;
        for origin in origins {
            let hold = HoldLinks { table: name.to_owned(), change: change.clone() };
            let told = match *origin == self.config.region.name {
                true => self.on_hold_links(&hold).await,
                false => self.ask_in_time(origin, Question::HoldLinks(hold), CALL_TIMEOUT).await,
            };
            match told {
                Ok(_) => held_in.push(origin.clone()),
                Err(error) => {
                    failed.insert(origin.clone(), error.message.clone());
                    first = first.or(Some(error));
                }
            }
        }
        match first {
            Some(error) if held_in.is_empty() => Err(error),
            _ => Ok(json!({
                "version": table.version,
                "changed": true,
                "held_in": held_in,
                "not_held_in": failed,
                "base": table.base,
            })),
        }
    }

    /// Holds links that leave this region. The answer is empty.
    pub(in crate::node) async fn on_hold_links(
        &self,
        asked: &HoldLinks,
    ) -> Result<Bytes, ApiError> {
        let set = set_link(&asked.change)?;
        let (id, record) = self.record_named(&asked.table).ok_or_else(no_global_table)?;
        let (table, own) = (&record.table, &self.config.region.name);
        if table.base == *own || self.is_reached(&table.base) {
            return Err(ApiError::new(
                ErrorCode::OperationConflict,
                format!(
                    "Nothing was done: region {own} reaches region {}, which decides. Ask again in \
                     region {own}.",
                    table.base
                ),
            ));
        }
        let links = table.links_between(Some(own), set.to.as_deref());
        if links.is_empty() {
            return Err(ApiError::new(ErrorCode::ObjectNotExist, "There is no such link."));
        }
        let _one_at_a_time = self.holds.changing.lock().await;
        let mut holds = Vec::with_capacity(links.len());
        for (_, to) in links {
            let rule = table.link_rule(own, &to);
            let known = self.holds.of(id, &to).filter(|hold| !hold.is_over(table));
            let mut hold = known.unwrap_or_else(|| LinkHold::new(rule));
            hold.ask(&set)?;
            holds.push((to, hold));
        }
        for (to, hold) in holds {
            let kept = Some(hold.clone()).filter(|hold| !hold.is_empty());
            self.holds.keep(&self.store, id, &to, kept).await?;
            let text = match hold.is_empty() {
                true => format!("the link from {own} to {to} obeys the record again"),
                false => format!(
                    "the link from {own} to {to} is held while base {} is away: {}",
                    table.base,
                    in_words(&hold)
                ),
            };
            let detail = json!({ "from": own, "to": to, "hold": hold });
            self.notice(EventKind::LinkHeld, &table.name, text, detail);
        }
        self.obey_links();
        Ok(Bytes::new())
    }

    /// Ends holds that the record has overtaken, and hands others to the base if it is back. One
    /// bounded step, in the background.
    pub(in crate::node) fn look_at_holds(&self) {
        let kept = self.holds.kept.lock().clone();
        let Some(node) = self.this.upgrade().filter(|_| !kept.is_empty()) else { return };
        if self.holds.handing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.spawn(async move {
            for ((id, to), hold) in kept {
                if let Err(error) = node.look_at_hold(id, &to, &hold).await {
                    tracing::debug!(table = id.0, to, %error, "a hold is not with its base yet");
                }
            }
            node.holds.handing.store(false, Ordering::Release);
        });
    }

    async fn look_at_hold(
        self: &Arc<Self>,
        id: TableId,
        to: &str,
        hold: &LinkHold,
    ) -> Result<(), ApiError> {
        let own = &self.config.region.name;
        let Some(record) = self.record(id) else {
            return self.holds.end(&self.store, id, to, hold).await.map(drop);
        };
        let table = &record.table;
        if hold.is_over(table) {
            return self.end_hold(id, table, to, hold).await;
        }
        let change = Change::SetLink(hold.to_base());
        let change: Bytes = serde_json::to_vec(&change).map_err(|_| ApiError::internal())?.into();
        // What it has decided meanwhile comes first.
        let (name, reign, version) = (table.name.clone(), table.reign, table.version);
        let told: Json = if table.base == *own {
            self.decide_change(&name, &change, Some((reign, version))).await?
        } else if self.is_reached(&table.base) {
            let taken = TakeHold { table: name, change, reign, version };
            let told =
                self.ask_in_time(&table.base, Question::TakeHold(taken), HAND_WITHIN).await?;
            serde_json::from_slice(&told).map_err(|_| ApiError::internal())?
        } else {
            return Ok(());
        };
        // Where it has changed the record, that comes and ends the hold.
        match told["changed"] == true {
            true => Ok(()),
            false => self.end_hold(id, table, to, hold).await,
        }
    }

    /// The link obeys the record again, unless something was asked of it anew meanwhile.
    async fn end_hold(
        &self,
        id: TableId,
        table: &GlobalTable,
        to: &str,
        hold: &LinkHold,
    ) -> Result<(), ApiError> {
        if !self.holds.end(&self.store, id, to, hold).await? {
            return Ok(());
        }
        self.obey_links();
        let own = &self.config.region.name;
        let text = format!(
            "the link from {own} to {to} obeys version {} of the record, by base {}",
            table.version, table.base
        );
        let detail = json!({ "from": own, "to": to, "base": table.base });
        self.notice(EventKind::LinkHoldEnded, &table.name, text, detail);
        Ok(())
    }

    /// Takes what a region holds of a link into a record whose base is here, if that is still as
    /// that region knows it. The answer is that of a change.
    pub(in crate::node) async fn on_take_hold(&self, asked: &TakeHold) -> Result<Bytes, ApiError> {
        set_link(&asked.change)?;
        let (_, record) = self.record_named(&asked.table).ok_or_else(no_global_table)?;
        if record.table.base != self.config.region.name {
            return Err(ApiError::new(
                ErrorCode::OperationConflict,
                format!("Region {} decides about links of the table.", record.table.base),
            ));
        }
        let over = Some((asked.reign, asked.version));
        Ok(self.decide_change(&asked.table, &asked.change, over).await?.to_string().into())
    }
}

fn set_link(change: &[u8]) -> Result<SetLink, ApiError> {
    match serde_json::from_slice(change) {
        Ok(Change::SetLink(asked)) => Ok(asked),
        Ok(_) => Err(ApiError::invalid("This is no change of links.")),
        Err(error) => Err(ApiError::invalid(format!("The change cannot be read: {error}."))),
    }
}

fn in_words(hold: &LinkHold) -> String {
    let mut words = Vec::new();
    if hold.paused {
        words.push("it is paused".to_owned());
    }
    if let Some(rate) = hold.bytes_per_second {
        words.push(format!("it ships {rate} bytes per second at most"));
    }
    if let Some(rate) = hold.entries_per_second {
        words.push(format!("it ships {rate} entries per second at most"));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use isthmus_control::global_table::{Serve, Sync};
    use isthmus_control::link_rule::Wanted;
    use isthmus_model::clock::SystemClock;
    use isthmus_model::ids::Origin;
    use isthmus_store::StoreOptions;
    use isthmus_store::engine::memory::MemoryEngine;

    use super::*;

    #[tokio::test]
    async fn what_is_asked_anew_meanwhile_is_not_ended() {
        let (engine, options) = (Arc::new(MemoryEngine::new()), StoreOptions::new(Origin(1)));
        let store = Store::open(engine, Arc::new(SystemClock), options).unwrap();
        let table = GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PeerToPeer);
        let looked_at = LinkHold::new(table.link_rule("r2", "r3"));
        let anew = LinkHold { paused: true, ..looked_at.clone() };
        let (holds, id) = (Holds::default(), TableId(1));
        holds.kept.lock().insert((id, "r3".to_owned()), anew.clone());
        assert_eq!(holds.end(&store, id, "r3", &looked_at).await, Ok(false));
        assert_eq!(holds.of(id, "r3"), Some(anew.clone()));
        let commits = async { while store.commit_step() {} };
        let (ended, ()) = tokio::join!(holds.end(&store, id, "r3", &anew), commits);
        assert_eq!((ended, holds.of(id, "r3")), (Ok(true), None));
    }

    #[test]
    fn a_hold_is_told_in_words() {
        let table = GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PeerToPeer);
        let mut hold = LinkHold::new(table.link_rule("r2", "r3"));
        let asked = SetLink {
            wanted: Some(Wanted::Paused),
            entries_per_second: Some(7),
            ..SetLink::default()
        };
        hold.ask(&asked).unwrap();
        assert_eq!(in_words(&hold), "it is paused, it ships 7 entries per second at most");
    }
}
