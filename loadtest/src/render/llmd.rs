//! The Benchmark Report v0.2 of llm-d, one document per run.
//!
//! Field by field: `time_to_first_token` and `request_latency` are ours, so they count from the *schedule*; what counts from the
//! sending, how late the generator was and the objectives have no field there and stand in `results.profiling`, which takes
//! anything. Only what the report says is written: lengths are means, for their distributions are not known.

use serde_json::{Map, Value, json};

use super::clock;
use crate::report::{Distribution, Report, Run, Second, ServerSeries, Target};

/// The revision of the form whose fields are used.
const VERSION: &str = "0.2.1";

/// See [`super::llmd`].
pub(super) fn reports(report: &Report) -> Vec<Value> {
    report.runs.iter().enumerate().map(|(i, run)| of_run(report, i, run)).collect()
}

fn of_run(report: &Report, index: usize, run: &Run) -> Value {
    let experiment = identity(&[&report.started_at, &report.command.join("\0")]);
    let begin =
        run.started_at.as_deref().or((report.runs.len() == 1).then_some(&*report.started_at));
    let begin = begin.and_then(clock::parse);
    let mut time = json!({ "duration": format!("PT{:.3}S", run.elapsed_s) });
    if let Some(begin) = begin {
        time["start"] = json!(clock::format(begin));
        time["end"] = json!(clock::format(begin + (run.elapsed_s * 1000.0) as i64));
    }
    let target = report.targets.get(run.target);
    let mut results = json!({
        "request_performance": { "aggregate": aggregate(run) },
        "profiling": profiling(report, run),
    });
    if let Some(begin) = begin {
        // A point of a time series needs its moment.
        if let Some(series) = time_series(&run.series, begin) {
            results["request_performance"]["time_series"] = series;
        }
        if let Some(target) = target
            && let Some(components) = observability(&run.server, target, begin)
        {
            results["observability"] = json!({ "components": components });
        }
    }
    json!({
        "version": VERSION,
        "run": {
            "uid": format!("{experiment}-{index}"),
            "eid": experiment,
            "time": time,
            "description": format!("{}: {}", target.map_or("", |target| &target.model), run.load),
        },
        "scenario": {
            "stack": target.map(component).into_iter().collect::<Vec<_>>(),
            "load": load(report, index, run),
        },
        "results": results,
    })
}

/// What was asked. Of a server from outside only its address and its model are known, so it is a `generic` component.
fn component(target: &Target) -> Value {
    json!({
        "metadata": {
            "label": target.url,
            "cfg_id": identity(&[&target.url, &target.endpoint, &target.model]),
        },
        "standardized": {
            "kind": "generic",
            "tool": "unknown",
            "tool_version": "unknown",
            "endpoint": target.endpoint,
            "model": { "name": target.model },
        },
        "native": {},
    })
}

fn load(report: &Report, index: usize, run: &Run) -> Value {
    let mut standardized = json!({
        "tool": "glint loadtest",
        "tool_version": report.glint_version,
        "source": "unknown",
        "stage": index,
        "input_seq_len": { "distribution": "other", "value": mean_prompt_tokens(run).unwrap_or(0.0) },
    });
    if let Some(rate) = run.rate.filter(|rate| *rate > 0.0) {
        standardized["rate_qps"] = json!(rate);
    }
    json!({
        "metadata": {
            "cfg_id": identity(&[&report.workload, &run.load]),
            "description": format!("{}; {}", run.load, report.workload),
        },
        "standardized": standardized,
        "native": { "config": { "command": report.command, "objectives": report.slo } },
    })
}

/// Answers whose tokens were counted: the whole ones and those that the client left.
fn answers(run: &Run) -> f64 {
    (run.summary.done + run.summary.left) as f64
}

fn mean_prompt_tokens(run: &Run) -> Option<f64> {
    (answers(run) > 0.0).then(|| run.summary.prompt_tokens as f64 / answers(run))
}

fn aggregate(run: &Run) -> Value {
    let s = &run.summary;
    let window_s = run.measured_to_s - run.measured_from_s;
    let mut requests = json!({
        "total": s.requests,
        "failures": s.failed,
        "incomplete": s.unfinished + s.left,
    });
    if let Some(mean) = mean_prompt_tokens(run) {
        requests["input_length"] = only_mean("count", mean);
        requests["output_length"] = only_mean("count", s.output_tokens as f64 / answers(run));
    }
    let latencies = [
        ("time_to_first_token", "ms", &s.ttft),
        ("time_per_output_token", "ms/token", &s.tpot),
        ("inter_token_latency", "ms/token", &s.itl),
        ("request_latency", "ms", &s.e2e),
    ];
    let latency: Map<String, Value> = latencies
        .into_iter()
        .filter_map(|(name, units, distribution)| {
            Some((name.to_owned(), statistics(units, distribution)?))
        })
        .collect();
    let mut throughput = json!({
        "output_token_rate": only_mean("tokens/s", s.output_tokens_per_s),
        "request_rate": only_mean("queries/s", s.done_per_s),
    });
    if window_s > 0.0 {
        let prompt_rate = s.prompt_tokens as f64 / window_s;
        throughput["input_token_rate"] = only_mean("tokens/s", prompt_rate);
        throughput["total_token_rate"] = only_mean("tokens/s", prompt_rate + s.output_tokens_per_s);
    }
    json!({ "requests": requests, "latency": latency, "throughput": throughput })
}

fn only_mean(units: &str, mean: f64) -> Value {
    json!({ "units": units, "mean": mean })
}

fn statistics(units: &str, d: &Distribution) -> Option<Value> {
    (d.count > 0).then(|| {
        json!({
            "units": units,
            "mean": d.mean,
            "stddev": d.stddev,
            "min": d.min,
            "p50": d.p50,
            "p90": d.p90,
            "p95": d.p95,
            "p99": d.p99,
            "p99p9": d.p999,
            "max": d.max,
        })
    })
}

/// What has no field elsewhere.
fn profiling(report: &Report, run: &Run) -> Value {
    let s = &run.summary;
    json!({
        "tool": "glint loadtest",
        "latency_counts_from": "the intended start of each request",
        "time_to_first_token_from_sending": statistics("ms", &s.ttft_from_sent),
        "generator_lateness": statistics("ms", &run.generator.lateness),
        "generator_kept_schedule": run.generator.kept_schedule,
        "objectives": report.slo,
        "good_share": s.good_share,
        "goodput_per_s": s.goodput_per_s,
        "cached_prompt_tokens": s.cached_tokens_known.then_some(s.cached_tokens),
        "errors": s.errors,
    })
}

fn time_series(series: &[Second], begin_ms: i64) -> Option<Value> {
    if series.is_empty() {
        return None;
    }
    let moment = |second: &Second| clock::format(begin_ms + second.t_s as i64 * 1000);
    let points = |of: &dyn Fn(&Second) -> f64| -> Vec<Value> {
        series.iter().map(|second| json!({ "ts": moment(second), "value": of(second) })).collect()
    };
    let first_tokens: Vec<Value> = series
        .iter()
        // A second in which no request was intended has no latency.
        .filter(|second| second.ttft_p50 > 0.0)
        .map(|second| json!({ "ts": moment(second), "p50": second.ttft_p50, "p95": second.ttft_p95 }))
        .collect();
    let answered = points(&|second| second.done as f64);
    let tokens = points(&|second| second.output_tokens as f64);
    Some(json!({
        "latency": { "time_to_first_token": { "units": "ms", "series": first_tokens } },
        "throughput": {
            "request_rate": { "units": "queries/s", "series": answered },
            "output_token_rate": { "units": "tokens/s", "series": tokens },
        },
    }))
}

/// Metrics of the servers that the form has a field for, by the names of vLLM and of Glint.
const METRICS: [(&str, &str); 4] = [
    ("num_requests_running", "num_requests_running"),
    ("num_requests_waiting", "num_requests_waiting"),
    ("replicas", "pool_ready_pods"),
    ("queue", "pool_avg_queue_size"),
];

fn observability(server: &[ServerSeries], target: &Target, begin_ms: i64) -> Option<Vec<Value>> {
    let mut components: Vec<(&str, Map<String, Value>)> = Vec::new();
    for series in server {
        let Some((_, field)) = METRICS.iter().find(|(part, _)| series.metric.contains(part)) else {
            continue;
        };
        let points: Vec<Value> = series
            .points
            .iter()
            .map(|(s, value)| {
                json!({ "ts": clock::format(begin_ms + (s * 1000.0) as i64), "value": value })
            })
            .collect();
        let data = json!({ "units": "count", "series": points });
        if !components.iter().any(|(url, _)| *url == series.url) {
            components.push((&series.url, Map::new()));
        }
        let of_url = components.iter_mut().find(|(url, _)| *url == series.url);
        if let Some((_, fields)) = of_url {
            fields.entry(*field).or_insert(data);
        }
    }
    let component = |(url, fields): (&str, Map<String, Value>)| json!({ "component_label": target.url, "replica_id": url, "time_series": fields });
    (!components.is_empty()).then(|| components.into_iter().map(component).collect())
}

/// Names a thing by what it is made of: 64 bits of FNV-1a, the same whenever a report is drawn again.
fn identity(parts: &[&str]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
