//! `record` and `verify`: does the server still say the same?

use std::{collections::BTreeMap, io::Write, sync::Arc, time::Duration};

use anyhow::bail;
use parking_lot::Mutex;

use super::{Gate, bench, interrupt::Interrupt, output, print};
use crate::{
    config::{RecordConfig, TargetConfig, VerifyConfig},
    drive::{self, Load, Pace, Sink, Watch},
    measure::Window,
    plan::{PlanError, Prompt, Session, Turn},
    record::{Outcome, Record},
    render,
    target::{PromptForm, Target},
    tokens,
    verify::{self, Recorded},
    workload::Starts,
};

/// Differences told one by one.
const TOLD_MAX: usize = 10;

pub(super) fn record(config: &RecordConfig) -> anyhow::Result<Gate> {
    output::check_place(&config.to)?;
    let target = greedy(&config.target)?;
    let form = target.form;
    let vocabulary = target.vocabulary;
    let limit = usize::try_from(config.requests).unwrap_or(usize::MAX);
    let mut sessions = Vec::new();
    for session in config.workload.schedule(Starts::Now)?.take(limit) {
        let mut session = session?;
        session.turns.truncate(1);
        for turn in &mut session.turns {
            turn.prompt = explicit(&turn.prompt, form, vocabulary);
        }
        sessions.push(session);
    }
    let turns: Arc<[Turn]> =
        sessions.iter().filter_map(|session| session.turns.first().cloned()).collect();
    let answers: Arc<Mutex<BTreeMap<u64, String>>> = Arc::default();
    let sink: Sink = {
        let answers = answers.clone();
        Arc::new(move |record: &Record, answer| {
            let turn = usize::try_from(record.session).ok().and_then(|index| turns.get(index));
            if let (Some(turn), Outcome::Done) = (turn, &record.outcome) {
                let line = Recorded::new(turn, &turn.prompt, answer)
                    .and_then(|recorded| serde_json::to_string(&recorded).ok());
                answers.lock().extend(line.map(|line| (record.session, line)));
            }
        })
    };
    let asked = sessions.len();
    let ended = all(&target, sessions, config.concurrency, sink);
    let answers = answers.lock();
    if answers.is_empty() {
        ended?;
        bail!("no answer to record came: nothing is written");
    }
    let mut file = Vec::new();
    for line in answers.values() {
        writeln!(file, "{line}")?;
    }
    if let Err(error) = render::write(&config.to, &file) {
        print(String::from_utf8_lossy(&file).trim_end())?;
        return Err(anyhow::Error::from(error).context("the answers are printed above instead"));
    }
    print(&format!("{} of {asked} answers recorded in {}", answers.len(), config.to.display()))?;
    ended?;
    Ok(if answers.len() == asked { Gate::Passed } else { Gate::Failed })
}

pub(super) fn verify(config: &VerifyConfig) -> anyhow::Result<Gate> {
    let recorded: Arc<[Recorded]> = verify::read(&config.file)?.into();
    let target = greedy(&config.target)?;
    let sessions = recorded.iter().map(Recorded::session).collect::<Result<Vec<_>, _>>();
    let sessions = sessions.map_err(anyhow::Error::msg)?;
    let found: Arc<Mutex<BTreeMap<u64, Option<String>>>> = Arc::default();
    let sink: Sink = {
        let (found, recorded) = (found.clone(), recorded.clone());
        Arc::new(move |record: &Record, answer| {
            let Some(was) =
                usize::try_from(record.session).ok().and_then(|index| recorded.get(index))
            else {
                return;
            };
            let line = record.session + 1;
            let told = match &record.outcome {
                Outcome::Done => was.compare(answer).err().map(|differs| {
                    format!(
                        "line {line}: {} from token {}: {:?} was recorded, {:?} came",
                        differs.kind.name(),
                        differs.token,
                        differs.expected,
                        differs.came
                    )
                }),
                Outcome::Failed(kind, message) => {
                    Some(format!("line {line}: {}: {message}", kind.name()))
                }
                Outcome::Left | Outcome::Unfinished => Some(format!("line {line}: not finished")),
            };
            found.lock().insert(record.session, told);
        })
    };
    let ended = all(&target, sessions, config.concurrency, sink);
    let found = found.lock();
    let differing: Vec<&String> = found.values().flatten().collect();
    for told in differing.iter().take(TOLD_MAX) {
        print(told)?;
    }
    let unasked = recorded.len() - found.len();
    let equal = found.len() - differing.len();
    print(&format!(
        "{equal} of {} answers are the recorded ones, {} differ, {unasked} were not asked",
        recorded.len(),
        differing.len()
    ))?;
    ended?;
    Ok(if equal == recorded.len() { Gate::Passed } else { Gate::Failed })
}

/// Asks all, so many at a time, until the user interrupts.
fn all(
    target: &Arc<Target>,
    sessions: Vec<Session>,
    at_a_time: usize,
    sink: Sink,
) -> anyhow::Result<()> {
    if at_a_time == 0 {
        bail!("--concurrency must be above 0");
    }
    let load = Load {
        pace: Pace::Closed { sessions: at_a_time },
        description: String::new(),
        rate: None,
        duration: None,
        sessions_max: None,
        window: Window { from: Duration::ZERO, to: None },
        drain: target.request_timeout,
        threads: 1,
        slo: Arc::from([]),
    };
    let watch = Watch::new(&load);
    Interrupt::listen()?.ends(&watch);
    let schedule = Box::new(sessions.into_iter().map(Ok::<_, PlanError>));
    let driven = drive::run(target, schedule, &load, &watch, Some(sink))?;
    driven.broken.map_or(Ok(()), |error| Err(error.into()))
}

/// The target, asked greedily and with its text kept.
fn greedy(config: &TargetConfig) -> anyhow::Result<Arc<Target>> {
    let target = bench::target(config, &config.url, config.model.as_deref(), true)?;
    let mut target = Arc::unwrap_or_clone(target);
    target.extra.entry("temperature").or_insert(0.into());
    Ok(Arc::new(target))
}

/// A made-up prompt as it is sent, so that a file says all.
fn explicit(prompt: &Prompt, form: PromptForm, vocabulary: tokens::Vocabulary) -> Prompt {
    match (prompt, form) {
        (Prompt::Whole(pieces) | Prompt::Next(pieces), PromptForm::Text) => {
            Prompt::Text(Arc::from(tokens::text(pieces)))
        }
        (Prompt::Whole(pieces) | Prompt::Next(pieces), PromptForm::Tokens) => {
            Prompt::TokenIds(Arc::from(vocabulary.ids(pieces)))
        }
        (Prompt::Messages(_) | Prompt::Text(_) | Prompt::TokenIds(_), _) => prompt.clone(),
    }
}
