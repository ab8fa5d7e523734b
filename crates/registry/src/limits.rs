//! The bounds of the registry.

use std::time::Duration;

/// Members at most: each command waits for more than half of them.
pub const MEMBERS_MAX: usize = 9;
/// Bytes of one message between members at most.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one command at most, as JSON.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of commands that are sent together, unless a single one has more.
pub(crate) const ENTRIES_BYTES: usize = 1024 * 1024;
/// Commands that are sent together.
pub(crate) const ENTRIES_MAX: u64 = 256;
/// Bytes of a snapshot that are sent together.
pub(crate) const CHUNK_BYTES: u64 = 512 * 1024;
/// Bytes of a snapshot.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Commands after which a snapshot is taken and those before it are forgotten.
pub(crate) const SNAPSHOT_EVERY: u64 = 1000;
/// Commands that are kept before a snapshot, for members that are a little behind.
pub(crate) const KEPT_BEFORE_SNAPSHOT: u64 = 200;
/// A member that is so many commands behind is sent the snapshot.
pub(crate) const BEHIND_MAX: u64 = 2 * SNAPSHOT_EVERY;
/// Memory for pages of the file.
pub(crate) const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// How many heartbeats an answer may take.
pub(crate) const PATIENCE: u32 = 4;
/// How long one piece of a snapshot may take, in milliseconds, before `PATIENCE`.
pub(crate) const CHUNK_MILLIS: u64 = 5000;
/// Between two looks for a leader.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two questions of a member that is not settled yet.
pub(crate) const SETTLE_EVERY: Duration = Duration::from_millis(250);
/// How long a member may be asked to wait for something on behalf of another one.
pub(crate) const WITHIN_MAX: Duration = Duration::from_secs(300);
/// A new member is taken in once it is no more than so many commands behind.
pub(crate) const LEARNED_ENTRIES: u64 = 64;
