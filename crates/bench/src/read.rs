//! `read`: GetRow and GetRange of 1000 rows in the first region, with the table in the cache and
//! four times the cache, alone and with two replicas beside it; then the floors.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_protocol::client::{decode_get_range, decode_get_row};

use crate::Options;
use crate::cluster::{Cluster, Memory, Place};
use crate::echo::Echo;
use crate::error::Result;
use crate::floors::Raw;
use crate::load::{Check, Plan, Prepared, Target, run as run_load};
use crate::report::{Line, Report};
use crate::rows::{RANGE_ROWS, ROW_BYTES, RowSet};
use crate::write::fill;

const GET_CONNECTIONS: usize = 64;
const RANGE_CONNECTIONS: usize = 4;

const GET: &str = "GetRow";
const RANGE: &str = "GetRange of 1000";
const RAW_GET: &str = "raw engine, get";
const RAW_SCAN: &str = "raw engine, scan of 1000";
const ECHO_GET: &str = "HTTP stack, signatures and MD5, GetRow";
const BARE_GET: &str = "HTTP stack, bare, GetRow";
const ECHO_RANGE: &str = "HTTP stack, signatures and MD5, GetRange";
const BARE_RANGE: &str = "HTTP stack, bare, GetRange";

/// One kind of read.
struct Kind {
    name: &'static str,
    path: &'static str,
    connections: usize,
    rows: usize,
    check: Check,
    requests: Arc<Vec<Prepared>>,
    /// Mean length of the answers seen.
    answer_bytes: f64,
    echo: [&'static str; 2],
}

/// Measures reads.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let rows = RowSet::large(options.rows());
    let place = Place::take(options)?;
    let mut report = Report::new("isthmus-bench read", options);
    let mut kinds = kinds(rows);
    kinds.retain(|kind| options.wants(kind.name));
    let load = rows.batches_of_all(11);
    for replicas in options.replicas.iter().copied() {
        let memory = Memory::holding(rows.count);
        let mut cluster = Cluster::fresh(options, &place, replicas + 1, memory)?;
        fill(&cluster, &load)?;
        // Both sizes are read from files: a restart empties the buffers of writes.
        for memory in [memory, Memory::quarter_of(rows.count)] {
            cluster = cluster.restart(memory)?;
            cluster.catch_up()?;
            for kind in &mut kinds {
                measure(options, &cluster, kind, replicas, &memory.words(rows.count), &mut report)?;
            }
        }
    }
    raw(options, &place, rows, &kinds, &mut report)?;
    for kind in &kinds {
        echo(options, kind, &mut report)?;
    }
    ratios(options, rows, &mut report);
    Ok(report)
}

fn kinds(rows: RowSet) -> Vec<Kind> {
    vec![
        Kind {
            name: GET,
            path: "/GetRow",
            connections: GET_CONNECTIONS,
            rows: 1,
            check: Check { bytes_min: ROW_BYTES, every: 256, decode: check_row },
            requests: Arc::new(rows.gets(14)),
            answer_bytes: 0.0,
            echo: [ECHO_GET, BARE_GET],
        },
        Kind {
            name: RANGE,
            path: "/GetRange",
            connections: RANGE_CONNECTIONS,
            rows: RANGE_ROWS as usize,
            check: Check {
                bytes_min: ROW_BYTES * RANGE_ROWS as usize,
                every: 256,
                decode: check_range,
            },
            requests: Arc::new(rows.ranges(15)),
            answer_bytes: 0.0,
            echo: [ECHO_RANGE, BARE_RANGE],
        },
    ]
}

fn check_row(body: Bytes) -> std::result::Result<(), String> {
    let read = decode_get_row(body).map_err(|error| error.message())?;
    match read.row {
        Some(row) if row.row.cells.len() == 10 => Ok(()),
        Some(row) => Err(format!("a row has {} columns", row.row.cells.len())),
        None => Err("a row is missing".to_owned()),
    }
}

fn check_range(body: Bytes) -> std::result::Result<(), String> {
    let page = decode_get_range(body).map_err(|error| error.message())?;
    if page.rows.len() == RANGE_ROWS as usize {
        return Ok(());
    }
    Err(format!("a range has {} rows", page.rows.len()))
}

fn measure(
    options: &Options,
    cluster: &Cluster,
    kind: &mut Kind,
    replicas: u8,
    table: &str,
    report: &mut Report,
) -> Result<()> {
    let plan = plan(options, kind, cluster.target(0)?, cluster.pid(0)?);
    let outcome = run_load(&plan)?;
    kind.answer_bytes = outcome.answer_bytes;
    report.note_errors(kind.name, &outcome);
    let line = Line::of(kind.name, table, Some(replicas), &outcome, kind.rows);
    report.line(Line { rows_per_sync: None, ..line });
    Ok(())
}

fn plan(options: &Options, kind: &Kind, target: Target, process: u32) -> Plan {
    Plan {
        target,
        path: kind.path,
        requests: kind.requests.clone(),
        connections: kind.connections,
        check: kind.check,
        warm_up: options.warm_up(),
        measure: options.measure(),
        pace: None,
        processes: vec![process],
    }
}

fn raw(
    options: &Options,
    place: &Place,
    rows: RowSet,
    kinds: &[Kind],
    report: &mut Report,
) -> Result<()> {
    let mut raw = Raw::fill(place, rows, Memory::holding(rows.count))?;
    for memory in [Memory::holding(rows.count), Memory::quarter_of(rows.count)] {
        raw = raw.reopen(place, memory)?;
        let table = memory.words(rows.count);
        for kind in kinds {
            let (name, reached) = if kind.name == GET {
                (RAW_GET, raw.get(options.warm_up(), options.measure())?)
            } else {
                (RAW_SCAN, raw.scan(options.warm_up(), options.measure())?)
            };
            report.line(Line::of_raw(name, &table, &reached));
        }
    }
    Ok(())
}

fn echo(options: &Options, kind: &Kind, report: &mut Report) -> Result<()> {
    for (what, bare) in kind.echo.into_iter().zip([false, true]) {
        let echo = Echo::start(kind.answer_bytes.round() as usize, bare)?;
        let plan =
            Plan { check: Check::length(1), ..plan(options, kind, echo.target(), echo.pid()) };
        let outcome = run_load(&plan)?;
        report.note_errors(what, &outcome);
        let line = Line::of(what, "", None, &outcome, kind.rows);
        report.line(Line { rows_per_sync: None, ..line });
    }
    Ok(())
}

fn ratios(options: &Options, rows: RowSet, report: &mut Report) {
    for memory in [Memory::holding(rows.count), Memory::quarter_of(rows.count)] {
        let table = memory.words(rows.count);
        for replicas in options.replicas.iter().rev().copied() {
            let floors = [(RAW_GET, table.as_str()), (ECHO_GET, "")];
            report.ratio_to_lower((GET, &table, replicas), &floors, 0.8);
            let floors = [(RAW_SCAN, table.as_str()), (ECHO_RANGE, "")];
            report.ratio_to_lower((RANGE, &table, replicas), &floors, 0.7);
        }
    }
    report.note(
        "floors: the raw engine gets and scans the same rows on every core; the HTTP stack takes \
         the same requests and gives answers of the same size",
    );
    report.note("the system's file cache is not limited: \"4 x cache\" reads from it");
}
