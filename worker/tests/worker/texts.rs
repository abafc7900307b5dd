//! What a group says of itself, and what it refuses to start with.

use std::sync::Arc;

use glint_proto::v1;
use glint_worker::Worker;
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::support::{FAST, Registry, config, model, soon};

#[tokio::test]
async fn a_router_learns_all_it_needs_from_the_worker() {
    let names = "--model-name=Tiny GLM,tiny";
    let (_group, mut client) = Registry::new().one(&[FAST, names, "--revision=7"]).await;
    let described = client.describe(v1::DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!((described.model.as_str(), described.revision.as_str()), ("tiny-glm", "7"));
    assert_eq!(described.served_names, ["Tiny GLM", "tiny"]);
    assert_eq!((described.world_size, described.block_size_tokens), (1, 16));
    assert_eq!(described.model_digest.len(), 32);
    assert!(described.epoch > 0 && described.context_tokens > 1000);
    assert!(!described.eos_token_ids.is_empty());
    assert_eq!(described.numerics.unwrap().device, "sim");

    let listed: Vec<&str> = described.assets.iter().map(|asset| asset.name.as_str()).collect();
    for name in ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"] {
        assert!(listed.contains(&name), "{name} is not in {listed:?}");
    }
    for asset in described.assets {
        let request = v1::GetAssetRequest { sha256: asset.sha256.clone() };
        let mut chunks = client.get_asset(request).await.unwrap().into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await.unwrap() {
            bytes.extend_from_slice(&chunk.data);
        }
        assert_eq!(bytes.len() as u64, asset.size_bytes);
        assert_eq!(format!("{:x}", Sha256::digest(&bytes)), asset.sha256);
        assert_eq!(bytes, std::fs::read(model().join(&asset.name)).unwrap());
    }
    let unknown = v1::GetAssetRequest { sha256: "00".repeat(32) };
    assert_eq!(client.get_asset(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_admin_port_tells_what_the_process_does() {
    let (group, mut client) = Registry::new().one(&[FAST]).await;
    crate::support::answer(&mut client, crate::support::request(0..40, 5)).await.unwrap();
    assert!(group.admin("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(group.admin("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = group.admin("/metrics").await;
    for line in ["glint_worker_requests_total 1", "glint_worker_output_tokens_total 5"] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn health_is_that_of_the_group_not_of_the_process() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let registry = Registry::new();
    let leader = registry.start(&[FAST, "--world-size=2"]).await;
    let address = format!("http://{}", leader.address);
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await;
    let mut client = HealthClient::new(channel.unwrap());
    let mut status = async || {
        let service = "glint.v1.Worker".to_owned();
        let request = tonic_health::pb::HealthCheckRequest { service };
        client.check(request).await.unwrap().into_inner().status()
    };
    assert_eq!(status().await, ServingStatus::NotServing);
    let follower = registry.start(&[FAST, "--world-size=2", "--ranks=1"]).await;
    let serving = async { while status().await != ServingStatus::Serving {} };
    soon("the group is healthy", serving).await;
    follower.kill().await;
    let failed = async { while status().await != ServingStatus::NotServing {} };
    soon("the group is not", failed).await;
}

#[tokio::test]
async fn flags_and_folders_that_cannot_work_are_refused_in_a_sentence() {
    let refused = async |folder: &std::path::Path, flags: &[&str]| {
        let registry = Registry::new();
        let bound = Worker::bind_in(config(folder, flags), Arc::clone(&registry.fleet)).await;
        bound.unwrap_err().to_string()
    };
    let tiny = model();
    let why = refused(&tiny, &[FAST, "--ranks=0-2", "--world-size=2"]).await;
    assert!(why.contains("--ranks says rank 2"), "{why}");
    let why = refused(&tiny, &[FAST, "--host=0.0.0.0"]).await;
    assert!(why.contains("--advertise"), "{why}");
    let why = refused(&tiny, &["--world-size=3"]).await;
    assert!(why.contains("use one of 1, 2, 4, 8"), "{why}");
    let nowhere = tiny.join("nowhere");
    let why = refused(&nowhere, &[]).await;
    assert!(why.contains("nowhere"), "{why}");
    let why = refused(&nowhere, &[FAST]).await;
    assert!(why.contains("nowhere"), "{why}");
}
