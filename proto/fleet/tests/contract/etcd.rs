//! A real etcd of one member, for one test.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use etcd_client::Client;
use glint_fleet::{Etcd, Fleet};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::watcher::PATIENCE;

/// Where `make test` puts the server that it builds from tools/etcd.
const BUILT: [&str; 2] = ["../../target/tools/etcd-server", "../../target/tools/etcd"];
/// Ports are taken before etcd can have them, so somebody else may be faster.
const TRIES: u32 = 10;

pub(crate) struct Server {
    binary: PathBuf,
    folder: TempDir,
    client_port: u16,
    peer_port: u16,
    /// Killed when dropped; nothing while stopped.
    child: Option<Child>,
}

impl Server {
    /// Starts an empty etcd; nothing, with a line that says so, where there is none and none is required.
    pub(crate) async fn start() -> Option<Self> {
        let binary = binary()?;
        for _ in 0..TRIES {
            let (client_port, peer_port) = two_free_ports();
            let folder = tempfile::tempdir().unwrap();
            let mut server =
                Self { binary: binary.clone(), folder, client_port, peer_port, child: None };
            if server.try_resume().await.is_ok() {
                return Some(server);
            }
        }
        panic!("{} did not start with {TRIES} pairs of ports", binary.display());
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.client_port).into()
    }

    pub(crate) fn fleet(&self) -> Arc<dyn Fleet> {
        fleet_at(self.address())
    }

    /// etcd's own client, for what no fleet does.
    pub(crate) async fn raw(&self) -> Client {
        Client::connect([format!("http://{}", self.address())], None).await.unwrap()
    }

    /// Stops it as a power cut does.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().expect("it is stopped only once");
        child.kill().await.unwrap();
    }

    /// Starts it again with the data that it has.
    pub(crate) async fn resume(&mut self) {
        let mut last_words = String::new();
        for _ in 0..TRIES {
            match self.try_resume().await {
                Ok(()) => return,
                Err(words) => last_words = words,
            }
        }
        panic!("etcd did not start again: {last_words}");
    }

    /// Loses all data, as a disk does.
    pub(crate) fn wipe(&mut self) {
        assert!(self.child.is_none(), "etcd is stopped before its data are lost");
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn try_resume(&mut self) -> Result<(), String> {
        let (client, peer) = (self.client_port, self.peer_port);
        let client = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let mut child = Command::new(&self.binary)
            .args(["--name", "test", "--data-dir"])
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            // The shortest lease is one and a half election timeouts, in whole seconds.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--unsafe-no-fsync", "--log-level", "info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot run: {error}", self.binary.display()));
        let stderr = child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(stderr).lines();
        tokio::time::timeout(PATIENCE, ready(&mut lines)).await.expect("etcd hangs")?;
        // It must never wait for somebody to read what it says.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.child = Some(child);
        Ok(())
    }
}

pub(crate) fn fleet_at(address: SocketAddr) -> Arc<dyn Fleet> {
    Arc::new(Etcd::new([format!("http://{address}").as_str()]).unwrap())
}

/// Waits until it says that it serves; returns its last words if it ends.
async fn ready(lines: &mut Lines<BufReader<ChildStderr>>) -> Result<(), String> {
    let mut last = String::new();
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        if line.contains("serving client traffic") {
            return Ok(());
        }
        last = line;
    }
    Err(last)
}

fn two_free_ports() -> (u16, u16) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [client, peer] = listeners.each_ref().map(|at| at.local_addr().unwrap().port());
    (client, peer)
}

fn binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("GLINT_ETCD") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "GLINT_ETCD={} is no file", named.display());
        return Some(named);
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|folder| folder.join("etcd"));
    let built = BUILT.iter().map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let found = on_path.chain(built).find(|path| path.is_file());
    if found.is_none() {
        let why = "no etcd: set GLINT_ETCD, install one, or run `make test`";
        assert!(std::env::var_os("GLINT_REQUIRE_ETCD").is_none_or(|v| v != "1"), "{why}");
        println!("skipped: {why}");
    }
    found
}
