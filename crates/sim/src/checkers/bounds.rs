//! Queues are bounded: what is under way on a link, and what waits on a wire.

use super::Violation;
use crate::network::Stream;

const NAME: &str = "queues are bounded";

/// Checks a stream after something was sent on it.
pub(crate) fn check(stream: &Stream, window_parcels: usize) -> Result<(), Violation> {
    let most = stream.under_way_max();
    if most > window_parcels {
        let what = format!("{most} parcels of one link are under way, {window_parcels} may be");
        return Err(Violation::of(NAME, what));
    }
    Ok(())
}
