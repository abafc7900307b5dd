//! ServeGen: how often each client of a service asks, for every ten minutes, and how its gaps scatter.
//!
//! Every client is a renewal process of its own; the service's load is all of them together. A gap that does not end within its
//! ten minutes goes on in the next at that rate, so that the expected number of requests is the recorded one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    path::Path,
    time::Duration,
};

use rand::rngs::Xoshiro256PlusPlus;
use serde::Deserialize;

use super::{
    Servegen, Trace, Units,
    lines::{Lines, reader},
    mooncake::alone,
};
use crate::{
    arrivals::Law,
    plan::{Piece, PlanError, Prompt},
    workload::{Distribution, seed},
};

/// How long a row holds.
const ROW_S: f64 = 600.0;

/// A row, cut to the window.
#[derive(Clone, Copy)]
struct Row {
    from_s: f64,
    until_s: f64,
    rate: f64,
    law: Law,
}

/// Rows are few and are held; requests are made one by one.
pub(super) fn sessions(trace: &Trace, mut lines: Lines) -> Result<Units, PlanError> {
    let (model, clients) = read(&trace.servegen, &mut lines)?;
    let (input, output) = match &trace.servegen.summary {
        Some(path) => lengths(path, &model)?,
        None => (trace.servegen.input.clone(), trace.output.clone()),
    };
    let begin_s = trace.servegen.from.as_secs_f64();
    let run_seed = trace.seed;
    let mut clients: Vec<Client> = clients
        .into_iter()
        .map(|(client, rows)| {
            let mut rng = seed::rng(&[run_seed, seed::CLIENT, client]);
            let left = rows[0].law.first(&mut rng);
            Client { rng, rows, at: 0, used: 0.0, left }
        })
        .collect();
    let mut next: BinaryHeap<Reverse<(Duration, usize)>> = BinaryHeap::new();
    for (at, client) in clients.iter_mut().enumerate() {
        next.extend(client.arrival_s().map(|time_s| Reverse((since(begin_s, time_s), at))));
    }
    let mut number = 0;
    Ok(Box::new(std::iter::from_fn(move || {
        let Reverse((start, at)) = next.pop()?;
        next.extend(clients[at].arrival_s().map(|time_s| Reverse((since(begin_s, time_s), at))));
        let mut rng = seed::rng(&[run_seed, seed::SESSION, number]);
        let name = seed::name(&[run_seed, seed::TURN, number]);
        number += 1;
        let prompt = Prompt::Whole(vec![Piece { name, tokens: input.tokens(&mut rng) }]);
        Some(Ok(vec![alone(start, prompt, output.tokens(&mut rng))]))
    })))
}

fn since(begin_s: f64, time_s: f64) -> Duration {
    Duration::from_secs_f64((time_s - begin_s).max(0.0))
}

struct Client {
    rng: Xoshiro256PlusPlus,
    /// At least one.
    rows: Vec<Row>,
    at: usize,
    /// Expected requests of this row that are over.
    used: f64,
    /// Expected requests until the next one.
    left: f64,
}

impl Client {
    fn arrival_s(&mut self) -> Option<f64> {
        while let Some(row) = self.rows.get(self.at) {
            let here = row.rate * (row.until_s - row.from_s) - self.used;
            if self.left < here {
                self.used += self.left;
                self.left = row.law.gap(&mut self.rng);
                return Some(row.from_s + self.used / row.rate);
            }
            self.left -= here;
            self.used = 0.0;
            self.at += 1;
        }
        None
    }
}

type Clients = BTreeMap<u64, Vec<Row>>;

fn read(options: &Servegen, lines: &mut Lines) -> Result<(String, Clients), PlanError> {
    let from_s = options.from.as_secs_f64();
    let end_s = options.span.map_or(f64::INFINITY, |span| from_s + span.as_secs_f64());
    let mut model = options.model.clone();
    let mut models: Vec<String> = Vec::new();
    let mut clients = Clients::new();
    while let Some(line) = lines.next()? {
        if line.trim_start_matches('\u{feff}').starts_with("model,") {
            continue;
        }
        let row = parse(line);
        let (of, client, row) = row.map_err(|reason| lines.error(reason))?;
        let wanted = model.get_or_insert_with(|| of.clone()) == &of;
        if !models.contains(&of) && models.len() < 100 {
            models.push(of);
        }
        if !wanted || row.until_s <= from_s || row.from_s >= end_s || row.rate == 0.0 {
            continue;
        }
        let rows = clients.entry(client).or_default();
        if rows.last().is_some_and(|before| before.until_s > row.from_s.max(from_s)) {
            let reason = format!(
                "client {client} has an earlier row of these ten minutes; sort its rows by `t_s`"
            );
            return Err(lines.error(reason));
        }
        rows.push(Row { from_s: row.from_s.max(from_s), until_s: row.until_s.min(end_s), ..row });
    }
    match model {
        Some(model) if !clients.is_empty() => Ok((model, clients)),
        model => Err(PlanError::Impossible(format!(
            "no client of {} asks anything from second {from_s} to {end_s}; the file has {}",
            model.as_deref().unwrap_or("any model"),
            if models.is_empty() {
                "no row".into()
            } else {
                format!("the models {}", models.join(", "))
            }
        ))),
    }
}

fn parse(line: &str) -> Result<(String, u64, Row), String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [model, client, t_s, rate, _cv, law, shape, _scale] = fields[..] else {
        return Err(format!(
            "{} columns; `model,client,t_s,rate_rps,cv,law,p1,p2` must stand there",
            fields.len()
        ));
    };
    let number = |name: &str, text: &str| {
        text.parse()
            .ok()
            .filter(|value: &f64| value.is_finite() && *value >= 0.0)
            .ok_or_else(|| format!("`{name}` is `{text}`; a number from 0 on must stand there"))
    };
    let client = client
        .parse()
        .map_err(|_| format!("`client` is `{client}`; a whole number must stand there"))?;
    let from_s = number("t_s", t_s)?;
    let rate = number("rate_rps", rate)?;
    let law = Law::with_shape(law, number("p1", shape)?)?;
    Ok((model.to_owned(), client, Row { from_s, until_s: from_s + ROW_S, rate, law }))
}

#[derive(Deserialize)]
struct Summary {
    length_hist: HashMap<String, HashMap<String, f64>>,
}

/// Lengths of prompts and answers. Bin b above 0 holds 2^((b-1)/8) to below 2^(b/8) tokens.
fn lengths(path: &Path, model: &str) -> Result<(Distribution, Distribution), PlanError> {
    let wrong = |reason: String| PlanError::Impossible(format!("{}: {reason}", path.display()));
    let summary: Summary =
        serde_json::from_reader(reader(path)?).map_err(|error| wrong(error.to_string()))?;
    let histogram = |kinds: &[&str]| {
        let found =
            kinds.iter().find_map(|kind| summary.length_hist.get(&format!("{model}/{kind}")));
        let bins =
            found.ok_or_else(|| wrong(format!("`length_hist` has no `{model}/{}`", kinds[0])))?;
        let bins: Result<BTreeMap<i32, f64>, _> =
            bins.iter().map(|(bin, weight)| bin.parse().map(|bin| (bin, *weight))).collect();
        let bins =
            bins.map_err(|_| wrong(format!("a bin of `{model}/{}` is no number", kinds[0])))?;
        let edge = |bin: i32| 2_f64.powf(f64::from(bin) / 8.0).min(f64::from(u32::MAX));
        let bins = bins.into_iter().map(|(bin, weight)| match bin {
            ..=0 => (1.0, 1.0, weight),
            1.. => (edge(bin - 1), edge(bin), weight),
        });
        Distribution::histogram(bins)
            .ok_or_else(|| wrong(format!("`{model}/{}` has no bin with a weight", kinds[0])))
    };
    Ok((histogram(&["input_tokens", "text_tokens"])?, histogram(&["output_tokens"])?))
}
