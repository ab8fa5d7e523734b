//! What a link does by what it is told, from opening to the last acknowledgement.

use bytes::Bytes;
use isthmus_model::ids::{Epoch, Lsn};

use super::{Action, Event, Link, State};
use crate::frame::{CopyProgress, FaultKind};
use crate::terms::Wish;
use crate::timing::Copies;

const WINDOW: usize = 8;

fn opened(link: &mut Link, watermark: u64, log_start: u64) {
    link.step(Event::Connected);
    assert_eq!(link.next(), Some(Action::Open));
    link.done(&Action::Open);
    assert_eq!(link.next(), None);
    link.step(Event::Opened {
        watermark: Lsn(watermark),
        copy: None,
        must_copy: false,
        incomplete: false,
        log_start: Lsn(log_start),
    });
}

fn following(appended: u64) -> Link {
    let mut link = Link::new(Epoch(1), Lsn(0), WINDOW);
    opened(&mut link, 0, 0);
    assert_eq!(link.next(), Some(Action::Follow));
    link.done(&Action::Follow);
    link.step(Event::Appended(Lsn(appended)));
    link
}

#[test]
fn replica_that_needs_nothing_else_follows_at_once() {
    let mut link = following(5);
    assert_eq!(link.next(), Some(Action::Send(Lsn(0))));
    link.step(Event::Sent { to: Lsn(5), bytes: 10 });
    assert_eq!(link.next(), None);
    link.step(Event::Acked(Lsn(5)));
    assert_eq!(link.acked(), Some(Lsn(5)));
    assert!(link.is_caught_up());
}

#[test]
fn window_bounds_what_is_under_way() {
    let mut link = following(1_000);
    let mut sent = 0;
    while let Some(Action::Send(after)) = link.next() {
        link.step(Event::Sent { to: after.next(), bytes: 10 });
        sent += 1;
    }
    assert_eq!(sent, WINDOW);
    link.step(Event::Acked(Lsn(1)));
    assert!(link.next().is_some());
}

#[test]
fn lost_stream_rewinds_to_what_the_replica_holds() {
    let mut link = following(9);
    link.step(Event::Sent { to: Lsn(9), bytes: 10 });
    link.step(Event::Disconnected("reset".to_owned()));
    assert_eq!((link.state(), link.next()), (State::Opening, None));
    opened(&mut link, 4, 0);
    assert_eq!(link.next(), Some(Action::Send(Lsn(4))));
    // Until it has what was there when it opened, it may be a mixture.
    link.step(Event::Sent { to: Lsn(9), bytes: 10 });
    assert_eq!(link.next(), None);
    link.step(Event::Acked(Lsn(9)));
    assert_eq!(link.next(), Some(Action::Follow));
}

#[test]
fn trimmed_log_is_healed_by_a_copy_and_then_followed() {
    let mut link = Link::new(Epoch(1), Lsn(90), WINDOW);
    opened(&mut link, 3, 50);
    assert_eq!((link.state(), link.needs_after()), (State::Gap, None));
    let begin = link.next().unwrap();
    assert_eq!(begin, Action::BeginCopy(None));
    link.done(&begin);
    let progress = CopyProgress { first_lsn: 90, ..CopyProgress::default() };
    link.step(Event::CopyBegan { progress, offers: false });
    assert_eq!(link.needs_after(), Some(Lsn(90)));
    assert_eq!(link.next(), Some(Action::SendChunk(Bytes::new())));
    assert_eq!(link.held(), None);
    let key = Bytes::from_static(b"m");
    link.step(Event::ChunkSent { number: 1, bytes: 5, next_key: Some(key.clone()), rows: 1 });
    assert_eq!(link.next(), Some(Action::SendChunk(key)));
    link.step(Event::ChunkSent { number: 2, bytes: 5, next_key: None, rows: 1 });
    assert_eq!(link.next(), None);
    link.step(Event::ChunkAcked(1));
    assert_eq!(link.state(), State::Copying);
    link.step(Event::ChunkAcked(2));
    assert_eq!((link.state(), link.acked()), (State::Following, Some(Lsn(90))));
    // Until it was told that it follows, it may be read as a mixture.
    assert_eq!(link.held(), None);
    assert_eq!(link.next(), Some(Action::Follow));
    link.done(&Action::Follow);
    assert_eq!(link.held(), Some(Lsn(90)));
}

/// A link that copies with offers, from the beginning, and has offered as much as it may.
fn offering(window: usize) -> Link {
    let mut link = Link::new(Epoch(1), Lsn(90), window);
    opened(&mut link, 3, 50);
    let begin = link.next().unwrap();
    link.done(&begin);
    let progress = CopyProgress { first_lsn: 90, ..CopyProgress::default() };
    link.step(Event::CopyBegan { progress, offers: true });
    link
}

fn key_of(number: u64) -> Bytes {
    Bytes::copy_from_slice(&[number as u8])
}

#[test]
fn ranges_are_offered_ahead_and_sent_in_order_as_they_are_answered() {
    let mut link = offering(3);
    assert_eq!(link.next(), Some(Action::Offer(Bytes::new())));
    for number in 1..=3 {
        let next_key = (number < 3).then(|| key_of(number));
        link.step(Event::Offered { number, next_key });
    }
    assert_eq!(link.next(), None);
    link.step(Event::Wanted(1));
    let (start, end) = (Bytes::new(), Some(key_of(1)));
    assert_eq!(link.next(), Some(Action::SendWanted { offer: 1, start, end: end.clone() }));
    // A range may take several chunks.
    let start = Bytes::from_static(&[0, 7]);
    let next_key = Some(start.clone());
    link.step(Event::ChunkSent { number: 1, bytes: 5, next_key, rows: 2 });
    assert_eq!(link.next(), Some(Action::SendWanted { offer: 1, start, end: end.clone() }));
    link.step(Event::ChunkSent { number: 2, bytes: 5, next_key: end, rows: 2 });
    assert_eq!(link.next(), None, "the next range is not answered");
    link.step(Event::Wanted(2));
    link.step(Event::Wanted(3));
    link.step(Event::ChunkSent { number: 3, bytes: 0, next_key: Some(key_of(2)), rows: 0 });
    assert_eq!(link.next(), None, "three chunks are under way");
    link.step(Event::ChunkAcked(1));
    let (start, end) = (key_of(2), None);
    assert_eq!(link.next(), Some(Action::SendWanted { offer: 3, start, end }));
    link.step(Event::ChunkSent { number: 4, bytes: 0, next_key: None, rows: 1 });
    for number in 2..=4 {
        assert_eq!(link.state(), State::Copying);
        link.step(Event::ChunkAcked(number));
    }
    assert_eq!((link.state(), link.acked()), (State::Following, Some(Lsn(90))));
    assert_eq!(link.copied_rows(), 5);
}

#[test]
fn answer_out_of_order_breaks_the_link() {
    for number in [0, 2, 9] {
        let mut link = offering(3);
        link.step(Event::Offered { number: 1, next_key: Some(key_of(1)) });
        link.step(Event::Offered { number: 2, next_key: None });
        link.step(Event::Wanted(number));
        assert_eq!((link.state(), link.next()), (State::Broken, None));
    }
    let mut link = offering(3);
    link.step(Event::Wanted(1));
    assert_eq!(link.state(), State::Broken);
}

#[test]
fn lost_stream_forgets_what_was_offered() {
    let mut link = offering(3);
    link.step(Event::Offered { number: 1, next_key: Some(key_of(1)) });
    link.step(Event::Disconnected(String::new()));
    link.step(Event::Connected);
    link.done(&Action::Open);
    let progress = CopyProgress { first_lsn: 90, ..CopyProgress::default() };
    let (copy, log_start) = (Some(progress.clone()), Lsn(50));
    link.step(Event::Opened {
        watermark: Lsn(3),
        copy,
        must_copy: false,
        incomplete: false,
        log_start,
    });
    assert_eq!(link.next(), Some(Action::BeginCopy(Some(progress.clone()))));
    link.done(&Action::BeginCopy(None));
    link.step(Event::CopyBegan { progress, offers: true });
    assert_eq!(link.next(), Some(Action::Offer(Bytes::new())));
}

#[test]
fn replica_with_a_past_is_copied_though_the_log_is_there() {
    let mut link = Link::new(Epoch(1), Lsn(9), WINDOW);
    link.step(Event::Connected);
    link.done(&Action::Open);
    let (watermark, log_start) = (Lsn(12), Lsn(0));
    link.step(Event::Opened {
        watermark,
        copy: None,
        must_copy: true,
        incomplete: true,
        log_start,
    });
    assert_eq!((link.state(), link.next()), (State::Gap, Some(Action::BeginCopy(None))));
}

#[test]
fn copy_goes_on_where_the_replica_says() {
    let mut link = Link::new(Epoch(1), Lsn(90), WINDOW);
    link.step(Event::Connected);
    link.done(&Action::Open);
    let progress = CopyProgress {
        first_lsn: 60,
        next_key: Bytes::from_static(b"k"),
        ..CopyProgress::default()
    };
    link.step(Event::Opened {
        watermark: Lsn(0),
        copy: Some(progress.clone()),
        must_copy: true,
        incomplete: true,
        log_start: Lsn(50),
    });
    assert_eq!(link.next(), Some(Action::BeginCopy(Some(progress))));
}

#[test]
fn acknowledgement_of_what_was_never_shipped_breaks_the_link() {
    let mut link = following(9);
    link.step(Event::Acked(Lsn(3)));
    assert_eq!((link.state(), link.next()), (State::Broken, None));
}

#[test]
fn paused_link_ships_nothing_and_goes_on_where_it_was() {
    let mut link = following(9);
    link.step(Event::Sent { to: Lsn(5), bytes: 10 });
    link.step(Event::Asked(Wish::Pause));
    assert_eq!((link.state(), link.next()), (State::Paused, None));
    // What was under way arrives.
    link.step(Event::Acked(Lsn(5)));
    assert_eq!((link.acked(), link.needs_after()), (Some(Lsn(5)), Some(Lsn(5))));
    assert!(!link.is_caught_up());
    // A new stream tells where the replica stands, and no more.
    link.step(Event::Disconnected(String::new()));
    opened(&mut link, 5, 0);
    assert_eq!((link.state(), link.next()), (State::Paused, None));
    link.step(Event::Asked(Wish::Run));
    assert_eq!((link.state(), link.next()), (State::Following, Some(Action::Send(Lsn(5)))));
}

#[test]
fn copy_that_is_paused_gives_up_its_snapshot_and_goes_on_from_another() {
    let mut link = offering(3);
    link.step(Event::Offered { number: 1, next_key: Some(key_of(1)) });
    link.step(Event::Asked(Wish::Pause));
    assert_eq!((link.state(), link.next()), (State::Paused, Some(Action::Open)));
    link.done(&Action::Open);
    let progress = CopyProgress { first_lsn: 90, ..CopyProgress::default() };
    let (copy, log_start) = (Some(progress.clone()), Lsn(50));
    let answer =
        Event::Opened { watermark: Lsn(3), copy, must_copy: false, incomplete: false, log_start };
    link.step(answer.clone());
    assert_eq!((link.state(), link.next()), (State::Paused, None));
    link.step(Event::Asked(Wish::Run));
    assert_eq!(link.next(), Some(Action::Open));
    link.done(&Action::Open);
    link.step(answer);
    assert_eq!(link.next(), Some(Action::BeginCopy(Some(progress))));
}

#[test]
fn no_more_is_shipped_than_is_released() {
    let mut link = following(9);
    link.step(Event::Released { through: Lsn(0), copies: Copies::Now });
    assert_eq!((link.state(), link.next()), (State::Following, None));
    link.step(Event::Released { through: Lsn(4), copies: Copies::Now });
    assert_eq!(link.next(), Some(Action::Send(Lsn(0))));
    link.step(Event::Sent { to: Lsn(4), bytes: 10 });
    assert_eq!((link.next(), link.is_caught_up()), (None, false));
}

#[test]
fn what_makes_a_copy_complete_is_shipped_whatever_the_timing() {
    let mut link = offering(3);
    link.step(Event::Offered { number: 1, next_key: None });
    link.step(Event::Wanted(1));
    link.step(Event::ChunkSent { number: 1, bytes: 5, next_key: None, rows: 2 });
    link.step(Event::Released { through: Lsn(0), copies: Copies::Now });
    link.step(Event::Appended(Lsn(95)));
    link.step(Event::ChunkAcked(1));
    assert_eq!(link.next(), Some(Action::Send(Lsn(90))));
    link.step(Event::Sent { to: Lsn(95), bytes: 10 });
    link.step(Event::Acked(Lsn(95)));
    assert_eq!(link.next(), Some(Action::Follow));
    link.done(&Action::Follow);
    link.step(Event::Appended(Lsn(99)));
    assert_eq!(link.next(), None);
}

#[test]
fn copy_waits_for_its_window() {
    let mut link = offering(3);
    link.step(Event::Released { through: Lsn(0), copies: Copies::InWindow });
    assert_eq!(link.next(), Some(Action::Open));
    link.done(&Action::Open);
    let log_start = Lsn(50);
    let answer = Event::Opened {
        watermark: Lsn(3),
        copy: None,
        must_copy: false,
        incomplete: false,
        log_start,
    };
    link.step(answer);
    assert_eq!((link.state(), link.next()), (State::Gap, None));
    assert!(link.reason().contains("when a window opens"), "{}", link.reason());
    link.step(Event::Released { through: Lsn(99), copies: Copies::Now });
    assert_eq!(link.next(), Some(Action::BeginCopy(None)));
}

#[test]
fn copy_that_waits_to_be_asked_for_says_so() {
    let mut link = Link::new(Epoch(1), Lsn(90), WINDOW);
    opened(&mut link, 3, 50);
    assert!(link.has_fallen_out());
    link.step(Event::Released { through: Lsn(0), copies: Copies::WhenAsked });
    assert_eq!((link.state(), link.next()), (State::Gap, None));
    assert!(link.reason().contains("isthmus link trigger"), "{}", link.reason());
    assert_eq!(link.needs_after(), Some(Lsn(u64::MAX)), "nothing is kept for it");
    link.step(Event::Released { through: Lsn(0), copies: Copies::Now });
    assert_eq!(link.next(), Some(Action::BeginCopy(None)));
}

#[test]
fn stopped_link_opens_anew_when_it_runs_again() {
    let mut link = following(9);
    link.step(Event::Sent { to: Lsn(5), bytes: 10 });
    link.step(Event::Asked(Wish::Stop));
    assert_eq!((link.state(), link.next()), (State::Stopped, None));
    link.step(Event::Disconnected(String::new()));
    link.step(Event::Connected);
    assert_eq!((link.state(), link.next()), (State::Stopped, None));
    link.step(Event::Asked(Wish::Run));
    opened(&mut link, 5, 7);
    assert_eq!((link.state(), link.next()), (State::Gap, Some(Action::BeginCopy(None))));
}

#[test]
fn fenced_link_stays_fenced_when_the_stream_returns() {
    let mut link = following(9);
    link.step(Event::Faulted(FaultKind::Fenced, "epoch 2 is known".to_owned()));
    link.step(Event::Disconnected(String::new()));
    link.step(Event::Connected);
    assert_eq!((link.state(), link.next()), (State::Fenced, None));
}

#[test]
fn fenced_link_opens_anew_under_a_newer_epoch() {
    let mut link = following(9);
    link.step(Event::Faulted(FaultKind::Fenced, "epoch 2 is known".to_owned()));
    link.step(Event::Epoch(Epoch(1)));
    assert_eq!((link.state(), link.next()), (State::Fenced, None));
    link.step(Event::Epoch(Epoch(2)));
    assert_eq!((link.epoch, link.next()), (Epoch(2), Some(Action::Open)));
}

#[test]
fn region_that_lacks_something_begins_no_copy_until_it_has_all() {
    let mut link = Link::new(Epoch(1), Lsn(90), WINDOW);
    link.step(Event::Whole(false));
    opened(&mut link, 3, 50);
    assert_eq!((link.state(), link.next()), (State::Gap, None));
    assert!(link.reason().contains("has not all of the table"), "{}", link.reason());
    link.step(Event::Whole(true));
    opened(&mut link, 3, 50);
    assert_eq!(link.next(), Some(Action::BeginCopy(None)));
}

#[test]
fn region_that_lacks_something_ships_its_log_and_gives_back_what_was_lost() {
    let mut link = Link::new(Epoch(1), Lsn(90), WINDOW);
    link.step(Event::Whole(false));
    opened(&mut link, 60, 50);
    assert_eq!(link.next(), Some(Action::Send(Lsn(60))));
    link.step(Event::Disconnected("reset".to_owned()));
    link.step(Event::Connected);
    link.done(&Action::Open);
    link.step(Event::Opened {
        watermark: Lsn(60),
        copy: None,
        must_copy: true,
        incomplete: true,
        log_start: Lsn(50),
    });
    assert_eq!(link.next(), Some(Action::BeginCopy(None)));
}
