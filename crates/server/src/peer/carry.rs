//! Carries frames between a stream and the end of the links that run on it, with back-pressure
//! both ways. Who dialled makes no difference here.

use isthmus_replication::frame::{Body, Frame};
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
                (Ok(permit), Some(frame)) => {
                    if matches!(frame.body, Some(Body::Parcel(_) | Body::CopyChunk(_))) {
                        region.traffic().asked();
                    }
                    hand_over(permit, frame).await;
                }
                _ => return "the stream was closed".to_owned(),
            },
            answer = answers.message() => match answer {
                Ok(Some(frame)) => {
                    region.traffic().answered();
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
            // What is to be said goes before what comes, which may take long to take in.
            biased;
            permit = sender.reserve(), if next.is_some() => match (permit, next.take()) {
                (Ok(permit), Some(frame)) => hand_over(permit, frame).await,
                _ => return None,
            },
            frame = std::future::poll_fn(|context| inbound.poll(context)), if next.is_none() => {
                next = Some(frame);
            }
            _ = tick.tick() => inbound.tick(),
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
        }
    }
}

/// Hands a frame over to the task that writes it. To make the next frame of a copy takes long, and
/// on this thread that task can run only when this one pauses: without that both sides would work
/// in turns.
async fn hand_over(permit: mpsc::Permit<'_, Result<Frame, Status>>, frame: Frame) {
    let is_of_copy = matches!(frame.body, Some(Body::CopyChunk(_) | Body::CopyWant(_)));
    permit.send(Ok(frame));
    if is_of_copy {
        tokio::task::yield_now().await;
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
