//! The page for a browser.

use super::{
    grid::{Grid, Mood},
    plot::Plot,
    plots, tables,
    words::{escape, ms, plural, share, three},
};
use crate::report::{Report, Run};

const STYLE: &str = include_str!("page/style.css");

/// Runs that are open from the start; of more, only the one that matters.
const OPEN_RUNS: usize = 2;

/// Nothing may be fetched and nothing may run, whatever a server's words might contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// A drawn favicon, or browsers would ask for one.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
                    %3Crect width='16' height='16' rx='4' fill='%232563EB'/%3E%3Cpath d='M3 12 6 8l3 2 4-6' \
                    fill='none' stroke='white' stroke-width='2'/%3E%3C/svg%3E";

/// See [`super::html`].
pub(super) fn html(report: &Report) -> String {
    let title = escape(&tables::headline(report));
    let body = body(report);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} · Glint load test</title>\n<link rel=\"icon\" href=\"{ICON}\">\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

fn body(report: &Report) -> String {
    let mut page = Page::default();
    page.head(report);
    page.add("<main>\n");
    page.notices(report);
    if let Some(run) = plots::principal(report) {
        page.tiles(report, run);
    }
    if let Some(comparison) = &report.comparison {
        let note = format!(
            "First: {}. Second: {}. The change is the second's, relative to the first.",
            comparison.a, comparison.b
        );
        page.section("Comparison", &note, &[tables::comparison(comparison)]);
    }
    page.section("Assertions", "", &[tables::assertions(report)]);
    page.plots(plots::of_report(report));
    page.section("Rates tried", "", &[tables::probes(report)]);
    match &report.runs[..] {
        [] => {}
        [run] => page.run(report, run),
        runs => {
            let note = "TTFT and E2E count from the schedule; late is the p99 of how late requests were sent.";
            page.section("Every run", note, &[tables::runs(report)]);
            page.section("Over the repeats", "", &[tables::intervals(report)]);
            let principal = plots::principal(report);
            for run in runs {
                let matters = principal.is_some_and(|principal| std::ptr::eq(principal, run));
                let open = if matters || runs.len() <= OPEN_RUNS { " open" } else { "" };
                let name = escape(&heading(report, run));
                page.add(&format!("<details{open}><summary>{name}</summary>\n"));
                page.run(report, run);
                page.add("</details>\n");
            }
        }
    }
    page.add("</main>\n");
    page.foot(report);
    page.html
}

/// What tells a run from the others, and its load.
fn heading(report: &Report, run: &Run) -> String {
    format!("{}: {}", tables::name(report, run), run.load)
}

#[derive(Default)]
struct Page {
    html: String,
}

impl Page {
    fn add(&mut self, html: &str) {
        self.html.push_str(html);
    }

    fn head(&mut self, report: &Report) {
        let title = escape(&tables::headline(report));
        self.add(&format!(
            "<header>\n<p class=\"kicker\">Glint load test</p>\n<h1>{title}</h1>\n<dl>\n"
        ));
        for (i, target) in report.targets.iter().enumerate() {
            let name = if report.targets.len() > 1 {
                format!("Target {}", i + 1)
            } else {
                "Target".to_owned()
            };
            self.fact(
                &name,
                &format!("{} ({}, model {})", target.url, target.endpoint, target.model),
            );
        }
        self.fact("Workload", &report.workload);
        if !report.slo.is_empty() {
            self.fact("Objectives", &report.slo.join(" and "));
        }
        self.fact("Begun", &report.started_at);
        self.add("</dl>\n</header>\n");
    }

    fn fact(&mut self, name: &str, value: &str) {
        self.add(&format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
    }

    /// What the reader has to know before the figures.
    fn notices(&mut self, report: &Report) {
        let failing: Vec<&str> =
            report.assertions.iter().filter(|a| !a.holds).map(|a| a.text.as_str()).collect();
        if !failing.is_empty() {
            self.notice("bad", &format!("Does not hold: {}.", failing.join(", ")));
        } else if !report.assertions.is_empty() {
            let all: Vec<&str> = report.assertions.iter().map(|a| a.text.as_str()).collect();
            self.notice("good", &format!("Holds: {}.", all.join(", ")));
        }
        if let Some(comparison) = &report.comparison {
            self.notice("plain", &comparison.verdict);
        }
        let late: Vec<&Run> =
            report.runs.iter().filter(|run| !run.generator.kept_schedule).collect();
        match (&late[..], &report.runs[..]) {
            ([], []) => {}
            ([], [run]) => self.notice("good", &tables::schedule(&run.generator)),
            ([], [_, _, ..]) => {
                self.notice("good", "The generator kept its schedule in every run.")
            }
            ([late], [_]) => self.notice("bad", &tables::schedule(&late.generator)),
            (late, runs) => {
                let names: Vec<String> = late.iter().map(|run| tables::name(report, run)).collect();
                let text = format!(
                    "The generator did NOT keep its schedule in {} of {} runs ({}): it, too, is in their latencies.",
                    late.len(),
                    runs.len(),
                    names.join(", ")
                );
                self.notice("bad", &text);
            }
        }
        for warning in &report.warnings {
            self.notice("warn", warning);
        }
    }

    fn notice(&mut self, kind: &str, text: &str) {
        self.add(&format!("<p class=\"notice {kind}\">{}</p>\n", escape(text)));
    }

    /// The figures that most readers came for.
    fn tiles(&mut self, report: &Report, run: &Run) {
        let s = &run.summary;
        if report.runs.len() > 1 {
            self.add(&format!("<h2>{}</h2>\n", escape(&heading(report, run))));
        }
        self.add("<div class=\"tiles\">\n");
        for (name, d) in [("TTFT", &s.ttft), ("Between tokens", &s.itl), ("Whole answer", &s.e2e)] {
            if d.count > 0 {
                let below = format!("p50 {} · p99 {}", ms(d.p50), ms(d.p99));
                self.tile(&format!("{name}, p95"), &ms(d.p95), &below, Mood::Plain);
            }
        }
        let tokens = format!("{} whole answers/s", three(s.done_per_s));
        self.tile("Output tokens/s", &three(s.output_tokens_per_s), &tokens, Mood::Plain);
        if let (Some(goodput), Some(good)) = (s.goodput_per_s, s.good_share) {
            let below = format!("requests/s · {} good", share(good));
            self.tile("Goodput", &three(goodput), &below, Mood::Plain);
        }
        let failed = if s.requests > 0 { s.failed as f64 / s.requests as f64 } else { 0.0 };
        let below = format!("{} of {}", s.failed, plural(s.requests as usize, "request"));
        self.tile("Failed", &share(failed), &below, Mood::bad_if(s.failed > 0));
        self.add("</div>\n");
    }

    fn tile(&mut self, name: &str, value: &str, below: &str, mood: Mood) {
        let class = if mood == Mood::Bad { "tile bad" } else { "tile" };
        let (number, unit) = value.rsplit_once(' ').unwrap_or((value, ""));
        self.add(&format!(
            "<div class=\"{class}\"><p>{}</p><strong>{}<small> {}</small></strong><p>{}</p></div>\n",
            escape(name),
            escape(number),
            escape(unit),
            escape(below)
        ));
    }

    fn run(&mut self, report: &Report, run: &Run) {
        self.plots(plots::of_run(run));
        let window = format!(
            "Of the requests that the schedule wanted sent from second {} to second {} of {}.",
            three(run.measured_from_s),
            three(run.measured_to_s),
            three(run.elapsed_s)
        );
        let s = &run.summary;
        self.section("Latency", &window, &[tables::latencies(s)]);
        self.section("Requests", "", &[tables::counts(report, s), tables::rates(s)]);
        self.section("Failures", "", &[tables::errors(s)]);
        self.section("Parts", "", &[tables::parts(run)]);
        let sentence = tables::schedule(&run.generator);
        self.section("The generator itself", &sentence, &[tables::generator(run)]);
    }

    /// A heading and its tables, side by side where there is room; nothing if they are empty.
    fn section(&mut self, title: &str, note: &str, grids: &[Grid]) {
        if grids.iter().all(Grid::is_empty) {
            return;
        }
        self.add(&format!("<section>\n<h2>{}</h2>\n", escape(title)));
        if !note.is_empty() {
            self.add(&format!("<p class=\"note\">{}</p>\n", escape(note)));
        }
        self.add("<div class=\"side\">\n");
        for grid in grids.iter().filter(|grid| !grid.is_empty()) {
            self.add(&grid.html());
        }
        self.add("</div>\n</section>\n");
    }

    fn plots(&mut self, plots: Vec<Plot>) {
        if plots.is_empty() {
            return;
        }
        self.add("<div class=\"plots\">\n");
        for plot in plots {
            let label = escape(&plot.title);
            // The title is in the picture; the label says it to those who do not see it.
            self.add(&format!(
                "<figure><svg role=\"img\" aria-label=\"{label}\"{}</figure>\n",
                &plot.svg()["<svg".len()..]
            ));
        }
        self.add("</div>\n");
    }

    fn foot(&mut self, report: &Report) {
        self.add(&format!(
            "<footer>\n<p>TTFT and E2E count from when the schedule wanted a request sent, not from when it was: a server \
             that stands still is seen by everybody who would have asked meanwhile. Percentiles are of requests, those of ITL \
             of gaps between tokens. Shaded times are warm-up and cool-down and not in the figures.</p>\n\
             <p>Made by Glint {} with</p>\n<pre>{}</pre>\n</footer>\n",
            escape(&report.glint_version),
            escape(&report.command.join(" "))
        ));
    }
}
