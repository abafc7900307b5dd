//! A server that speaks HTTP/1.1 by hand, so that it can also speak it badly.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From 0, of those that want an answer.
    pub(crate) number: usize,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
    /// Requests that run, this one included.
    pub(crate) running: usize,
}

/// What a client did that left in the middle of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    Closed,
    Reset,
}

/// What is done for an answer, step by step.
#[derive(Clone)]
pub(crate) enum Step {
    /// Bytes as they are, in one write.
    Raw(Vec<u8>),
    /// The head of a stream.
    Head,
    /// Events, in one write.
    Events(Vec<String>),
    /// Until somebody opens it.
    Gate(Arc<Semaphore>),
    Wait(Duration),
    /// The end of the stream.
    End,
    /// Closes the connection.
    Close,
    /// Until the client leaves.
    Forever,
}

type Script = Box<dyn Fn(&Seen) -> Vec<Step> + Send + Sync>;

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    leavings: Mutex<Vec<Leaving>>,
    connections: AtomicUsize,
    running: AtomicUsize,
    running_peak: AtomicUsize,
    scrapes: AtomicUsize,
}

/// A server on a thread of its own, until the test ends.
pub(crate) struct Mock {
    pub(crate) address: SocketAddr,
    log: Arc<Log>,
}

impl Mock {
    /// Answers as `script` says.
    pub(crate) fn start(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let script: Arc<Script> = Arc::new(Box::new(script));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let shared = log.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, script.clone(), shared.clone()));
                }
            });
        });
        Self { address, log }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn running_peak(&self) -> usize {
        self.log.running_peak.load(Ordering::SeqCst)
    }

    pub(crate) fn scrapes(&self) -> usize {
        self.log.scrapes.load(Ordering::SeqCst)
    }

    /// How clients left, once so many have.
    pub(crate) fn leavings(&self, count: usize) -> Vec<Leaving> {
        wait_for("clients to leave", || self.log.leavings.lock().len() >= count);
        self.log.leavings.lock().clone()
    }
}

/// Waits for a condition that must come true.
pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn serve(stream: TcpStream, script: Arc<Script>, log: Arc<Log>) {
    stream.set_nodelay(true).unwrap();
    log.connections.fetch_add(1, Ordering::SeqCst);
    let (mut from, mut to) = stream.into_split();
    while let Some((path, headers, body)) = request(&mut from).await {
        let page = match &*path {
            "/v1/models" => Some(json!({"data": [{"id": "tiny"}, {"id": "other"}]}).to_string()),
            "/metrics" => {
                let n = log.scrapes.fetch_add(1, Ordering::SeqCst) + 1;
                Some(format!("queue_depth{{shard=\"a\"}} {n}\nqueue_depth{{shard=\"b\"}} {n}\n"))
            }
            _ => None,
        };
        if let Some(page) = page {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
            if to.write_all((head + &page).as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        let running = log.running.fetch_add(1, Ordering::SeqCst) + 1;
        log.running_peak.fetch_max(running, Ordering::SeqCst);
        let seen = {
            let mut all = log.seen.lock();
            let number = all.len();
            all.push(Seen { number, path, headers, body, running });
            all[number].clone()
        };
        let mut goes_on = true;
        let mut steps = script(&seen).into_iter().peekable();
        while let Some(step) = steps.next() {
            // Before the last byte, or a client would ask again first.
            if steps.peek().is_none() {
                log.running.fetch_sub(1, Ordering::SeqCst);
            }
            goes_on = goes_on && take(step, &mut from, &mut to, &log).await;
        }
        if !goes_on {
            return;
        }
    }
}

/// Whether the connection goes on.
async fn take(step: Step, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, log: &Log) -> bool {
    let bytes = match step {
        Step::Raw(bytes) => bytes,
        Step::Head => {
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()
        }
        Step::Events(events) => {
            let data: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
            format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
        }
        Step::End => b"0\r\n\r\n".to_vec(),
        Step::Close => return false,
        Step::Gate(gate) => {
            return unless_left(from, log, async { drop(gate.acquire().await) }).await;
        }
        Step::Wait(time) => return unless_left(from, log, tokio::time::sleep(time)).await,
        Step::Forever => return unless_left(from, log, std::future::pending()).await,
    };
    to.write_all(&bytes).await.is_ok()
}

async fn unless_left(
    from: &mut OwnedReadHalf,
    log: &Log,
    waited: impl Future<Output = ()>,
) -> bool {
    let mut byte = [0];
    let leaving = tokio::select! {
        () = waited => return true,
        read = from.read(&mut byte) => match read {
            Ok(0) => Leaving::Closed,
            Ok(_) => panic!("the client sends while it is being answered"),
            Err(_) => Leaving::Reset,
        },
    };
    log.leavings.lock().push(leaving);
    false
}

async fn request(from: &mut OwnedReadHalf) -> Option<(String, BTreeMap<String, String>, Value)> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if from.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(head_end);
    while body.len() < length {
        if from.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some((path, headers, serde_json::from_slice(&body).unwrap_or_default()))
}

/// A piece of an answer.
pub(crate) fn piece(text: &str) -> String {
    json!({"choices": [{"index": 0, "delta": {"content": text}, "text": text}]}).to_string()
}

/// The end of an answer.
pub(crate) fn end() -> String {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).to_string()
}

/// What the server counted.
pub(crate) fn usage(prompt: u32, completion: u32, cached: u32) -> String {
    json!({"choices": [], "usage": {
        "prompt_tokens": prompt, "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }})
    .to_string()
}

/// The end of a stream.
pub(crate) fn done() -> String {
    "[DONE]".to_owned()
}

/// A whole answer of these pieces, at once.
pub(crate) fn answer(pieces: &[&str]) -> Vec<Step> {
    let count = u32::try_from(pieces.len()).unwrap();
    let mut events: Vec<String> = pieces.iter().map(|text| piece(text)).collect();
    events.extend([end(), usage(10, count, 4), done()]);
    vec![Step::Head, Step::Events(events), Step::End]
}

/// The same, once `gate` is open.
pub(crate) fn gated(gate: &Arc<Semaphore>, pieces: &[&str]) -> Vec<Step> {
    let mut steps = answer(pieces);
    steps.insert(0, Step::Gate(gate.clone()));
    steps
}

/// An answer that is no success.
pub(crate) fn status(line: &str, body: &str) -> Vec<Step> {
    let text = format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    vec![Step::Raw(text.into_bytes())]
}
