//! Does the load tester, as the binary has it, measure a running cluster over HTTP and gRPC?

use std::{path::Path, process::Output};

use serde_json::Value;

use crate::support::{Cluster, glint_output, shared};

/// Four groups that make tokens up: prefill at 400,000 tokens a second, steps of 1 ms.
fn simulated(flags: &[&str]) -> Cluster {
    let device = "--worker-args=--device sim:prefill=400000,step=1ms,sequence=10us,end=0 --kv-blocks 20000 --waiting-max 10000";
    let mut all = vec!["--model=tiny", "--world-size=1", "--groups=4", device];
    all.extend(flags);
    Cluster::start(&all)
}

/// Runs `glint loadtest run` and returns its JSON.
fn measured(flags: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result.json");
    let json = format!("--json={}", file.display());
    let mut all = vec!["loadtest", "run", "--quiet", "--ignore-eos", "--token-ids=10-250", &json];
    all.extend(flags);
    said(&glint_output(&all), true);
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn said(output: &Output, good: bool) -> String {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let text = format!("{}{}", said(&output.stdout), said(&output.stderr));
    assert_eq!(output.status.success(), good, "{text}");
    text
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Every request of a run was answered whole.
fn all_done(report: &Value, requests: u64) {
    let summary = &report["runs"][0]["summary"];
    assert_eq!(summary["requests"], requests, "{summary}");
    assert_eq!(summary["done"], requests, "{summary}");
    assert!(number(&summary["ttft"]["p50"]) > 0.0, "{summary}");
}

#[test]
fn every_trace_is_replayed_against_a_simulated_cluster() {
    let Some(traces) = shared("traces") else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _cluster = simulated(&[&format!("--grpc-port={port}")]);
    let url = format!("--url=grpc://127.0.0.1:{port}");
    let replay = |file: &str, pace: &[&str]| {
        let trace = format!("--trace={}", traces.join(file).display());
        let mut flags = vec![url.as_str(), "--prompt-form=tokens", &trace, "--requests=120"];
        flags.extend(["--input-tokens-max=6000", "--output-tokens-max=32"]);
        flags.extend(pace);
        measured(&flags)
    };
    let cached = |report: &Value| {
        let summary = &report["runs"][0]["summary"];
        number(&summary["cached_tokens"]) / number(&summary["prompt_tokens"])
    };
    // Times 1/50: a minute of the trace in 1.2 s.
    for file in ["mooncake_conversation.jsonl.gz", "mooncake_synthetic.jsonl.gz"] {
        let report = replay(file, &["--time-scale=0.02"]);
        all_done(&report, 120);
        assert!(cached(&report) > 0.01, "{file}: {}", cached(&report));
    }
    for file in ["azure_llm_2023_code.csv.gz", "azure_llm_2023_conv.csv.gz"] {
        all_done(&replay(file, &["--time-scale=0.02"]), 120);
    }
    all_done(
        &replay("servegen_client_rates.csv.gz", &["--time-scale=0.5", "--input-tokens=200"]),
        120,
    );
    // Sessions of many turns: they come one a second, each 200 times as fast as its user was.
    let sessions = ["--rate=2", "--time-scale=0.005", "--duration-s=4", "--drain-s=60"];
    let report = replay("agentic_coding_sessions.jsonl.gz", &sessions);
    let summary = &report["runs"][0]["summary"];
    assert!(number(&summary["done"]) >= 20.0, "{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(cached(&report) > 0.5, "{}", cached(&report));
}

#[test]
fn conversations_stand_on_their_answers_and_hit_the_cache() {
    let cluster = simulated(&[]);
    let url = format!("--url={}", cluster.url);
    let report = measured(&[
        &url,
        "--concurrency=4",
        "--requests=12",
        "--turns=3",
        "--think-time-s=0",
        "--input-tokens=60",
        "--turn-tokens=20",
        "--output-tokens=24",
        "--tenant=a=1",
        "--tenant=b=1",
    ]);
    all_done(&report, 36);
    let run = &report["runs"][0];
    let summary = &run["summary"];
    assert_eq!(summary["output_tokens"], 36 * 24, "{summary}");
    assert!(
        number(&summary["cached_tokens"]) > 0.3 * number(&summary["prompt_tokens"]),
        "{summary}"
    );
    let tenants: Vec<&Value> =
        run["parts"].as_array().unwrap().iter().filter(|part| part["by"] == "tenant").collect();
    assert_eq!(tenants.len(), 2, "{}", run["parts"]);
}

#[test]
fn recorded_answers_are_verified_and_a_changed_one_is_named() {
    let cluster = Cluster::start(&["--model=tiny", "--world-size=1", "--compute=f32"]);
    let url = format!("--url={}", cluster.url);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("answers.jsonl");
    let to = format!("--to={}", file.display());
    let flags = [
        "loadtest",
        "record",
        &url,
        &to,
        "--requests=6",
        "--input-tokens=20",
        "--output-tokens=12",
    ];
    said(&glint_output(&flags), true);
    let verify = |path: &Path| glint_output(&["loadtest", "verify", &url, path.to_str().unwrap()]);
    let text = said(&verify(&file), true);
    assert!(text.contains("6 of 6 answers are the recorded ones"), "{text}");

    let mut lines: Vec<Value> = std::fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // How many tokens come in one piece is the router's business.
    let pieces = lines[2]["expected"].as_array_mut().unwrap();
    let last = pieces.len() - 1;
    pieces[last] = "zebra".into();
    let changed: Vec<String> = lines.iter().map(ToString::to_string).collect();
    std::fs::write(&file, changed.join("\n")).unwrap();
    let output = verify(&file);
    let text = said(&output, false);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains(&format!("line 3: different from token {last}")), "{text}");
}
