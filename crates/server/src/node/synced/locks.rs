//! Locks of rows, for as long as a write of them is prepared and not made.
//!
//! A write takes all its rows at once or waits; who waits is served in the order of coming, row by
//! row, so nobody waits for ever and no two wait for each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use isthmus_model::key::EncodedKey;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The locks of one table.
#[derive(Clone, Default)]
pub(super) struct RowLocks(Arc<Mutex<BTreeMap<EncodedKey, Queue>>>);

/// Who waits for a row that is locked.
type Queue = VecDeque<oneshot::Sender<()>>;

/// Rows that are locked until this is dropped.
pub(super) struct Locked {
    locks: RowLocks,
    keys: Vec<EncodedKey>,
}

impl RowLocks {
    /// Locks rows, one after the other in the order of their keys.
    pub(super) async fn lock(&self, mut keys: Vec<EncodedKey>) -> Locked {
        keys.sort_unstable();
        keys.dedup();
        let mut locked = Locked { locks: self.clone(), keys: Vec::with_capacity(keys.len()) };
        for key in keys {
            let waits = {
                let mut all = self.0.lock();
                match all.get_mut(&key) {
                    None => {
                        all.insert(key.clone(), Queue::new());
                        None
                    }
                    Some(queue) => {
                        let (sender, receiver) = oneshot::channel();
                        queue.push_back(sender);
                        Some(receiver)
                    }
                }
            };
            if let Some(waits) = waits {
                let mut turn = Turn { locks: self, key: &key, waits, is_taken: false };
                // Whoever unlocks it hands it over; it is never dropped without.
                let _ = (&mut turn.waits).await;
                turn.is_taken = true;
            }
            locked.keys.push(key);
        }
        locked
    }

    /// Rows that are locked now.
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }

    fn unlock(&self, key: &EncodedKey) {
        let mut all = self.0.lock();
        let Some(queue) = all.get_mut(key) else { return };
        // Who gave up has dropped the other end.
        while let Some(next) = queue.pop_front() {
            if next.send(()).is_ok() {
                return;
            }
        }
        all.remove(key);
    }
}

/// A place in a queue. Who gives up in the moment in which the row is handed over hands it on.
struct Turn<'a> {
    locks: &'a RowLocks,
    key: &'a EncodedKey,
    waits: oneshot::Receiver<()>,
    is_taken: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.waits.close();
        if !self.is_taken && self.waits.try_recv().is_ok() {
            self.locks.unlock(self.key);
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.keys.iter().for_each(|key| self.locks.unlock(key));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn keys(names: &[u8]) -> Vec<EncodedKey> {
        names.iter().map(|name| EncodedKey(vec![*name].into())).collect()
    }

    #[tokio::test]
    async fn rows_are_handed_over_in_the_order_of_coming() {
        let locks = RowLocks::default();
        let first = locks.lock(keys(&[2, 1, 2])).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..3u8 {
            let (locks, order) = (locks.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _locked = locks.lock(keys(&[1, 3 + number])).await;
                order.lock().push(number);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(locks.count(), 2);
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [0, 1, 2]);
        assert_eq!(locks.count(), 0);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_locked() {
        let locks = RowLocks::default();
        let held = locks.lock(keys(&[5])).await;
        for _ in 0..3 {
            let wait = locks.lock(keys(&[4, 5, 6]));
            assert!(tokio::time::timeout(Duration::from_millis(5), wait).await.is_err());
        }
        drop(held);
        assert_eq!(locks.count(), 0);
        drop(locks.lock(keys(&[4, 5, 6])).await);
        assert_eq!(locks.count(), 0);
    }
}
