//! Regions speak to each other here: gRPC over HTTP/2 with mutual TLS.
//!
//! `dial.rs` keeps three streams to each other region that can be dialled: one on which this region
//! ships as an origin, one on which it receives as a replica, and one on which it is asked.
//! `serve.rs` has the port and `accept.rs` the streams of the others; `renew.rs` takes new
//! certificates into use. `call.rs` has the single questions of control,
//! `verify.rs` those of comparing and repairing, `batch.rs` those of batches of
//! several partitions. What is said on the streams is the replication room's affair; here frames
//! are only carried, with back-pressure both ways (`carry.rs`). No frame is read before the other
//! side has shown a certificate of the common authority that bears its region's name.

pub mod accept;
pub mod batch;
pub mod call;
pub mod callback;
mod carry;
pub mod dial;
pub mod renew;
pub mod serve;
pub mod tls;
pub(crate) mod traffic;
pub mod verify;

/// The generated client and server of the service.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::wildcard_imports)]
pub mod service {
    include!(concat!(env!("OUT_DIR"), "/isthmus.peer.v1.Peer.rs"));
}

use std::time::Duration;

/// Bytes of one message between regions at most.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Frames that wait to be written to one stream.
pub const FRAMES_WAITING_MAX: usize = 4;
/// Bytes under way in one HTTP/2 stream.
pub const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// A peer that does not answer a ping within twice this is gone.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
/// A connection is made anew after so long, so that a certificate that has expired, or an authority
/// that is not believed any more, does not live on in it.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(3600);
/// How often streams are asked what time alone brings.
pub const TICK_EVERY: Duration = Duration::from_millis(250);
/// How long a single question may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a question may take for which the other region reads its disk.
pub const READ_TIMEOUT: Duration = Duration::from_secs(60);
