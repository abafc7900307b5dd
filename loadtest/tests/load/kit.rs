//! What every test needs: a target, a load, sessions, and what became of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use glint_loadtest::{
    drive::{self, Driven, Load, Pace, Sink, Watch},
    measure::Window,
    plan::{Begins, Labels, Piece, Prompt, Reader, Schedule, Session, Turn},
    record::Record,
    target::{Endpoint, PromptForm, Target},
    tokens::Vocabulary,
};
use parking_lot::Mutex;

use crate::mock::Mock;

pub(crate) fn target(mock: &Mock) -> Target {
    Target {
        url: mock.url().parse().unwrap(),
        endpoint: Endpoint::Chat,
        model: Arc::from("tiny"),
        api_key: None,
        tenant_keys: BTreeMap::new(),
        class_header: None,
        request_timeout: Duration::from_secs(20),
        form: PromptForm::Text,
        vocabulary: Vocabulary::new(1000..=30_000).unwrap(),
        ignore_eos: false,
        stream: true,
        keep_text: true,
        extra: serde_json::Map::new(),
        ca: None,
    }
}

/// An open loop until its schedule ends.
pub(crate) fn open() -> Load {
    Load {
        pace: Pace::Open,
        description: String::new(),
        rate: None,
        duration: None,
        sessions_max: None,
        window: Window { from: Duration::ZERO, to: None },
        drain: Duration::from_secs(20),
        threads: 1,
        slo: Arc::from([]),
    }
}

pub(crate) fn closed(sessions: usize) -> Load {
    Load { pace: Pace::Closed { sessions }, ..open() }
}

pub(crate) fn turn(begins: Begins, prompt: Prompt) -> Turn {
    Turn { begins, prompt, output_tokens: 8, reader: Reader::Whole }
}

pub(crate) fn whole(name: u64, tokens: u32) -> Prompt {
    Prompt::Whole(vec![Piece { name, tokens }])
}

/// One request so many milliseconds after the begin.
pub(crate) fn single(start_ms: u64) -> Session {
    Session {
        start: Duration::from_millis(start_ms),
        labels: Labels::default(),
        turns: vec![turn(Begins::At(Duration::ZERO), whole(start_ms, 4))],
    }
}

pub(crate) fn schedule(sessions: Vec<Session>) -> Schedule {
    Box::new(sessions.into_iter().map(Ok))
}

/// Runs and returns the records too, in the order of sessions and turns.
pub(crate) fn run(target: Target, sessions: Vec<Session>, load: &Load) -> (Driven, Vec<Record>) {
    run_watched(target, schedule(sessions), load, &Watch::new(load))
}

pub(crate) fn run_watched(
    target: Target,
    schedule: Schedule,
    load: &Load,
    watch: &Watch,
) -> (Driven, Vec<Record>) {
    let records: Arc<Mutex<Vec<Record>>> = Arc::default();
    let kept = records.clone();
    let sink: Sink = Arc::new(move |record, _| kept.lock().push(record.clone()));
    let driven = drive::run(&Arc::new(target), schedule, load, watch, Some(sink)).unwrap();
    let mut records = std::mem::take(&mut *records.lock());
    records.sort_by_key(|record| (record.session, record.turn));
    (driven, records)
}
