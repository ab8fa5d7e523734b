//! What a person may change of a global table that is in use.
//!
//! A change is a small JSON document, so that the administration API, the command line and the
//! regions among themselves use one form. The base region applies it to the record, which gives
//! it the next version; the other regions obey the record. A change that is refused changes
//! nothing, and one that asks for what is there already keeps the version.

use serde::{Deserialize, Serialize};

use crate::edges::SetEdges;
use crate::extract::BindExtract;
use crate::global_table::{ControlError, GlobalTable};
use crate::link_rule::SetLink;
use crate::write_mode::SetMode;
use crate::writer::{SetBase, SetFailover, SetWrites, Switchover};

/// A change of the record of a global table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// Asks something of links.
    SetLink(SetLink),
    /// Sets along which edges entries go.
    SetEdges(SetEdges),
    /// Adds a replica that takes less than all.
    BindExtract(BindExtract),
    /// Sets when writes are answered.
    SetMode(SetMode),
    /// Lets another region write. The log does that; the record only judges whether it may be
    /// asked for, and follows.
    Switchover(Switchover),
    /// Lets the region that writes keep the record. It is told before it counts here.
    SetBase(SetBase),
    /// Sets what secondaries do with writes.
    SetWrites(SetWrites),
    /// Sets who decides when the region that writes is lost.
    SetFailover(SetFailover),
}

impl GlobalTable {
    /// Applies a change. Returns whether anything is different now.
    pub fn change(&mut self, change: &Change) -> Result<bool, ControlError> {
        let mut changed = self.clone();
        match change {
            Change::SetLink(asked) => changed.set_link(asked)?,
            Change::SetEdges(asked) => changed.set_edges(asked)?,
            Change::BindExtract(asked) => changed.bind_extract(asked)?,
            Change::SetMode(asked) => changed.set_mode(asked)?,
            Change::Switchover(asked) => {
                changed.check_successor(&asked.to)?;
            }
            Change::SetBase(asked) => {
                changed.hand_base_to(&asked.to)?;
            }
            Change::SetWrites(asked) => changed.set_writes(asked)?,
            Change::SetFailover(asked) => changed.set_failover(asked)?,
        }
        if changed == *self {
            return Ok(false);
        }
        changed.version += 1;
        *self = changed;
        Ok(true)
    }
}
