//! What a region proposes to the quorum, and what comes of it.
//!
//! Times of the wall clock are told by whoever proposes and only kept to be read by people:
//! nothing is decided by them.

use serde::{Deserialize, Serialize};

/// A proposal. All regions apply the same ones in the same order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// The region that writes a table puts it under the quorum, or tells it of a newer record.
    /// Whoever makes a write held by fewer, or by others, proposes this before it acts so; whoever
    /// makes it held by more, or leaves a replica out, only when all that it has acknowledged is
    /// held as the new membership says.
    Enrol {
        /// The table.
        table: u64,
        /// Its name, for people.
        name: String,
        /// The epoch that its writer has opened.
        epoch: u64,
        /// Who writes, and proposes this.
        writer: String,
        /// Who has all of the table, the writer included; those first that are preferred.
        replicas: Vec<String>,
        /// Other replicas that hold a write before it is acknowledged.
        held_by: u8,
        /// Whether another region takes over without being told to by a person.
        automatic: bool,
        /// The version of the record that says so.
        version: u64,
        /// When, by the clock of who proposes.
        at_millis: u64,
    },
    /// The table is dropped, or has no one writer any more.
    Leave {
        /// The table.
        table: u64,
        /// The version of the record that says so.
        version: u64,
        /// The region that proposes it.
        by: String,
        /// When, by its clock.
        at_millis: u64,
    },
    /// A region asks for its lease to go on.
    Renew {
        /// The region.
        region: String,
        /// Names its process; grows with each start.
        run: u64,
        /// Grows with each renewal of the run, from 1.
        number: u64,
        /// The newest renewal of the run that it knows to be accepted; 0: none.
        acked: u64,
        /// How long the lease is, from before this was sent.
        lease_millis: u64,
        /// When, by its clock.
        at_millis: u64,
    },
    /// A region says that another one seems to be gone.
    Suspect {
        /// Who says so.
        by: String,
        /// Who seems to be gone.
        region: String,
        /// The run that was observed.
        run: u64,
        /// The newest renewal that the region was seen to know of (`acked`).
        renewal: u64,
        /// How many such renewals may follow before this is void.
        outlives: u64,
        /// What was seen.
        evidence: String,
        /// When, by the clock of who says so.
        at_millis: u64,
    },
    /// A region takes its suspicion back.
    Unsuspect {
        /// Who had said so.
        by: String,
        /// Of whom.
        region: String,
    },
    /// A replica that has sealed a vacant table tells how much of it it has.
    Claim {
        /// The table.
        table: u64,
        /// The region.
        region: String,
        /// The epoch that is to be granted, for which it has sealed the table.
        epoch: u64,
        /// The epoch of the newest entry that it has.
        log_epoch: u64,
        /// The LSN of that entry; durable.
        lsn: u64,
        /// The newest LSN of the last writer that it has heard of.
        known_end: u64,
        /// When, by its clock.
        at_millis: u64,
    },
    /// Those who have claimed were waited for long enough.
    Settle {
        /// The table.
        table: u64,
        /// The epoch that is to be granted.
        epoch: u64,
        /// The region that has waited.
        by: String,
        /// When, by its clock.
        at_millis: u64,
    },
    /// The successor that a handover names holds all of the epoch that has ended.
    Open {
        /// The table.
        table: u64,
        /// The next epoch.
        epoch: u64,
        /// The successor.
        region: String,
        /// The LSN of the handover.
        after: u64,
        /// When, by its clock.
        at_millis: u64,
    },
    /// A region that was granted an epoch cannot open it, or not write on in it, and has fenced
    /// itself for the table: its disk was replaced, or it has handed over to a region that was
    /// suspended before it was granted the next epoch.
    Resign {
        /// The table.
        table: u64,
        /// The epoch that it was granted.
        epoch: u64,
        /// The region.
        region: String,
        /// Why it cannot.
        why: String,
        /// When, by its clock.
        at_millis: u64,
    },
    /// A suspended region comes back. It has durably fenced itself for all that it wrote.
    Rejoin {
        /// The region.
        region: String,
        /// Names its process.
        run: u64,
        /// The suspension that it has seen, and after which it has fenced itself.
        suspended_at: u64,
        /// When, by its clock.
        at_millis: u64,
    },
    /// A person takes a region out until it is released.
    SuspendByHand {
        /// The region.
        region: String,
        /// The person.
        who: String,
        /// Why.
        why: String,
        /// When, by the clock of the region that proposes it.
        at_millis: u64,
    },
    /// A person lets a region rejoin that was suspended by hand.
    Release {
        /// The region.
        region: String,
        /// The person.
        who: String,
        /// When, by the clock of the region that proposes it.
        at_millis: u64,
    },
    /// A person says who takes over a vacant table. What others have claimed does not count.
    Decide {
        /// The table.
        table: u64,
        /// The epoch that is to be granted.
        epoch: u64,
        /// Who gets it; it has claimed it.
        region: String,
        /// The person.
        who: String,
        /// When, by the clock of the region that proposes it.
        at_millis: u64,
    },
    /// A person says that an epoch which was granted begins without what replicas that are gone may
    /// have prepared of synchronous writes. A voter of a former version does not apply it as
    /// something else: it takes nothing more before it knows it.
    AcceptLoss {
        /// The table.
        table: u64,
        /// The epoch.
        epoch: u64,
        /// To whom it was granted.
        region: String,
        /// The person.
        who: String,
        /// When, by the clock of the region that proposes it.
        at_millis: u64,
    },
    /// A suspended region is gone for good and holds no replica any more.
    Forget {
        /// The region.
        region: String,
        /// The person.
        who: String,
        /// When, by the clock of the region that proposes it.
        at_millis: u64,
    },
    /// Something else that is to be found in the audit.
    Note {
        /// Who did it.
        who: String,
        /// What.
        what: String,
        /// When, by the clock of the region that proposes it.
        at_millis: u64,
    },
}

/// What came of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is so.
    Done,
    /// The region that proposed it is to write.
    Granted {
        /// In which epoch.
        epoch: u64,
        /// The LSN of the last entry before it.
        after: u64,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a proposal was refused, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// It has never renewed.
    #[error("region {0} is not known to the quorum; let it renew its lease first")]
    UnknownRegion(String),
    /// Others have held it to be gone.
    #[error("region {0} is suspended; let it fence its tables and rejoin")]
    Suspended(String),
    /// A person has.
    #[error("region {0} was suspended by hand; release it first")]
    SuspendedByHand(String),
    /// It had fenced itself after an older suspension only.
    #[error("region {region} was suspended again at {at}; let it fence its tables and rejoin")]
    SuspendedAgain {
        /// The region.
        region: String,
        /// The index of that suspension.
        at: u64,
    },
    /// Only a suspended region can be forgotten or released.
    #[error("region {0} is not suspended; suspend it by hand first")]
    NotSuspended(String),
    /// Another process acts for the region.
    #[error("a newer process, run {run}, acts for region {region}; stop the older one")]
    OldRun {
        /// The region.
        region: String,
        /// The newest run.
        run: u64,
    },
    /// It came late.
    #[error("renewal {newest} of region {region} came first; renew with a greater number")]
    OldRenewal {
        /// The region.
        region: String,
        /// The newest renewal.
        newest: u64,
    },
    /// The region has been seen alive since.
    #[error("region {region} has renewed its lease since, at {newest}; observe it further")]
    Overtaken {
        /// The region.
        region: String,
        /// The newest renewal that it knows of.
        newest: u64,
    },
    /// Nobody is his own third party.
    #[error("region {0} cannot suspect itself; let it resign")]
    OnItself(String),
    /// It is not under the quorum.
    #[error("table {0} is not under the quorum; let the region that writes it enrol it")]
    NoTable(u64),
    /// Nobody writes it now.
    #[error("table {table} has no writer until epoch {epoch} is granted; wait for that")]
    Vacant {
        /// The table.
        table: u64,
        /// The epoch.
        epoch: u64,
    },
    /// Somebody writes it.
    #[error("region {writer} holds table {table} in epoch {epoch}; look at what is agreed again")]
    Held {
        /// The table.
        table: u64,
        /// The epoch.
        epoch: u64,
        /// The region.
        writer: String,
    },
    /// It has no part in the table.
    #[error("region {region} holds no whole replica of table {table}; bind it first")]
    NoReplica {
        /// The table.
        table: u64,
        /// The region.
        region: String,
    },
    /// A newer record is known.
    #[error("version {known} of the record of table {table} is known; take that one first")]
    OldVersion {
        /// The table.
        table: u64,
        /// The version.
        known: u64,
    },
    /// One of those who have not claimed may hold what was acknowledged.
    #[error(
        "{have} regions have claimed table {table} and {needed} must, so that nothing that was \
         acknowledged is lost; bring regions back, or decide by hand"
    )]
    TooFewClaims {
        /// The table.
        table: u64,
        /// So many have.
        have: usize,
        /// So many must.
        needed: usize,
    },
    /// The table says so.
    #[error("a person decides who takes over table {0}; decide by hand")]
    AwaitsPerson(u64),
    /// It may be away, or not have sealed the table yet.
    #[error("region {region} has not claimed table {table}; wait until it has, or take another")]
    NotClaimed {
        /// The table.
        table: u64,
        /// The region.
        region: String,
    },
    /// Tables name it.
    #[error("region {region} holds a replica of table {table}; unbind it first")]
    InUse {
        /// The region.
        region: String,
        /// One of them.
        table: u64,
    },
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
}
