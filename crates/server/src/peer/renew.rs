//! Takes new certificates into use while the region serves.
//!
//! The files are looked at every few seconds. What has changed and then stayed alike for one look
//! is judged: files that another region would believe are used from then on, and all connections
//! are made anew; others are reported once, and what was in use stays in use.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_replication::error::chain;
use tokio::sync::watch;

use super::tls::{PeerTls, TlsBytes, TlsFiles};
use crate::fault;
use crate::node::events::EventKind;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What was seen of the files.
struct Watched {
    /// At the last look, or why not.
    seen: Result<TlsBytes, String>,
    /// What was judged last.
    judged: Result<TlsBytes, String>,
}

/// Keeps the certificates in `current` those of the files, which are to bear `name`, until `stop`
/// says so.
pub(crate) async fn keep_renewed(
    name: String,
    clock: Arc<dyn Clock>,
    notice: impl Fn(EventKind, String),
    files: TlsFiles,
    current: watch::Sender<PeerTls>,
    mut stop: watch::Receiver<bool>,
) {
    let in_use = current.borrow().bytes().clone();
    let mut watched = Watched { seen: Ok(in_use.clone()), judged: Ok(in_use) };
    let now = || Duration::from_millis(clock.wall_millis().max(0) as u64);
    if let Err(reason) = current.borrow().check(&name, now()) {
        let text = format!("other regions will not believe this one: {reason}");
        notice(EventKind::CertificatesRefused, text);
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.changed() => return,
        }
        let files_now = files.clone();
        let seen = fault::blocking(move || files_now.read()).await;
        let Some(news) = watched.look(seen.map_err(|error| chain(&error))) else { continue };
        let judged = news.and_then(|bytes| {
            let tls = files.parse(bytes).map_err(|error| chain(&error))?;
            tls.check(&name, now())?;
            Ok(tls)
        });
        match judged {
            Ok(tls) => {
                current.send_replace(tls);
                let text = "new certificates are in use; connections are made anew".to_owned();
                notice(EventKind::CertificatesRenewed, text);
            }
            Err(reason) => {
                let text = format!("new certificates are not used, the old ones stay: {reason}");
                notice(EventKind::CertificatesRefused, text);
            }
        }
    }
}

impl Watched {
    /// What is to be judged now, if anything.
    fn look(&mut self, seen: Result<TlsBytes, String>) -> Option<Result<TlsBytes, String>> {
        // Files are replaced one after the other, and some tools write them in place.
        let is_still = seen == self.seen;
        self.seen = seen;
        if !is_still || self.seen == self.judged {
            return None;
        }
        self.judged = self.seen.clone();
        Some(self.seen.clone())
    }
}
