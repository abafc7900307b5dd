//! One plot as SVG.
//!
//! The layout is our own and plotters' SVG backend draws it. A plot is drawn twice as large as it is shown, for the backend
//! knows only whole units. Its colours are a fixed palette: the page's style sheet finds them by their value and changes them in
//! the dark.

mod axis;

use plotters::{
    prelude::{IntoDrawingArea, PathElement, Polygon, Rectangle, SVGBackend, Text},
    style::{
        Color, FontStyle, RGBColor, ShapeStyle, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::words;
pub(super) use axis::{Axis, Unit};

/// Width and height of a plot, in its own units.
pub(super) const SIZE: (u32, u32) = (1200, 520);
/// Colour of titles.
pub(super) const INK: &str = "#1F2937";
/// Colour of other words.
pub(super) const MUTED: &str = "#6B7280";

const INK_COLOUR: RGBColor = RGBColor(0x1F, 0x29, 0x37);
const MUTED_COLOUR: RGBColor = RGBColor(0x6B, 0x72, 0x80);
const GRID_COLOUR: RGBColor = RGBColor(0xE5, 0xE7, 0xEB);
const SHADE_COLOUR: RGBColor = RGBColor(0xF3, 0xF4, 0xF6);

/// Colours of lines, far enough apart for the colour-blind when used in this order.
const LINES: [RGBColor; 8] = [
    RGBColor(0x25, 0x63, 0xEB),
    RGBColor(0xD9, 0x77, 0x06),
    RGBColor(0x05, 0x96, 0x69),
    RGBColor(0x7C, 0x3A, 0xED),
    RGBColor(0xDC, 0x26, 0x26),
    RGBColor(0x08, 0x91, 0xB2),
    RGBColor(0xDB, 0x27, 0x77),
    RGBColor(0x64, 0x74, 0x8B),
];

/// Index of the colour of what failed.
pub(super) const RED: usize = 4;
/// Index of the colour of what is only there to compare with.
pub(super) const GREY: usize = 7;

const LEFT: i32 = 116;
const RIGHT: i32 = SIZE.0 as i32 - 28;
const TOP: i32 = 104;
const BOTTOM: i32 = SIZE.1 as i32 - 62;
const TEXT: f64 = 23.0;
/// Mean width of a character over the size of its font, generous.
const CHARACTER: f64 = 0.56;

/// What is drawn.
#[derive(Debug)]
pub(super) struct Plot {
    /// What it shows, with the unit.
    pub(super) title: String,
    /// Horizontal.
    pub(super) x: Axis,
    /// Vertical.
    pub(super) y: Axis,
    /// The lines, in the order of the legend; later ones lie above.
    pub(super) lines: Vec<Line>,
    /// What lies outside of it was not measured, and is shaded.
    pub(super) window: Option<(f64, f64)>,
}

/// One line of a plot.
#[derive(Debug)]
pub(super) struct Line {
    /// As in the legend.
    pub(super) name: String,
    /// Index in the palette; it wraps around.
    pub(super) colour: usize,
    /// How it is drawn.
    pub(super) stroke: Stroke,
    /// In ascending order of x; a `y` that is not a number interrupts the line.
    pub(super) points: Vec<(f64, f64)>,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stroke {
    /// Plainly.
    Line,
    /// Thinly, for what is there to compare with.
    Thin,
    /// With the area below it filled.
    Area,
    /// With a dot at every point.
    Dots,
}

impl Plot {
    /// Draws it.
    pub(super) fn svg(&self) -> String {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let drawn = self.draw(&Sheet(&root)).and_then(|()| root.present().map_err(drop));
        drop(root);
        // The backend writes to a string, which does not fail; if it did, an empty picture is the least harm.
        debug_assert!(drawn.is_ok(), "a string takes every plot");
        svg
    }

    fn draw(&self, sheet: &Sheet<'_, '_>) -> Result<(), ()> {
        let at_x =
            |value: f64| LEFT + (self.x.along(value) * f64::from(RIGHT - LEFT)).round() as i32;
        let at_y =
            |value: f64| BOTTOM - (self.y.along(value) * f64::from(BOTTOM - TOP)).round() as i32;

        if let Some((from, to)) = self.window {
            for (a, b) in [(self.x.low, from), (to, self.x.high)] {
                let (a, b) = (at_x(a), at_x(b));
                if b > a {
                    sheet.fill((a, TOP), (b, BOTTOM), SHADE_COLOUR)?;
                }
            }
        }
        for (value, name) in self.y.ticks(6) {
            let y = at_y(value);
            sheet.line(&[(LEFT, y), (RIGHT, y)], GRID_COLOUR, 2)?;
            sheet.text(&name, (LEFT - 14, y), (HPos::Right, VPos::Center), MUTED_COLOUR)?;
        }
        for (value, name) in self.x.ticks(9) {
            let x = at_x(value);
            sheet.line(&[(x, BOTTOM), (x, BOTTOM + 8)], MUTED_COLOUR, 2)?;
            if self.x.is_logarithmic() {
                sheet.line(&[(x, TOP), (x, BOTTOM)], GRID_COLOUR, 2)?;
            }
            sheet.text(&name, (x, BOTTOM + 30), (HPos::Center, VPos::Center), MUTED_COLOUR)?;
        }
        sheet.line(&[(LEFT, BOTTOM), (RIGHT, BOTTOM)], MUTED_COLOUR, 2)?;

        for line in &self.lines {
            let colour = LINES[line.colour % LINES.len()];
            for piece in line.points.split(|(_, y)| y.is_nan()) {
                let piece: Vec<(i32, i32)> =
                    piece.iter().map(|&(x, y)| (at_x(x), at_y(y))).collect();
                let (Some(first), Some(last)) = (piece.first(), piece.last()) else { continue };
                if line.stroke == Stroke::Area {
                    let area = piece.iter().copied().chain([(last.0, BOTTOM), (first.0, BOTTOM)]);
                    sheet.area(area.collect(), colour)?;
                }
                let width = if line.stroke == Stroke::Thin { 2 } else { 4 };
                sheet.line(&piece, colour, width)?;
                // A single point has no length, so that it would not be seen.
                if line.stroke == Stroke::Dots || piece.len() == 1 {
                    for (x, y) in piece {
                        sheet.fill((x - 6, y - 6), (x + 6, y + 6), colour)?;
                    }
                }
            }
        }
        self.legend(sheet)
    }

    fn legend(&self, sheet: &Sheet<'_, '_>) -> Result<(), ()> {
        sheet.title(&words::line(&self.title, 70), (LEFT - 96, 26))?;
        let mut x = LEFT - 96;
        for line in &self.lines {
            let name = words::line(&line.name, 40);
            let width = 46 + (name.chars().count() as f64 * TEXT * CHARACTER) as i32 + 28;
            if x + width > SIZE.0 as i32 {
                break;
            }
            let colour = LINES[line.colour % LINES.len()];
            sheet.fill((x, 68), (x + 32, 74), colour)?;
            sheet.text(&name, (x + 44, 71), (HPos::Left, VPos::Center), MUTED_COLOUR)?;
            x += width;
        }
        Ok(())
    }
}

type Area<'a> = plotters::drawing::DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Drawing in whole units, each with what plotters calls it.
struct Sheet<'s, 'a>(&'s Area<'a>);

impl Sheet<'_, '_> {
    fn line(&self, points: &[(i32, i32)], colour: RGBColor, width: u32) -> Result<(), ()> {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        if points.len() < 2 {
            // No line, and no element that a reader would warn of.
            return Ok(());
        }
        self.0.draw(&PathElement::new(points.to_vec(), style)).map_err(drop)
    }

    fn fill(&self, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<(), ()> {
        self.0.draw(&Rectangle::new([from, to], colour.filled())).map_err(drop)
    }

    fn area(&self, corners: Vec<(i32, i32)>, colour: RGBColor) -> Result<(), ()> {
        self.0.draw(&Polygon::new(corners, colour.mix(0.14))).map_err(drop)
    }

    fn text(
        &self,
        text: &str,
        at: (i32, i32),
        (h, v): (HPos, VPos),
        colour: RGBColor,
    ) -> Result<(), ()> {
        let style = TextStyle::from(("sans-serif", font(TEXT))).color(&colour).pos(Pos::new(h, v));
        self.0.draw(&Text::new(text, at, style)).map_err(drop)
    }

    fn title(&self, text: &str, at: (i32, i32)) -> Result<(), ()> {
        let font = ("sans-serif", font(27.0), FontStyle::Bold);
        let style =
            TextStyle::from(font).color(&INK_COLOUR).pos(Pos::new(HPos::Left, VPos::Center));
        self.0.draw(&Text::new(text, at, style)).map_err(drop)
    }
}

/// What the backend makes a font of this size from.
fn font(size: f64) -> f64 {
    size * 1.24
}
