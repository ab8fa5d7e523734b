//! GetRange of a distributed table: the rows of its partitions in the order of keys.
//!
//! Divided by range, partitions are read one after the other. Divided by hash, each has a part of
//! any range: the first pages of all are asked for at once and merged, and a partition is asked
//! again when its page is used up. A page of the answer has the bounds that it has of any table,
//! and so many pages of partitions are read for it at most; the next page begins where the least
//! of what is left does.

use bytes::Bytes;
use isthmus_control::distribution::{By, Distribution};
use isthmus_model::change::{Direction, KeyPart, NamedKeyPart};
use isthmus_model::key::KeyBound;
use isthmus_model::limits::{PAGE_BYTES_MAX, RANGE_ROWS_MAX};
use isthmus_model::value::Text;
use isthmus_protocol::request::{GetRange, Operation};
use isthmus_protocol::routed::{NamedKey, Page, RangeAnswer};

use super::{ASKED_AT_ONCE, Fresh};
use crate::api_error::ApiError;
use crate::http::PublicApi;
use crate::node::Partition;
use crate::rows::consumed_by_read;
use crate::together::{Piece, together};

/// Rows that are asked of a partition beyond its share of what is left.
const ROWS_BEYOND: usize = 8;
/// Bytes of a page of one of many partitions at least.
const PART_BYTES_MIN: usize = 64 * 1024;
/// Pages of partitions that are read for one answer, beyond one of each: a filter may hide all.
const PAGES_MAX: usize = 64;

/// One partition's rows.
struct Source<'a> {
    partition: Partition<'a>,
    /// None: it has not been asked yet.
    page: Option<Page>,
}

impl Source<'_> {
    fn is_used_up(&self) -> bool {
        self.page.as_ref().is_some_and(|page| page.front().is_none())
    }

    /// Whether it has to be asked before it is known with which key it goes on, or for its rows.
    fn has_to_be_asked(&self) -> bool {
        self.page.as_ref().is_none_or(|page| page.next_page().is_some())
    }
}

impl PublicApi {
    pub(super) async fn route_range(
        &self,
        get: GetRange,
        fresh: Fresh<'_>,
    ) -> Result<Bytes, ApiError> {
        let mut turns = self.turns();
        loop {
            let table = turns.shape_of(&get.table)?;
            // Nothing has been answered of it: it is read from its begin again.
            match Box::pin(self.range_of(&table, get.clone(), fresh)).await {
                Err(error) if turns.may_be_elsewhere(&table, &error) => turns.next(error).await?,
                answer => return answer,
            }
        }
    }

    async fn range_of(
        &self,
        table: &Distribution,
        get: GetRange,
        fresh: Fresh<'_>,
    ) -> Result<Bytes, ApiError> {
        let places = match (bound(&get.start), bound(&get.end)) {
            (Some(start), Some(end)) => match get.direction {
                Direction::Forward => table.places_between(&start, &end),
                Direction::Backward => table.places_between(&end, &start),
            },
            // It is refused there as it would be of any table.
            _ => 0..1,
        };
        let mut sources: Vec<Source<'_>> = places
            .map(|place| Source { partition: Partition { table, place }, page: None })
            .collect();
        self.note_asked_from(&sources, &get);
        if let [only] = &sources[..] {
            let get = GetRange { table: Text::from(only.partition.name()), ..get };
            return self.read_partition(&only.partition, Operation::GetRange(get), fresh, 0).await;
        }
        if get.direction == Direction::Backward {
            sources.reverse();
        }
        // Where a row was cut, only its partition knows what the token means.
        let resumed =
            get.token.as_ref().and(get.start.first()).and_then(|named| match &named.part {
                KeyPart::Value(value) => Some(table.place_of(value)),
                _ => None,
            });
        let asked = Asked { get, fresh, by: table.by, resumed };
        self.merge(&asked, sources).await
    }

    /// Remembers of some of the partitions from where they are asked for.
    fn note_asked_from(&self, sources: &[Source<'_>], get: &GetRange) {
        let lower = match get.direction {
            Direction::Forward => bound(&get.start),
            Direction::Backward => bound(&get.end),
        };
        if let Some(lower) = lower {
            for source in sources {
                self.node.note_asked_from(&source.partition, &lower);
            }
        }
    }

    async fn merge(
        &self,
        asked: &Asked<'_>,
        mut sources: Vec<Source<'_>>,
    ) -> Result<Bytes, ApiError> {
        let rows_max = asked.rows_max();
        let mut answer = RangeAnswer::default();
        if asked.by == By::Hash {
            let share = rows_max.div_ceil(sources.len()) + ROWS_BEYOND;
            let bytes = (2 * PAGE_BYTES_MAX / sources.len()).max(PART_BYTES_MIN);
            let mut asking: Vec<Piece<'_, _>> = Vec::with_capacity(sources.len());
            for source in &sources {
                asking.push(Box::pin(self.page(asked, source, share.min(rows_max), bytes)));
            }
            let pages = together(asking, ASKED_AT_ONCE).await;
            for (source, page) in sources.iter_mut().zip(pages) {
                source.page = Some(page?);
            }
        }
        let mut pages_left = PAGES_MAX;
        let next = loop {
            let Some(place) = asked.next_of(&sources) else { break None };
            let is_full = answer.count() >= rows_max || answer.row_bytes() >= PAGE_BYTES_MAX;
            let is_known = sources[place].page.is_some();
            if (is_full || pages_left == 0) && is_known {
                break sources[place].page.as_ref().and_then(Page::named_front).cloned();
            }
            if sources[place].has_to_be_asked() {
                // One row is enough to see where the next page begins.
                let left = rows_max.saturating_sub(answer.count()).max(1);
                let open = sources.iter().filter(|source| !source.is_used_up()).count().max(1);
                let (share, bytes) = match asked.by {
                    By::Hash => (left.div_ceil(open) + ROWS_BEYOND, PAGE_BYTES_MAX / open),
                    By::Range => (left, PAGE_BYTES_MAX.saturating_sub(answer.row_bytes())),
                };
                let bytes = bytes.max(PART_BYTES_MIN);
                let page = self.page(asked, &sources[place], share.min(left), bytes).await?;
                if let Some(used) = sources[place].page.replace(page) {
                    answer.leave(&used);
                }
                pages_left = pages_left.saturating_sub(1);
                continue;
            }
            let Some(taken) = sources[place].page.as_mut().and_then(Page::take) else { continue };
            answer.push(&taken);
            if let Some((key, token)) = taken.cut {
                sources
                    .iter()
                    .filter_map(|source| source.page.as_ref())
                    .for_each(|page| answer.leave(page));
                return Ok(finish(answer, Some(&key), Some(token)));
            }
        };
        sources
            .iter()
            .filter_map(|source| source.page.as_ref())
            .for_each(|page| answer.leave(page));
        Ok(finish(answer, next.as_ref(), None))
    }

    /// The next page of a partition.
    async fn page(
        &self,
        asked: &Asked<'_>,
        source: &Source<'_>,
        rows: usize,
        bytes: usize,
    ) -> Result<Page, ApiError> {
        let on = source.page.as_ref().and_then(Page::next_page);
        let is_resumed = on.is_none() && asked.resumed == Some(source.partition.place);
        let get = GetRange {
            table: Text::from(source.partition.name()),
            start: on.unwrap_or(&asked.get.start).clone(),
            end: asked.get.end.clone(),
            direction: asked.get.direction,
            limit: Some(u32::try_from(rows.max(1)).unwrap_or(u32::MAX)),
            projection: asked.get.projection.clone(),
            token: asked.get.token.clone().filter(|_| is_resumed),
        };
        let read = Operation::GetRange(get);
        let answer = self.read_partition(&source.partition, read, asked.fresh, bytes).await?;
        Ok(Page::decode(answer)?)
    }
}

/// What is asked of all partitions.
struct Asked<'a> {
    get: GetRange,
    fresh: Fresh<'a>,
    by: By,
    /// The place of the partition that the token is for.
    resumed: Option<usize>,
}

impl Asked<'_> {
    fn rows_max(&self) -> usize {
        self.get.limit.map_or(RANGE_ROWS_MAX, |limit| limit as usize).min(RANGE_ROWS_MAX)
    }

    /// The source whose row is next, or which has to be asked for it; `None`: nothing is left.
    fn next_of(&self, sources: &[Source<'_>]) -> Option<usize> {
        match self.by {
            By::Range => sources.iter().position(|source| !source.is_used_up()),
            By::Hash => {
                let fronts = sources
                    .iter()
                    .enumerate()
                    .filter_map(|(place, source)| Some((source.page.as_ref()?.front()?, place)));
                match self.get.direction {
                    Direction::Forward => fronts.min(),
                    Direction::Backward => fronts.max(),
                }
                .map(|(_, place)| place)
            }
        }
    }
}

/// The answer with the units for what its rows took to read.
fn finish(answer: RangeAnswer, next: Option<&NamedKey>, token: Option<Bytes>) -> Bytes {
    let consumed = consumed_by_read(answer.read());
    answer.finish(consumed, next, token)
}

/// The first part of an end of a range; `None`: it is none.
fn bound(parts: &[NamedKeyPart]) -> Option<KeyBound> {
    match &parts.first()?.part {
        KeyPart::Value(value) => Some(KeyBound::Value(value.clone())),
        KeyPart::Min => Some(KeyBound::Min),
        KeyPart::Max => Some(KeyBound::Max),
        KeyPart::AutoIncrement | KeyPart::NotAKeyType(_) => None,
    }
}
