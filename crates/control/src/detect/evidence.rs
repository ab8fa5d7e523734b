//! What was seen of a region, for people and programs.

use std::time::Duration;

use super::Detector;

/// When a region was last heard, and how: how long ago each was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// A renewal by which it showed that it hears as well.
    pub renewal: Option<Duration>,
    /// A frame of one of its links.
    pub frame: Option<Duration>,
    /// An answer to a probe that said that it is well.
    pub answer: Option<Duration>,
    /// A probe of its own that said that it hears this region.
    pub question: Option<Duration>,
    /// How long the newest answer took.
    pub round_trip: Option<Duration>,
    /// For how long a link has waited for an answer.
    pub owed: Option<Duration>,
}

impl Detector {
    /// When it was last heard, and how.
    pub fn told(&self, now: Duration) -> Heard {
        let ago = |at: Duration| now.saturating_sub(at);
        Heard {
            renewal: (self.healthy_renewal > 0).then(|| ago(self.renewals.last())),
            frame: self.frame_at.map(ago),
            answer: self.answer_at.map(ago),
            question: self.question_at.map(ago),
            round_trip: self.round_trip,
            owed: self.awaits_since.map(ago),
        }
    }

    pub(super) fn tell_renewals(&self, now: Duration) -> String {
        let silence = now.saturating_sub(self.renewals.last()).as_millis();
        let is_heard = self.heard_at.is_some_and(|at| at > self.renewals.last());
        let phi = self.renewals.phi(now);
        let mut told = match is_heard {
            true => {
                format!("it renews and for {silence} ms has not heard the answers, phi {phi:.1}")
            }
            false => format!("no renewal for {silence} ms, phi {phi:.1}"),
        };
        self.tell_heard(now, false, &mut told);
        told
    }

    pub(super) fn tell_signs(&self, now: Duration) -> String {
        let silence = now.saturating_sub(self.signs.last()).as_millis();
        let phi = self.signs.phi(now);
        let mut told = match self.unanswered {
            0 => format!("its links owe an answer and are silent for {silence} ms, phi {phi:.1}"),
            probes => {
                format!("silent for {silence} ms, phi {phi:.1}, {probes} probes not answered")
            }
        };
        self.tell_heard(now, true, &mut told);
        told
    }

    pub(crate) fn tell_alive(&self, now: Duration) -> String {
        let mut told = format!("steady again, phi {:.1}", self.phi(now));
        self.tell_heard(now, true, &mut told);
        told
    }

    fn tell_heard(&self, now: Duration, with_renewals: bool, told: &mut String) {
        let heard = self.told(now);
        let kinds = [
            ("a renewal", heard.renewal.filter(|_| with_renewals)),
            ("a link frame", heard.frame),
            ("an answer", heard.answer),
            ("a probe of it", heard.question),
        ];
        for (kind, ago) in kinds {
            if let Some(ago) = ago {
                told.push_str(&format!(", {kind} {} ms ago", ago.as_millis()));
            }
        }
        if let Some(error) = &self.last_error {
            told.push_str(&format!(", last error: {error}"));
        }
    }
}
