//! A link does what a person asks: a paused one ships nothing, a stopped one says nothing.

use isthmus_model::ids::PartitionId;
use isthmus_replication::frame::{Body, Frame};
use isthmus_replication::terms::{Terms, Wish};

use super::Violation;

const NAME: &str = "links do what is asked of them";

/// Checks what an origin sends to a peer, given what was asked of its link of a partition.
pub(crate) fn check<'a>(
    asked: impl Fn(PartitionId) -> Option<&'a Terms>,
    frame: &Frame,
) -> Result<(), Violation> {
    let (partition, ships) = match &frame.body {
        Some(Body::Parcel(parcel)) => (parcel.partition, true),
        Some(Body::CopyBegin(begin)) => (begin.partition, true),
        Some(Body::CopyOffer(offer)) => (offer.partition, true),
        Some(Body::CopyChunk(chunk)) => (chunk.partition, true),
        Some(Body::Open(open)) => (open.partition, false),
        Some(Body::Follow(follow)) => (follow.partition, false),
        _ => return Ok(()),
    };
    let wish = asked(PartitionId(partition)).map(|terms| terms.wish);
    match wish {
        Some(Wish::Pause) if ships => {
            Err(Violation::of(NAME, format!("the link of {partition} is paused and ships")))
        }
        Some(Wish::Stop) => {
            Err(Violation::of(NAME, format!("the link of {partition} is stopped and speaks")))
        }
        Some(Wish::Pause | Wish::Run) | None => Ok(()),
    }
}
