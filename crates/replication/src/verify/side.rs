//! One of two replicas, as the comparison sees it.

use prost::Message;

use crate::verify::answer::{Answer, Tell};
use crate::verify::error::VerifyError;
use crate::verify::question::Question;

/// Answers questions. May block; whoever implements it bounds the time.
pub trait Side {
    /// The answer to a question. Errors that the other side tells of come as answers.
    fn ask(&mut self, question: Question) -> Result<Answer, VerifyError>;

    /// Whether it is in this process, so that asking costs nothing on a wire.
    fn is_local(&self) -> bool {
        false
    }
}

/// What asking has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of questions to a side that is elsewhere.
    pub bytes_sent: u64,
    /// Bytes of its answers.
    pub bytes_received: u64,
    /// Questions to it.
    pub round_trips: u64,
    /// Rows that the side read from its engine, wherever it is.
    pub rows_read: u64,
}

/// A side and what asking it has cost so far.
pub struct Counted<'a> {
    side: &'a mut dyn Side,
    cost: Cost,
}

impl<'a> Counted<'a> {
    /// Nothing was asked yet.
    pub fn new(side: &'a mut dyn Side) -> Counted<'a> {
        Counted { side, cost: Cost::default() }
    }

    /// What it has cost.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// What is told.
    pub fn ask(&mut self, question: impl Into<Question>) -> Result<Tell, VerifyError> {
        let question = question.into();
        // One byte names the format.
        let sent = 1 + question.encoded_len() as u64;
        let answer = self.side.ask(question)?;
        answer.check()?;
        self.cost.rows_read += answer.rows_read;
        if !self.side.is_local() {
            self.cost.round_trips += 1;
            self.cost.bytes_sent += sent;
            self.cost.bytes_received += 1 + answer.encoded_len() as u64;
        }
        answer.tell()
    }
}
