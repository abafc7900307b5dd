//! Each form by itself.

use glint_loadtest::{render, report::Report};

use crate::example;

#[test]
fn a_report_survives_being_written_and_read() {
    for report in example::all() {
        let text = serde_json::to_string(report).unwrap();
        let read: Report = serde_json::from_str(&text).unwrap();
        // Not the numbers themselves: the last of 17 digits may differ.
        assert_eq!(render::table(&read), render::table(report));
        assert_eq!((read.kind, read.runs.len()), (report.kind, report.runs.len()));
    }
}

#[test]
fn a_table_is_plain_text_of_at_most_100_columns() {
    for report in example::all() {
        let table = render::table(report);
        for line in table.lines() {
            assert!(line.chars().count() <= 100, "{line}\n{table}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        assert!(table.ends_with('\n'));
    }
}

#[test]
fn a_table_of_one_run_shows_latency_from_the_schedule_first_and_what_failed() {
    let report = &example::all()[0];
    let table = render::table(report);
    let position =
        |text: &str| table.find(text).unwrap_or_else(|| panic!("{text} not in\n{table}"));
    assert!(position("TTFT, from the schedule") < position("TTFT, from the sending"));
    for text in ["p50", "p90", "p95", "p99", "server_error", "ttft_p95<250ms", "FAILS", "Warning"] {
        position(text);
    }
    position("The generator kept its schedule: lateness p50 ");
}

#[test]
fn a_sweep_has_a_row_per_rate_and_a_search_its_answer() {
    let table = render::table(&example::all()[1]);
    let (rows, _) = table.split_once("Failure").unwrap();
    for rate in ["8/s", "16/s", "24/s", "32/s", "40/s", "64/s"] {
        assert_eq!(rows.matches(&format!("\n{rate} ")).count(), 1, "{rate} in\n{table}");
    }
    assert!(table.contains("did NOT keep its schedule"), "{table}");
    let table = render::table(&example::all()[2]);
    assert!(table.ends_with("Holds up to 32 requests/s.\n"), "{table}");
}

#[test]
fn a_comparison_ends_with_its_verdict() {
    let table = render::table(&example::all()[3]);
    assert!(table.contains("canary is worse than stable: ttft_p50 +"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("ttft_p50 ") && line.ends_with("worse")));
}

#[test]
fn a_page_holds_all_that_it_shows_and_nothing_that_runs() {
    for report in example::all() {
        let html = render::html(report);
        assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
        for forbidden in
            ["<script", "<img", "<link rel=\"stylesheet", "@import", "url(", " onerror='"]
        {
            assert!(!html.contains(forbidden), "{forbidden} in the page");
        }
        assert!(html.contains("default-src 'none'"));
        // Where an address stands it is text, never one that a browser would follow.
        assert!(!html.contains("src=\"http") && !html.contains("href=\"http"));
        assert!(!html.contains("NaN") && !html.contains(">inf"), "{:?}", report.kind);
    }
}

#[test]
fn a_page_shows_hostile_words_as_words() {
    let html = render::html(&example::all()[4]);
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(html.contains("&lt;b&gt;shop&lt;/b&gt; &amp; co"));
    assert!(!html.contains('\u{1b}'));
}

#[test]
fn a_page_has_the_plots_of_its_kind() {
    let html = render::html(&example::all()[2]);
    for title in [
        "Answers per second by offered rate",
        "TTFT by offered rate, from the schedule",
        "Latency: share of values below",
        "Requests per second",
        "Streams running",
        "In the servers: requests running and waiting",
        "In the servers: replicas",
    ] {
        assert!(html.contains(&format!("aria-label=\"{title}")), "{title}");
    }
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
}

#[test]
fn a_png_has_every_plot_where_there_is_a_font() {
    let bytes = match render::png(&example::all()[0]) {
        Ok(bytes) => bytes,
        Err(render::RenderError::NoFont) => {
            println!("skipped: this machine has no font");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let size = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    // Two columns, and four rows for the seven plots of a run with two groups of server metrics.
    assert_eq!((size(16), size(20)), (1890, 1793));
    for report in example::empty() {
        assert!(render::png(&report).is_ok());
    }
}

#[test]
fn the_published_schema_is_that_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/loadtest-report.schema.json");
    if std::env::var_os("GLINT_WRITE_SCHEMA").is_some() {
        std::fs::write(path, render::schema()).unwrap();
    }
    let published = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        published == render::schema(),
        "docs/loadtest-report.schema.json is not that of report.rs, write it with: \
         GLINT_WRITE_SCHEMA=1 cargo test -p glint-loadtest --test render schema"
    );
}
