//! The terminal while it belongs to `top`: keys one by one, a screen of its own, no cursor.
//!
//! Dropping it gives everything back.

use std::io::{IsTerminal, Write, stdin, stdout};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::view::{Colour, Line};
use crate::error::CliError;

/// Another screen, no cursor, long lines cut.
const OPEN: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const CLOSE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Where the system does not tell the size.
const SIZE: (usize, usize) = (80, 24);

/// The terminal.
pub(super) struct Screen {
    before: Termios,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn open() -> Result<Screen, CliError> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Err(CliError::usage("this is no terminal")
                .hint("`isthmus top --once` prints one frame as text"));
        }
        let failed = |error: rustix::io::Errno| CliError::failed(format!("the terminal: {error}"));
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        let screen = Screen { before };
        screen.write(OPEN)?;
        Ok(screen)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            Ok(_) | Err(_) => SIZE,
        }
    }

    /// Shows these lines from the top; what was there goes, without a flicker.
    pub(super) fn show(&self, lines: &[Line]) -> Result<(), CliError> {
        let mut text = String::from("\x1b[H");
        for (place, line) in lines.iter().enumerate() {
            if place > 0 {
                text += "\r\n";
            }
            let code = match line.colour {
                Colour::Plain => "",
                Colour::Heading => "\x1b[1m",
                Colour::Good => "\x1b[32m",
                Colour::Waiting => "\x1b[33m",
                Colour::Bad => "\x1b[31m",
            };
            text += &format!("{code}{}\x1b[0m\x1b[K", line.plain());
        }
        text += "\x1b[J";
        self.write(&text)
    }

    fn write(&self, text: &str) -> Result<(), CliError> {
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| CliError::failed(format!("standard output: {error}")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = self.write(CLOSE);
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
