//! `isthmus top`: regions, links, tables, probes and events on the whole terminal, each second.
//!
//! What must hold: the terminal is given back as it was, however this ends; a region that does not
//! answer holds up neither the keys nor what the others tell; text that came from elsewhere cannot
//! steer the terminal. `view` says what is shown, `screen` knows the terminal; here it is asked
//! for.

mod screen;
mod view;

use std::io::Read;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;

use self::screen::Screen;
use self::view::{Key, View};
use crate::error::CliError;
use crate::events;
use crate::output;
use crate::status;
use crate::target::{Place, TargetArgs};

/// Keys that wait to be looked at.
const KEYS_MAX: usize = 64;
/// Events that are shown.
const EVENTS_MAX: usize = 200;

/// Arguments of `isthmus top`.
#[derive(Args, Debug)]
#[command(after_help = "\
Keys: Tab and Shift-Tab choose what is shown, the arrows and PageUp, PageDown scroll, q ends it.

Examples:
  isthmus top
  isthmus top --config /etc/isthmus/eu.toml
  isthmus top --once --width 160")]
pub(crate) struct TopArgs {
    /// Print one frame as text, everything on it, and end
    #[arg(long)]
    once: bool,
    /// Columns of the frame, with --once
    #[arg(long, value_name = "N", default_value_t = 160,
        value_parser = clap::value_parser!(u16).range(40..=1000))]
    width: u16,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = status::seconds)]
    interval: f64,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Shows the view until `q`, or once.
pub(crate) async fn run(args: TopArgs) -> Result<(), CliError> {
    let places = args.target.places()?;
    let mut view = View::default();
    if args.once {
        look(&places, &mut view).await?;
        let lines = view.all(args.width.into());
        return output::line(&lines.iter().map(|line| line.plain()).collect::<Vec<_>>().join("\n"));
    }
    let screen = Screen::open()?;
    let (sender, mut keys) = mpsc::channel(KEYS_MAX);
    tokio::task::spawn_blocking(move || read_keys(&sender));
    let mut tick = tokio::time::interval(Duration::from_secs_f64(args.interval));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let key = tokio::select! {
            _ = tick.tick() => {
                // Keys go on while regions are asked; a key ends the wait for a slow one.
                tokio::select! {
                    looked = look(&places, &mut view) => {
                        looked?;
                        None
                    }
                    key = keys.recv() => Some(key),
                }
            }
            key = keys.recv() => Some(key),
        };
        match key {
            None => {}
            // Without a keyboard nothing else could end it.
            Some(None | Some(Key::Quit)) => return Ok(()),
            Some(Some(key)) => view.press(key),
        }
        let (width, height) = screen.size();
        screen.show(&view.screen(width, height))?;
    }
}

/// Gives what is typed, until there is no keyboard or nobody who wants it.
fn read_keys(to: &mpsc::Sender<Key>) {
    let mut bytes = [0; 64];
    while let Ok(read @ 1..) = std::io::stdin().read(&mut bytes) {
        for key in view::keys(&bytes[..read]) {
            if to.blocking_send(key).is_err() {
                return;
            }
        }
    }
}

/// Asks all regions for what is shown.
async fn look(places: &[Place], view: &mut View) -> Result<(), CliError> {
    let told = status::ask(places, None).await?;
    view.tell(told, events::newest(places, EVENTS_MAX).await);
    Ok(())
}
