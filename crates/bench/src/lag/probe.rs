//! Probe rows: written into one region at a steady pace, asked for in others until they are there.
//!
//! Each region is asked by a thread of its own, so that neither the load nor another region holds
//! it up. Between two questions it pauses, the longer the older the probe is: asking without a
//! pause would take the processor from what brings the probe, and lag would grow by being looked
//! at.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use isthmus_model::value::Text;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::MissedTickBehavior;

use crate::error::{BenchError, Result};
use crate::load::{Connection, Prepared, Target, runtime};
use crate::rows::{ROW_BYTES, RowSet, get};

/// How often a probe is written.
const EVERY: Duration = Duration::from_millis(20);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_micros(150);
/// It grows to this part of the probe's age.
const PAUSE_PART: u32 = 16;
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
    /// Questions that were followed by another one for the same probe, and the time between.
    gaps: u64,
    gap: Duration,
}

impl Sight {
    /// Mean time from one question to the next: the resolution.
    pub(crate) fn resolution(&self) -> Duration {
        let gaps = u32::try_from(self.gaps).unwrap_or(u32::MAX).max(1);
        self.gap / gaps
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
        std::thread::sleep(self.after);
        let start = Instant::now();
        let mut queues = Vec::new();
        let mut readers: Vec<JoinHandle<Result<Sight>>> = Vec::new();
        for target in self.readers.clone() {
            let (queue, probes) = mpsc::sync_channel(QUEUE);
            queues.push(queue);
            readers.push(std::thread::spawn(move || {
                // The runtime serves this one conversation, so that its pauses may block.
                runtime()?.block_on(look(&target, &probes, start))
            }));
        }
        let lost = runtime()?.block_on(self.write(&queues, start));
        drop(queues);
        let mut sights = Vec::new();
        for reader in readers {
            let read = reader.join().map_err(|_| BenchError::failed("a reader panicked"))?;
            sights.push(read?);
        }
        for (sight, lost) in sights.iter_mut().zip(lost?) {
            sight.unseen += lost;
        }
        Ok(sights)
    }

    /// Gives how many probes each reader's queue could not take.
    async fn write(&self, queues: &[mpsc::SyncSender<Probe>], start: Instant) -> Result<Vec<u64>> {
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
            let answer = connection
                .exchange("/PutRow", &RowSet::large(0).put(key, &mut random), true)
                .await?;
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
async fn look(target: &Target, probes: &mpsc::Receiver<Probe>, start: Instant) -> Result<Sight> {
    let mut connection = Connection::open(target).await?;
    let mut sight = Sight::default();
    while let Ok(probe) = probes.recv() {
        let mut last_asked: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            if let Some(last) = last_asked.replace(asked) {
                sight.gaps += 1;
                sight.gap += asked - last;
            }
            let answer = connection.exchange("/GetRow", &probe.question, true).await?;
            let age = probe.acknowledged.elapsed();
            if answer.status != 200 {
                let text = format!("a question for a probe got status {}", answer.status);
                return Err(BenchError::Failed(text));
            }
            // Without the row the answer is a few bytes.
            if answer.body_bytes >= ROW_BYTES {
                sight.seen.push((probe.acknowledged - start, age));
                break;
            }
            if age > UNSEEN {
                sight.unseen += 1;
                break;
            }
            std::thread::sleep(PAUSE.max(age / PAUSE_PART));
        }
    }
    Ok(sight)
}
