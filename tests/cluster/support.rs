//! How does a test get a cluster of its own?

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The longest that any wait of these tests lasts; far beyond what is needed on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at something that gives no sign by itself.
const LOOK: Duration = Duration::from_millis(50);

/// A running `glint up`, ended with the test.
pub(crate) struct Cluster {
    child: Child,
    /// Where clients are served, `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    // Kept open: a process that writes into a closed pipe would fail.
    _stdout: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts `glint up` with these flags on a free port and waits for its ready line.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut child = glint()
            .arg("up")
            .args(["--port=0", "--grace-s=5"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot start glint");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut url = None;
        let mut line = String::new();
        while url.is_none() && stdout.read_line(&mut line).unwrap() > 0 {
            let after = line.split_once(" on ").map(|(_, rest)| rest);
            url = after.and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
            line.clear();
        }
        let Some(url) = url else {
            panic!("glint up ended before it was ready: {:?}", child.wait());
        };
        Self { child, url, _stdout: stdout }
    }

    /// Returns the process of one rank.
    pub(crate) fn rank(&self, group: &str, rank: u32) -> Option<Pid> {
        let wanted = [format!("--group={group}"), format!("--ranks={rank}")];
        children_of(self.child.id())
            .into_iter()
            .find(|pid| {
                let flags = arguments_of(*pid);
                wanted.iter().all(|flag| flags.contains(flag))
            })
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
    }

    /// Asks and returns status and body.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_bytes(path, body.to_string().into_bytes())
    }

    /// Like [`Self::post`], with any bytes.
    pub(crate) fn post_bytes(&self, path: &str, body: Vec<u8>) -> (u16, Value) {
        block_on(async {
            let request = client().post(format!("{}{path}", self.url));
            let request = request.header("content-type", "application/json").body(body);
            answer(request.send().await.expect("the router does not answer")).await
        })
    }

    /// Like [`Self::post`], with GET.
    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        block_on(async {
            let response = client().get(format!("{}{path}", self.url)).send().await;
            answer(response.expect("the router does not answer")).await
        })
    }

    /// Posts and returns the `data:` events until the stream ends, `[DONE]` included; calls `each` with the number of events
    /// so far after each one.
    pub(crate) fn stream(
        &self,
        path: &str,
        body: &Value,
        mut each: impl FnMut(usize),
    ) -> Vec<String> {
        block_on(async {
            let request = client().post(format!("{}{path}", self.url)).json(body);
            let mut response = request.send().await.expect("the router does not answer");
            let (mut events, mut pending) = (Vec::new(), Vec::new());
            while let Ok(Some(bytes)) = response.chunk().await {
                pending.extend_from_slice(&bytes);
                while let Some(end) = pending.windows(2).position(|two| two == b"\n\n") {
                    let event: Vec<u8> = pending.drain(..end + 2).collect();
                    let event = String::from_utf8(event).expect("events are UTF-8");
                    if let Some(data) = event.trim().strip_prefix("data: ") {
                        events.push(data.to_owned());
                        each(events.len());
                    }
                }
            }
            events
        })
    }

    /// Sends SIGTERM and returns how the cluster ended.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        signal(self.child.id(), Signal::TERM);
        wait_until("glint up ends", || self.child.try_wait().unwrap())
    }

    /// Returns the processes of all ranks.
    pub(crate) fn ranks(&self) -> Vec<u32> {
        children_of(self.child.id())
    }

    /// Kills `glint up` itself, as if it had crashed.
    pub(crate) fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_some() {
            return;
        }
        signal(self.child.id(), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.child.try_wait().ok().flatten().is_some() {
                return;
            }
            std::thread::park_timeout(LOOK);
        }
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Returns the binary under test.
pub(crate) fn glint() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glint"));
    command.env_remove("GLINT_LOG").stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub(crate) fn glint_output(arguments: &[&str]) -> Output {
    glint().args(arguments).output().expect("cannot start glint")
}

/// Looks until there is something, for [`PATIENCE`].
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Sends a signal to a process that is there.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).expect("the process is gone");
}

/// Returns whether a process runs; a zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let mut text = String::new();
        let list = std::fs::File::open(task.path().join("children"));
        let _gone = list.and_then(|mut list| list.read_to_string(&mut text));
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

fn arguments_of(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().unwrap()
}

async fn answer(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.expect("the answer broke off");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Runs one future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Returns the folder of the reference data, or says that the test is skipped.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if found.exists() {
        return Some(found);
    }
    assert!(std::env::var_os("GLINT_REQUIRE_SHARED").is_none(), "{} is missing", found.display());
    println!("skipped: the reference data {path} is not beside this clone");
    None
}

/// Returns whether the demo model has been fetched, or says that the test is skipped.
pub(crate) fn demo_is_there() -> bool {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).unwrap();
    if cache.join("glint/models/demo-smollm2-135m-instruct/model.safetensors").exists() {
        return true;
    }
    assert!(std::env::var_os("GLINT_REQUIRE_DEMO").is_none(), "the demo model is not fetched");
    println!("skipped: the demo model is not fetched, run `glint model fetch demo`");
    false
}
