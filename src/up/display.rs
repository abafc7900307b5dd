//! What does the terminal show while a cluster starts and runs?

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::ReadyLine;
use crate::demo;

/// The log record by which a rank tells how far it is; see `glint_worker`.
const LOADING: &str = "loading weights";

/// Progress bars, notes, and the ranks' log records. Clones draw on the same terminal.
#[derive(Clone)]
pub(crate) struct Display {
    bars: MultiProgress,
    by_name: Arc<Mutex<BTreeMap<String, ProgressBar>>>,
    /// Whether every record of a rank is shown, or only warnings and errors.
    all_records: bool,
}

impl Display {
    pub(crate) fn new(all_records: bool) -> Self {
        Self { bars: MultiProgress::new(), by_name: Arc::default(), all_records }
    }

    /// Prints one line above the bars.
    pub(crate) fn note(&self, line: &str) {
        // `MultiProgress::println` is silent where there is no terminal; a log file wants the line as well.
        self.bars.suspend(|| {
            let _closed = writeln!(std::io::stderr(), "{line}");
        });
    }

    /// Takes all bars away.
    pub(crate) fn clear(&self) {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let _no_terminal = self.bars.clear();
    }

    /// Says that the cluster answers, and how to ask.
    pub(crate) fn ready(&self, line: &ReadyLine<'_>) {
        self.clear();
        let ReadyLine { name, http, groups, world_size } = line;
        let many = if *groups == 1 { "group" } else { "groups" };
        let text = format!(
            "Glint serves {name} on http://{http} ({groups} {many} of world size {world_size})\n\n  \
             curl http://{http}/v1/chat/completions -H 'content-type: application/json' \\\n    \
             -d '{{\"model\": \"{name}\", \"temperature\": 0, \"messages\": [{{\"role\": \"user\", \"content\": \"What is the capital of France?\"}}]}}'\n\n\
             Talk to it with `glint chat --url http://{http}`, stop it with Ctrl-C.\n"
        );
        let mut out = std::io::stdout().lock();
        let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Takes one line of a rank's standard error; returns false if it is no log record.
    pub(crate) fn rank_line(&self, label: &str, line: &str) -> bool {
        let Ok(record) = serde_json::from_str::<Value>(line) else {
            return false;
        };
        let fields = &record["fields"];
        let message = fields["message"].as_str().unwrap_or_default();
        if message == LOADING {
            let bytes = |name: &str| fields[name].as_u64().unwrap_or(0);
            self.bar(label, "loading", bytes("loaded_bytes"), bytes("total_bytes"));
        }
        let level = record["level"].as_str().unwrap_or_default();
        if self.all_records || level == "WARN" || level == "ERROR" {
            self.note(&format!("{level:>5} {label}: {message}{}", rest(fields)));
        }
        true
    }

    fn bar(&self, name: &str, what: &str, done: u64, total: u64) {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = by_name.entry(format!("{what} {name}")).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(total));
            let template = "{msg:32} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar.set_message(format!("{what} {name}"));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
        if total > 0 && done >= total {
            bar.finish();
        }
    }
}

impl demo::Progress for Display {
    fn bytes(&self, what: &str, done: u64, total: u64) {
        self.bar("the demo model", what, done, total);
    }
}

/// The numbers of a record, as ` name=value`.
fn rest(fields: &Value) -> String {
    let Some(fields) = fields.as_object() else {
        return String::new();
    };
    fields
        .iter()
        .filter(|(name, _)| *name != "message")
        .map(|(name, value)| match value {
            Value::String(text) => format!(" {name}={text}"),
            other => format!(" {name}={other}"),
        })
        .collect()
}
