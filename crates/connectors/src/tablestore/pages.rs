//! A range, page by page.
//!
//! What must hold: each row is given once and whole, even where a page ended inside it; one page
//! is held at a time; no more rows are given than were asked for.

use isthmus_model::limits::RANGE_ROWS_MAX;
use isthmus_protocol::client::RangePage;
use isthmus_protocol::plainbuffer::NamedRow;
use isthmus_protocol::request::GetRange;

use crate::tablestore::{ClientError, TableStore};

/// Reads a range page by page.
pub struct RangePages {
    client: TableStore,
    /// `None` once the range is at its end.
    request: Option<GetRange>,
    /// Rows still wanted; the request's own limit bounds the whole range.
    left: Option<u64>,
    /// A row whose rest the next page begins with.
    held: Option<NamedRow>,
}

impl RangePages {
    pub(super) fn new(client: TableStore, request: GetRange) -> RangePages {
        let left = request.limit.map(u64::from);
        RangePages { client, request: Some(request), left, held: None }
    }

    /// Whether there may be more than what was given.
    pub fn is_at_end(&self) -> bool {
        self.request.is_none()
    }

    /// The next rows; `None` at the end or when the limit is reached. A page may be empty where
    /// a filter left nothing of it.
    pub async fn next_page(&mut self) -> Result<Option<Vec<NamedRow>>, ClientError> {
        if self.left == Some(0) {
            return Ok(None);
        }
        let Some(request) = &mut self.request else { return Ok(None) };
        let page_limit = self.left.unwrap_or(u64::MAX).min(RANGE_ROWS_MAX as u64);
        request.limit = Some(u32::try_from(page_limit).unwrap_or(u32::MAX));
        let page = self.client.get_range(request.clone()).await?;
        let rows = self.take(page);
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(rows.len() as u64);
        }
        Ok(Some(rows))
    }

    fn take(&mut self, page: RangePage) -> Vec<NamedRow> {
        let mut rows = page.rows;
        if let Some(mut held) = self.held.take() {
            match rows.first_mut() {
                Some(first) if first.row.key == held.row.key => {
                    held.row.cells.append(&mut first.row.cells);
                    *first = held;
                }
                _ => rows.insert(0, held),
            }
        }
        match (page.next_start, &mut self.request) {
            (Some(start), Some(request)) => {
                if page.next_token.is_some() {
                    self.held = rows.pop();
                }
                request.start = start;
                request.token = page.next_token;
            }
            _ => self.request = None,
        }
        rows
    }
}
