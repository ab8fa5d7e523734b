//! Progress on a terminal, on the error stream only, and nothing where there is no terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output;

/// One line that changes.
pub(crate) struct Line(ProgressBar);

impl Line {
    /// Shown only where someone can see it.
    pub(crate) fn new(shown: bool) -> Line {
        let bar = ProgressBar::with_draw_target(None, target(shown));
        bar.set_style(style("{spinner} {wide_msg}"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Line(bar)
    }

    pub(crate) fn set(&self, text: &str) {
        self.0.set_message(text.to_owned());
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Bytes of a file, with rate and time left; rows are told in words.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// For a file of so many bytes, of which these are done.
    pub(crate) fn new(shown: bool, bytes: u64, done: u64) -> Bar {
        let bar = ProgressBar::with_draw_target(Some(bytes), target(shown));
        let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", output::span(state.eta().as_millis() as u64));
        };
        let text = "{bar:30} {percent}%  {bytes} of {total_bytes}  {left} left  {msg}";
        bar.set_style(style(text).with_key("left", left).progress_chars("=> "));
        bar.set_position(done);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        Bar(bar)
    }

    pub(crate) fn set(&self, bytes: u64, rows: u64, rows_per_second: f64) {
        self.0.set_position(bytes);
        let rate = HumanCount(rows_per_second as u64);
        self.0.set_message(format!("{} rows  {rate} rows/s", HumanCount(rows)));
    }

    /// Prints a line above the bar.
    pub(crate) fn note(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// How much of a job is done, as the region tells it.
pub(crate) struct Share(ProgressBar);

/// Steps of a whole job on the bar.
const STEPS: u64 = 1000;

impl Share {
    /// Shown only where someone can see it.
    pub(crate) fn new(shown: bool) -> Share {
        let bar = ProgressBar::with_draw_target(Some(STEPS), target(shown));
        bar.set_style(style("{bar:30} {percent}%  {wide_msg}").progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(500));
        Share(bar)
    }

    pub(crate) fn set(&self, fraction: f64, text: &str) {
        self.0.set_position((fraction.clamp(0.0, 1.0) * STEPS as f64) as u64);
        self.0.set_message(text.to_owned());
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// A count as people read it.
pub(crate) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

fn target(shown: bool) -> ProgressDrawTarget {
    if shown && std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(5)
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn style(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar())
}
