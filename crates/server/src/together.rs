//! Several pieces of work at once, within one task.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// A piece of work.
pub(crate) type Piece<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Does all of it, at most so many pieces at once, and gives what they give in their order.
pub(crate) async fn together<T>(work: Vec<Piece<'_, T>>, at_once: usize) -> Vec<T> {
    let mut waiting = work.into_iter().enumerate();
    let mut running: Vec<(usize, Piece<'_, T>)> = Vec::new();
    let mut done: Vec<Option<T>> = Vec::new();
    poll_fn(|context| {
        loop {
            while running.len() < at_once.max(1) {
                let Some((place, piece)) = waiting.next() else { break };
                running.push((place, piece));
                done.push(None);
            }
            if running.is_empty() {
                return Poll::Ready(());
            }
            let before = running.len();
            running.retain_mut(|(place, piece)| match piece.as_mut().poll(context) {
                Poll::Ready(given) => {
                    done[*place] = Some(given);
                    false
                }
                Poll::Pending => true,
            });
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn all_is_done_in_order_and_not_too_much_at_once() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let piece = |number: usize| -> Piece<'_, usize> {
            let (now, most) = (&now, &most);
            Box::pin(async move {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                for _ in 0..10 - number {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Ordering::Relaxed);
                number
            })
        };
        let all = together((0..10).map(piece).collect(), 3).await;
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::Relaxed), 3);
        assert!(together::<()>(Vec::new(), 3).await.is_empty());
    }
}
