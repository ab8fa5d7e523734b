//! Looks at the clocks of the other regions, and stops writes while this region's own is off.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::clocks::{Look, Verdict};
use isthmus_protocol::error_code::ErrorCode;
use prost::Message as _;
use serde_json::json;
use tokio::sync::watch;

use super::Node;
use super::events::EventKind;
use crate::api_error::{ApiError, sentence};
use crate::peer::call::{Question, Time, TimeTold};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// An answer that takes longer tells too little.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

impl Node {
    /// Compares clocks again and again, until `stop` says so.
    pub async fn watch_clocks(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        if self.others.is_empty() {
            return;
        }
        while !*stop.borrow() {
            for region in self.others.keys() {
                self.look_at_clock(region).await;
            }
            self.judge_clock();
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    async fn look_at_clock(&self, region: &str) {
        let (wall, began) = (self.clock.wall_millis(), self.clock.monotonic());
        let asked = self.ask(region, Question::Time(Time {}));
        // One that does not answer, or is too old to, tells nothing.
        let Ok(Ok(told)) = tokio::time::timeout(LOOK_TIMEOUT, asked).await else { return };
        let Ok(TimeTold { wall_millis }) = TimeTold::decode(told) else { return };
        let at = self.clock.monotonic();
        let doubt_millis = (at.saturating_sub(began).as_millis() as i64 + 1) / 2;
        let offset_millis = wall_millis - (wall + doubt_millis);
        self.clocks.lock().look(region, Look { offset_millis, doubt_millis, at });
    }

    fn judge_clock(&self) {
        let verdict = self.clocks.lock().judge(self.clock.monotonic());
        match verdict {
            Some(Verdict::Off(reason)) => {
                let text = format!("{reason}; writes of global tables are refused here");
                self.notice(EventKind::ClockOff, "", text, json!({}));
            }
            Some(Verdict::Right) => {
                let text = "the clock of this region is right again".to_owned();
                self.notice(EventKind::ClockRight, "", text, json!({}));
            }
            None => {}
        }
    }

    /// Why writes of global tables are refused, if the clock is the reason.
    pub(super) fn clock_is_off(&self) -> Option<String> {
        self.clocks.lock().off().map(str::to_owned)
    }

    /// Refuses where the clock is off.
    pub(super) fn check_clock(&self) -> Result<(), ApiError> {
        match self.clock_is_off() {
            None => Ok(()),
            Some(reason) => {
                let message = format!("Server is not available. {}", sentence(&reason));
                Err(ApiError::new(ErrorCode::ServerUnavailable, message))
            }
        }
    }

    pub(super) fn tell_time(&self) -> Bytes {
        TimeTold { wall_millis: self.clock.wall_millis() }.encode_to_vec().into()
    }
}
