//! What can become of a job. Pure: takes an event, says what is to be done.
//!
//! What must hold: a job has at most one thread; what has ended stays ended; a job that is resumed
//! before its thread has halted begins again when it has.

use serde_json::Value as Json;

/// How a job stands, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or is about to.
    Running,
    /// It rests.
    Paused,
    /// It has a report.
    Done,
    /// It has an error.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Paused => "paused",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

/// How a run of a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With a report.
    Done(Json),
    /// With an error.
    Failed(String),
    /// It was told to halt, and has come so far.
    Halted(Json),
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It was started, or the node was.
    Begin,
    /// Somebody pauses it.
    Pause,
    /// Somebody resumes it.
    Resume,
    /// Somebody cancels it.
    Cancel,
    /// Its thread has ended.
    Ended(Outcome),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give it a thread.
    Begin,
    /// Tell its thread to halt.
    Halt,
}

/// The life of a job.
#[derive(Clone, Debug)]
pub struct Life {
    state: State,
    working: bool,
}

impl Default for Life {
    fn default() -> Life {
        Life::new()
    }
}

impl Life {
    /// It is to run.
    pub fn new() -> Life {
        Life { state: State::Running, working: false }
    }

    /// As it was kept.
    pub fn kept(paused: bool) -> Life {
        let state = if paused { State::Paused } else { State::Running };
        Life { state, working: false }
    }

    /// How it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it has a thread.
    pub fn is_working(&self) -> bool {
        self.working
    }

    /// Whether nothing will become of it any more.
    pub fn is_over(&self) -> bool {
        match self.state {
            State::Running | State::Paused => false,
            State::Done | State::Failed | State::Cancelled => true,
        }
    }

    /// Why somebody cannot do that to it.
    pub fn allows(&self, event: &Event) -> Result<(), String> {
        let act = match event {
            Event::Pause => "paused",
            Event::Resume => "resumed",
            Event::Cancel => "cancelled",
            Event::Begin | Event::Ended(_) => return Ok(()),
        };
        if self.is_over() {
            let state = self.state.as_str();
            return Err(format!("The job is {state} and cannot be {act}; start another one."));
        }
        Ok(())
    }

    /// Takes in what happens.
    pub fn step(&mut self, event: &Event) -> Option<Action> {
        if let Event::Ended(_) = event {
            self.working = false;
        }
        if self.is_over() {
            return None;
        }
        match event {
            Event::Begin | Event::Resume => {
                if *event == Event::Resume {
                    self.state = State::Running;
                }
                self.begin()
            }
            Event::Pause => {
                self.state = State::Paused;
                self.working.then_some(Action::Halt)
            }
            Event::Cancel => {
                self.state = State::Cancelled;
                self.working.then_some(Action::Halt)
            }
            Event::Ended(Outcome::Done(_)) => {
                self.state = State::Done;
                None
            }
            Event::Ended(Outcome::Failed(_)) => {
                self.state = State::Failed;
                None
            }
            Event::Ended(Outcome::Halted(_)) => self.begin(),
        }
    }

    fn begin(&mut self) -> Option<Action> {
        if self.state != State::Running || self.working {
            return None;
        }
        self.working = true;
        Some(Action::Begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halted() -> Event {
        Event::Ended(Outcome::Halted(Json::Null))
    }

    #[test]
    fn a_job_runs_pauses_and_goes_on() {
        let mut life = Life::new();
        assert_eq!(life.step(&Event::Begin), Some(Action::Begin));
        assert_eq!(life.step(&Event::Begin), None);
        assert_eq!(life.step(&Event::Pause), Some(Action::Halt));
        assert_eq!((life.state(), life.is_working()), (State::Paused, true));
        assert_eq!(life.step(&halted()), None);
        assert!(!life.is_working());
        assert_eq!(life.step(&Event::Resume), Some(Action::Begin));
        assert_eq!(life.step(&Event::Ended(Outcome::Done(Json::Null))), None);
        assert_eq!(life.state(), State::Done);
        assert!(life.allows(&Event::Resume).is_err());
        assert_eq!(life.step(&Event::Resume), None);
        assert_eq!(life.state(), State::Done);
    }

    #[test]
    fn resumed_before_it_has_halted_it_begins_again_then() {
        let mut life = Life::new();
        life.step(&Event::Begin);
        life.step(&Event::Pause);
        assert_eq!(life.step(&Event::Resume), None);
        assert_eq!(life.step(&halted()), Some(Action::Begin));
        assert_eq!(life.state(), State::Running);
    }

    #[test]
    fn cancelled_it_stays_so_whatever_its_thread_says() {
        let mut life = Life::new();
        life.step(&Event::Begin);
        assert_eq!(life.step(&Event::Cancel), Some(Action::Halt));
        assert_eq!(life.step(&Event::Ended(Outcome::Done(Json::Null))), None);
        assert_eq!((life.state(), life.is_working()), (State::Cancelled, false));
        assert!(life.allows(&Event::Cancel).is_err());
    }

    #[test]
    fn kept_jobs_are_as_they_were() {
        assert_eq!(Life::kept(true).step(&Event::Begin), None);
        assert_eq!(Life::kept(false).step(&Event::Begin), Some(Action::Begin));
        let mut paused = Life::kept(true);
        assert_eq!(paused.step(&Event::Cancel), None);
        assert!(paused.is_over());
    }

    #[test]
    fn a_job_that_ends_while_it_is_paused_is_done() {
        let mut life = Life::new();
        life.step(&Event::Begin);
        life.step(&Event::Pause);
        life.step(&Event::Ended(Outcome::Failed("x".into())));
        assert_eq!(life.state(), State::Failed);
    }
}
