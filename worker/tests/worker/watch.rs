//! What routers hear of a group's cache and load.

use std::collections::HashSet;

use glint_core::{ModelDigest, Namespace};
use glint_proto::v1;
use glint_proto::v1::watch_frame::Frame;
use glint_proto::v1::worker_client::WorkerClient;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::support::{FAST, Registry, SLOW, answer, request, soon, started};

/// A router's view of one group.
struct View {
    stream: Streaming<v1::WatchFrame>,
    epoch: u64,
    sequence: u64,
    blocks: HashSet<u64>,
    snapshots: u32,
}

impl View {
    async fn open(client: &mut WorkerClient<Channel>, resume: Option<(u64, u64)>) -> Self {
        let request = v1::WatchRequest {
            router: "router".into(),
            epoch: resume.map(|(epoch, _)| epoch),
            sequence: resume.map(|(_, sequence)| sequence),
        };
        let stream = client.watch(request).await.unwrap().into_inner();
        let (epoch, sequence) = resume.unwrap_or_default();
        Self { stream, epoch, sequence, blocks: HashSet::new(), snapshots: 0 }
    }

    fn store(&mut self, runs: Vec<v1::Run>) {
        for run in runs {
            assert!(run.parent.is_none_or(|parent| self.blocks.contains(&parent)), "an orphan");
            let mut fresh = run.hashes.into_iter();
            assert!(fresh.all(|hash| self.blocks.insert(hash)), "a block came twice");
        }
    }

    /// Applies frames up to and including the next load report.
    async fn until_load(&mut self) -> v1::Load {
        loop {
            let frame = soon("the next frame", self.stream.message()).await.unwrap();
            match frame.expect("the stream goes on").frame.unwrap() {
                Frame::Snapshot(snapshot) => {
                    if self.snapshots == 0 {
                        self.blocks.clear();
                    }
                    (self.epoch, self.sequence) = (snapshot.epoch, snapshot.sequence);
                    self.snapshots += u32::from(snapshot.last);
                    self.store(snapshot.runs);
                }
                Frame::Delta(delta) => {
                    assert_eq!(delta.sequence, self.sequence + 1, "a gap");
                    self.sequence = delta.sequence;
                    for hash in delta.removed {
                        assert!(self.blocks.remove(&hash), "a block left that was not there");
                    }
                    self.store(delta.stored);
                }
                Frame::Load(load) => return load,
            }
        }
    }

    async fn until(&mut self, wanted: impl Fn(&Self, &v1::Load) -> bool) -> v1::Load {
        loop {
            let load = self.until_load().await;
            if wanted(self, &load) {
                return load;
            }
        }
    }
}

#[tokio::test]
async fn deltas_lead_from_one_snapshot_to_the_next_whatever_is_evicted() {
    let (_group, mut client) = Registry::new().one(&[FAST, "--kv-blocks=24"]).await;
    let mut view = View::open(&mut client, None).await;
    view.until_load().await;
    assert_eq!((view.sequence, view.snapshots), (0, 1));
    // Prompts that share beginnings, more of them than the cache holds.
    for n in 0..30 {
        let prompt = (0..(n % 4) * 16).chain(n..n + 48);
        answer(&mut client, request(prompt, 20)).await.unwrap();
    }
    let mut later = View::open(&mut client, None).await;
    later.until_load().await;
    view.until(|view, _| view.sequence >= later.sequence).await;
    assert_eq!(view.sequence, later.sequence, "nothing happened since");
    assert_eq!(view.blocks, later.blocks);
    assert!(later.blocks.len() > 10 && view.snapshots == 1);
}

#[tokio::test]
async fn blocks_have_the_names_that_a_router_computes() {
    let (_group, mut client) = Registry::new().one(&[FAST]).await;
    let described = client.describe(v1::DescribeRequest {}).await.unwrap().into_inner();
    let digest = ModelDigest(described.model_digest.try_into().unwrap());
    let output = answer(&mut client, request(0..40, 9)).await.unwrap().tokens;
    let mut view = View::open(&mut client, None).await;
    view.until_load().await;
    let tokens: Vec<u32> = (0..40).chain(output).collect();
    let names = Namespace::new(&digest, b"", b"").chain(&tokens);
    let names: HashSet<u64> = names.into_iter().map(|hash| hash.wire().0).collect();
    assert_eq!(view.blocks, names);
}

#[tokio::test]
async fn a_router_resumes_where_it_was_and_gets_a_snapshot_where_that_is_unknown() {
    let (_group, mut client) = Registry::new().one(&[FAST]).await;
    answer(&mut client, request(0..40, 9)).await.unwrap();
    let mut first = View::open(&mut client, None).await;
    first.until_load().await;
    let (epoch, sequence) = (first.epoch, first.sequence);
    answer(&mut client, request(100..140, 9)).await.unwrap();

    let mut resumed = View::open(&mut client, Some((epoch, sequence))).await;
    resumed.blocks = first.blocks.clone();
    resumed.until_load().await;
    assert_eq!((resumed.snapshots, resumed.blocks.len()), (0, 6));
    for unknown in [(epoch, sequence + 1000), (epoch + 1, sequence), (epoch - 1, sequence)] {
        let mut anew = View::open(&mut client, Some(unknown)).await;
        anew.until_load().await;
        assert_eq!((anew.epoch, anew.snapshots), (epoch, 1));
        assert_eq!(anew.blocks, resumed.blocks);
    }
}

#[tokio::test]
async fn reports_tell_load_credits_and_what_they_have_seen() {
    let flags = [SLOW, "--max-sequences=2", "--waiting-max=3"];
    let (_group, mut client) = Registry::new().one(&flags).await;
    let mut view = View::open(&mut client, None).await;
    let idle = view.until_load().await;
    assert_eq!((idle.epoch, idle.dispatches_seen, idle.credit_sequences), (view.epoch, 0, 5));
    assert_eq!(idle.decode_step_ms, None, "nothing was measured yet");

    let asked = |dispatch| v1::GenerateRequest { dispatch, ..request(0..20, 4000) };
    let first = started(&mut client, asked(1)).await;
    let second = started(&mut client, asked(2)).await;
    let third = client.generate(asked(3)).await.unwrap();
    let is_full =
        |_: &View, load: &v1::Load| load.running_sequences == 2 && load.waiting_sequences == 1;
    let busy = view.until(is_full).await;
    assert_eq!((busy.dispatches_seen, busy.credit_sequences), (3, 2));
    assert_eq!(busy.routers.len(), 1);
    assert_eq!((busy.routers[0].router.as_str(), busy.routers[0].sequences), ("router", 3));
    assert!(busy.kv_blocks_used > 0 && busy.credit_tokens > 0);
    let measured = view.until(|_, load| load.decode_step_ms.is_some()).await;
    assert!(measured.decode_step_ms.unwrap() >= 10.0, "{measured:?}");
    assert!(measured.steps > busy.steps || busy.decode_step_ms.is_some());

    drop((first, second, third));
    let idle = view.until(|_, load| load.running_sequences + load.waiting_sequences == 0).await;
    assert_eq!((idle.kv_blocks_used, idle.routers.len()), (0, 0));
}

#[tokio::test]
async fn a_watch_ends_with_its_group() {
    let (group, mut client) = Registry::new().one(&[FAST]).await;
    let mut view = View::open(&mut client, None).await;
    view.until_load().await;
    group.drain.begin();
    let ended = async {
        loop {
            match view.stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a group that leaves says so"),
                Err(status) => return status,
            }
        }
    };
    let status = soon("the watch ends", ended).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("group-0"), "{status}");
    group.ended().await.unwrap();
}
