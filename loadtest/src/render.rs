//! How is a report shown?
//!
//! Every form is made from the [`Report`] and from nothing else: [`table`] for a terminal, [`html`] for a browser (one file that
//! asks nothing of anybody: no script, and a policy in its head that forbids every request), [`png`] for a chat or a ticket,
//! [`llmd`] for the tools of llm-d, and [`schema`] for those who read the JSON. What a server said is never trusted: it is
//! escaped in the page and stripped of control characters in the terminal.
//!
//! Tables are built once (`tables`) and drawn as text or as HTML (`grid`); plots are built once (`plots`) and drawn as SVG
//! (`plot`), which the page holds and the PNG is rastered from.

mod clock;
mod grid;
mod llmd;
mod page;
mod plot;
mod plots;
mod png;
mod table;
mod tables;
mod words;
mod write;

use std::{io, path::PathBuf};

use crate::report::Report;
pub use write::write;

/// Why a report could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// There is nothing to write words with.
    #[error(
        "no font was found on this machine, so the plots' words cannot be drawn: install one (Debian: fonts-dejavu-core), or \
         use the HTML report, which needs none"
    )]
    NoFont,
    /// The raster refused a plot; a defect of ours.
    #[error("the plots could not be rastered: {0}")]
    Raster(String),
    /// The file system refused, for example because it is full.
    #[error("the report could not be written to {path}: {error}")]
    Write {
        /// Where it should have gone.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// Returns the page: one HTML document with its style and plots in it.
#[must_use]
pub fn html(report: &Report) -> String {
    page::html(report)
}

/// Returns the plots as one PNG image on white, drawn with a font of this machine.
///
/// # Errors
///
/// [`RenderError::NoFont`] where there is none, [`RenderError::Raster`] where the image cannot be made.
pub fn png(report: &Report) -> Result<Vec<u8>, RenderError> {
    png::png(report, png::system_fonts())
}

/// Returns the table for a terminal: plain text, no line wider than 100 columns, ended by a line feed.
#[must_use]
pub fn table(report: &Report) -> String {
    table::table(report)
}

/// Returns llm-d's Benchmark Report v0.2 of each run, in the order of the report's runs.
#[must_use]
pub fn llmd(report: &Report) -> Vec<serde_json::Value> {
    llmd::reports(report)
}

/// Returns the JSON schema of [`Report`], as published in `docs/loadtest-report.schema.json`.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(Report);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema has only string keys");
    text.push('\n');
    text
}
