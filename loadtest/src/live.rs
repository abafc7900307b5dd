//! What happens right now?
//!
//! A view of a few lines on the terminal, redrawn five times a second, or one line every ten seconds where there is no terminal.
//! The same thread asks whether going on is of use.

use std::{
    io::{IsTerminal, Stderr, Write, stderr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use ratatui::{
    Frame, Terminal, TerminalOptions, Viewport,
    backend::{Backend, ClearType, CrosstermBackend},
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Gauge, Paragraph, Sparkline},
};

use crate::{
    drive::{Load, Watch},
    measure::Glance,
};

const LINES: u16 = 8;
const EVERY: Duration = Duration::from_millis(200);
/// Without a terminal, a line after so many looks.
const LOOKS_PER_LINE: u32 = 50;

/// A view that is drawn until it is ended.
pub(crate) struct Live {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Where it is drawn.
enum Screen {
    Nowhere,
    Lines,
    Terminal(Box<Terminal<CrosstermBackend<Stderr>>>),
}

impl Live {
    /// Starts drawing. The test is cut as soon as `over` says so.
    pub(crate) fn start(
        watch: &Watch,
        load: &Load,
        quiet: bool,
        over: impl Fn(&Watch) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let (watch, load, until) = (watch.clone(), load.clone(), ended.clone());
        let thread = std::thread::Builder::new().name("live view".to_owned()).spawn(move || {
            let mut screen = Screen::new(quiet);
            let mut looks = 0;
            while !until.load(Ordering::Relaxed) {
                std::thread::park_timeout(EVERY);
                if over(&watch) {
                    watch.cut();
                }
                looks += 1;
                screen.draw(&watch, &load, looks);
            }
            screen.close();
        })?;
        Ok(Self { ended, thread })
    }

    /// Draws no more; the lines are cleared for the report.
    pub(crate) fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        // A view that panicked has nothing to say about the figures.
        drop(self.thread.join());
    }
}

impl Screen {
    fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Nowhere;
        }
        if !stderr().is_terminal() {
            return Self::Lines;
        }
        let options = TerminalOptions { viewport: Viewport::Inline(LINES) };
        match Terminal::with_options(CrosstermBackend::new(stderr()), options) {
            Ok(terminal) => Self::Terminal(Box::new(terminal)),
            Err(_) => Self::Lines,
        }
    }

    fn draw(&mut self, watch: &Watch, load: &Load, looks: u32) {
        let due = match self {
            Self::Nowhere => false,
            Self::Lines => looks.is_multiple_of(LOOKS_PER_LINE),
            Self::Terminal(_) => true,
        };
        if !due {
            return;
        }
        let glance = watch.look(crate::measure::Measures::glance);
        let elapsed = watch.elapsed();
        match self {
            Self::Nowhere => {}
            // Whoever reads it may have gone; the test goes on.
            Self::Lines => {
                drop(writeln!(stderr(), "{:>5.0} s  {}", elapsed.as_secs_f64(), line(&glance)))
            }
            Self::Terminal(terminal) => {
                drop(terminal.draw(|frame| view(frame, &glance, load, elapsed)));
            }
        }
    }

    fn close(self) {
        if let Self::Terminal(mut terminal) = self {
            // Not `clear`, which puts the cursor back to where it was: the report begins where the view did.
            let top = terminal.get_frame().area().as_position();
            let backend = terminal.backend_mut();
            drop(backend.set_cursor_position(top));
            drop(backend.clear_region(ClearType::AfterCursor));
            drop(terminal.show_cursor());
        }
    }
}

fn line(glance: &Glance) -> String {
    format!(
        "{} sent, {} done, {} failed, {} running, TTFT p50 {:.0} ms p95 {:.0} ms",
        glance.requests, glance.done, glance.failed, glance.running, glance.ttft.0, glance.ttft.1
    )
}

fn view(frame: &mut Frame<'_>, glance: &Glance, load: &Load, elapsed: Duration) {
    let rows = Layout::vertical([Constraint::Length(1); LINES as usize]).split(frame.area());
    let of = load.duration.map_or(String::new(), |end| format!(" of {:.0}", end.as_secs_f64()));
    let share = load.duration.map_or(0.0, |end| elapsed.as_secs_f64() / end.as_secs_f64());
    let title = format!("{} · {:.0}{of} s", load.description, elapsed.as_secs_f64());
    let gauge = Gauge::default()
        .ratio(share.clamp(0.0, 1.0))
        .label(title)
        .gauge_style(Style::new().fg(Color::Blue).bg(Color::DarkGray));
    frame.render_widget(gauge, rows[0]);
    let failed = if glance.failed > 0 { Color::Red } else { Color::Reset };
    let counts = Line::from(vec![
        Span::raw(format!("requests {} sent · {} done · ", glance.requests, glance.done)),
        Span::styled(format!("{} failed", glance.failed), Style::new().fg(failed)),
        Span::raw(format!(" · {} running · ", glance.running)),
        Span::raw(format!("{} tokens", glance.output_tokens)),
    ]);
    frame.render_widget(Paragraph::new(counts), rows[1]);
    let pair = |name: &str, (p50, p95): (f64, f64)| format!("{name} {p50:.1} / {p95:.1} ms   ");
    let latency = Line::from(vec![
        "p50 / p95  ".dim(),
        pair("TTFT", glance.ttft).into(),
        pair("ITL", glance.itl).into(),
        pair("E2E", glance.e2e).into(),
        pair("late", glance.lateness).dim(),
    ]);
    frame.render_widget(Paragraph::new(latency), rows[2]);
    let courses = [
        ("done/s", &glance.done_per_s, Color::Green),
        ("running", &glance.running_per_s, Color::Yellow),
        ("TTFT p95 ms", &glance.ttft_p95_ms, Color::Magenta),
    ];
    for (row, (name, values, colour)) in rows[3..].iter().zip(courses) {
        let columns = Layout::horizontal([Constraint::Length(22), Constraint::Min(10)]).split(*row);
        let wide = usize::from(columns[1].width);
        let latest = &values[values.len().saturating_sub(wide)..];
        let last = latest.last().copied().unwrap_or(0);
        frame.render_widget(Paragraph::new(format!("{name:<12}{last:>8}")), columns[0]);
        let course = Sparkline::default().data(latest).style(Style::new().fg(colour));
        frame.render_widget(course, columns[1]);
    }
}
