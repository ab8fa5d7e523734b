//! What is known of a batch that a person wants to settle: whether that may be, and what it risks.

use std::collections::BTreeMap;

use isthmus_model::atomic::BatchId;
use isthmus_protocol::error_code::ErrorCode;
use serde_json::{Value as Json, json};

use super::{Looked, Seen};
use crate::api_error::ApiError;
use crate::node::atomic::words::Word;

pub(super) fn members<'a>(seen: impl Iterator<Item = (&'a str, &'a Seen)>) -> Json {
    let one = |(region, seen): (&str, &Seen)| {
        json!({
            "region": region,
            "table": seen.table,
            "rows": seen.rows,
            "waited_ms": seen.waited_ms,
            "written": seen.written,
            "keys": seen.keys,
        })
    };
    seen.map(one).collect()
}

pub(super) fn refused(why: &str) -> ApiError {
    ApiError::new(ErrorCode::OperationConflict, format!("Nothing was done. {why}"))
}

pub(super) fn said_before(word: &Word) -> String {
    format!(
        "It was settled by hand as {} by {} before ({}), and stays so.",
        word.outcome(),
        word.who,
        word.why
    )
}

/// Whether a batch may be settled by hand, as far as regions have told. Gives its anchor's name.
pub(super) fn check(
    id: BatchId,
    made: bool,
    looked: &BTreeMap<String, Looked>,
) -> Result<String, ApiError> {
    if let Some(word) = looked.values().find_map(|looked| looked.word.as_ref())
        && word.made != made
    {
        return Err(refused(&said_before(word)));
    }
    let mut intents = looked.values().flat_map(|looked| &looked.intents);
    let Some(first) = intents.next() else {
        return Err(ApiError::new(
            ErrorCode::ObjectNotExist,
            format!("No region that is reached has rows that batch {id} locks."),
        ));
    };
    let anchor = first.anchor.clone();
    for (region, looked) in looked {
        if let Some(verdict) = &looked.verdict {
            return Err(refused(&format!(
                "Region {region} writes {anchor} and says that the batch is {verdict}: it is \
                 settled by itself."
            )));
        }
        if looked.may_write_anchor {
            return Err(refused(&format!(
                "Region {region} has a replica of {anchor} and can write it: see `isthmus \
                 failover`, and let it (`isthmus failover --table {anchor} --to {region}`). It \
                 says then what became of the batch."
            )));
        }
        if looked.decided && !made {
            return Err(refused(&format!(
                "Region {region} has the entry of {anchor} that decides the batch: it is made."
            )));
        }
    }
    Ok(anchor)
}

/// What is known of it, in words.
pub(super) fn known(
    anchor: &str,
    looked: &BTreeMap<String, Looked>,
    unreached: &BTreeMap<String, String>,
) -> String {
    let named = |holds: &dyn Fn(&Looked) -> bool| {
        let names = looked.iter().filter(|(_, looked)| holds(looked));
        names.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let decided = named(&|looked| looked.decided);
    let undecided = named(&|looked| looked.holds_anchor && !looked.decided);
    let mut words = Vec::new();
    if !decided.is_empty() {
        words.push(format!("{decided} has the entry of {anchor} that decides it: it is made."));
    }
    if !undecided.is_empty() {
        words.push(format!(
            "{undecided} has a replica of {anchor} in which it is not decided; the region that \
             wrote {anchor} may have decided it and not shipped that."
        ));
    }
    if decided.is_empty() && undecided.is_empty() {
        words.push(format!("No region that is reached has a replica of {anchor}."));
    }
    let away = unreached.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    if !away.is_empty() {
        words.push(format!(
            "Not reached: {away}. Members of the batch that are written there are settled alike \
             when they are back."
        ));
    }
    words.join(" ")
}

pub(super) fn risk(made: bool, anchor: &str) -> String {
    match made {
        true => format!(
            "If it was not decided, its rows in {anchor} are not made, and those named here are: \
             the batch is there in part. Conditions of its rows held when they were locked."
        ),
        false => format!(
            "If it was decided, its rows in {anchor} are made, a client may have been told so, and \
             members that are settled already have theirs; those named here are not made: the \
             batch is there in part."
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use isthmus_model::commit::Term;
    use isthmus_model::ids::TableId;

    use super::*;

    fn id() -> BatchId {
        BatchId { anchor: TableId(770), term: Term { epoch: 1, life: 5 }, number: 3 }
    }

    fn member() -> Looked {
        let seen = Seen {
            batch: id().to_string(),
            anchor: "cash".to_owned(),
            table: "bank".to_owned(),
            rows: 1,
            waited_ms: 70_000,
            written: true,
            keys: Vec::new(),
        };
        Looked { intents: vec![seen], ..Looked::default() }
    }

    fn judged(made: bool, second: Looked) -> Result<String, String> {
        let looked = [("r2".to_owned(), member()), ("r3".to_owned(), second)];
        check(id(), made, &looked.into()).map_err(|error| error.message)
    }

    #[test]
    fn what_somebody_can_tell_is_not_settled_by_hand() {
        assert_eq!(judged(false, Looked::default()), Ok("cash".to_owned()));
        let told = Looked { verdict: Some("open".to_owned()), ..Looked::default() };
        assert!(judged(true, told).unwrap_err().contains("r3 writes cash and says"));
        let could = Looked { may_write_anchor: true, ..Looked::default() };
        assert!(judged(true, could).unwrap_err().contains("--table cash --to r3"));
        let decided = || Looked { decided: true, holds_anchor: true, ..Looked::default() };
        assert!(judged(false, decided()).unwrap_err().contains("it is made"));
        assert!(judged(true, decided()).is_ok());
        let none = BTreeMap::from([("r2".to_owned(), Looked::default())]);
        assert_eq!(check(id(), true, &none).unwrap_err().code, ErrorCode::ObjectNotExist);
    }

    #[test]
    fn the_first_word_stays() {
        let word = || Word {
            made: true,
            who: "ann".to_owned(),
            why: "r1 burnt".to_owned(),
            at_millis: 5,
            left: BTreeSet::new(),
        };
        let said = || Looked { word: Some(word()), ..Looked::default() };
        assert!(judged(true, said()).is_ok());
        assert!(judged(false, said()).unwrap_err().contains("made by ann before (r1 burnt)"));
    }

    #[test]
    fn what_is_known_is_told() {
        let away = BTreeMap::from([("r1".to_owned(), "gone".to_owned())]);
        let looked =
            |second| BTreeMap::from([("r2".to_owned(), member()), ("r3".to_owned(), second)]);
        let words = known("cash", &looked(Looked::default()), &away);
        assert!(words.contains("No region") && words.contains("Not reached: r1"), "{words}");
        let holds = Looked { holds_anchor: true, ..Looked::default() };
        assert!(known("cash", &looked(holds), &away).contains("r3 has a replica of cash in which"));
    }
}
