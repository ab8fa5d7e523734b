//! What `isthmus top` shows and how keys change it. Makes lines, asks nobody.

use isthmus_server::status::{LinkState, LinkStatus, Ratios, Status};

use crate::events::Told as ToldEvent;
use crate::output;
use crate::status::{Told, age, links};

/// Rows of regions that are shown at most.
const REGIONS_MAX: usize = 10;
/// Rows that one page scrolls.
const PAGE: isize = 20;

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// End.
    Quit,
    /// The next panel.
    Next,
    /// The panel before.
    Previous,
    /// Down by so many rows, or up.
    Scroll(isize),
}

/// The keys in what a terminal sent. What means nothing is passed over.
pub(super) fn keys(mut bytes: &[u8]) -> Vec<Key> {
    const KNOWN: [(&[u8], Key); 12] = [
        (b"\x1b[A", Key::Scroll(-1)),
        (b"\x1b[B", Key::Scroll(1)),
        (b"\x1b[C", Key::Next),
        (b"\x1b[D", Key::Previous),
        (b"\x1b[Z", Key::Previous),
        (b"\x1b[5~", Key::Scroll(-PAGE)),
        (b"\x1b[6~", Key::Scroll(PAGE)),
        (b"\t", Key::Next),
        (b"q", Key::Quit),
        (b"Q", Key::Quit),
        // Ctrl-C and Ctrl-D come as bytes while the terminal is raw.
        (b"\x03", Key::Quit),
        (b"\x04", Key::Quit),
    ];
    let mut found = Vec::new();
    while !bytes.is_empty() {
        match KNOWN.iter().find(|(known, _)| bytes.starts_with(known)) {
            Some((known, key)) => {
                found.push(*key);
                bytes = &bytes[known.len()..];
            }
            None => bytes = &bytes[1..],
        }
    }
    found
}

/// How a line is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// As it is.
    Plain,
    /// A heading.
    Heading,
    /// All is well.
    Good,
    /// Something waits.
    Waiting,
    /// Somebody should look.
    Bad,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    text: String,
    /// How it is shown.
    pub(super) colour: Colour,
}

impl Line {
    /// Its text, without control characters.
    pub(super) fn plain(&self) -> &str {
        &self.text
    }
}

/// What is shown below the regions.
const PANELS: [&str; 4] = ["links", "tables", "probes", "events"];

/// Rows under headings.
struct Panel {
    title: &'static str,
    headings: Vec<&'static str>,
    rows: Vec<(Vec<String>, Colour)>,
}

impl Panel {
    /// Its rows from one on, at most so many, at most so wide, below title and headings.
    fn lines(&self, scrolled: usize, rows_max: usize, width: usize) -> Vec<Line> {
        let shown: Vec<&(Vec<String>, Colour)> =
            self.rows.iter().skip(scrolled).take(rows_max).collect();
        let all = self.rows.len();
        let title = match shown.len() == all {
            true => format!("-- {} ", self.title),
            false => {
                let last = scrolled + shown.len();
                format!("-- {} {} to {last} of {all} ", self.title, scrolled + 1)
            }
        };
        let rows: Vec<Vec<String>> = shown.iter().map(|(cells, _)| cells.clone()).collect();
        let text = output::table_text(&self.headings, &rows);
        let colours = shown.iter().map(|(_, colour)| *colour);
        let colours = std::iter::once(Colour::Heading).chain(colours);
        let cut = |text: &str| text.chars().take(width).collect::<String>();
        let mut lines =
            vec![Line { text: cut(&format!("{title:-<width$}")), colour: Colour::Plain }];
        let table = text.lines().zip(colours);
        lines.extend(table.map(|(text, colour)| Line { text: cut(text), colour }));
        lines
    }
}

/// What is shown.
#[derive(Default)]
pub(super) struct View {
    told: Vec<Told>,
    events: Vec<ToldEvent>,
    panel: usize,
    scrolled: usize,
}

impl View {
    /// Takes in what the regions told.
    pub(super) fn tell(&mut self, told: Vec<Told>, events: Vec<ToldEvent>) {
        (self.told, self.events) = (told, events);
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: Key) {
        match key {
            Key::Quit => {}
            Key::Next => (self.panel, self.scrolled) = ((self.panel + 1) % PANELS.len(), 0),
            Key::Previous => {
                let before = (self.panel + PANELS.len() - 1) % PANELS.len();
                (self.panel, self.scrolled) = (before, 0);
            }
            Key::Scroll(rows) => {
                let last = self.chosen().rows.len().saturating_sub(1);
                self.scrolled = self.scrolled.saturating_add_signed(rows).min(last);
            }
        }
    }

    /// The regions, the chosen panel and the keys, on a screen of that size.
    pub(super) fn screen(&self, width: usize, height: usize) -> Vec<Line> {
        let mut lines = self.regions().lines(0, REGIONS_MAX, width);
        let left = height.saturating_sub(lines.len() + 3);
        lines.extend(self.chosen().lines(self.scrolled, left, width));
        lines.truncate(height.saturating_sub(1));
        lines.resize(height.saturating_sub(1), Line { text: String::new(), colour: Colour::Plain });
        let tabs = PANELS.iter().enumerate().map(|(place, name)| match place == self.panel {
            true => format!("[{name}]"),
            false => format!(" {name} "),
        });
        let keys = tabs.collect::<String>() + "   Tab: next   arrows: scroll   q: end";
        let text = keys.chars().take(width).collect();
        lines.push(Line { text, colour: Colour::Heading });
        lines
    }

    /// All panels whole, one below the other.
    pub(super) fn all(&self, width: usize) -> Vec<Line> {
        let panels = [self.regions(), self.links(), self.tables(), self.probes(), self.events()];
        panels.iter().flat_map(|panel| panel.lines(0, usize::MAX, width)).collect()
    }

    fn chosen(&self) -> Panel {
        match self.panel {
            0 => self.links(),
            1 => self.tables(),
            2 => self.probes(),
            _ => self.events(),
        }
    }

    fn answers(&self) -> impl Iterator<Item = &Status> {
        self.told.iter().filter_map(|told| told.status.as_ref().ok())
    }

    fn regions(&self) -> Panel {
        let links = links(&self.told);
        let row = |told: &Told| match &told.status {
            Ok(status) => {
                let (mut entries, mut bytes) = (0.0, 0.0);
                for (link, _) in links.iter().filter(|(link, _)| link.from == status.region) {
                    entries += link.entries_rate;
                    bytes += link.wire_bytes_rate;
                }
                let refuses = status.refuses_writes.as_deref();
                let cells = vec![
                    output::plain(&status.region),
                    refuses.map_or_else(|| "serving".to_owned(), output::plain),
                    age(status.now_ms, status.serving_since_ms),
                    status.tables.len().to_string(),
                    each_second(entries),
                    bytes_each_second(bytes),
                    status.memory_bytes.map_or_else(String::new, output::bytes),
                    status.disk_bytes.map_or_else(String::new, output::bytes),
                    status.disk_free_bytes.map_or_else(String::new, output::bytes),
                ];
                (cells, if refuses.is_some() { Colour::Bad } else { Colour::Good })
            }
            Err(error) => {
                let name = output::plain(told.place.shown());
                let mut cells = vec![name, format!("silent: {}", output::plain(&error.message))];
                cells.resize(9, String::new());
                (cells, Colour::Bad)
            }
        };
        Panel {
            title: "regions",
            headings: vec![
                "REGION",
                "STATE",
                "SERVES FOR",
                "TABLES",
                "SHIPS",
                "SENDS",
                "MEMORY",
                "DISK",
                "FREE",
            ],
            rows: self.told.iter().map(row).collect(),
        }
    }

    fn links(&self) -> Panel {
        let rows = links(&self.told).into_iter().map(|(link, now)| link_row(link, now));
        Panel {
            title: "links",
            headings: vec![
                "TABLE",
                "LINK",
                "STATE",
                "FOR",
                "LAG",
                "LAG TIME",
                "WAITS",
                "SHIPS",
                "SENDS",
                "RETRIES",
                "CONFLICTS",
                "REASON",
            ],
            rows: rows.collect(),
        }
    }

    fn tables(&self) -> Panel {
        let mut rows = Vec::new();
        for status in self.answers() {
            for table in &status.tables {
                let differing: u64 = table.differing.iter().map(|other| other.rows).sum();
                let cells = vec![
                    output::plain(&table.name),
                    output::plain(&status.region),
                    table.serve_mode.map_or("here only", |mode| mode.as_str()).to_owned(),
                    table.write_mode.as_ref().map_or_else(|| "async".into(), |mode| mode.words()),
                    if table.writable { "yes" } else { "no" }.to_owned(),
                    table.digest.as_ref().map_or(0, |digest| digest.rows).to_string(),
                    table.entries.to_string(),
                    if table.differing.is_empty() { "-".into() } else { differing.to_string() },
                ];
                let waits = table.write_mode.as_ref();
                let is_bad = differing > 0 || waits.is_some_and(|mode| mode.has_fallen_back());
                rows.push((cells, if is_bad { Colour::Bad } else { Colour::Plain }));
            }
        }
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        let headings = vec![
            "TABLE",
            "REGION",
            "SERVED",
            "ANSWERS",
            "WRITABLE",
            "ROWS",
            "ENTRIES",
            "DIFFERING",
        ];
        Panel { title: "tables", headings, rows }
    }

    fn probes(&self) -> Panel {
        let millis = |time: Option<f64>| time.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        let mut rows = Vec::new();
        for status in self.answers() {
            for probe in &status.probes {
                let (from, to) = (output::plain(&status.region), output::plain(&probe.region));
                let cells = vec![
                    format!("{from} -> {to}"),
                    if probe.up { "up" } else { "down" }.to_owned(),
                    age(status.now_ms, probe.since_ms),
                    millis(probe.write_ms),
                    millis(probe.read_ms),
                    ratios(&probe.availability),
                    ratios(&probe.consistency),
                    output::plain(&probe.reason),
                ];
                rows.push((cells, if probe.up { Colour::Good } else { Colour::Bad }));
            }
        }
        Panel {
            title: "probes; availability and consistency over 1 h, 24 h, 30 d",
            headings: vec![
                "PROBE",
                "STATE",
                "FOR",
                "WRITE",
                "READ",
                "AVAILABILITY",
                "CONSISTENCY",
                "REASON",
            ],
            rows,
        }
    }

    fn events(&self) -> Panel {
        let row = |event: &ToldEvent| (event.cells(), Colour::Plain);
        Panel {
            title: "events",
            headings: vec!["AT", "REGION", "KIND", "TABLE", "EVENT"],
            rows: self.events.iter().map(row).collect(),
        }
    }
}

fn link_row(link: &LinkStatus, now: i64) -> (Vec<String>, Colour) {
    let mut state = link.state.as_str().to_owned();
    if let Some(rows) = link.copied_rows.filter(|_| link.state == LinkState::Copying) {
        state += &format!(" {rows}");
    }
    let colour = match link.state {
        LinkState::Following => Colour::Good,
        LinkState::Copying | LinkState::Opening | LinkState::Paused | LinkState::Stopped => {
            Colour::Waiting
        }
        LinkState::Gap | LinkState::Fenced | LinkState::Broken => Colour::Bad,
    };
    let cells = vec![
        output::plain(&link.table),
        format!("{} -> {}", output::plain(&link.from), output::plain(&link.to)),
        state,
        age(now, link.since_ms),
        link.lag_entries.to_string(),
        output::span(link.lag_ms),
        output::bytes(link.waiting_bytes.unwrap_or(0)),
        each_second(link.entries_rate),
        bytes_each_second(link.wire_bytes_rate),
        link.retries.to_string(),
        link.conflicts.to_string(),
        output::plain(&link.reason),
    ];
    (cells, colour)
}

fn each_second(count: f64) -> String {
    format!("{count:.0}/s")
}

fn bytes_each_second(bytes: f64) -> String {
    format!("{}/s", output::bytes(bytes as u64))
}

fn ratios(ratios: &Ratios) -> String {
    let one = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |it| format!("{:.3}%", it * 100.0));
    format!("{} {} {}", one(ratios.hour), one(ratios.day), one(ratios.days_30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let mut view = View::default();
        view.tell(crate::status::tests::two_regions(), Vec::new());
        view
    }

    #[test]
    fn keys_choose_a_panel_and_scroll_within_it() {
        let mut view = view();
        view.press(Key::Scroll(5));
        assert_eq!(view.scrolled, 0, "there is one link only");
        for panel in [1, 2, 3, 0] {
            view.press(Key::Next);
            assert_eq!((view.panel, view.scrolled), (panel, 0));
        }
        view.press(Key::Previous);
        assert_eq!(view.panel, 3);
        let typed = keys(b"\x1b[B\tx\x1b[5~q");
        assert_eq!(typed, [Key::Scroll(1), Key::Next, Key::Scroll(-PAGE), Key::Quit]);
    }

    #[test]
    fn everything_told_is_shown_and_a_screen_is_filled_and_not_more() {
        let view = view();
        let lines = view.all(120);
        let text: Vec<&str> = lines.iter().map(Line::plain).collect();
        let text = text.join("\n");
        for word in ["REGION", "r1", "silent: refused", "LINK", "r1 -> r2", "following", "EVENT"] {
            assert!(text.contains(word), "{word} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
        for (width, height) in [(120, 40), (60, 12), (10, 4), (1, 1)] {
            let lines = view.screen(width, height);
            assert_eq!(lines.len(), height);
            assert!(lines.iter().all(|line| line.plain().chars().count() <= width));
        }
    }
}
