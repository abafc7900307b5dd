//! What happens when a process dies, freezes or leaves?

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Cluster, runs, wait_until};

/// Far above the default stall timeout, far below the test's patience: a generous bound on detection.
const DETECTION_MAX: Duration = Duration::from_secs(30);

fn long_stream() -> Value {
    json!({
        "model": "tiny", "stream": true, "max_tokens": 4000, "ignore_eos": true, "temperature": 0,
        "messages": [{"role": "user", "content": "count"}],
    })
}

fn short_answer(cluster: &Cluster) -> Option<String> {
    let body = json!({
        "model": "tiny", "max_tokens": 8, "temperature": 0,
        "messages": [{"role": "user", "content": "hello there"}],
    });
    let (status, answer) = cluster.post("/v1/chat/completions", &body);
    let text = answer["choices"][0]["message"]["content"].as_str().map(str::to_owned);
    text.filter(|_| status == 200)
}

/// Hits one rank in the middle of a stream; the stream must end with an error that names it, and the group must return.
fn hit_a_rank(rank: u32, blow: Signal) {
    let cluster = Cluster::start(&["--model=tiny", "--world-size=2", "--compute=f32"]);
    let before = short_answer(&cluster).expect("a fresh cluster answers");
    let victim = cluster.rank("group-0", rank).expect("the rank runs");

    let mut struck = None;
    let events = cluster.stream("/v1/chat/completions", &long_stream(), |count| {
        if count == 3 {
            kill_process(victim, blow).unwrap();
            struck = Some(Instant::now());
        }
    });
    let detected = struck.expect("the stream had three events").elapsed();
    assert!(detected < DETECTION_MAX, "noticed after {detected:?}");
    println!("{blow:?} on rank {rank}: noticed after {detected:?}");

    let last: Value = serde_json::from_str(events.last().unwrap()).expect("no [DONE] but an error");
    let message = last["error"]["message"].as_str().expect("the last event is an error");
    assert!(message.contains("group"), "{message}");
    // A leader that is gone can say nothing any more; a follower is named.
    if rank != 0 {
        assert!(message.contains(&format!("group-0 failed: rank {rank}")), "{message}");
    }

    if blow == Signal::STOP {
        kill_process(victim, Signal::CONT).unwrap();
    }
    let after = wait_until("the group answers again", || short_answer(&cluster));
    assert_eq!(after, before);
}

#[test]
fn a_killed_follower_ends_its_group_which_forms_again() {
    hit_a_rank(1, Signal::KILL);
}

#[test]
fn a_frozen_follower_ends_its_group_which_forms_again() {
    hit_a_rank(1, Signal::STOP);
}

#[test]
fn a_killed_leader_ends_its_group_which_forms_again() {
    hit_a_rank(0, Signal::KILL);
}

#[test]
fn a_client_that_goes_away_ends_its_sequence() {
    // Room for one sequence: a second request is answered only once the first has been taken back.
    let flags = ["--model=tiny", "--world-size=1", "--worker-args=--max-sequences=1"];
    let cluster = Cluster::start(&flags);
    crate::support::block_on(async {
        let client = reqwest::Client::new();
        let url = format!("{}/v1/chat/completions", cluster.url);
        let mut endless = long_stream();
        endless["max_tokens"] = Value::Null;
        let mut response = client.post(url).json(&endless).send().await.unwrap();
        response.chunk().await.unwrap().expect("a first event");
        // Dropping the response closes the connection.
    });
    short_answer(&cluster).expect("the second request is answered");
}

#[test]
fn a_signal_drains_the_cluster_and_leaves_no_process() {
    let mut cluster = Cluster::start(&["--model=tiny", "--world-size=2"]);
    let ranks = cluster.ranks();
    assert_eq!(ranks.len(), 2);
    let status = cluster.terminate();
    assert!(status.success(), "{status}");
    assert!(!ranks.iter().any(|pid| runs(*pid)));
}

#[test]
fn workers_do_not_outlive_a_crashed_cluster() {
    let mut cluster = Cluster::start(&["--model=tiny", "--world-size=2"]);
    let ranks = cluster.ranks();
    cluster.crash();
    wait_until("the workers are gone", || (!ranks.iter().any(|pid| runs(*pid))).then_some(()));
}
