//! What is asked of a link: how it is to stand, when it ships, how fast, who dials, how it
//! compresses.
//!
//! Decided elsewhere and handed in with the link; it may change while the link runs. What has its
//! default asks for nothing.

use isthmus_model::compression::Compression;

use crate::throttle::Throttle;
use crate::timing::Timing;

/// How a link is to stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// It ships.
    #[default]
    Run,
    /// It waits where it is; the log is kept for it.
    Pause,
    /// It is out of use, and nothing is kept for it.
    Stop,
}

/// Who dials for a link. Entries flow from the origin to the replica either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The origin.
    #[default]
    Push,
    /// The replica.
    Pull,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::Push, Direction::Pull];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Push => "push",
            Direction::Pull => "pull",
        }
    }
}

/// What is asked of a link.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// How it is to stand.
    pub wish: Wish,
    /// When it ships.
    pub timing: Timing,
    /// How fast.
    pub throttle: Throttle,
    /// Who dials.
    pub direction: Direction,
    /// How it compresses.
    pub compression: Compression,
}
