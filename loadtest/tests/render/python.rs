//! Do others' validators accept what we write?

use std::{
    io::Write,
    process::{Command, Stdio},
};

use glint_loadtest::render;
use serde_json::json;

use crate::example;

#[test]
fn reports_fit_their_schema_and_llmds_own_validator_takes_its_form() {
    let Some(python) = std::env::var_os("GLINT_PYTHON") else {
        assert!(std::env::var_os("GLINT_REQUIRE_PYTHON").is_none(), "GLINT_PYTHON is not set");
        println!(
            "skipped: GLINT_PYTHON names no Python with llmd-benchmark-report, run `make test`"
        );
        return;
    };
    let reports = example::all();
    let llmd: Vec<_> = reports.iter().flat_map(render::llmd).collect();
    let schema: serde_json::Value = serde_json::from_str(&render::schema()).unwrap();
    let input = json!({ "schema": schema, "reports": reports, "llmd": llmd }).to_string();
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/render/validate.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What Python does not read because it failed is told by its error.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let (text, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{error}");
    assert_eq!(text.trim_end(), format!("OK: {} reports, {} of llm-d", reports.len(), llmd.len()));
}

#[test]
fn llmds_form_says_in_its_units_what_the_report_says() {
    let report = &example::all()[0];
    let (summary, llmd) = (&report.runs[0].summary, &render::llmd(report)[0]);
    let at = |path: &str| llmd.pointer(path).unwrap_or_else(|| panic!("{path}"));
    let aggregate = |path: &str| at(&format!("/results/request_performance/aggregate{path}"));
    assert_eq!(aggregate("/requests/total"), &json!(summary.requests));
    assert_eq!(aggregate("/requests/failures"), &json!(summary.failed));
    assert_eq!(aggregate("/latency/time_to_first_token/p95"), &json!(summary.ttft.p95));
    assert_eq!(aggregate("/latency/time_to_first_token/units"), "ms");
    assert_eq!(aggregate("/latency/inter_token_latency/p99p9"), &json!(summary.itl.p999));
    assert_eq!(aggregate("/latency/inter_token_latency/units"), "ms/token");
    assert_eq!(
        aggregate("/throughput/input_token_rate/mean"),
        &json!(summary.prompt_tokens as f64 / 60.0)
    );
    assert_eq!(aggregate("/requests/input_length/mean"), &json!(1024.0));
    assert_eq!(at("/run/time/start"), "2026-11-25T12:01:00.000Z");
    let second = "/results/request_performance/time_series/throughput/request_rate/series/30";
    assert_eq!(at(second)["ts"], "2026-11-25T12:01:30.000Z");
    assert_eq!(at(second)["value"], json!(report.runs[0].series[30].done as f64));
    let queue = "/results/observability/components/0/time_series/num_requests_waiting/units";
    assert_eq!(at(queue), "count");
}
