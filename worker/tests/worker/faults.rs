//! A rank that dies, falls silent or lies takes its group's epoch with it, and the group forms again.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use glint_core::Epoch;
use glint_kernels::collective::{self, Transport};
use glint_proto::v1;
use glint_proto::v1::follower_message::Message as Word;
use glint_proto::v1::leader_message::Message as LeaderWord;
use glint_proto::v1::rank_client::RankClient;
use glint_proto::v1::rank_server::{Rank, RankServer};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::support::{
    FAST, Registry, Running, SLOW, answer, broken, client, request, soon, started,
};

const SIZE: &str = "--world-size=2";
/// Short, so that the tests are; far above the heartbeats' 100 ms, so that a busy machine is not taken for a dead one.
const STALL: &str = "--stall-timeout-ms=1500";

/// Returns the address and epoch under which rank 0 takes calls.
async fn rendezvous(registry: &Registry) -> (u64, String) {
    let (model, group) = ("tiny".parse().unwrap(), "group-0".parse().unwrap());
    let mut changes = registry.fleet.watch(registry.keys.rendezvous_of(&model, &group));
    let found = async {
        loop {
            if let Some(glint_fleet::Change::Put { key, value }) = changes.next().await {
                let (epoch, _rank) = registry.keys.parse_rendezvous(&key).unwrap();
                return (epoch.0, v1::RendezvousRecord::decode(value).unwrap().address);
            }
        }
    };
    soon("rank 0 opens an epoch", found).await
}

fn word(message: Word) -> v1::FollowerMessage {
    v1::FollowerMessage { message: Some(message) }
}

/// A hand-made rank 1 that behaves until it is told otherwise.
struct Puppet {
    words: mpsc::Sender<v1::FollowerMessage>,
    heard: Streaming<v1::LeaderMessage>,
    beats: tokio::task::JoinHandle<()>,
}

impl Puppet {
    /// Joins the open epoch and meets rank 0; steps need nothing more of it than their barriers.
    async fn join(registry: &Registry) -> Self {
        let (epoch, address) = rendezvous(registry).await;
        let (words, stream) = mpsc::channel(64);
        let hello = v1::Hello {
            epoch,
            rank: 1,
            world_size: 2,
            model_digest: sim_digest(),
            numerics: Some(sim_numerics()),
            kv_blocks_max: 100,
        };
        words.try_send(word(Word::Hello(hello))).unwrap();
        let mut client = RankClient::connect(format!("http://{address}")).await.unwrap();
        let mut heard = client.join(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let beats = {
            let words = words.clone();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(100));
                loop {
                    ticks.tick().await;
                    let beat = word(Word::Heartbeat(v1::Heartbeat::default()));
                    if words.send(beat).await.is_err() {
                        return;
                    }
                }
            })
        };
        let welcome = loop {
            let heard = soon("rank 0 says welcome", heard.message()).await.unwrap().unwrap();
            if let Some(LeaderWord::Welcome(welcome)) = heard.message {
                break welcome;
            }
        };
        let meet = move || {
            let group = collective::Group::new(2, epoch, Duration::from_secs(60));
            let mut met = collective::join(&welcome.collective, 1, &group).unwrap();
            while met.barrier().is_ok() {}
        };
        std::thread::spawn(meet);
        Self { words, heard, beats }
    }

    /// Waits for rank 0's last word.
    async fn fault(&mut self) -> v1::Fault {
        let fault = async {
            loop {
                let word = self.heard.message().await.unwrap().expect("a reason comes first");
                if let Some(LeaderWord::Fault(fault)) = word.message {
                    return fault;
                }
            }
        };
        soon("rank 0 says why", fault).await
    }
}

fn sim_numerics() -> v1::Numerics {
    v1::Numerics {
        device: "sim".into(),
        isa: "none".into(),
        compute: "none".into(),
        kv: "none".into(),
        world_size: 2,
        batch_invariant: true,
        version: 1,
    }
}

fn sim_digest() -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let config = std::fs::read(crate::support::model().join("config.json")).unwrap();
    Sha256::new_with_prefix("sim\0").chain_update(config).finalize().to_vec()
}

/// Starts rank 0 of 2 with a puppet as rank 1, and a request that runs.
async fn with_puppet(
    registry: &Registry,
) -> (Running, Puppet, v1::GroupRecord, Streaming<v1::GenerateResponse>) {
    let leader = registry.start(&[SLOW, SIZE, STALL]).await;
    let puppet = Puppet::join(registry).await;
    let record = registry.ready_after(0).await;
    let mut client = leader.client().await;
    let running = started(&mut client, request(0..5, 100_000)).await;
    (leader, puppet, record, running)
}

/// Checks how a request ended, and that the group comes back under a later epoch with a real rank 1.
async fn recovers(
    registry: &Registry,
    before: &v1::GroupRecord,
    running: Streaming<v1::GenerateResponse>,
    why: &str,
) {
    let status = broken(running).await;
    assert_eq!(status.code(), Code::Unavailable);
    let message = status.message();
    assert!(message.contains("group-0") && message.contains(why), "{message}");

    let mut asked = client(&before.address).await;
    let refused = answer(&mut asked, request(0..5, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let _rank = registry.start(&[SLOW, SIZE, STALL, "--ranks=1"]).await;
    registry.ready_after(before.epoch).await;
    assert_eq!(answer(&mut asked, request(0..5, 3)).await.unwrap().tokens.len(), 3);
}

#[tokio::test]
async fn a_rank_that_falls_silent_ends_the_epoch() {
    let registry = Registry::new();
    let (_leader, mut puppet, record, running) = with_puppet(&registry).await;
    // The connection stands, and steps go on: only the signs of life stop.
    puppet.beats.abort();
    let fault = puppet.fault().await;
    assert_eq!(fault.rank, 1);
    assert!(fault.reason.starts_with("gave no sign of life for"), "{}", fault.reason);
    recovers(&registry, &record, running, "rank 1 gave no sign of life").await;
}

#[tokio::test]
async fn a_rank_whose_connection_breaks_ends_the_epoch() {
    let registry = Registry::new();
    let (_leader, puppet, record, running) = with_puppet(&registry).await;
    puppet.beats.abort();
    drop(puppet);
    recovers(&registry, &record, running, "rank 1 ").await;
}

#[tokio::test]
async fn a_ranks_own_words_are_passed_on_as_the_reason() {
    let registry = Registry::new();
    let (_leader, puppet, record, running) = with_puppet(&registry).await;
    let fault = v1::Fault { rank: 1, reason: "is out of memory".into() };
    puppet.words.send(word(Word::Fault(fault))).await.unwrap();
    recovers(&registry, &record, running, "group group-0 failed: rank 1 is out of memory").await;
}

#[tokio::test]
async fn a_killed_follower_is_missed_at_once_and_its_survivors_form_anew() {
    let registry = Registry::new();
    let size = "--world-size=3";
    let leader = registry.start(&[SLOW, size, "--ranks=0"]).await;
    let _survivor = registry.start(&[SLOW, size, "--ranks=1"]).await;
    let victim = registry.start(&[SLOW, size, "--ranks=2"]).await;
    let record = registry.ready_after(0).await;
    let mut client = leader.client().await;
    let running = started(&mut client, request(0..5, 100_000)).await;
    victim.kill().await;
    let status = broken(running).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("rank 2"), "{status}");
    let alone = leader.admin("/readyz").await;
    assert!(alone.starts_with("HTTP/1.1 503"), "{alone}");

    let _returned = registry.start(&[SLOW, size, "--ranks=2"]).await;
    registry.ready_after(record.epoch).await;
    assert_eq!(answer(&mut client, request(0..5, 3)).await.unwrap().tokens.len(), 3);
}

#[tokio::test]
async fn followers_of_a_killed_leader_join_the_next_one() {
    let registry = Registry::new();
    // A lease that ends soon: until then the dead leader's key is there, and a call to it is refused.
    let lease = "--lease-ttl-ms=2000";
    let leader = registry.start(&[SLOW, SIZE, lease]).await;
    let follower = registry.start(&[SLOW, SIZE, "--ranks=1"]).await;
    let record = registry.ready_after(0).await;
    leader.kill().await;
    let next = registry.start(&[SLOW, SIZE, lease]).await;
    let after = registry.ready_after(record.epoch).await;
    assert_eq!(after.address, next.address.to_string());
    let mut client = next.client().await;
    assert_eq!(answer(&mut client, request(0..5, 3)).await.unwrap().tokens.len(), 3);
    assert!(follower.admin("/readyz").await.starts_with("HTTP/1.1 200"));
}

type ToFollower = mpsc::Sender<Result<v1::LeaderMessage, Status>>;

/// A hand-made rank 0 that welcomes and then says nothing more.
struct SilentLeader {
    collective: String,
    words: mpsc::Sender<v1::FollowerMessage>,
    /// Kept open, or the follower would see a closed connection and not silence.
    calls: Mutex<Vec<ToFollower>>,
}

#[tonic::async_trait]
impl Rank for SilentLeader {
    type JoinStream = BoxStream<'static, Result<v1::LeaderMessage, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<v1::FollowerMessage>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let (to_follower, stream) = mpsc::channel(4);
        let welcome = v1::Welcome { collective: self.collective.clone(), kv_blocks: 10 };
        let message = Some(LeaderWord::Welcome(welcome));
        to_follower.try_send(Ok(v1::LeaderMessage { message })).unwrap();
        self.calls.lock().push(to_follower);
        let mut heard = request.into_inner();
        let words = self.words.clone();
        tokio::spawn(async move {
            while let Ok(Some(word)) = heard.message().await {
                if words.send(word).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(boxed(ReceiverStream::new(stream))))
    }
}

fn boxed<T: 'static>(stream: impl Stream<Item = T> + Send + 'static) -> BoxStream<'static, T> {
    stream.boxed()
}

#[tokio::test]
async fn a_follower_leaves_a_leader_that_falls_silent_and_says_so() {
    let registry = Registry::new();
    let epoch = 5;
    let transport = Transport::SharedMemory;
    let group = collective::Group::new(2, epoch, Duration::from_secs(60));
    let host = collective::host(&transport, &group).unwrap();
    let (words, mut heard) = mpsc::channel(1024);
    let collective = host.address().to_owned();
    let leader = SilentLeader { collective, words, calls: Mutex::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(RankServer::new(leader));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let (model, name) = ("tiny".parse().unwrap(), "group-0".parse().unwrap());
    let key = registry.keys.rendezvous(&model, &name, Epoch(epoch), 0);
    let record = v1::RendezvousRecord { address };
    registry.fleet.put(key, record.encode_to_vec().into(), None).await.unwrap();

    let follower = registry.start(&[FAST, SIZE, STALL, "--ranks=1"]).await;
    let met = tokio::task::spawn_blocking(move || host.accept().unwrap());
    let _met = soon("the ranks meet", met).await.unwrap();
    let last_word = async {
        loop {
            let word = heard.recv().await.expect("the server lives");
            if let Some(Word::Fault(fault)) = word.message {
                return fault;
            }
        }
    };
    let fault = soon("the follower says why", last_word).await;
    assert_eq!(fault.rank, 0);
    assert!(fault.reason.starts_with("gave no sign of life for"), "{}", fault.reason);

    // A real rank 0 begins a later epoch, and the follower is there.
    let leader = registry.start(&[FAST, SIZE, STALL]).await;
    assert!(registry.ready_after(epoch).await.epoch > epoch);
    let mut client = leader.client().await;
    assert_eq!(answer(&mut client, request(0..5, 3)).await.unwrap().tokens.len(), 3);
    drop(follower);
}

#[tokio::test]
async fn a_rank_with_another_model_or_size_is_told_so() {
    let registry = Registry::new();
    let leader = registry.start(&[FAST, "--world-size=3"]).await;
    let stranger = registry.start(&[FAST, SIZE, "--ranks=1"]).await;
    let refused = async {
        loop {
            let why = stranger.admin("/readyz").await;
            if why.contains("comes to a group of 3 ranks") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("the stranger says why it is not ready", refused).await;
    assert!(leader.admin("/readyz").await.contains("rank 1, 2 has not joined"));
}
