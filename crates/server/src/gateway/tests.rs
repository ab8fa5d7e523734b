use isthmus_connectors::http::{Http, HttpOptions};
use isthmus_model::clock::SystemClock;
use isthmus_protocol::client::decode_error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::config::gateway::{GatewayConfig, GatewayProbe, PassedTo};

/// What a region of these tests does with a request that is no probe.
#[derive(Clone, Copy)]
enum Does {
    Answer(u16),
    Close,
    Nothing,
}

/// A region, and the heads and bodies that it was asked.
struct FakeRegion {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
    lives: watch::Sender<bool>,
}

impl FakeRegion {
    async fn start(does: Does) -> FakeRegion {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, lives) = (asked.clone(), watch::Sender::new(true));
        let living = lives.subscribe();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, does, noted.clone(), living.clone()));
            }
        });
        FakeRegion { endpoint, asked, lives }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    does: Does,
    noted: Arc<Mutex<Vec<String>>>,
    lives: watch::Receiver<bool>,
) {
    let mut text = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        text.extend_from_slice(&buffer[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
            continue;
        }
        text.clear();
        let is_probe = !head.contains("x-ots-");
        if !*lives.borrow() {
            return std::future::pending().await;
        }
        let status = match does {
            _ if is_probe => 400,
            Does::Answer(status) => status,
            Does::Close | Does::Nothing => 0,
        };
        if !is_probe {
            noted.lock().push(whole);
        }
        let answer = format!("HTTP/1.1 {status} X\r\nx-ots-a: b\r\ncontent-length: 2\r\n\r\nhi");
        match (status, does) {
            (0, Does::Close) => return,
            (0, _) => std::future::pending().await,
            _ => stream.write_all(answer.as_bytes()).await.unwrap(),
        }
    }
}

struct Running {
    shared: Arc<Shared>,
    http: Http,
    /// Ends it when it goes.
    _stop: oneshot::Sender<()>,
}

async fn start(regions: &[&str], change: impl FnOnce(&mut GatewayFile)) -> Running {
    let named = regions.iter().enumerate();
    let regions = named.map(|(place, endpoint)| PassedTo {
        name: format!("r{}", place + 1),
        endpoint: (*endpoint).to_owned(),
    });
    let any = "127.0.0.1:0".parse().unwrap();
    let gateway = GatewayConfig {
        listen: any,
        admin: any,
        prefer: Some("r1".to_owned()),
        ..GatewayConfig::default()
    };
    let probe = GatewayProbe { every_ms: 20, timeout_ms: 100, ..GatewayProbe::default() };
    let mut config = GatewayFile { gateway, probe, regions: regions.collect() };
    change(&mut config);
    let gateway = Gateway::open(config, Arc::new(SystemClock)).await.unwrap();
    gateway.look().await;
    let (clients, _) = gateway.addresses().unwrap();
    let shared = gateway.shared.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(gateway.serve(async move { drop(stopped.await) }));
    let http = Http::new(&format!("http://{clients}"), HttpOptions::default()).unwrap();
    Running { shared, http, _stop: stop }
}

impl Running {
    async fn ask(&self, path: &str) -> (u16, String, String) {
        let headers = [("x-ots-signature", "s".to_owned()), ("X-Other", "o".to_owned())];
        let headers = [&headers[..], &[("connection", "keep-alive".to_owned())]].concat();
        let answer = self.http.send(Method::POST, path, &headers, Bytes::from("body")).await;
        let answer = answer.unwrap();
        let region = answer.headers.get(REGION).map(|name| name.to_str().unwrap().to_owned());
        let text = match decode_error(answer.body.clone()) {
            Ok(error) => error.code,
            Err(_) => String::from_utf8(answer.body.to_vec()).unwrap(),
        };
        (answer.status.as_u16(), region.unwrap_or_default(), text)
    }
}

/// A port that nobody listens on.
async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn told(status: u16, region: &str, text: &str) -> (u16, String, String) {
    (status, region.to_owned(), text.to_owned())
}

#[tokio::test]
async fn a_request_and_its_answer_are_passed_on_as_they_are() {
    let region = FakeRegion::start(Does::Answer(200)).await;
    let gateway = start(&[&region.endpoint], |_| {}).await;
    // A doubled slash is part of what is signed.
    assert_eq!(gateway.ask("//PutRow").await, told(200, "r1", "hi"));
    let asked = region.asked();
    assert_eq!(asked.len(), 1);
    let (head, body) = asked[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST //PutRow HTTP/1.1\r\n"), "{head}");
    assert_eq!(body, "body");
    let host = region.endpoint.trim_start_matches("http://");
    for line in ["x-ots-signature: s", "x-other: o", &format!("host: {host}")] {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
    assert!(!head.contains("connection:"), "{head}");
}

#[tokio::test]
async fn what_was_not_sent_goes_to_another_region() {
    let (gone, region) = (closed().await, FakeRegion::start(Does::Answer(200)).await);
    let gateway = start(&[&gone, &region.endpoint], |_| {}).await;
    for path in ["/PutRow", "/GetRow"] {
        assert_eq!(gateway.ask(path).await, told(200, "r2", "hi"));
    }
    // Also where the one that is gone was up until now.
    let gateway = start(&[&gone, &region.endpoint], |config| config.probe.every_ms = 600_000).await;
    let up = standing::Sign::Probed(Duration::ZERO);
    gateway.shared.regions[0].take(up);
    assert_eq!(gateway.ask("/PutRow").await, told(200, "r2", "hi"));
    assert_eq!(gateway.shared.regions[0].elsewhere[Missed::NotSent as usize].get(), 1);
    let nobody = start(&[&gone], |_| {}).await;
    assert_eq!(nobody.ask("/PutRow").await, told(503, "", "OTSPartitionUnavailable"));
}

#[tokio::test]
async fn a_write_that_may_have_arrived_is_unknown_and_not_sent_again() {
    let broken = FakeRegion::start(Does::Close).await;
    let good = FakeRegion::start(Does::Answer(200)).await;
    let gateway = start(&[&broken.endpoint, &good.endpoint], |_| {}).await;
    assert_eq!(gateway.ask("/PutRow").await, told(503, "", "OTSTimeout"));
    assert_eq!((broken.asked().len(), good.asked().len()), (1, 0));
    assert_eq!(gateway.ask("/GetRow").await, told(200, "r2", "hi"));
    assert_eq!((broken.asked().len(), good.asked().len()), (2, 1));
    // One that is late is the same.
    let late = FakeRegion::start(Does::Nothing).await;
    let regions = [late.endpoint.as_str(), &good.endpoint];
    let gateway = start(&regions, |config| config.gateway.answer_timeout_ms = 100).await;
    assert_eq!(gateway.ask("/BatchWriteRow").await, told(503, "", "OTSTimeout"));
    assert_eq!((late.asked().len(), good.asked().len()), (1, 1));
}

#[tokio::test]
async fn reads_leave_a_region_that_refuses_is_late_or_goes_down() {
    let good = FakeRegion::start(Does::Answer(200)).await;
    let sick = FakeRegion::start(Does::Answer(503)).await;
    let gateway = start(&[&sick.endpoint, &good.endpoint], |_| {}).await;
    assert_eq!(gateway.ask("/GetRange").await, told(200, "r2", "hi"));
    // A write is told what the region said: it may try again.
    assert_eq!(gateway.ask("/PutRow").await, told(503, "r1", "hi"));
    let alone = start(&[&sick.endpoint], |_| {}).await;
    assert_eq!(alone.ask("/GetRange").await, told(503, "r1", "hi"));
    let late = FakeRegion::start(Does::Nothing).await;
    let regions = [late.endpoint.as_str(), &good.endpoint];
    let gateway = start(&regions, |config| config.gateway.read_timeout_ms = 50).await;
    assert_eq!(gateway.ask("/GetRow").await, told(200, "r2", "hi"));
    let gateway = start(&regions, |_| {}).await;
    let lives = late.lives.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lives.send_replace(false);
    });
    assert_eq!(gateway.ask("/GetRow").await, told(200, "r2", "hi"));
    assert!(!gateway.shared.regions[0].standing().up);
}

#[tokio::test]
async fn all_connections_of_a_region_in_use_are_no_reason_to_wait() {
    let slow = FakeRegion::start(Does::Nothing).await;
    let good = FakeRegion::start(Does::Answer(200)).await;
    let regions = [slow.endpoint.as_str(), &good.endpoint];
    let gateway = start(&regions, |config| config.gateway.region_connections_max = 1).await;
    let gateway = Arc::new(gateway);
    let waiting = gateway.clone();
    tokio::spawn(async move { waiting.ask("/PutRow").await });
    while slow.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(gateway.ask("/PutRow").await, told(200, "r2", "hi"));
    assert_eq!(gateway.shared.regions[0].elsewhere[Missed::Full as usize].get(), 1);
}

#[tokio::test]
async fn health_and_figures_tell_how_regions_stand() {
    let (gone, region) = (closed().await, FakeRegion::start(Does::Answer(200)).await);
    let gateway = start(&[&gone, &region.endpoint], |_| {}).await;
    gateway.ask("/PutRow").await;
    let answer = gateway.http.send(Method::GET, HEALTH, &[], Bytes::new()).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let health: Json = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(health["regions"][0]["up"], false);
    assert_eq!(health["regions"][1]["up"], true);
    let text = metrics::text_of(Box::new(figures::Figures::of(&gateway.shared))).unwrap();
    for line in [
        "isthmus_gateway_requests_total{region=\"r2\",outcome=\"done\"} 1",
        "isthmus_gateway_region_up{region=\"r1\"} 0.0",
        "isthmus_gateway_region_up{region=\"r2\"} 1.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let nobody = start(&[&gone], |_| {}).await;
    let answer = nobody.http.send(Method::GET, HEALTH, &[], Bytes::new()).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn what_is_between_two_programs_stays_there_and_what_is_signed_does_not() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, x-hop, x-ots-date"),
        ("x-hop", "1"),
        ("x-ots-date", "d"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "5"),
        ("user-agent", "sdk"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let left: Vec<String> = passed_on(headers).keys().map(ToString::to_string).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&"x-ots-date".to_owned()) && left.contains(&"user-agent".to_owned()));
}
