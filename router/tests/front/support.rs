//! A router, its registry and its workers, for one test.

pub(crate) mod assets;
pub(crate) mod worker;

use std::time::Duration;

use clap::Parser;
use futures::StreamExt;
use glint_fleet::{Fleet, Keys, Memory};
use glint_proto::v1::{GroupRecord, GroupState};
use glint_router::{Router, RouterConfig, RouterError};
use glint_service::Drain;
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) use worker::FakeWorker;

/// The longest wait for anything; far beyond what is needed on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that gives no sign by itself.
const LOOK: Duration = Duration::from_millis(5);
pub(crate) const MODEL: &str = "sea";

/// A running router. Ends with the test.
pub(crate) struct Scene {
    pub(crate) http: String,
    pub(crate) grpc: String,
    pub(crate) admin: String,
    pub(crate) drain: Drain,
    pub(crate) router: Option<JoinHandle<Result<(), RouterError>>>,
    pub(crate) fleet: Memory,
    keys: Keys,
    fleet_end: Drain,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: RouterConfig,
}

impl Scene {
    /// Starts a router that knows no group.
    pub(crate) async fn empty(flags: &[&str]) -> Self {
        let fleet = Memory::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("--fleet=remote:http://{}", listener.local_addr().unwrap());
        let fleet_end = Drain::new();
        let end = fleet_end.clone();
        let served = fleet.clone();
        tokio::spawn(async move {
            glint_fleet::serve(served, listener, async move { end.draining().await }).await
        });

        let ports = ["glint", "--port=0", "--grpc-port=0", "--admin-port=0", &url];
        let config = Flags::parse_from(ports.iter().chain(flags)).config;
        let router = Router::bind(config).await.unwrap();
        let url = |address| format!("http://{address}");
        let drain = Drain::new();
        Self {
            http: url(router.http_address()),
            grpc: url(router.grpc_address()),
            admin: url(router.admin_address()),
            router: Some(tokio::spawn(router.serve(drain.clone()))),
            drain,
            fleet,
            keys: Keys::new(&"default".parse().unwrap()),
            fleet_end,
        }
    }

    /// Starts a router with one worker that it can use.
    pub(crate) async fn with_worker(flags: &[&str]) -> (Self, FakeWorker) {
        let scene = Self::empty(flags).await;
        let worker = FakeWorker::start(1).await;
        scene.add("g0", &worker).await;
        scene.wait_ready().await;
        (scene, worker)
    }

    /// Puts a worker into the registry.
    pub(crate) async fn add(&self, group: &str, worker: &FakeWorker) {
        self.put(group, worker, GroupState::Ready).await;
    }

    pub(crate) async fn put(&self, group: &str, worker: &FakeWorker, state: GroupState) {
        let record = GroupRecord {
            address: worker.address(),
            epoch: worker.epoch(),
            state: state.into(),
            ..GroupRecord::default()
        };
        let value = record.encode_to_vec().into();
        assert!(self.fleet.put(self.key(group), value, None).await.unwrap());
    }

    pub(crate) async fn remove(&self, group: &str) {
        self.fleet.delete(self.key(group)).await.unwrap();
    }

    fn key(&self, group: &str) -> String {
        self.keys.group(&MODEL.parse().unwrap(), &group.parse().unwrap())
    }

    pub(crate) async fn wait_ready(&self) {
        self.wait_health(200).await;
    }

    pub(crate) async fn wait_health(&self, status: u16) {
        let url = format!("{}/health", self.http);
        wait_until("the router's health", || async {
            client().get(&url).send().await.unwrap().status().as_u16() == status
        })
        .await;
    }

    /// Waits until the metrics have this line.
    pub(crate) async fn wait_metric(&self, line: &str) {
        wait_until(line, || async {
            let text = self.metrics().await;
            text.lines().any(|found| found == line)
        })
        .await;
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("{}/metrics", self.admin);
        client().get(&url).send().await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.post_bytes(path, body.to_string().into_bytes()).await
    }

    pub(crate) async fn post_bytes(&self, path: &str, body: Vec<u8>) -> (u16, Value) {
        let request = client().post(format!("{}{path}", self.http)).body(body);
        read(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        read(client().get(format!("{}{path}", self.http)).send().await.unwrap()).await
    }

    /// Posts a chat of one message and more fields.
    pub(crate) async fn chat(&self, more: Value) -> (u16, Value) {
        self.post("/v1/chat/completions", with(chat_body(), more)).await
    }

    /// Posts a chat and returns what must be a good answer.
    pub(crate) async fn chat_ok(&self, more: Value) -> Value {
        let (status, answer) = self.chat(more).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub(crate) async fn complete_ok(&self, more: Value) -> Value {
        let body = json!({"model": MODEL, "prompt": "Tell", "max_tokens": 100, "temperature": 0});
        let (status, answer) = self.post("/v1/completions", with(body, more)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Starts a streamed chat.
    pub(crate) async fn stream_chat(&self, more: Value) -> Events {
        let body = with(with(chat_body(), json!({"stream": true})), more);
        self.stream("/v1/chat/completions", body).await
    }

    pub(crate) async fn stream(&self, path: &str, body: Value) -> Events {
        let response = client().post(format!("{}{path}", self.http)).json(&body).send().await;
        Events::of(response.unwrap())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.drain.stop();
        self.fleet_end.stop();
    }
}

pub(crate) fn chat_body() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0})
}

/// Returns an object with the fields of both.
pub(crate) fn with(mut body: Value, more: Value) -> Value {
    if let Value::Object(more) = more {
        body.as_object_mut().unwrap().extend(more);
    }
    body
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Looks until something holds.
pub(crate) async fn wait_until<F: Future<Output = bool>>(what: &str, look: impl Fn() -> F) {
    let looking = async {
        while !look().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// Awaits something that must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// A stream of server-sent events.
pub(crate) struct Events {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    bytes: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    pending: Vec<u8>,
}

impl Events {
    fn of(response: reqwest::Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            bytes: response.bytes_stream().boxed(),
            pending: Vec::new(),
        }
    }

    /// Returns the next event or comment as it was written; nothing at the stream's end.
    pub(crate) async fn next_raw(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.pending.drain(..end + 2).collect();
                return Some(String::from_utf8(event).unwrap().trim_end().to_owned());
            }
            let more = soon("more of the stream", self.bytes.next()).await?;
            self.pending.extend_from_slice(&more.ok()?);
        }
    }

    /// Returns the next event's data.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let raw = self.next_raw().await?;
            if let Some(data) = raw.strip_prefix("data: ") {
                let read = serde_json::from_str(data);
                return Some(read.unwrap_or_else(|_| Value::String(data.to_owned())));
            }
        }
    }

    /// Returns all events that are still to come.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// Returns the text of a streamed chat's choice.
pub(crate) fn spelled(events: &[Value], index: u64) -> String {
    let choices = events.iter().filter_map(|event| event["choices"].as_array()).flatten();
    choices
        .filter(|choice| choice["index"] == index)
        .filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str()))
        .collect()
}
