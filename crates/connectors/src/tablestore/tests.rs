use std::collections::VecDeque;
use std::sync::Mutex;

use isthmus_model::clock::SystemClock;
use isthmus_model::error::Outcome;
use isthmus_protocol::error_code::{ErrorCode, encode_error};
use isthmus_protocol::response::encode_list_table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::demo::{response_key, target};

/// What the store answers next.
#[derive(Clone)]
enum Script {
    Tables(&'static str),
    Fail(ErrorCode),
    WrongSignature,
    WrongDigest,
    Unsigned,
    Close,
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while !text.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).ok()
}

fn answer(script: &Script, path: &str) -> String {
    let (status, body) = match script {
        Script::Fail(code) => (code.http_status(), encode_error(*code, "as scripted")),
        Script::Tables(name) => (200, encode_list_table([*name])),
        _ => (200, encode_list_table([])),
    };
    let body = String::from_utf8(body.to_vec()).unwrap();
    let mut digest = content_md5(body.as_bytes());
    if matches!(script, Script::WrongDigest) {
        digest = content_md5(b"other");
    }
    let mut headers = [("x-ots-contentmd5", digest.as_str()), ("x-ots-requestid", "request-7")];
    let mut authorization = response_key().authorization("id", path, &mut headers);
    if matches!(script, Script::WrongSignature) {
        authorization = "OTS id:AAAAAAAAAAAAAAAAAAAAAAAAAAA=".into();
    }
    let signed = match script {
        Script::Unsigned => String::new(),
        _ => format!("authorization: {authorization}\r\n"),
    };
    format!(
        "HTTP/1.1 {status} X\r\nx-ots-contentmd5: {digest}\r\nx-ots-requestid: request-7\r\n\
         {signed}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A store that answers as scripted; gives its URL and the requests that are left to answer.
async fn store(script: Vec<Script>) -> (String, Arc<Mutex<VecDeque<Script>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let left = Arc::new(Mutex::new(VecDeque::from(script)));
    let script = Arc::clone(&left);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let script = Arc::clone(&script);
            tokio::spawn(async move {
                while let Some(request) = read_request(&mut stream).await {
                    assert!(request.contains("x-ots-signature: "), "{request}");
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    let Some(next) = script.lock().unwrap().pop_front() else { return };
                    if matches!(next, Script::Close) {
                        return;
                    }
                    stream.write_all(answer(&next, &path).as_bytes()).await.unwrap();
                }
            });
        }
    });
    (endpoint, left)
}

async fn client(script: Vec<Script>) -> (TableStore, Arc<Mutex<VecDeque<Script>>>) {
    let (endpoint, left) = store(script).await;
    let options = ClientOptions::default();
    (TableStore::new(target(endpoint), options, Arc::new(SystemClock)).unwrap(), left)
}

#[tokio::test]
async fn an_answer_that_is_signed_is_read() {
    let (client, _) = client(vec![Script::Tables("notes")]).await;
    assert_eq!(client.list_tables().await.unwrap(), ["notes"]);
}

#[tokio::test]
async fn answers_that_are_not_signed_or_not_whole_are_refused() {
    for (script, expected) in [
        (Script::WrongSignature, "the signature of the answer is wrong"),
        (Script::WrongDigest, "does not match its digest"),
        (Script::Unsigned, "is not signed"),
    ] {
        let (client, _) = client(vec![script]).await;
        let error = client.list_tables().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
}

#[tokio::test]
async fn busy_is_waited_out_and_the_rest_is_told() {
    let busy = Script::Fail(ErrorCode::ServerBusy);
    let (client, left) = client(vec![busy.clone(), busy, Script::Tables("t")]).await;
    assert_eq!(client.list_tables().await.unwrap(), ["t"]);
    assert!(left.lock().unwrap().is_empty());
    left.lock().unwrap().push_back(Script::Fail(ErrorCode::ObjectNotExist));
    let error = client.describe_table("t").await.unwrap_err();
    assert_eq!(error.to_string(), "OTSObjectNotExist: as scripted (request request-7)");
    assert_eq!(error.kind(), isthmus_model::error::Kind::NotFound);
}

#[tokio::test]
async fn a_write_without_an_answer_is_not_sent_again() {
    for script in [Script::Close, Script::Fail(ErrorCode::Timeout)] {
        let (client, left) = client(vec![script, Script::Tables("t")]).await;
        let error = client.delete_table("t").await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        assert_eq!(left.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_read_without_an_answer_is_sent_again() {
    for script in [Script::Close, Script::Fail(ErrorCode::Timeout)] {
        let (client, left) = client(vec![script, Script::Tables("t")]).await;
        assert_eq!(client.list_tables().await.unwrap(), ["t"]);
        assert!(left.lock().unwrap().is_empty());
    }
}
