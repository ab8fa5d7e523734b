//! Probe rows: written into one region at a steady pace, asked for in others until they are there.
//!
//! They run in a thread of their own, so that the load's thread does not hold them up. Asking is
//! as fast as answers come; it takes processor time, but only while a probe is on its way.

use std::time::{Duration, Instant};

use isthmus_model::value::Text;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::error::{BenchError, Result};
use crate::load::{Connection, Prepared, Target, runtime};
use crate::rows::{ROW_BYTES, get, put};

/// How often a probe is written.
const EVERY: Duration = Duration::from_millis(20);
/// A probe that is not seen within this is given up.
const UNSEEN: Duration = Duration::from_secs(60);
/// Probes on their way to one region; more are counted as unseen.
const QUEUE: usize = 8192;

/// Where and when probes run.
pub(crate) struct Probes {
    /// Where they are written.
    pub(crate) writer: Target,
    /// Where they are asked for.
    pub(crate) readers: Vec<Target>,
    /// Tells the keys of this measurement from those of others.
    pub(crate) round: u32,
    /// What is waited before the first.
    pub(crate) after: Duration,
    /// How long they are written.
    pub(crate) length: Duration,
}

/// What was seen in one region.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// When a probe was acknowledged, from the start of the measurement, and how long after that
    /// it was seen.
    pub(crate) seen: Vec<(Duration, Duration)>,
    /// Probes that were given up.
    pub(crate) unseen: u64,
    polls: u64,
    polling: Duration,
}

impl Sight {
    /// Mean time of one question.
    pub(crate) fn poll(&self) -> Duration {
        let polls = u32::try_from(self.polls).unwrap_or(u32::MAX).max(1);
        self.polling / polls
    }
}

/// An acknowledged probe.
struct Probe {
    question: Prepared,
    acknowledged: Instant,
}

impl Probes {
    /// Writes and asks until the time is over and all probes are seen or given up.
    pub(crate) fn run(self) -> Result<Vec<Sight>> {
        runtime()?.block_on(async {
            tokio::time::sleep(self.after).await;
            let start = Instant::now();
            let mut queues = Vec::new();
            let mut readers: Vec<JoinHandle<Result<Sight>>> = Vec::new();
            for target in &self.readers {
                let (queue, probes) = mpsc::channel(QUEUE);
                let connection = Connection::open(target).await?;
                queues.push(queue);
                readers.push(tokio::spawn(look(connection, probes, start)));
            }
            let lost = self.write(&queues, start).await?;
            drop(queues);
            let mut sights = Vec::new();
            for (reader, lost) in readers.into_iter().zip(lost) {
                let sight = reader.await.map_err(|error| BenchError::failed(error.to_string()))?;
                let mut sight = sight?;
                sight.unseen += lost;
                sights.push(sight);
            }
            Ok(sights)
        })
    }

    /// Gives how many probes each reader's queue could not take.
    async fn write(&self, queues: &[mpsc::Sender<Probe>], start: Instant) -> Result<Vec<u64>> {
        let mut connection = Connection::open(&self.writer).await?;
        let mut random = SmallRng::seed_from_u64(u64::from(self.round));
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut lost = vec![0; queues.len()];
        for number in 0_u64.. {
            ticks.tick().await;
            if start.elapsed() >= self.length {
                break;
            }
            let key = Text::from(format!("probe{:03}{number:08}", self.round));
            let question = get(key.clone());
            let answer = connection.exchange("/PutRow", &put(key, &mut random), true).await?;
            let acknowledged = Instant::now();
            if answer.status != 200 {
                let text = format!("a probe was refused with status {}", answer.status);
                return Err(BenchError::Failed(text));
            }
            for (queue, lost) in queues.iter().zip(&mut lost) {
                let probe = Probe { question: question.clone(), acknowledged };
                *lost += u64::from(queue.try_send(probe).is_err());
            }
        }
        Ok(lost)
    }
}

/// Asks for one probe after the other.
async fn look(
    mut connection: Connection,
    mut probes: mpsc::Receiver<Probe>,
    start: Instant,
) -> Result<Sight> {
    let mut sight = Sight::default();
    while let Some(probe) = probes.recv().await {
        loop {
            let asked = Instant::now();
            let answer = connection.exchange("/GetRow", &probe.question, true).await?;
            let now = Instant::now();
            sight.polls += 1;
            sight.polling += now - asked;
            if answer.status != 200 {
                let text = format!("a question for a probe got status {}", answer.status);
                return Err(BenchError::Failed(text));
            }
            // Without the row the answer is a few bytes.
            if answer.body_bytes >= ROW_BYTES {
                let at = probe.acknowledged - start;
                sight.seen.push((at, now - probe.acknowledged));
                break;
            }
            if probe.acknowledged.elapsed() > UNSEEN {
                sight.unseen += 1;
                break;
            }
        }
    }
    Ok(sight)
}
