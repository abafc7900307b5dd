//! Where does a result go?

use std::path::Path;

use anyhow::bail;

use super::{Gate, print};
use crate::{
    config::OutputConfig,
    render,
    report::{Assertion, Report, Run},
    slo::Condition,
};

/// Finds out before the test that its files can be written where they are to go.
pub(super) fn check(config: &OutputConfig) -> anyhow::Result<()> {
    let paths = [&config.json, &config.html, &config.png, &config.llmd];
    paths.into_iter().flatten().try_for_each(|path| check_place(path))
}

/// Finds out that there can be a file.
pub(super) fn check_place(path: &Path) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        bail!("{} cannot be written: there is no folder {}", path.display(), folder.display());
    }
    if path.is_dir() {
        bail!("{} cannot be written: it is a folder", path.display());
    }
    Ok(())
}

/// Judges, prints and writes. What cannot be written to its file is not lost: the JSON goes to standard output instead.
pub(super) fn finish(mut report: Report, config: &OutputConfig) -> anyhow::Result<Gate> {
    report.assertions = assertions(&report.runs, &config.assert);
    print(&render::table(&report))?;
    write(&report, config)?;
    if let Some(sentence) = nothing_answered(&report.runs) {
        anyhow::bail!(sentence);
    }
    let holds = report.assertions.iter().all(|assertion| assertion.holds);
    Ok(if holds { Gate::Passed } else { Gate::Failed })
}

/// A test without a single answer measured nothing, whatever was asserted.
fn nothing_answered(runs: &[Run]) -> Option<String> {
    let answered = |run: &Run| run.summary.done + run.summary.left > 0;
    let asked: u64 = runs.iter().map(|run| run.summary.requests).sum();
    if asked == 0 || runs.iter().any(answered) {
        return None;
    }
    let example = runs.iter().find_map(|run| run.summary.error_examples.values().next());
    let example = example.map_or("all were still running at the end", String::as_str);
    Some(format!("not one of {asked} requests was answered whole: {example}"))
}

/// Writes every file that is asked for; the first that fails is told after the others were tried.
pub(super) fn write(report: &Report, config: &OutputConfig) -> anyhow::Result<()> {
    let json = serde_json::to_vec(report)?;
    let mut failed = None;
    let mut put = |path: &Option<std::path::PathBuf>,
                   bytes: Result<Vec<u8>, render::RenderError>| {
        let Some(path) = path else { return false };
        match bytes.and_then(|bytes| render::write(path, &bytes)) {
            Ok(()) => true,
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        }
    };
    put(&config.html, Ok(render::html(report).into_bytes()));
    if config.png.is_some() {
        put(&config.png, render::png(report));
    }
    put(&config.llmd, Ok(serde_json::to_vec_pretty(&render::llmd(report))?));
    let json_is_safe = put(&config.json, Ok(json.clone()));
    match failed {
        None => Ok(()),
        Some(error) if json_is_safe => Err(error.into()),
        Some(error) => {
            print(&String::from_utf8_lossy(&json))?;
            Err(anyhow::Error::from(error).context("the result as JSON is printed above instead"))
        }
    }
}

/// Each condition on the worst of the runs: a repeat that fails is a failure.
fn assertions(runs: &[Run], conditions: &[Condition]) -> Vec<Assertion> {
    let one = |condition: &Condition| {
        let bad = runs.iter().find(|run| !condition.holds(run)).or(runs.first());
        let measured = bad.and_then(|run| condition.measured_as_written(run));
        Assertion {
            text: condition.to_string(),
            measured,
            holds: !runs.is_empty() && runs.iter().all(|run| condition.holds(run)),
        }
    };
    conditions.iter().map(one).collect()
}
