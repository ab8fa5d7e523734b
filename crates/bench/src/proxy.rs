//! A TCP proxy that stands for a long way: each byte arrives later, and at most so many a second.
//!
//! Each direction of a connection is a queue of what was read and when it may be written. It holds
//! more than any window here, so that delay alone is added; with a rate no more is read than what
//! goes out soon, so that the sender feels the rate. The resolution is that of the runtime's
//! timers, about a millisecond.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::error::{BenchError, Result, Tried};
use crate::load::runtime;

/// Bytes under way in one direction: 100 MiB/s over 2 s.
const QUEUE_BYTES: usize = 200 * 1024 * 1024;
/// With a rate no more waits than what goes out in this time, beside the delay.
const QUEUE_TIME: Duration = Duration::from_millis(100);
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// Reads that wait in one direction.
const READS_MAX: usize = 65_536;

/// What the way is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Way {
    /// From one end to the other.
    pub(crate) delay: Duration,
    /// Bytes a second in each direction of each connection.
    pub(crate) bytes_per_second: Option<f64>,
}

/// A way that may change.
type Changing = Arc<Mutex<Way>>;

/// Arguments of the command that is a proxy and nothing else.
#[derive(Args, Debug)]
pub(crate) struct ProxyArgs {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Where connections go
    #[arg(long, value_name = "HOST:PORT")]
    to: SocketAddr,
    /// Milliseconds that each byte takes, one way
    #[arg(long, value_name = "MS", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=10_000))]
    delay_ms: u64,
    /// KiB a second in each direction of each connection; 0: as many as go
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    kib_per_second: u64,
}

/// Is a proxy until the process ends.
pub(crate) fn serve(args: &ProxyArgs) -> Result<()> {
    let rate = args.kib_per_second as f64 * 1024.0;
    let way = Way {
        delay: Duration::from_millis(args.delay_ms),
        bytes_per_second: (rate > 0.0).then_some(rate),
    };
    runtime()?.block_on(async {
        let listener =
            TcpListener::bind(args.listen).await.tried(|| format!("listen on {}", args.listen))?;
        accept(listener, args.to, Arc::new(Mutex::new(way))).await;
        Ok(())
    })
}

/// A proxy in a thread of its own; it ends when this is dropped.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    way: Changing,
    _stop: oneshot::Sender<()>,
}

impl Proxy {
    /// Listens on a free port of this machine.
    pub(crate) fn start(to: SocketAddr, way: Way) -> Result<Proxy> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.tried(|| "listen for a proxy".to_owned())?;
        listener.set_nonblocking(true).tried(|| "set up a proxy".to_owned())?;
        let address = listener.local_addr().tried(|| "find a proxy's port".to_owned())?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = runtime()?;
        let way: Changing = Arc::new(Mutex::new(way));
        let changing = way.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = accept(listener, to, changing) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Proxy { address, way, _stop: stop })
    }

    /// Changes the way, of connections that are there too.
    pub(crate) fn set(&self, way: Way) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, way: Changing) {
    loop {
        // What cannot be accepted now may be so later.
        let Ok((near, _)) = listener.accept().await else { continue };
        let way = way.clone();
        tokio::spawn(async move {
            // Either end sees that the other one is gone: by the end of its connection.
            let _ = carry(near, to, way).await;
        });
    }
}

async fn carry(near: TcpStream, to: SocketAddr, way: Changing) -> Result<()> {
    let far = TcpStream::connect(to).await.tried(|| format!("connect to {to}"))?;
    for stream in [&near, &far] {
        stream.set_nodelay(true).tried(|| "set up a connection".to_owned())?;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = direction(near_read, far_write, way.clone());
    let back = direction(far_read, near_write, way);
    tokio::try_join!(there, back).map(|_| ())
}

/// Bytes, when they may be written, and their place in the queue.
type Queued = (Bytes, Instant, OwnedSemaphorePermit);

async fn direction(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    way: Changing,
) -> Result<()> {
    let (queue, queued) = mpsc::channel(READS_MAX);
    tokio::try_join!(read(from, queue, way), write(to, queued)).map(|_| ())
}

async fn read(
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<Queued>,
    way: Changing,
) -> Result<()> {
    let room = Arc::new(Semaphore::new(QUEUE_BYTES));
    let mut due = Instant::now();
    loop {
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        let count = from.read_buf(&mut bytes).await.tried(|| "read".to_owned())?;
        if count == 0 {
            return Ok(());
        }
        let places = u32::try_from(count).unwrap_or(u32::MAX);
        let permit = room.clone().acquire_many_owned(places).await;
        let permit = permit.map_err(|_| BenchError::failed("the queue is closed"))?;
        let way = *way.lock().unwrap_or_else(PoisonError::into_inner);
        due = due.max(Instant::now());
        if let Some(rate) = way.bytes_per_second {
            due += Duration::from_secs_f64(count as f64 / rate);
        }
        if queue.send((bytes.freeze(), due + way.delay, permit)).await.is_err() {
            return Ok(());
        }
        if let Some(early) = due.checked_sub(QUEUE_TIME) {
            sleep_until(early).await;
        }
    }
}

async fn write(mut to: impl AsyncWrite + Unpin, mut queued: mpsc::Receiver<Queued>) -> Result<()> {
    while let Some((bytes, due, permit)) = queued.recv().await {
        sleep_until(due).await;
        to.write_all(&bytes).await.tried(|| "write".to_owned())?;
        drop(permit);
    }
    to.shutdown().await.tried(|| "end a connection".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes and answers with one.
    async fn sink(listener: TcpListener, bytes: usize) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = vec![0; bytes];
        stream.read_exact(&mut all).await.unwrap();
        assert!(all.iter().enumerate().all(|(place, byte)| *byte == place as u8));
        stream.write_all(b"!").await.unwrap();
    }

    /// How long so many bytes and the answer to them take.
    fn took(bytes: usize, way: Way) -> Duration {
        runtime().unwrap().block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let proxy = Proxy::start(listener.local_addr().unwrap(), way).unwrap();
            let sunk = tokio::spawn(sink(listener, bytes));
            let start = Instant::now();
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            let data: Vec<u8> = (0..bytes).map(|place| place as u8).collect();
            stream.write_all(&data).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'!');
            sunk.await.unwrap();
            start.elapsed()
        })
    }

    #[test]
    fn bytes_arrive_late_and_no_faster_than_the_rate() {
        let delay = Duration::from_millis(40);
        let late = took(4 << 20, Way { delay, bytes_per_second: None });
        assert!(late >= 2 * delay, "{late:?}");
        let slow = took(300_000, Way { delay: Duration::ZERO, bytes_per_second: Some(1e6) });
        assert!(slow >= Duration::from_millis(299), "{slow:?}");
    }
}
