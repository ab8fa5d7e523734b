//! One of two replicas, as the comparison sees it.

use prost::Message;

use crate::verify::answer::{Answer, Tell};
use crate::verify::error::VerifyError;
use crate::verify::question::Question;

/// Answers questions. May block; whoever implements it bounds the time.
pub trait Side {
    /// The answer to a question. Errors that the other side tells of come as answers.
    fn ask(&mut self, question: Question) -> Result<Answer, VerifyError>;

    /// Says what will be asked next, so that the answer may be on its way while others are asked.
    fn ahead(&mut self, _question: &Question) {}

    /// Asks for something of which the answer is of no interest.
    fn leave(&mut self, question: Question) {
        drop(self.ask(question));
    }

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
    /// Questions to it whose answers were waited for.
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

    fn question(&self, question: impl Into<Question>) -> Question {
        Question { packs: !self.side.is_local(), ..question.into() }
    }

    /// What will be asked next.
    pub fn ahead(&mut self, question: impl Into<Question>) {
        let question = self.question(question);
        self.side.ahead(&question);
    }

    /// Asks without waiting for an answer.
    pub fn leave(&mut self, question: impl Into<Question>) {
        let question = self.question(question);
        if !self.side.is_local() {
            self.cost.bytes_sent += sent_bytes(&question);
            // What the answer takes, give or take a byte.
            self.cost.bytes_received += 1 + Answer::new(0, Tell::Closed(true)).encoded_len() as u64;
        }
        self.side.leave(question);
    }

    /// What is told.
    pub fn ask(&mut self, question: impl Into<Question>) -> Result<Tell, VerifyError> {
        let question = self.question(question);
        let sent = sent_bytes(&question);
        let answer = self.side.ask(question)?;
        self.cost.rows_read += answer.rows_read;
        if !self.side.is_local() {
            self.cost.round_trips += 1;
            self.cost.bytes_sent += sent;
            self.cost.bytes_received += 1 + answer.encoded_len() as u64;
        }
        answer.unpacked()?.tell()
    }
}

/// One byte names the format.
fn sent_bytes(question: &Question) -> u64 {
    1 + question.encoded_len() as u64
}
