//! Whether a leader still hears a majority.
//!
//! One that does not keeps the others from choosing another leader as long as what it says arrives.
//! So it falls silent: it says something to a member only when that member has just answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::raft::Metrics;

/// The voice of a member as a leader.
#[derive(Default)]
pub(crate) struct Voice {
    silent: AtomicBool,
}

impl Voice {
    /// Whether it has not heard a majority for too long.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// Keeps it right until the member stops; tells of new leaders.
    pub(crate) async fn keep(&self, mut metrics: watch::Receiver<Metrics>, patience: Duration) {
        let mut leads_since = None;
        let mut told = None;
        loop {
            let (leader, term) = {
                let seen = metrics.borrow_and_update();
                if seen.state == ServerState::Leader {
                    let (term, since) =
                        *leads_since.get_or_insert((seen.current_term, Instant::now()));
                    if term != seen.current_term {
                        leads_since = Some((seen.current_term, Instant::now()));
                    }
                    let unheard = match seen.millis_since_quorum_ack {
                        Some(millis) => Duration::from_millis(millis),
                        None => since.elapsed(),
                    };
                    self.set(unheard > patience);
                } else {
                    leads_since = None;
                    self.set(false);
                }
                (seen.current_leader, seen.current_term)
            };
            if leader.is_some() && told != Some((leader, term)) {
                told = Some((leader, term));
                tracing::info!(leader, term, "the quorum has a leader");
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    fn set(&self, silent: bool) {
        if self.silent.swap(silent, Ordering::AcqRel) != silent {
            match silent {
                true => tracing::warn!("this member leads the quorum but hears no majority"),
                false => tracing::info!("this member does not lead a quorum that it cannot hear"),
            }
        }
    }
}
