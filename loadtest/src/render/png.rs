//! The plots as one raster image.

use std::sync::Arc;

use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree, fontdb::Database},
};

use super::{RenderError, plot, plots, tables, words};
use crate::report::Report;

/// Between plots and around them, in the plots' own units.
const GAP: u32 = 40;
const HEAD: u32 = 110;
const COLUMNS: u32 = 2;
/// Pixels per unit of a plot.
const SCALE: f32 = 0.75;

/// The fonts of this machine, with one of them standing in for "sans-serif".
pub(super) fn system_fonts() -> Database {
    let mut fonts = Database::new();
    fonts.load_system_fonts();
    let known = ["Inter", "Noto Sans", "DejaVu Sans", "Liberation Sans", "Arial", "Helvetica"];
    let has =
        |family: &str| fonts.faces().any(|face| face.families.iter().any(|(f, _)| f == family));
    let first = || fonts.faces().find_map(|face| Some(face.families.first()?.0.clone()));
    let family = known.into_iter().find(|family| has(family)).map(str::to_owned).or_else(first);
    if let Some(family) = family {
        fonts.set_sans_serif_family(family);
    }
    fonts
}

/// See [`super::png`].
pub(super) fn png(report: &Report, fonts: Database) -> Result<Vec<u8>, RenderError> {
    if fonts.is_empty() {
        return Err(RenderError::NoFont);
    }
    let raster = |error: &dyn std::fmt::Display| RenderError::Raster(error.to_string());
    let options = Options { fontdb: Arc::new(fonts), ..Options::default() };
    let tree = Tree::from_str(&sheet(report), &options).map_err(|error| raster(&error))?;
    let size = tree.size();
    let (width, height) =
        ((size.width() * SCALE).ceil() as u32, (size.height() * SCALE).ceil() as u32);
    let mut pixels = Pixmap::new(width, height)
        .ok_or_else(|| raster(&format!("an image of {width} by {height} pixels is too large")))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| raster(&error))
}

/// All plots on one SVG sheet.
fn sheet(report: &Report) -> String {
    let plots = plots::of_sheet(report);
    let (width, height) = plot::SIZE;
    let rows = (plots.len() as u32).div_ceil(COLUMNS);
    let (sheet_width, sheet_height) =
        (COLUMNS * (width + GAP) + GAP, HEAD + rows * (height + GAP) + GAP);
    let title = words::escape(&words::line(&tables::headline(report), 90));
    let target = report.targets.first().map_or("", |target| target.url.as_str());
    let below = format!("Glint load test of {target}, {}", report.started_at);
    let below = words::escape(&words::line(&below, 150));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{sheet_width}\" height=\"{sheet_height}\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#FFFFFF\"/>\
         <text x=\"{GAP}\" y=\"62\" font-family=\"sans-serif\" font-weight=\"bold\" font-size=\"40\" \
         fill=\"{ink}\">{title}</text>\
         <text x=\"{GAP}\" y=\"100\" font-family=\"sans-serif\" font-size=\"24\" fill=\"{muted}\">{below}</text>",
        ink = plot::INK,
        muted = plot::MUTED,
    );
    for (i, plot) in plots.iter().enumerate() {
        let i = i as u32;
        let (x, y) =
            (GAP + i % COLUMNS * (width + GAP), HEAD + GAP / 2 + i / COLUMNS * (height + GAP));
        svg.push_str(&format!("<svg x=\"{x}\" y=\"{y}\"{}", &plot.svg()["<svg".len()..]));
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_font_the_error_says_what_to_do() {
        let report = Report {
            schema: String::new(),
            kind: crate::report::Kind::Run,
            glint_version: String::new(),
            started_at: String::new(),
            command: Vec::new(),
            targets: Vec::new(),
            workload: String::new(),
            slo: Vec::new(),
            runs: Vec::new(),
            intervals: Default::default(),
            find_max: None,
            comparison: None,
            assertions: Vec::new(),
            warnings: Vec::new(),
        };
        let error = png(&report, Database::new()).unwrap_err();
        assert!(error.to_string().starts_with("no font was found on this machine"), "{error}");
    }
}
