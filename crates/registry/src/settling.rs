//! How a member whose disk is new comes to vote.
//!
//! What must hold: a member that may once have voted or kept something, and has lost it, does
//! neither again before it has all that a leader had with a majority. Otherwise a majority could
//! be made of members of which none has what was agreed on.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::Machine;
use crate::file::{SETTLED, on_disk};
use crate::limits::SETTLE_EVERY;
use crate::message::{Answer, Question};
use crate::network::ask;
use crate::registry::Registry;

/// How long a member may take to say whether it is there.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// How long one wait for what a leader has may take.
const LEARN_WITHIN: Duration = Duration::from_secs(5);

/// What the members say of what is agreed on.
enum Said {
    /// A majority says that nothing is.
    Nothing,
    /// One says that something is.
    Something,
    /// Too few say anything.
    TooLittle,
}

impl<M: Machine> Registry<M> {
    /// Begins the quorum or learns from it, until this member may vote.
    pub(crate) async fn settle(registry: Weak<Registry<M>>) {
        loop {
            let Some(registry) = registry.upgrade() else { return };
            if registry.settle_once().await {
                tracing::info!(member = registry.own.name, "has a vote in the quorum from now on");
                return;
            }
            drop(registry);
            tokio::time::sleep(SETTLE_EVERY).await;
        }
    }

    /// Whether it may vote now.
    async fn settle_once(&self) -> bool {
        let has_begun = self.raft.is_initialized().await.unwrap_or(false);
        if !has_begun {
            match self.what_others_say().await {
                Said::TooLittle => return false,
                Said::Nothing => return self.begin_quorum().await,
                Said::Something => {}
            }
        }
        // A leader that knows this member sends it what it lacks.
        self.observe(LEARN_WITHIN).await.is_ok() && self.settled().await
    }

    async fn begin_quorum(&self) -> bool {
        // Written first: once it has begun, it would be taken for one that lost its disk.
        if !self.settled().await {
            return false;
        }
        let members = self.configured.iter().map(|member| (member.id, member.named()));
        let members: std::collections::BTreeMap<_, _> = members.collect();
        match self.raft.initialize(members).await {
            Ok(()) => tracing::info!(member = self.own.name, "the quorum begins"),
            Err(error) => tracing::debug!(%error, "the quorum had begun already"),
        }
        true
    }

    async fn settled(&self) -> bool {
        if let Err(error) = on_disk(&self.file, |file| file.put(SETTLED, &true)).await {
            tracing::error!(%error, "the registry's file cannot be written");
            return false;
        }
        self.settled.send_replace(true);
        self.raft.runtime_config().elect(true);
        true
    }

    async fn what_others_say(&self) -> Said {
        let mut asked = tokio::task::JoinSet::new();
        for other in self.configured.iter().filter(|other| other.id != self.own.id) {
            let (carrier, other) = (Arc::clone(&self.carrier), other.clone());
            asked.spawn(async move {
                let question = Question::<M>::Probe;
                ask(&*carrier, &other, &question, &[], PROBE_WITHIN).await
            });
        }
        let is_member = self.configured.iter().any(|member| member.id == self.own.id);
        let mut blank = usize::from(is_member);
        let mut something = false;
        while let Some(answer) = asked.join_next().await {
            if let Ok(Ok(Answer::Heard { is_blank })) = answer {
                blank += usize::from(is_blank);
                something |= !is_blank;
            }
        }
        match something {
            true => Said::Something,
            false if is_member && blank > self.configured.len() / 2 => Said::Nothing,
            false => Said::TooLittle,
        }
    }
}
