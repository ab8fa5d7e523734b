//! What is known of a batch that a person wants to settle: whether that may be, and what it risks.

use std::collections::BTreeMap;

use isthmus_model::atomic::BatchId;
use isthmus_protocol::error_code::ErrorCode;
use serde_json::{Value as Json, json};

use super::look::{Found, Looked, Seen};
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

/// Whether a batch may be settled by hand, as far as regions have told: nobody says what became of
/// it, and nobody who is reached may be able to. Gives its anchor's name.
pub(super) fn check(id: BatchId, made: bool, found: &Found) -> Result<String, ApiError> {
    let Found { looked, unreached, silent } = found;
    if let Some(word) = looked.values().find_map(|looked| looked.word.as_ref())
        && word.made != made
    {
        return Err(refused(&said_before(word)));
    }
    let first = looked.values().flat_map(|looked| &looked.intents).next();
    let anchor = first.map(|seen| seen.anchor.as_str());
    if let Some(anchor) = anchor {
        check_told(anchor, made, looked)?;
    }
    if let Some((region, why)) = silent.first_key_value() {
        return Err(refused(&format!(
            "Region {region} is reached and has not told what it knows of the batch: {why} It may \
             be able to say what became of it. Try again; one of a former version is to be \
             upgraded first."
        )));
    }
    let Some(anchor) = anchor else {
        return Err(ApiError::new(
            ErrorCode::ObjectNotExist,
            format!("No region that is reached has rows that batch {id} locks."),
        ));
    };
    for away in unreached.keys() {
        let by = looked.iter().find(|(_, looked)| looked.reaches.contains(away));
        if let Some((by, _)) = by {
            return Err(refused(&format!(
                "Region {away} is not reached from here, and {by} reaches it: it may be able to \
                 say what became of the batch. Ask in {by}, or try again."
            )));
        }
    }
    Ok(anchor.to_owned())
}

/// An error: somebody says what became of it, or will.
fn check_told(anchor: &str, made: bool, looked: &BTreeMap<String, Looked>) -> Result<(), ApiError> {
    let first = |is_one: &dyn Fn(&Looked) -> bool| looked.iter().find(|(_, one)| is_one(one));
    let says = looked.iter().find_map(|(region, it)| Some((region, it.verdict.as_ref()?)));
    if let Some((region, verdict)) = says {
        return Err(refused(&format!(
            "Region {region} writes {anchor} and says that the batch is {verdict}: it is settled \
             by itself."
        )));
    }
    let soon = looked.iter().find_map(|(region, it)| Some((region, it.says_soon.as_ref()?)));
    if let Some((region, why)) = soon {
        return Err(refused(&format!(
            "Region {region} writes {anchor} and cannot say just now what became of the batch: \
             {why} It will say so by itself; if that takes long, see `isthmus status` of {region}."
        )));
    }
    if let Some((region, _)) = first(&|looked| looked.may_write_anchor) {
        return Err(refused(&format!(
            "Region {region} has a replica of {anchor} and can write it: see `isthmus failover`, \
             and let it (`isthmus failover --table {anchor} --to {region}`). It says then what \
             became of the batch."
        )));
    }
    if let Some((region, _)) = first(&|looked| looked.decided && !made) {
        return Err(refused(&format!(
            "Region {region} has the entry of {anchor} that decides the batch: it is made."
        )));
    }
    Ok(())
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
        judged_of(made, &Found { looked: looked.into(), ..Found::default() })
    }

    fn judged_of(made: bool, found: &Found) -> Result<String, String> {
        check(id(), made, found).map_err(|error| error.message)
    }

    fn away(region: &str) -> BTreeMap<String, String> {
        [(region.to_owned(), "It cannot be reached.".to_owned())].into()
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
        let none = Found { looked: none, ..Found::default() };
        assert_eq!(check(id(), true, &none).unwrap_err().code, ErrorCode::ObjectNotExist);
    }

    #[test]
    fn who_cannot_say_just_now_is_waited_for() {
        for made in [true, false] {
            let soon = Looked {
                says_soon: Some("It has just started.".to_owned()),
                may_write_anchor: true,
                holds_anchor: true,
                ..Looked::default()
            };
            assert!(judged(made, soon).unwrap_err().contains("r3 writes cash and cannot say"));
        }
    }

    #[test]
    fn who_is_reached_and_does_not_tell_is_not_passed_over() {
        let looked = || BTreeMap::from([("r2".to_owned(), member())]);
        let lost = Found { looked: looked(), unreached: away("r1"), ..Found::default() };
        assert_eq!(judged_of(true, &lost), Ok("cash".to_owned()));
        let silent = Found { silent: away("r3"), ..lost };
        assert!(judged_of(true, &silent).unwrap_err().contains("r3 is reached and has not told"));
        let nothing = Found { looked: BTreeMap::new(), ..silent };
        assert!(judged_of(true, &nothing).unwrap_err().contains("r3 is reached"));
    }

    #[test]
    fn who_is_reached_from_elsewhere_is_not_taken_for_lost() {
        let second = Looked { reaches: ["r1".to_owned()].into(), ..Looked::default() };
        let looked = [("r2".to_owned(), member()), ("r3".to_owned(), second)].into();
        let found = Found { looked, unreached: away("r1"), ..Found::default() };
        assert!(judged_of(true, &found).unwrap_err().contains("r3 reaches it"));
    }

    #[test]
    fn the_first_word_stays() {
        let word = || Word {
            made: true,
            who: "ann".to_owned(),
            why: "r1 burnt".to_owned(),
            at_millis: 5,
            left: BTreeSet::new(),
            to_judge: false,
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
