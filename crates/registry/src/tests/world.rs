//! Members on runtimes of their own, and the ways between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::Instant;

use super::{Command, Ledger};
use crate::error::{CarryError, ProposeError};
use crate::{Carrier, Carrying, Member, Options, Registry};

/// Long enough for anything that should happen at all.
pub(crate) const LONG: Duration = Duration::from_secs(60);

type Node = Arc<Registry<Ledger>>;
type Reached = (Handle, Weak<Registry<Ledger>>);

/// Who is where, and which ways are cut.
#[derive(Default)]
pub(crate) struct Ways {
    running: Mutex<BTreeMap<String, Reached>>,
    /// From whom to whom nothing arrives.
    cut: Mutex<BTreeSet<(String, String)>>,
}

impl Ways {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut.lock().contains(&(from.to_owned(), to.to_owned()))
    }
}

/// The ways out of one member.
struct WaysOf {
    own: String,
    ways: Arc<Ways>,
}

impl Carrier for WaysOf {
    fn carry<'a>(&'a self, to: &'a Member, message: Bytes, within: Duration) -> Carrying<'a> {
        Box::pin(async move {
            let lost = || async {
                tokio::time::sleep(within).await;
                Err(CarryError::Unknown("lost".to_owned()))
            };
            let target = self.ways.running.lock().get(&to.name).cloned();
            let Some((handle, registry)) = target else {
                return Err(CarryError::Unsent("it is not there".to_owned()));
            };
            if self.ways.is_cut(&self.own, &to.name) {
                return lost().await;
            }
            let from = self.own.clone();
            let answer = handle.spawn(async move {
                let registry = registry.upgrade()?;
                Some(registry.answer(&from, message).await)
            });
            let answer = match answer.await {
                Ok(Some(Ok(answer))) => Ok(answer),
                Ok(Some(Err(error))) => Err(CarryError::Refused(error.to_string())),
                Ok(None) | Err(_) => Err(CarryError::Unknown("it has gone".to_owned())),
            };
            if self.ways.is_cut(&to.name, &self.own) {
                return lost().await;
            }
            answer
        })
    }
}

/// One member and the runtime that it runs on.
struct Running {
    runtime: Runtime,
    registry: Node,
}

/// Some members.
pub(crate) struct World {
    pub(crate) ways: Arc<Ways>,
    pub(crate) members: Vec<Member>,
    runtime: Runtime,
    directory: TempDir,
    running: BTreeMap<u64, Running>,
}

pub(crate) fn member(id: u64) -> Member {
    Member { id, name: format!("m{id}") }
}

impl World {
    /// That many members, all started.
    pub(crate) fn of(count: u64) -> World {
        let mut world = World {
            ways: Arc::default(),
            members: (1..=count).map(member).collect(),
            runtime: Runtime::new().unwrap(),
            directory: tempfile::tempdir().unwrap(),
            running: BTreeMap::new(),
        };
        for id in 1..=count {
            world.start(id);
        }
        world.eventually("all to vote", || {
            world.ids().iter().all(|id| world.node(*id).standing().votes)
        });
        world
    }

    /// Starts a member on what its disk holds.
    pub(crate) fn start(&mut self, id: u64) -> Node {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let own = member(id);
        let directory = self.directory.path().join(&own.name);
        let carrier = WaysOf { own: own.name.clone(), ways: self.ways.clone() };
        let options = Options::default();
        let opened = Registry::open(
            &directory,
            own.clone(),
            self.members.clone(),
            options,
            Arc::new(carrier),
        );
        let registry: Node =
            runtime.block_on(async { tokio::time::timeout(LONG, opened).await }).unwrap().unwrap();
        let reached = (runtime.handle().clone(), Arc::downgrade(&registry));
        self.ways.running.lock().insert(own.name, reached);
        self.running.insert(id, Running { runtime, registry: registry.clone() });
        registry
    }

    /// Ends a member as it should end.
    pub(crate) fn stop(&mut self, id: u64) {
        self.ways.running.lock().remove(&member(id).name);
        let Running { runtime, registry } = self.running.remove(&id).unwrap();
        runtime.block_on(registry.stop());
        runtime.shutdown_timeout(LONG);
    }

    /// Ends a member in the midst of whatever it does.
    pub(crate) fn kill(&mut self, id: u64) {
        self.ways.running.lock().remove(&member(id).name);
        let Running { runtime, registry } = self.running.remove(&id).unwrap();
        runtime.shutdown_timeout(LONG);
        registry.file.close();
    }

    /// Takes a member's disk away; it must have ended.
    pub(crate) fn lose_disk(&self, id: u64) {
        std::fs::remove_dir_all(self.directory.path().join(member(id).name)).unwrap();
    }

    pub(crate) fn node(&self, id: u64) -> Node {
        self.running[&id].registry.clone()
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    /// Lets nothing arrive any more from the one at the other.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.ways.cut.lock().insert((member(from).name, member(to).name));
    }

    /// Cuts a member off from all others, both ways.
    pub(crate) fn isolate(&self, id: u64) {
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    pub(crate) fn heal(&self) {
        self.ways.cut.lock().clear();
    }

    /// Waits until these see one leader among them.
    pub(crate) fn leader_among(&self, ids: &[u64]) -> u64 {
        let mut found = 0;
        self.eventually("a leader", || {
            let leaders: BTreeSet<_> =
                ids.iter().map(|id| self.node(*id).standing().leader).collect();
            let leader = leaders.first().cloned().flatten();
            let leader = leader.filter(|_| leaders.len() == 1);
            let leader = ids.iter().find(|id| Some(member(**id).name) == leader);
            found = leader.copied().unwrap_or(0);
            leader.is_some()
        });
        found
    }

    pub(crate) fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + LONG;
        while !holds() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            self.pause(Duration::from_millis(20));
        }
    }

    pub(crate) fn pause(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Has a number appended through that member.
    pub(crate) fn propose(&self, id: u64, number: u64) -> Result<(u64, usize), ProposeError> {
        self.propose_within(id, number, LONG)
    }

    pub(crate) fn propose_within(
        &self,
        id: u64,
        number: u64,
        within: Duration,
    ) -> Result<(u64, usize), ProposeError> {
        let node = self.node(id);
        self.runtime.block_on(node.propose(Command::Append(number), within))
    }

    /// The numbers as that member sees them once it has seen all that is done.
    pub(crate) fn numbers(&self, id: u64) -> Vec<u64> {
        let node = self.node(id);
        self.runtime.block_on(node.observe(LONG)).unwrap();
        node.state().borrow().state.numbers.clone()
    }

    /// Runs something in which members are asked.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(LONG, work).await }).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.runtime.shutdown_background();
        }
    }
}
