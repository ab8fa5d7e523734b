use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::{any, prop_assert, proptest};

use crate::verify::answer::{Answer, Tell};
use crate::verify::error::VerifyError;
use crate::verify::limits::{SESSION_IDLE_MAX, SESSIONS_MAX};
use crate::verify::question::{Ask, Close, Open, Question, RowsByKey, Select, Selected, Want};
use crate::verify::session::Sessions;
use crate::verify::tests::memory::{Replica, RowsOf, Shared, TABLE};
use crate::verify::tests::{Chance, Ticking};

fn sessions(clock: &Ticking) -> Sessions {
    let replica = Replica::new(RowsOf::new(), &mut Chance::new(1));
    let shared = Shared(Arc::new(parking_lot::Mutex::new(replica)));
    Sessions::new(Arc::new(shared), Arc::new(clock.clone()))
}

fn open(sessions: &Sessions) -> Result<u64, VerifyError> {
    let ask = Ask::Open(Open { table: TABLE.0, ..Open::default() });
    match sessions.answer(ask.into()).tell()? {
        Tell::Opened(opened) => Ok(opened.session),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sessions_are_few_and_idle_ones_end() {
    let clock = Ticking::default();
    let sessions = sessions(&clock);
    let all: Vec<u64> = (0..SESSIONS_MAX).map(|_| open(&sessions).unwrap()).collect();
    assert_eq!(open(&sessions), Err(VerifyError::Busy));
    clock.pass(SESSION_IDLE_MAX / 2);
    let rows = |session| {
        sessions.answer(Ask::RowsByKey(RowsByKey { session, ..RowsByKey::default() }).into())
    };
    assert!(rows(all[0]).tell().is_ok());
    clock.pass(SESSION_IDLE_MAX / 2);
    let next = open(&sessions).unwrap();
    assert!(!all.contains(&next));
    assert_eq!(sessions.count(), 2);
    assert!(rows(all[0]).tell().is_ok());
    assert_eq!(rows(all[1]).tell(), Err(VerifyError::NoSession));
    sessions.answer(Ask::Close(Close { session: next }).into());
    assert_eq!(rows(next).tell(), Err(VerifyError::NoSession));
    let unknown = Ask::Open(Open { table: 99, ..Open::default() });
    assert_eq!(sessions.answer(unknown.into()).tell(), Ok(Tell::NoTable(true)));
}

#[test]
fn questions_beyond_the_bounds_are_refused() {
    let sessions = sessions(&Ticking::default());
    let session = open(&sessions).unwrap();
    let refused = |ask: Ask| sessions.answer(ask.into()).tell().is_err();
    let leaves = vec![0; crate::verify::limits::LEAVES_MAX + 1];
    assert!(refused(Ask::Select(Select { session, leaves, ..Select::default() })));
    let want = |kind, from| Selected {
        session,
        want: Some(Want { kind, from, count: u32::MAX, ..Want::default() }),
    };
    assert!(refused(Ask::Selected(want(9, 0))));
    assert!(refused(Ask::Selected(want(Want::SYMBOLS, u32::MAX))));
    assert!(!refused(Ask::Selected(want(Want::SYMBOLS, 5))));
    let keys = vec![Bytes::from(vec![0; crate::verify::limits::KEY_BYTES_MAX + 1])];
    assert!(refused(Ask::RowsByKey(RowsByKey { session, keys, contents: true })));
    assert!(Question::decode(&Bytes::new()).is_err());
    assert!(Question::decode(&Question::default().encode()).is_err());
}

proptest! {
    #[test]
    fn hostile_bytes_give_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut framed = vec![1];
        framed.extend_from_slice(&bytes);
        let (bytes, framed) = (Bytes::from(bytes), Bytes::from(framed));
        for bytes in [bytes, framed] {
            let _ = Answer::decode(&bytes);
            if let Ok(question) = Question::decode(&bytes) {
                let answer = sessions(&Ticking::default()).answer(question);
                prop_assert!(answer.tell.is_some());
            }
        }
    }
}
