//! A connection whose client must keep its pace.
//!
//! A request's head must come whole within a short time of its first byte; between two requests a
//! connection may be idle for long; what a client asked for it must keep taking. While a request
//! is in work, whoever serves it watches the time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const IN_WORK: u8 = 2;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two requests.
    pub idle: Duration,
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// Until it takes some of an answer.
    pub write: Duration,
}

/// Tells a connection that a head was read.
#[derive(Clone, Debug)]
pub struct HeadWatch(Arc<AtomicU8>);

impl HeadWatch {
    /// The head was read; the request is in work.
    pub fn head_read(&self) {
        self.0.store(IN_WORK, Ordering::Relaxed);
    }
}

/// Ends a connection whose client does not keep its pace.
pub struct TimedStream {
    stream: TcpStream,
    patience: Patience,
    phase: Arc<AtomicU8>,
    /// The phase for which the read timer runs.
    timed: Option<u8>,
    reading: Pin<Box<Sleep>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    /// Wraps a connection.
    pub fn new(stream: TcpStream, patience: Patience) -> TimedStream {
        TimedStream {
            stream,
            patience,
            phase: Arc::new(AtomicU8::new(IDLE)),
            timed: None,
            reading: Box::pin(tokio::time::sleep(patience.idle)),
            writing: None,
        }
    }

    /// Tells the connection that a head was read.
    pub fn head_watch(&self) -> HeadWatch {
        HeadWatch(self.phase.clone())
    }

    fn judge_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.phase.load(Ordering::Relaxed);
        let patience = match phase {
            IDLE => self.patience.idle,
            HEAD => self.patience.head,
            _ => return Poll::Pending,
        };
        if self.timed != Some(phase) {
            self.timed = Some(phase);
            self.reading.as_mut().reset(Instant::now() + patience);
        }
        match self.reading.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn judge_write<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.writing = None;
            // What is written ends a request; the next byte read begins another one.
            self.phase.store(IDLE, Ordering::Relaxed);
            self.timed = None;
            return progress;
        }
        let patience = self.patience.write;
        let writing = self.writing.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match writing.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.judge_read(context),
            ready => {
                // The first byte after an answer is the first of a head.
                let _ =
                    self.phase.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed);
                ready
            }
        }
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.judge_write(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.judge_write(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked at every turn, also while a head is read: it tells nothing about the client.
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
