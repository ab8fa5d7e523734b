//! Bounds of links.

use std::time::Duration;

/// Row bytes in one chunk of a copy, before compression; one row may be larger.
pub const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// Rows looked at for one chunk of a copy from which a filter leaves rows out.
pub const CHUNK_LOOKED_AT_MAX: usize = 32 * 1024;
/// Rows in a range whose digest is offered before it is copied, about; a leaf may be larger.
pub const OFFER_ROWS: u64 = 16 * 1024;
/// Leaves of all lanes in such a range, about.
pub const OFFER_LEAVES_MAX: usize = 8 * 1024;
/// Offers of one link that a replica answers before a chunk of the first has come.
pub const OFFERS_MAX: usize = 256;
/// Rows named in one answer to an offer; where more would be, all rows are asked for.
pub const WANT_ROWS_MAX: usize = 64 * 1024;
/// Bytes of keys that a replica remembers of its answers on one link; beyond, it asks for all.
pub const WANT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes that a parcel or chunk may unpack to.
pub const UNPACKED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Ranges of one copy that are offered and not sent.
pub const OFFERS_AHEAD: usize = 16;
/// Bytes of one link under way, before compression: a way of 100 ms and back takes 300 MiB/s.
pub const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// Frames from one peer that wait for their sync here.
pub const RECEIVE_FRAMES_MAX: usize = 65_536;
/// Bytes of all links from one peer that wait for their sync here. More is not read from the
/// stream; it is less than what the store takes before it is busy.
pub const RECEIVE_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Compressed parcels kept for the next link that needs the same.
pub const PARCEL_CACHE_ENTRIES: usize = 64;
/// Bytes of them, compressed.
pub const PARCEL_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Tables of which small parcels are packed against a dictionary.
pub const DICTIONARIES_MAX: usize = 128;
/// Bytes of a dictionary.
pub const DICTIONARY_BYTES_MAX: usize = 16 * 1024;
/// A parcel of more bytes holds enough repetition in itself.
pub const DICTIONARY_PARCEL_BYTES_MAX: usize = 32 * 1024;
/// Parcels of which a dictionary is made, about, and the bytes taken of each and of all.
pub const DICTIONARY_SAMPLES: usize = 256;
/// See `DICTIONARY_SAMPLES`.
pub const DICTIONARY_SAMPLE_BYTES: usize = 2 * 1024;
/// See `DICTIONARY_SAMPLES`.
pub const DICTIONARY_SAMPLES_BYTES_MAX: usize = 512 * 1024;
/// Values that one parcel is packed against, and their bytes.
pub const PRIORS_MAX: usize = 64;
/// See `PRIORS_MAX`.
pub const PRIORS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a link sends all values whole after a replica had others than were replaced here.
pub const WHOLE_FOR: Duration = Duration::from_secs(10);
/// How long what names a schema that has not come yet waits for it here, before the origin is told.
pub const HELD_MAX: Duration = Duration::from_secs(3);
/// How long a link that was refused waits before it opens anew.
pub const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How long after a region has left it is looked once more who lacks something that it had made.
pub const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(3);
/// How long a link that broke waits before it opens anew.
pub const BROKEN_RETRY_AFTER: Duration = Duration::from_secs(5);
/// How old the snapshot of a copy may grow before a new one is taken.
pub const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(300);
/// How often an origin promises and a replica reports its safe time.
pub const PROMISE_EVERY: Duration = Duration::from_secs(1);
/// Safe times reported at once.
pub const SAFE_REPORTS_MAX: usize = 1024;
/// Changes of state of the links to one peer that are kept until somebody asks for them.
pub const CHANGES_KEPT_MAX: usize = 4096;
/// Log records looked through for the oldest entry that a replica lacks.
pub const OLDEST_RECORDS_MAX: usize = 64;
/// Words on how replicas stand that are told to one region at once.
pub const STANDINGS_MAX: usize = 1024;
/// Places in the log of one partition that are remembered with what lies before them.
pub const PLACES_KEPT_MAX: usize = 512;
/// Bytes of a log that are read to find where a replica stands; beyond, it is copied.
pub const PLACE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of them, at once.
pub const PLACE_STEP_BYTES: usize = 1024 * 1024;
/// Writes of one partition that wait until other regions hold them; more are refused.
pub const WAITING_WRITES_MAX: usize = 512;
/// Writes of one table that are prepared and wait for votes; more are refused.
pub const SYNC_WRITES_MAX: usize = 4096;
