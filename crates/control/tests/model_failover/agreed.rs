//! What is agreed on: the real state machine, each of its states a number.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use isthmus_control::agreed::{Agreed, Command};

use crate::world::{World, small};

pub(crate) const REGIONS: [&str; 3] = ["a", "b", "c"];
pub(crate) const TABLE: u64 = 1;

/// What is proposed to the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Proposal {
    Renew { region: u8, run: u8, number: u8, acked: u8 },
    Suspect { by: u8, region: u8, run: u8, renewal: u8 },
    Claim { region: u8, epoch: u8, log_epoch: u8, lsn: u8 },
    Settle { epoch: u8 },
    Open { region: u8, epoch: u8, after: u8 },
    Resign { region: u8, epoch: u8 },
    Rejoin { region: u8, run: u8, suspended_at: u8 },
}

impl Proposal {
    fn command(self) -> Command {
        let name = |region: u8| REGIONS[usize::from(region)].to_owned();
        let (table, at_millis) = (TABLE, 0);
        match self {
            Proposal::Renew { region, run, number, acked } => Command::Renew {
                region: name(region),
                run: run.into(),
                number: number.into(),
                acked: acked.into(),
                lease_millis: 2_000,
                at_millis,
            },
            Proposal::Suspect { by, region, run, renewal } => Command::Suspect {
                by: name(by),
                region: name(region),
                run: run.into(),
                renewal: renewal.into(),
                outlives: 0,
                evidence: String::new(),
                at_millis,
            },
            Proposal::Claim { region, epoch, log_epoch, lsn } => Command::Claim {
                table,
                region: name(region),
                epoch: epoch.into(),
                log_epoch: log_epoch.into(),
                lsn: lsn.into(),
                known_end: 0,
                at_millis,
            },
            Proposal::Settle { epoch } => {
                Command::Settle { table, epoch: epoch.into(), by: name(0), at_millis }
            }
            Proposal::Open { region, epoch, after } => Command::Open {
                table,
                epoch: epoch.into(),
                region: name(region),
                after: after.into(),
                at_millis,
            },
            Proposal::Resign { region, epoch } => Command::Resign {
                table,
                epoch: epoch.into(),
                region: name(region),
                why: String::new(),
                at_millis,
            },
            Proposal::Rejoin { region, run, suspended_at } => Command::Rejoin {
                region: name(region),
                run: run.into(),
                suspended_at: suspended_at.into(),
                at_millis,
            },
        }
    }
}

/// All have renewed once and the first region writes.
pub(crate) fn start(needs: u8) -> u32 {
    let mut agreed = Agreed::default();
    for region in REGIONS {
        let renew = Proposal::Renew { region: place(region), run: 1, number: 1, acked: 0 };
        agreed.apply(0, &renew.command());
    }
    let enrol = Command::Enrol {
        table: TABLE,
        name: "t".to_owned(),
        epoch: 1,
        writer: REGIONS[0].to_owned(),
        replicas: REGIONS.map(str::to_owned).to_vec(),
        held_by: needs,
        automatic: true,
        version: 1,
        at_millis: 0,
    };
    agreed.apply(0, &enrol);
    KNOWN.lock().unwrap().number(agreed)
}

pub(crate) fn place(region: &str) -> u8 {
    small(REGIONS.iter().position(|name| *name == region).unwrap() as u64)
}

/// All that can be agreed on, by number, so that worlds are small and are compared quickly.
pub(crate) struct Known {
    states: Vec<Arc<Agreed>>,
    numbers: Option<HashMap<String, u32>>,
    steps: Option<HashMap<(u32, Proposal, u8), u32>>,
}

pub(crate) static KNOWN: Mutex<Known> =
    Mutex::new(Known { states: Vec::new(), numbers: None, steps: None });

impl Known {
    fn number(&mut self, mut agreed: Agreed) -> u32 {
        agreed.audit.clear();
        let text = serde_json::to_string(&agreed).unwrap();
        let states = &mut self.states;
        *self.numbers.get_or_insert_default().entry(text).or_insert_with(|| {
            states.push(Arc::new(agreed));
            u32::try_from(states.len() - 1).unwrap()
        })
    }

    /// The index is the same for all commands that cannot suspend a region, so that what is
    /// agreed on does not depend on their order where nothing else does.
    pub(crate) fn step(&mut self, from: u32, proposal: Proposal, index: u8) -> u32 {
        let step = (from, proposal, index);
        if let Some(known) = self.steps.get_or_insert_default().get(&step) {
            return *known;
        }
        let mut agreed = (*self.states[from as usize]).clone();
        agreed.apply(index.into(), &proposal.command());
        let to = self.number(agreed);
        self.steps.get_or_insert_default().insert(step, to);
        to
    }
}

pub(crate) fn state(number: u32) -> Arc<Agreed> {
    thread_local! {
        static SEEN: RefCell<Vec<Arc<Agreed>>> = RefCell::default();
    }
    SEEN.with_borrow_mut(|seen| {
        if seen.len() <= number as usize {
            let known = KNOWN.lock().unwrap();
            seen.extend(known.states[seen.len()..].iter().cloned());
        }
        Arc::clone(&seen[number as usize])
    })
}

/// Whether it makes a difference to see one without the other: claims and single suspicions do
/// not.
pub(crate) fn differ(older: &Agreed, newer: &Agreed) -> bool {
    let (was, is) = (World::tenure(older), World::tenure(newer));
    let standings = older.regions.values().zip(newer.regions.values());
    was.epoch != is.epoch
        || was.vacant.is_some() != is.vacant.is_some()
        || standings.into_iter().any(|(was, is)| {
            (was.run, was.renewal, was.suspended) != (is.run, is.renewal, is.suspended)
        })
}
