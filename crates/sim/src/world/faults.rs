//! What breaks: power, wires, clocks, disks. Nothing breaks any more once the world heals.

use isthmus_control::change::Change;
use isthmus_control::edges::SetEdges;
use rand::Rng;

use crate::network::Way;
use crate::options::draw_edges;
use crate::roles::region_name;

use super::events::Event;
use super::{Phase, World};

impl World {
    pub(super) fn begin_faults(&mut self) {
        let nature = &self.nature;
        let (commits, reads) = (nature.commit_fails_per_million, nature.read_fails_per_million);
        let all = [
            (nature.crash_every, Event::CrashSomewhere),
            (nature.break_every, Event::BreakSomewhere),
            (nature.cut_every, Event::CutSomewhere),
            (nature.clog_every, Event::ClogSomewhere),
            (nature.clock_step_every, Event::ClockSteps),
            (nature.disk_full_every, Event::DiskFills),
            (nature.edges_change_every, Event::EdgesChange),
        ];
        for (every, event) in all {
            if let Some(every) = every {
                self.next_fault(every, event);
            }
        }
        if let Some(every) = self.nature.put_back_every {
            self.after(every, Event::CopyDisk);
        }
        if let Some(every) = self.nature.ask_every {
            self.after(every, Event::AskSomewhere);
        }
        if let Some(every) = self.nature.mode_every {
            self.after(every, Event::ModeSet);
        }
        if let Some(every) = self.nature.switch_every {
            self.after(every, Event::SwitchSomewhere);
        }
        if let Some(every) = self.nature.bind_every {
            self.after(every, Event::BindSomewhere);
        }
        for place in &self.nodes {
            place.disk.set_odds(commits, reads);
        }
    }

    fn next_fault(&mut self, every: u64, event: Event) {
        let pause = self.faults.random_range(1..every * 2);
        self.after(pause, event);
    }

    pub(super) fn random_node(&mut self) -> usize {
        self.schedule.random_range(0..self.nature.regions)
    }

    pub(super) fn fault(&mut self, event: Event) {
        if self.phase == Phase::Drain {
            return;
        }
        let node = self.faults.random_range(0..self.nature.regions);
        let nature = &self.nature;
        let every = match event {
            Event::CrashSomewhere => nature.crash_every,
            Event::BreakSomewhere => nature.break_every,
            Event::CutSomewhere => nature.cut_every,
            Event::ClogSomewhere => nature.clog_every,
            Event::ClockSteps => nature.clock_step_every,
            Event::DiskFills => nature.disk_full_every,
            Event::EdgesChange => nature.edges_change_every,
            _ => None,
        };
        if let Some(every) = every {
            self.next_fault(every, event);
        }
        match event {
            Event::CrashSomewhere => self.power_fails(node),
            Event::BreakSomewhere => {
                let whole = self.network.whole();
                if !whole.is_empty() {
                    let place = self.faults.random_range(0..whole.len());
                    self.break_stream(whole[place]);
                }
            }
            Event::Break(stream) => self.break_stream(stream),
            Event::CutSomewhere => self.cut(node, true),
            Event::ClogSomewhere => self.cut(node, false),
            Event::Unblock(from, to) => self.network.block(from, to, false),
            Event::ClockSteps => self.clock_steps(node),
            Event::EdgesChange => self.edges_change(node),
            Event::DiskFills => self.disk_full(node, true),
            Event::DiskFrees(node) => self.disk_full(node, false),
            _ => {}
        }
    }

    fn power_fails(&mut self, node: usize) {
        let all = self.faults.random_range(0..8) == 0;
        let nodes = if all { 0..self.nature.regions } else { node..node + 1 };
        for node in nodes {
            match self.faults.random_range(0..3) {
                // In the middle of the next commit.
                0 => {
                    if let Some(place) = self.nodes.get(node) {
                        place.disk.fail_next();
                    }
                    self.note(&format!("node {node} will fail to commit"));
                }
                1 if self.nature.clean_stops => self.stop(node),
                _ => self.crash(node),
            }
        }
    }

    /// A node ends cleanly.
    fn stop(&mut self, node: usize) {
        if let Some(life) = self.life(node) {
            // If it fails, it is a crash.
            let closed = life.store.close().is_ok();
            self.note(&format!("node {node} stops, cleanly {closed}"));
        }
        self.crash(node);
    }

    /// A node ends at once; it starts again after a while.
    pub(super) fn crash(&mut self, node: usize) {
        // Answers that were there are taken before the node goes.
        let told = self.clients.listen(&mut self.observer.lock());
        told.iter().for_each(|line| self.note(line));
        let Some(place) = self.nodes.get_mut(node) else { return };
        let Some(life) = place.life.take() else { return };
        drop(life);
        place.disk.crash();
        self.clients.lose(node);
        self.crashes += 1;
        self.note(&format!("node {node} is down"));
        for stream in self.network.whole() {
            let ends = self.network.stream(stream).map(|stream| (stream.from, stream.to));
            if ends.is_some_and(|(from, to)| from == node || to == node) {
                self.break_stream(stream);
            }
        }
        let pause = self.faults.random_range(1000..1_500_000);
        self.after(pause, Event::Start(node));
    }

    pub(super) fn break_stream(&mut self, stream: u64) {
        let stall = match self.nature.late_frames && self.faults.random() {
            true => self.faults.random_range(1..1_200_000),
            false => 0,
        };
        if !self.network.break_stream(stream, self.now() + stall) {
            return;
        }
        self.note(&format!("stream {stream} breaks"));
        let (dialler, acceptor) =
            (self.faults.random_range(1..100_000), self.faults.random_range(1..200_000));
        self.after(dialler, Event::Notice(stream, Way::There));
        self.after(stall + acceptor, Event::Notice(stream, Way::Back));
    }

    /// Nothing moves between two nodes for a while, in one direction or both. Where it is a cut
    /// and not a clog, streams break before long.
    fn cut(&mut self, node: usize, breaks: bool) {
        let other = (node + self.faults.random_range(1..self.nature.regions)) % self.nature.regions;
        let both = self.faults.random::<bool>();
        let span = self.faults.random_range(10_000..if breaks { 4_000_000 } else { 800_000 });
        self.note(&format!("{node} to {other} is blocked, both {both}, breaks {breaks}"));
        let ways = if both { vec![(node, other), (other, node)] } else { vec![(node, other)] };
        for (from, to) in ways {
            self.network.block(from, to, true);
            self.after(span, Event::Unblock(from, to));
        }
        if !breaks {
            return;
        }
        for id in self.network.whole() {
            let Some(stream) = self.network.stream(id) else { continue };
            let crosses = [stream.from, stream.to] == [node, other]
                || [stream.to, stream.from] == [node, other];
            if crosses {
                let pause = self.faults.random_range(1..2_000_000);
                self.after(pause, Event::Break(id));
            }
        }
    }

    /// The base of a table lets entries go other ways, or around a region.
    fn edges_change(&mut self, away: usize) {
        let place = self.faults.random_range(0..self.nature.tables.len());
        let plan = &self.nature.tables[place];
        let Some(record) = self.records.get_mut(&plan.partition) else { return };
        if self.faults.random_range(0..3) == 0 {
            let away = if self.faults.random() { Some(region_name(away)) } else { None };
            record.set_away(away.into_iter().collect());
        } else {
            let edges = draw_edges(&mut self.faults, self.nature.regions);
            // They join all regions, so nothing is refused.
            let _ = record.change(&Change::SetEdges(SetEdges { edges }));
        }
        let line = format!("edges of {}: {:?}, away {:?}", plan.name, record.edges, record.away);
        self.note(&line);
    }

    fn clock_steps(&mut self, node: usize) {
        let most = self.nature.clock_offset_max;
        let offset = self.faults.random_range(-most..=most);
        self.note_clock(node);
        if let Some(place) = self.nodes.get(node) {
            place.clock.set_offset(offset);
        }
        self.note(&format!("clock of node {node} is {offset} ms off"));
    }

    fn disk_full(&mut self, node: usize, full: bool) {
        if let Some(place) = self.nodes.get(node) {
            place.disk.set_full(full);
        }
        self.note(&format!("disk of node {node} is full: {full}"));
        if full {
            let pause = self.faults.random_range(1000..1_500_000);
            self.after(pause, Event::DiskFrees(node));
        }
    }
}
