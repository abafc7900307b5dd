//! `diff`, `report` and `trace`: what needs no server.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};

use super::{Gate, output, print};
use crate::{
    compare,
    config::{DiffConfig, ReportConfig},
    plan::{Begins, Prompt},
    render,
    report::{Kind, Report, SCHEMA, Verdict},
    tokens::{IdealCache, Vocabulary},
    trace::Format,
    workload::{Starts, WorkloadConfig},
};

/// Tokens of a block where the trace has no blocks of its own, as the engine's.
const BLOCK_TOKENS: u32 = 16;

pub(super) fn diff(config: &DiffConfig) -> anyhow::Result<Gate> {
    let (a, b) = (read(&config.a)?, read(&config.b)?);
    let (name_a, name_b) = (config.a.display().to_string(), config.b.display().to_string());
    let tolerance = config.tolerance.percent / 100.0;
    let comparison = compare::files([&name_a, &name_b], &a, &b, tolerance);
    if comparison.figures.is_empty() {
        bail!("{}", comparison.verdict);
    }
    let mut warnings = Vec::new();
    if a.workload != b.workload {
        warnings.push(format!("the workloads differ: {} had {}", config.a.display(), a.workload));
    }
    let worse = comparison.figures.iter().any(|figure| figure.verdict == Verdict::Worse);
    let mut shown =
        Report { runs: Vec::new(), targets: Vec::new(), kind: Kind::Compare, warnings, ..b };
    // Those of the second alone are no business of a comparison.
    shown.assertions.clear();
    shown.comparison = Some(comparison);
    print(&render::table(&shown))?;
    Ok(if worse { Gate::Failed } else { Gate::Passed })
}

pub(super) fn report(config: &ReportConfig) -> anyhow::Result<Gate> {
    output::check(&config.output)?;
    output::finish(read(&config.file)?, &config.output)
}

/// Counts what a trace would send, block by block.
pub(super) fn trace(config: &WorkloadConfig, ids: &Vocabulary) -> anyhow::Result<Gate> {
    let Some(trace) = config.replayed() else {
        bail!("which trace? name a file with --trace");
    };
    let schedule = match trace.format()? {
        Format::Agentic => config.schedule(Starts::Now)?,
        Format::Mooncake | Format::Azure | Format::Servegen | Format::Own => {
            config.schedule(Starts::Recorded)?
        }
    };
    let own = trace.own_hits()?;
    let block_tokens = own.as_ref().map_or(BLOCK_TOKENS, |own| own.block_tokens);
    let (mut requests, mut sessions, mut prompt, mut output) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut end = Duration::ZERO;
    let mut cache = IdealCache::new(block_tokens);
    for session in schedule {
        let session = session?;
        sessions += 1;
        for turn in &session.turns {
            requests += 1;
            prompt += turn.prompt.tokens().unwrap_or(0);
            output += u64::from(turn.output_tokens);
            if let Begins::At(offset) = turn.begins {
                end = end.max(session.start + offset);
            }
            match &turn.prompt {
                Prompt::Whole(pieces) => drop(cache.ask(&ids.ids(pieces))),
                Prompt::TokenIds(ids) => drop(cache.ask(ids)),
                Prompt::Next(_) | Prompt::Messages(_) | Prompt::Text(_) => {}
            }
        }
    }
    let per_request = |sum: u64| sum as f64 / requests.max(1) as f64;
    print(&format!("{trace}"))?;
    print(&format!(
        "  requests        {requests} in {sessions} sessions, over {:.0} s",
        end.as_secs_f64()
    ))?;
    print(&format!("  prompt tokens   {:.0} on average", per_request(prompt)))?;
    print(&format!("  output tokens   {:.0} on average", per_request(output)))?;
    print("An endless prefix cache would hold, in blocks of the trace's own size")?;
    if let Some(own) = own {
        print(&format!("  by its own ids  {}", own.hits))?;
    }
    print(&format!("  as it is sent   {}", cache.hits()))?;
    print(&format!("  whole blocks    {}", cache.whole_blocks()))?;
    Ok(Gate::Passed)
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no result of `glint loadtest … --json`", path.display()))?;
    if report.schema != SCHEMA {
        bail!("{} is of form {}, this program reads {SCHEMA}", path.display(), report.schema);
    }
    Ok(report)
}
