//! What can go wrong, and whether anything was done.

use std::path::PathBuf;

/// Why a registry cannot be opened, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Its directory cannot be made.
    #[error("make the directory {}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Its file cannot be opened.
    #[error("open {}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        #[source]
        source: FileError,
    },
    /// Its file is another member's.
    #[error("{} is the registry of member {found}, not of {own}", file.display())]
    OfAnother {
        /// The file.
        file: PathBuf,
        /// Number of the member that it belongs to.
        found: u64,
        /// Number of this member.
        own: u64,
    },
    /// The list of members or the options contradict themselves.
    #[error("{0}")]
    Invalid(String),
    /// What is stored cannot be taken up.
    #[error("take up what is stored: {0}")]
    Start(String),
    /// A message came from nobody who may send it.
    #[error("{0} is no member, or says it is another one")]
    NoMember(String),
    /// A message has too many bytes.
    #[error("a message of {0} bytes is too large")]
    TooLarge(usize),
    /// A message is of another version.
    #[error("a message has version {0}, which is not known here")]
    Version(u8),
    /// A message cannot be read.
    #[error("a message cannot be read")]
    Garbage,
}

/// What is wrong with the registry's file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The registry has stopped.
    #[error("the registry has stopped")]
    Stopped,
    /// It cannot be read or written.
    #[error("{0}")]
    Engine(String),
    /// What stands in it cannot be understood.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which part of it.
        what: String,
        /// Why.
        reason: String,
    },
}

/// Why a message did not get to a member, or its answer back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarryError {
    /// It was surely not sent.
    #[error("not sent: {0}")]
    Unsent(String),
    /// It arrived and was refused; nothing was done.
    #[error("refused: {0}")]
    Refused(String),
    /// Whether it arrived is not known.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// Why a command was not seen done, or nothing could be learnt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader was found in time that hears a majority. Nothing was done.
    #[error("the quorum has no leader that is heard here")]
    NoLeader,
    /// Whether it was done or will be is not known.
    #[error("whether it was done is not known: {0}")]
    Unknown(String),
    /// It may not be done. Nothing was.
    #[error("refused: {0}")]
    Refused(String),
}
