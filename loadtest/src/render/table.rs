//! The table for a terminal.

use super::{
    grid::{Grid, WIDTH},
    tables,
    words::{bytes, line, ms, three},
};
use crate::report::{Report, Run};

/// See [`super::table`].
pub(super) fn table(report: &Report) -> String {
    let mut out = Out::default();
    out.line(&format!("Glint load test: {}", tables::headline(report)));
    for target in &report.targets {
        out.field(
            "Target",
            &format!("{} ({}, model {})", target.url, target.endpoint, target.model),
        );
    }
    out.field("Workload", &report.workload);
    if !report.slo.is_empty() {
        out.field("Objectives", &report.slo.join(" and "));
    }
    match &report.runs[..] {
        [] => {}
        [run] => out.run(report, run),
        _ => {
            out.line("");
            out.line(
                "Latency counts from the schedule; late is the p99 of how late requests were sent.",
            );
            out.grid(&tables::runs(report));
            out.section(&tables::all_errors(report));
            for run in report.runs.iter().filter(|run| !run.generator.kept_schedule) {
                let name = tables::name(report, run);
                out.line("");
                out.field("", &format!("{name}: {}", tables::schedule(&run.generator)));
            }
        }
    }
    out.section(&tables::intervals(report));
    out.section(&tables::probes(report));
    if let Some(comparison) = &report.comparison {
        out.section(&tables::comparison(comparison));
        out.field("", &format!("First is {}, second is {}.", comparison.a, comparison.b));
        out.field("", &comparison.verdict);
    }
    out.section(&tables::assertions(report));
    if !report.warnings.is_empty() {
        out.line("");
        for warning in &report.warnings {
            out.field("Warning", warning);
        }
    }
    if report.find_max.is_some() {
        out.line("");
        out.line(&format!("{}.", tables::headline(report)));
    }
    out.text
}

#[derive(Default)]
struct Out {
    text: String,
}

/// Width of the words before a field's text.
const LABEL: usize = 12;

impl Out {
    fn line(&mut self, text: &str) {
        self.text.push_str(line(text, WIDTH).trim_end());
        self.text.push('\n');
    }

    /// `Label       text`, its text broken between words and indented.
    fn field(&mut self, label: &str, text: &str) {
        let indent = if label.is_empty() { 0 } else { LABEL };
        let mut current = String::new();
        let mut head = label;
        for word in line(text, 2000).split(' ') {
            let wide = current.chars().count() + 1 + word.chars().count() > WIDTH - indent;
            if wide && !current.is_empty() {
                self.line(&format!("{head:<indent$}{current}"));
                (head, current) = ("", String::new());
            }
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
        self.line(&format!("{head:<indent$}{current}"));
    }

    fn grid(&mut self, grid: &Grid) {
        self.text.push_str(&grid.text());
    }

    /// A table after an empty line, if it has a row.
    fn section(&mut self, grid: &Grid) {
        if !grid.is_empty() {
            self.line("");
            self.grid(grid);
        }
    }

    fn run(&mut self, report: &Report, run: &Run) {
        let window = format!(
            "{} s to {} s of {} s",
            three(run.measured_from_s),
            three(run.measured_to_s),
            three(run.elapsed_s)
        );
        self.field("Measured", &window);
        self.section(&tables::latencies(&run.summary));
        self.section(&tables::counts(report, &run.summary));
        self.section(&tables::rates(&run.summary));
        self.section(&tables::errors(&run.summary));
        self.section(&tables::parts(run));
        self.line("");
        if let Some(queue_ms) = run.server_queue_ms {
            let queue =
                format!("Requests waited {} on average in the servers' own queues.", ms(queue_ms));
            self.field("", &queue);
        }
        self.field("", &tables::schedule(&run.generator));
        let g = &run.generator;
        self.field(
            "",
            &format!(
                "It took {} s of processor time and {}, had {} streams at most and opened {} connections.",
                three(g.cpu_s),
                bytes(g.rss_bytes),
                g.streams_peak,
                g.connections
            ),
        );
    }
}
