//! Which replica a read goes to.

use std::time::Duration;

/// What a new measure counts beside the smoothed one: one in so many.
const SMOOTHING: u32 = 8;

/// What is known of a region that could answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// How long it takes to answer, smoothed; none: not known.
    pub round_trip: Option<Duration>,
    /// Requests that it has not answered yet.
    pub in_flight: u32,
    /// Whether it is reached.
    pub is_reached: bool,
}

impl Candidate {
    /// How long a request would take there: less is better.
    fn cost(&self) -> (bool, Duration) {
        // One that was never asked is asked soon.
        let round_trip = self.round_trip.unwrap_or(Duration::from_micros(1));
        (!self.is_reached, round_trip.saturating_mul(self.in_flight.saturating_add(1)))
    }
}

/// The order in which to ask: by what an answer would cost, which grows with the way and with what
/// waits there already; equals by chance.
pub fn order(candidates: &[Candidate], chance: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let turn = (chance % candidates.len().max(1) as u64) as usize;
    order.rotate_left(turn);
    order.sort_by_key(|place| candidates[*place].cost());
    order
}

/// A smoothed round trip with one more measure.
pub fn smoothed(before: Option<Duration>, measured: Duration) -> Duration {
    match before {
        None => measured,
        Some(before) => before - before / SMOOTHING + measured / SMOOTHING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(millis: u64, in_flight: u32) -> Candidate {
        let round_trip = Some(Duration::from_millis(millis));
        Candidate { round_trip, in_flight, is_reached: true }
    }

    #[test]
    fn near_ones_are_asked_until_they_have_much_to_do() {
        let near = candidate(1, 0);
        let far = candidate(10, 0);
        assert_eq!(order(&[far, near], 0), [1, 0]);
        assert_eq!(order(&[far, candidate(1, 20)], 0), [0, 1]);
        let away = Candidate { is_reached: false, ..near };
        assert_eq!(order(&[away, far], 1), [1, 0]);
        assert!(order(&[], 7).is_empty());
    }

    #[test]
    fn equals_are_asked_in_turn() {
        let same = [candidate(1, 0); 3];
        let first: Vec<usize> = (0..3).map(|chance| order(&same, chance)[0]).collect();
        assert_eq!(first, [0, 1, 2]);
    }

    #[test]
    fn smoothing_follows_slowly() {
        let mut known = smoothed(None, Duration::from_millis(8));
        assert_eq!(known, Duration::from_millis(8));
        known = smoothed(Some(known), Duration::from_millis(80));
        assert!(known > Duration::from_millis(8) && known < Duration::from_millis(20));
    }
}
