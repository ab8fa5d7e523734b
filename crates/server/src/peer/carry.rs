//! Carries frames between a stream and the end of the links that run on it, with back-pressure
//! both ways. Who dialled makes no difference here.

use isthmus_replication::frame::Frame;
use isthmus_replication::receive::Inbound;
use isthmus_replication::terms::Direction;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::TICK_EVERY;
use super::dial::OtherRegion;

/// What is written to a stream; an error ends it.
pub(super) type Sender = mpsc::Sender<Result<Frame, Status>>;

/// Ships on a stream as an origin, from greeting to end; returns why it ended. `heard` is called
/// when the replica answers.
pub(super) async fn ship(
    region: &OtherRegion,
    direction: Direction,
    sender: Sender,
    mut answers: Streaming<Frame>,
    heard: impl Fn(),
) -> String {
    region.links().connected(direction);
    let mut tick = tokio::time::interval(TICK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next = None;
    loop {
        if next.is_none() {
            next = region.next_frame(direction);
        }
        // A frame that waits to be written comes first.
        let due_in = if next.is_none() { region.links().due_in() } else { None };
        tokio::select! {
            permit = sender.reserve(), if next.is_some() => match (permit, next.take()) {
                (Ok(permit), Some(frame)) => permit.send(Ok(frame)),
                _ => return "the stream was closed".to_owned(),
            },
            answer = answers.message() => match answer {
                Ok(Some(frame)) => {
                    if let Err(error) = region.links().receive(direction, frame) {
                        return error.to_string();
                    }
                    heard();
                }
                Ok(None) => return "the other region ended the stream".to_owned(),
                Err(status) => return describe(&status),
            },
            () = region.woken(direction) => {}
            () = tokio::time::sleep(due_in.unwrap_or_default()), if due_in.is_some() => {}
            _ = tick.tick() => region.links().tick(),
        }
    }
}

/// Receives on a stream as a replica, from greeting to end. `take` hands a frame on, or tells why
/// the stream must end.
pub(super) async fn receive(
    mut inbound: Inbound,
    mut incoming: Streaming<Frame>,
    sender: Sender,
    take: impl Fn(&mut Inbound, Frame) -> Result<(), Status>,
) -> Option<Status> {
    let mut tick = tokio::time::interval(TICK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next = None;
    loop {
        tokio::select! {
            message = incoming.message(), if !inbound.is_full() => {
                let frame = match message {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                };
                if let Err(refusal) = take(&mut inbound, frame) {
                    tracing::warn!(reason = %refusal.message(), "stream refused");
                    // The stream ends either way; whether the reason arrives does not matter.
                    let _ = sender.send(Err(refusal.clone())).await;
                    return Some(refusal);
                }
            }
            frame = std::future::poll_fn(|context| inbound.poll(context)), if next.is_none() => {
                next = Some(frame);
            }
            permit = sender.reserve(), if next.is_some() => match (permit, next.take()) {
                (Ok(permit), Some(frame)) => permit.send(Ok(frame)),
                _ => return None,
            },
            _ = tick.tick() => inbound.tick(),
        }
    }
}

/// A status and what caused it, in one line.
pub(super) fn describe(status: &Status) -> String {
    let mut line = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(inner) = source {
        line.push_str(": ");
        line.push_str(&inner.to_string());
        source = inner.source();
    }
    line
}
