//! Members of one process that agree, over ways that can be cut.

mod cluster;
mod storage;
mod world;

use serde::{Deserialize, Serialize};

use crate::Machine;

/// A list of numbers; what comes of each is how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) numbers: Vec<u64>,
    /// Makes it large.
    pub(crate) ballast: String,
}

/// What is asked of the ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Append(u64),
    Load(String),
}

impl Machine for Ledger {
    type Command = Command;
    type Outcome = usize;

    fn apply(&mut self, _index: u64, command: &Command) -> usize {
        match command {
            Command::Append(number) => self.numbers.push(*number),
            Command::Load(ballast) => self.ballast.clone_from(ballast),
        }
        self.numbers.len()
    }
}
