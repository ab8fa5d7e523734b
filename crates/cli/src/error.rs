//! What a command that failed tells, and the code the program ends with.
//!
//! What must hold: the first line says what happened, the second what to do about it, and a
//! write whose outcome is not known has a code of its own, because scripts must not take it for
//! a failure.

use std::fmt;

use isthmus_connectors::admin::AdminError;
use isthmus_connectors::http::HttpError;
use isthmus_connectors::source::SourceError;
use isthmus_connectors::tablestore::ClientError;
use isthmus_model::error::Outcome;
use isthmus_server::config::ConfigError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for is done, and the answer is a good one.
    Done,
    /// It is done, and the answer is that replicas differ or rows are damaged.
    Different,
    /// It could not be found out whether replicas are alike.
    CouldNotTell,
    /// The region or the program refused or failed.
    Failed,
    /// The command, its input or the configuration is wrong.
    Usage,
    /// No region was reached; nothing was changed.
    Unreachable,
    /// It is not known whether the change took effect.
    Unknown,
    /// Stopped by Ctrl-C or SIGTERM before the end.
    Stopped,
}

impl Exit {
    /// The code of the process.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Different | Exit::Failed => 1,
            Exit::CouldNotTell | Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::Unknown => 4,
            Exit::Stopped => 130,
        }
    }
}

/// A command that failed.
#[derive(Debug)]
pub(crate) struct CliError {
    /// What happened.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The service's error code.
    pub(crate) code: Option<String>,
    /// The program's exit code.
    pub(crate) exit: Exit,
}

impl CliError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> CliError {
        CliError { message: message.into(), hint: None, code: None, exit }
    }

    /// The command line or its input is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> CliError {
        CliError::new(Exit::Usage, message)
    }

    /// Something could not be done.
    pub(crate) fn failed(message: impl Into<String>) -> CliError {
        CliError::new(Exit::Failed, message)
    }

    /// Whether what was named does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code.as_deref() == Some("OTSObjectNotExist")
    }

    /// Adds what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> CliError {
        self.hint = Some(hint.into());
        self
    }

    /// For a command whose code 1 means "they differ": an error must not look like that.
    pub(crate) fn could_not_tell(mut self) -> CliError {
        if self.exit != Exit::Stopped {
            self.exit = Exit::CouldNotTell;
        }
        self
    }

    /// Puts what was tried before the message.
    pub(crate) fn context(mut self, what: impl fmt::Display) -> CliError {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Writes it to the error stream, as one JSON line if that was asked for.
    pub(crate) fn print(&self, json: bool) {
        if json {
            let line = serde_json::json!({
                "error": self.message,
                "code": self.code,
                "hint": self.hint,
                "exit": self.exit.code(),
            });
            eprintln!("{line}");
            return;
        }
        eprintln!("error: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("       {hint}");
        }
    }
}

/// The error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

const START: &str = "start regions with `isthmus up`, or name one with --endpoint or --config";

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        let message = chain(&error);
        let code = error.code().map(str::to_owned);
        let exit = match (&error, error.outcome()) {
            (ClientError::Http(HttpError::Connect { .. }), _) => Exit::Unreachable,
            (ClientError::Http(HttpError::Endpoint { .. }), _) => Exit::Usage,
            (_, Outcome::Unknown) => Exit::Unknown,
            (_, Outcome::NotApplied) => Exit::Failed,
        };
        let hint = match (exit, code.as_deref()) {
            (Exit::Unreachable, _) => Some(START),
            (Exit::Unknown, _) => {
                Some("it is not known whether this took effect: read before trying again")
            }
            (_, Some("OTSAuthFailed")) => {
                Some("check --instance, --access-key-id, --access-key-secret and the clock")
            }
            _ => None,
        };
        CliError { message, hint: hint.map(str::to_owned), code, exit }
    }
}

impl From<AdminError> for CliError {
    fn from(error: AdminError) -> CliError {
        let message = chain(&error);
        match error {
            AdminError::Http(HttpError::Endpoint { .. }) => CliError::usage(message),
            AdminError::Http(_) => CliError::new(Exit::Unreachable, message).hint(START),
            AdminError::Refused { .. } | AdminError::Answer { .. } => CliError::failed(message),
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> CliError {
        CliError::usage(error.to_string())
    }
}

impl From<SourceError> for CliError {
    fn from(error: SourceError) -> CliError {
        CliError::usage(chain(&error))
    }
}
