//! One member of the quorum, as it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, Fatal, RaftError};
use openraft::{Config, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::applier::Applier;
use crate::error::{CarryError, ProposeError, RegistryError};
use crate::file::{File, SETTLED};
use crate::limits::{
    BEHIND_MAX, CHUNK_BYTES, CHUNK_MILLIS, COMMAND_BYTES_MAX, ENTRIES_MAX, KEPT_BEFORE_SNAPSHOT,
    LEARNED_ENTRIES, LOOK_EVERY, MEMBERS_MAX, SNAPSHOT_EVERY,
};
use crate::log::{Log, Proposals};
use crate::message::{Answer, Question};
use crate::network::{Ways, ask};
use crate::raft::{Metrics, Proposal, Raft};
use crate::voice::Voice;
use crate::{Applied, Carrier, Machine, Member, Options, Standing};

/// One member of a quorum that agrees on a machine's state.
///
/// It runs on the runtime that it was opened in, until `stop`.
pub struct Registry<M: Machine> {
    pub(crate) own: Member,
    /// Who is said to be a member by whoever opened this.
    pub(crate) configured: Vec<Member>,
    pub(crate) raft: Raft<M>,
    pub(crate) file: Arc<File>,
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) voice: Arc<Voice>,
    /// Whether this member may vote.
    pub(crate) settled: watch::Sender<bool>,
    options: Options,
    applied: watch::Receiver<Applied<M>>,
    proposals: Arc<Proposals>,
    tasks: Mutex<JoinSet<()>>,
}

impl<M: Machine> Registry<M> {
    /// Opens the member's file in that directory and takes part in the quorum.
    ///
    /// Where nothing is stored yet, the quorum begins with `members` as soon as a majority of them
    /// says that nothing is agreed on yet. Where something is, this member is a new one, or its
    /// disk is: then it votes only when it has learnt what the others had agreed on. Once begun,
    /// the quorum's own list of members counts (`change_members`).
    pub async fn open(
        directory: &Path,
        own: Member,
        members: Vec<Member>,
        options: Options,
        carrier: Arc<dyn Carrier>,
    ) -> Result<Arc<Registry<M>>, RegistryError> {
        check_members(&members).map_err(RegistryError::Invalid)?;
        let (directory, id) = (directory.to_owned(), own.id);
        let opened = tokio::task::spawn_blocking(move || {
            let file = File::open(&directory, id)?;
            let settled: Option<bool> = file.get(SETTLED).map_err(start)?;
            let applier = Applier::<M>::open(id, file.clone()).map_err(start)?;
            Ok((file, settled.unwrap_or(false), applier))
        });
        let (file, settled, applier) = opened.await.map_err(start)??;
        let config = Arc::new(config(&options, settled)?);
        let (proposals, voice) = (Arc::<Proposals>::default(), Arc::<Voice>::default());
        let applied = applier.watch();
        let log = Log::new(own.id, file.clone(), proposals.clone());
        let ways = Ways {
            carrier: carrier.clone(),
            voice: voice.clone(),
            pause: options.heartbeat,
            machine: PhantomData,
        };
        let raft = Raft::<M>::new(own.id, config, ways, log, applier).await.map_err(start)?;
        let registry = Arc::new(Registry {
            own,
            configured: members,
            raft,
            file,
            carrier,
            voice,
            settled: watch::Sender::new(settled),
            options,
            applied,
            proposals,
            tasks: Mutex::new(JoinSet::new()),
        });
        let has_begun = registry.raft.is_initialized().await.map_err(start)?;
        registry.begin(settled && has_begun);
        Ok(registry)
    }

    fn begin(self: &Arc<Self>, settled: bool) {
        let mut tasks = self.tasks.lock();
        let (voice, metrics) = (self.voice.clone(), self.raft.metrics());
        let patience = self.options.election_timeout_max;
        tasks.spawn(async move { voice.keep(metrics, patience).await });
        if !settled {
            tasks.spawn(Registry::settle(Arc::downgrade(self)));
        }
    }

    /// Which member this is.
    pub fn own(&self) -> &Member {
        &self.own
    }

    /// What is applied here, after each change. Changes that come fast may be seen as one.
    pub fn state(&self) -> watch::Receiver<Applied<M>> {
        self.applied.clone()
    }

    /// Has a command done, wherever the leader is: at which place in the order that was, and what
    /// came of it. It is tried again only while it is surely not done. The state here may not have
    /// got that far yet.
    pub async fn propose(
        &self,
        command: M::Command,
        within: Duration,
    ) -> Result<(u64, M::Outcome), ProposeError> {
        check_command::<M>(&command).map_err(ProposeError::Refused)?;
        let here = |left| self.propose_here(command.clone(), left);
        let there = |within_millis| Question::Propose { command: command.clone(), within_millis };
        match self.by_leader(within, here, there).await? {
            Answer::Done { index, outcome } => Ok((index, outcome)),
            other => Err(failure(other)),
        }
    }

    /// Waits until the state here has all that was done when this was called; tells up to where it
    /// is applied.
    pub async fn observe(&self, within: Duration) -> Result<u64, ProposeError> {
        let deadline = Instant::now() + within;
        let here = |left| self.observe_here(left);
        let there = |within_millis| Question::Observe { within_millis };
        let least = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.by_leader(left, here, there).await? {
                Answer::Observed { index } => break index,
                // To ask again does no harm.
                Answer::Unknown(_) => tokio::time::sleep(LOOK_EVERY.min(left)).await,
                other => return Err(failure(other)),
            }
        };
        let mut applied = self.applied.clone();
        let waited =
            tokio::time::timeout_at(deadline, applied.wait_for(|applied| applied.index >= least));
        match waited.await {
            Ok(Ok(applied)) => Ok(applied.index),
            Ok(Err(_)) | Err(_) => Err(ProposeError::NoLeader),
        }
    }

    /// Lets these be the members from now on, wherever the leader is. New ones learn all first;
    /// they have to run already. If it is not known whether it was done, it may be asked again.
    pub async fn change_members(
        &self,
        members: Vec<Member>,
        within: Duration,
    ) -> Result<(), ProposeError> {
        check_members(&members).map_err(ProposeError::Refused)?;
        let here = |left| self.change_members_here(members.clone(), left);
        let there = |within_millis| Question::Change { members: members.clone(), within_millis };
        match self.by_leader(within, here, there).await? {
            Answer::Changed => Ok(()),
            other => Err(failure(other)),
        }
    }

    /// Who has a vote; nobody where the quorum has not begun.
    pub fn members(&self) -> Vec<Member> {
        members(&self.raft.metrics().borrow())
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let metrics = self.raft.metrics();
        let seen = metrics.borrow();
        let leader = self.leader_in(&seen);
        let applied_index = self.applied.borrow().index;
        Standing {
            leader: leader.map(|leader| leader.name),
            term: seen.current_term,
            last_index: seen.last_log_index.unwrap_or(0).max(applied_index),
            applied_index,
            members: members(&seen),
            votes: *self.settled.borrow(),
            quorum_acked_millis: seen.millis_since_quorum_ack,
        }
    }

    /// Is done when this member cannot go on, and says why: most often its disk. Whoever owns the
    /// process should end it. Never done after `stop`.
    pub async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            let running = metrics.borrow_and_update().running_state.clone();
            match running {
                Ok(()) | Err(Fatal::Stopped) => {}
                Err(error) => return error.to_string(),
            }
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes no part any more. When it is done the file is closed and may be opened again.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        // It can only fail where a part of it had panicked: it has stopped all the same.
        let _ = self.raft.shutdown().await;
        let file = self.file.clone();
        let _ = tokio::task::spawn_blocking(move || file.close()).await;
    }

    /// The leader, if one is known here that may be heard.
    pub(crate) fn leader(&self) -> Option<Member> {
        self.leader_in(&self.raft.metrics().borrow())
    }

    fn leader_in(&self, seen: &Metrics) -> Option<Member> {
        let id = seen.current_leader?;
        if id == self.own.id {
            let leads = seen.state == ServerState::Leader && !self.voice.is_silent();
            return leads.then(|| self.own.clone());
        }
        let known = seen.membership_config.membership().get_node(&id);
        let known = known.map(|named| Member::new(id, named));
        known.or_else(|| self.configured.iter().find(|member| member.id == id).cloned())
    }

    /// Has the leader do something, here or there; looks for it again while nothing was done.
    async fn by_leader<H: Future<Output = Answer<M>>>(
        &self,
        within: Duration,
        here: impl Fn(Duration) -> H,
        there: impl Fn(u64) -> Question<M>,
    ) -> Result<Answer<M>, ProposeError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ProposeError::NoLeader);
            }
            let answer = match self.leader() {
                None => Answer::NotLeading,
                Some(leader) if leader.id == self.own.id => here(left).await,
                Some(leader) => {
                    let question = there(left.as_millis() as u64);
                    match ask(&*self.carrier, &leader, &question, &[], left).await {
                        Ok(answer) => answer,
                        Err(CarryError::Unsent(_)) => Answer::NotLeading,
                        Err(CarryError::Refused(reason)) => Answer::Refused(reason),
                        Err(CarryError::Unknown(reason)) => Answer::Unknown(reason),
                    }
                }
            };
            if !matches!(answer, Answer::NotLeading) {
                return Ok(answer);
            }
            tokio::time::sleep(LOOK_EVERY.min(left)).await;
        }
    }

    /// Has a command done if this member leads.
    pub(crate) async fn propose_here(&self, command: M::Command, within: Duration) -> Answer<M> {
        if self.leader().is_none_or(|leader| leader.id != self.own.id) {
            return Answer::NotLeading;
        }
        let number = self.proposals.begin();
        let proposal = Proposal { by: self.own.id, number, command };
        let written = tokio::time::timeout(within, self.raft.client_write(proposal)).await;
        let appended = self.proposals.end(number);
        match written {
            Ok(Ok(written)) => match written.data.0 {
                Some(outcome) => Answer::Done { index: written.log_id.index, outcome },
                None => Answer::Unknown("nothing came of it".to_owned()),
            },
            // It says so too of what was in its log and was put aside for another leader's.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) if !appended => {
                Answer::NotLeading
            }
            Ok(Err(error)) => Answer::Unknown(error.to_string()),
            Err(_) => Answer::Unknown("no majority has it in time".to_owned()),
        }
    }

    /// Tells what is committed if this member leads and a majority says so.
    pub(crate) async fn observe_here(&self, within: Duration) -> Answer<M> {
        match tokio::time::timeout(within, self.raft.get_read_log_id()).await {
            Ok(Ok((Some(committed), _))) => Answer::Observed { index: committed.index },
            Ok(Ok((None, _)) | Err(_)) | Err(_) => Answer::NotLeading,
        }
    }

    /// Changes the members if this member leads.
    pub(crate) async fn change_members_here(
        &self,
        members: Vec<Member>,
        within: Duration,
    ) -> Answer<M> {
        if self.leader().is_none_or(|leader| leader.id != self.own.id) {
            return Answer::NotLeading;
        }
        let known: BTreeMap<u64, String> = {
            let metrics = self.raft.metrics();
            let seen = metrics.borrow();
            let nodes = seen.membership_config.nodes();
            nodes.map(|(id, named)| (*id, named.name.clone())).collect()
        };
        for member in &members {
            if known.get(&member.id).is_some_and(|name| *name != member.name) {
                return Answer::Refused(format!("{} is another member's number", member.id));
            }
        }
        let change = async {
            for member in members.iter().filter(|member| !known.contains_key(&member.id)) {
                self.raft.add_learner(member.id, member.named(), false).await?;
            }
            for member in &members {
                self.learnt(member.id).await;
            }
            let voters: BTreeSet<u64> = members.iter().map(|member| member.id).collect();
            self.raft.change_membership(voters, false).await
        };
        match tokio::time::timeout(within, change).await {
            Ok(Ok(_)) => Answer::Changed,
            Ok(Err(error)) => Answer::Unknown(error.to_string()),
            Err(_) => Answer::Unknown("not all of them have learnt all in time".to_owned()),
        }
    }

    /// Waits until a member has nearly all of the log, or this one does not lead.
    async fn learnt(&self, id: u64) {
        let mut metrics = self.raft.metrics();
        loop {
            {
                let seen = metrics.borrow_and_update();
                let Some(replication) = &seen.replication else { return };
                let last = seen.last_log_index.unwrap_or(0);
                let matched = replication.get(&id).and_then(|matched| matched.as_ref());
                if id == self.own.id || matched.is_some_and(|id| id.index + LEARNED_ENTRIES >= last)
                {
                    return;
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What a leader's answer means for whoever asked.
fn failure<M: Machine>(answer: Answer<M>) -> ProposeError {
    match answer {
        Answer::NotLeading => ProposeError::NoLeader,
        Answer::Refused(reason) => ProposeError::Refused(reason),
        Answer::Unknown(reason) => ProposeError::Unknown(reason),
        _ => ProposeError::Unknown("the answer does not fit the question".to_owned()),
    }
}

/// Who has a vote.
pub(crate) fn members(seen: &Metrics) -> Vec<Member> {
    let membership = seen.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let named = |id: &u64| membership.get_node(id).map(|named| Member::new(*id, named));
    voters.iter().filter_map(named).collect()
}

/// Whether a command may be proposed at all.
pub(crate) fn check_command<M: Machine>(command: &M::Command) -> Result<(), String> {
    let bytes = serde_json::to_vec(command).map_err(|error| error.to_string())?.len();
    if bytes > COMMAND_BYTES_MAX {
        return Err(format!("the command has {bytes} bytes, {COMMAND_BYTES_MAX} are the most"));
    }
    Ok(())
}

/// Whether these could be the members of a quorum.
pub(crate) fn check_members(members: &[Member]) -> Result<(), String> {
    if members.is_empty() || members.len() > MEMBERS_MAX {
        return Err(format!("a quorum has 1 to {MEMBERS_MAX} members, not {}", members.len()));
    }
    let ids: BTreeSet<u64> = members.iter().map(|member| member.id).collect();
    let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    if ids.len() < members.len() || names.len() < members.len() {
        return Err("two members have the same number or name".to_owned());
    }
    Ok(())
}

fn config(options: &Options, settled: bool) -> Result<Config, RegistryError> {
    let config = Config {
        cluster_name: "registry".to_owned(),
        election_timeout_min: options.election_timeout_min.as_millis() as u64,
        election_timeout_max: options.election_timeout_max.as_millis() as u64,
        heartbeat_interval: options.heartbeat.as_millis() as u64,
        install_snapshot_timeout: CHUNK_MILLIS,
        max_payload_entries: ENTRIES_MAX,
        replication_lag_threshold: BEHIND_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        snapshot_max_chunk_size: CHUNK_BYTES,
        max_in_snapshot_log_to_keep: KEPT_BEFORE_SNAPSHOT,
        enable_elect: settled,
        ..Config::default()
    };
    config.validate().map_err(|error| RegistryError::Invalid(error.to_string()))
}

fn start(error: impl std::fmt::Display) -> RegistryError {
    RegistryError::Start(error.to_string())
}
