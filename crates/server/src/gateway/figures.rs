//! The metrics of a gateway: what it passed on, where to and how that ended.
//!
//! The number of series is bounded: regions, outcomes and reasons are closed lists.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::Shared;
use super::region::{Region, TRIED_ELSEWHERE};
use super::standing::Standing;
use crate::metrics::Outcome;
use crate::metrics::families::{Families, Histogram, Labels};

/// What stands for the region of a request that none answered.
const NONE: &str = "(none)";

#[derive(Debug)]
struct OfRegion {
    name: String,
    standing: Standing,
    in_work: usize,
    outcomes: Vec<u64>,
    elsewhere: Vec<u64>,
    time: Histogram,
}

impl OfRegion {
    fn of(region: &Region) -> OfRegion {
        OfRegion {
            name: region.name.clone(),
            standing: region.standing(),
            in_work: region.in_work(),
            outcomes: region.outcomes.iter().map(|count| count.get()).collect(),
            elsewhere: region.elsewhere.iter().map(|count| count.get()).collect(),
            time: Histogram::of(&region.time),
        }
    }
}

/// All figures at one moment.
#[derive(Debug)]
pub(super) struct Figures {
    regions: Vec<OfRegion>,
    unanswered: Vec<u64>,
    in_work: usize,
}

impl Figures {
    /// Reads them.
    pub(super) fn of(shared: &Shared) -> Figures {
        let requests_max = shared.config.gateway.requests_max;
        Figures {
            regions: shared.regions.iter().map(OfRegion::of).collect(),
            unanswered: shared.unanswered.iter().map(|count| count.get()).collect(),
            in_work: requests_max - shared.in_work.available_permits(),
        }
    }

    fn gauge(
        &self,
        to: &mut Families<'_>,
        name: &str,
        help: &str,
        figure: impl Fn(&OfRegion) -> Option<f64>,
    ) -> Result<(), Error> {
        let samples = self
            .regions
            .iter()
            .filter_map(|region| Some((vec![("region", region.name.clone())], figure(region)?)));
        to.gauge(name, help, samples)
    }
}

fn counts<'a>(
    region: &'a str,
    label: &'static str,
    words: impl Iterator<Item = &'static str> + 'a,
    counts: &'a [u64],
) -> impl Iterator<Item = (Labels, u64)> + 'a {
    words.zip(counts).map(move |(word, count)| {
        (vec![("region", region.to_owned()), (label, word.to_owned())], *count)
    })
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Families(encoder);
        let outcomes = || Outcome::ALL.iter().map(|outcome| outcome.as_str());
        let of_regions = self.regions.iter();
        let of_regions = of_regions
            .flat_map(|region| counts(&region.name, "outcome", outcomes(), &region.outcomes));
        let all = of_regions.chain(counts(NONE, "outcome", outcomes(), &self.unanswered));
        to.counter("gateway_requests", "Requests by region and how they ended there", all)?;
        let elsewhere = self.regions.iter().flat_map(|region| {
            counts(&region.name, "reason", TRIED_ELSEWHERE.iter().copied(), &region.elsewhere)
        });
        let help = "Requests that went to another region after this one";
        to.counter("gateway_retries", help, elsewhere)?;
        let times = self.regions.iter();
        let times = times.map(|region| (vec![("region", region.name.clone())], &region.time));
        to.histogram("gateway_request_seconds", "How long the region took", times)?;
        let up = |region: &OfRegion| Some(f64::from(u8::from(region.standing.up)));
        self.gauge(&mut to, "gateway_region_up", "Whether requests go there", up)?;
        let changes = self
            .regions
            .iter()
            .map(|region| (vec![("region", region.name.clone())], region.standing.changes));
        let help = "How often the region went down or came up";
        to.counter("gateway_region_changes", help, changes)?;
        let delay = |region: &OfRegion| region.standing.delay.map(|delay| delay.as_secs_f64());
        let help = "How long the region takes to answer a probe, lately";
        self.gauge(&mut to, "gateway_region_delay_seconds", help, delay)?;
        let in_work = |region: &OfRegion| Some(region.in_work as f64);
        self.gauge(&mut to, "gateway_region_in_work", "Requests in work there", in_work)?;
        let in_work = [(Labels::new(), self.in_work as f64)];
        to.gauge("gateway_in_work", "Requests in work", in_work)
    }
}
