//! What did others ask, and when?
//!
//! A trace is read line by line, plain or gzip, and becomes sessions. Where a trace knows which prompts share a beginning, the
//! prompts made from it share exactly that one: a Mooncake block's id, an agentic request's parent and common length become
//! names of [`Piece`](crate::plan::Piece)s. Where it knows lengths only (Azure, ServeGen), prompts share nothing.
//!
//! A line that says nothing that can be sent ends the schedule with its number and what is wrong with it.

mod agentic;
mod azure;
mod lines;
mod mooncake;
mod own;
mod servegen;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use rand::RngExt as _;

use crate::{
    arrivals::{Arrivals, spec},
    plan::{Begins, PlanError, Schedule, Session},
    tokens::HitRate,
    workload::{Distribution, seed},
};
use lines::Lines;

/// How a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// JSON lines `{"timestamp": ms, "input_length", "output_length", "hash_ids": […]}`, 512 tokens a block.
    Mooncake,
    /// CSV `TIMESTAMP,ContextTokens,GeneratedTokens`.
    Azure,
    /// JSON lines, a session each, of requests with their parent and the length they have in common with it.
    Agentic,
    /// CSV `model,client,t_s,rate_rps,cv,law,p1,p2`: how often each client asks, every ten minutes.
    Servegen,
    /// JSON lines of one's own.
    Own,
}

/// When the turns of a recorded session are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Pace {
    /// When they were recorded, whatever became of the turns before: an open loop.
    #[default]
    Recorded,
    /// As long after the answer before as its user thought then. Agents of one session go side by side.
    Answered,
}

/// Which trace, and what of it.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The file, plain or gzip.
    pub path: PathBuf,
    /// `None`: its first line tells.
    pub format: Option<Format>,
    /// What all times and pauses are multiplied with: 0.1 replays ten times as fast. Above 0.
    pub time_scale: f64,
    /// So many sessions are taken (requests, where the trace has no sessions).
    pub limit: Option<u64>,
    /// Each session is taken with this probability, 1 for all.
    pub share: f64,
    /// When the turns of sessions are sent.
    pub pace: Pace,
    /// Answer's length where the trace says none.
    pub output: Distribution,
    /// Parts pieces of different runs, and draws what a trace leaves open.
    pub seed: u64,
    /// For ServeGen's rates alone.
    pub servegen: Servegen,
}

/// What of ServeGen's rates, and how long its prompts are.
#[derive(Clone, Debug)]
pub struct Servegen {
    /// One of the file's models; `None`: that of its first row.
    pub model: Option<String>,
    /// Begin of the window, as recorded.
    pub from: Duration,
    /// Length of the window, as recorded; `None`: to the end.
    pub span: Option<Duration>,
    /// `servegen_summary.json`, whose histograms say how long prompts and answers are.
    pub summary: Option<PathBuf>,
    /// Prompt's length without a summary.
    pub input: Distribution,
}

impl Default for Servegen {
    fn default() -> Self {
        Self {
            model: None,
            from: Duration::ZERO,
            span: None,
            summary: None,
            input: Distribution::fixed(512),
        }
    }
}

/// Sessions that one line brings.
type Units = Box<dyn Iterator<Item = Result<Vec<Session>, PlanError>> + Send>;

impl Trace {
    /// A whole trace as it was recorded.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            time_scale: 1.0,
            limit: None,
            share: 1.0,
            pace: Pace::Recorded,
            output: Distribution::fixed(128),
            seed: 0,
            servegen: Servegen::default(),
        }
    }

    /// Sessions at their recorded starts, in order of these. The sessions of an agentic trace have none: they all start at 0.
    ///
    /// # Errors
    /// Where the file cannot be read or its format is not known, or `time_scale` or `share` cannot be. A bad line is an error of
    /// the schedule, and its end.
    pub fn schedule(&self) -> Result<Schedule, PlanError> {
        self.starting(None::<std::iter::Empty<Duration>>)
    }

    /// Sessions at other starts than the recorded ones.
    ///
    /// # Errors
    /// As [`schedule`](Self::schedule).
    pub fn schedule_at(&self, arrivals: &Arrivals) -> Result<Schedule, PlanError> {
        self.starting(Some(arrivals.times(self.seed)))
    }

    /// Sessions that all start at once, for a closed loop.
    ///
    /// # Errors
    /// As [`schedule`](Self::schedule).
    pub fn schedule_now(&self) -> Result<Schedule, PlanError> {
        let units = self.units()?.flat_map(|unit| match unit {
            Ok(unit) => unit.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        });
        Ok(Box::new(units.map(|session| Ok(Session { start: Duration::ZERO, ..session? }))))
    }

    /// The recorded starts alone, for another workload. They are held in memory, 16 bytes each.
    ///
    /// # Errors
    /// As [`schedule`](Self::schedule), and for the first bad line.
    pub fn arrivals(&self) -> Result<Arrivals, PlanError> {
        let times: Result<_, _> =
            self.schedule()?.map(|session| session.map(|session| session.start)).collect();
        Ok(Arrivals::Replayed { times: times?, scale: 1.0 })
    }

    /// What share of its blocks an unbounded cache holds by the trace's own ids; `None` where it has none. `limit` and `share`
    /// hold as for the schedule.
    ///
    /// # Errors
    /// As [`schedule`](Self::schedule), and for the first bad line.
    pub fn own_hits(&self) -> Result<Option<OwnHits>, PlanError> {
        let (format, lines) = self.open()?;
        match format {
            Format::Mooncake => mooncake::own_hits(self, lines).map(Some),
            Format::Agentic => agentic::own_hits(self, lines).map(Some),
            Format::Azure | Format::Servegen | Format::Own => Ok(None),
        }
    }

    /// The given format, or what the first line tells.
    ///
    /// # Errors
    /// Where the file cannot be read or its format is not known.
    pub fn format(&self) -> Result<Format, PlanError> {
        self.open().map(|(format, _)| format)
    }

    fn starting(
        &self,
        starts: Option<impl Iterator<Item = Duration> + Send + 'static>,
    ) -> Result<Schedule, PlanError> {
        let units = self.units()?;
        let units: Units = match starts {
            None => units,
            Some(starts) => {
                Box::new(units.zip(starts).map(|(unit, start)| Ok(moved(unit?, start))))
            }
        };
        Ok(Box::new(Merged { units: Some(units), ahead: None, waiting: Vec::new(), error: None }))
    }

    fn units(&self) -> Result<Units, PlanError> {
        self.check()?;
        let (format, lines) = self.open()?;
        let units = match format {
            Format::Mooncake => mooncake::sessions(self, lines),
            Format::Azure => azure::sessions(self, lines),
            Format::Agentic => agentic::sessions(self, lines),
            Format::Servegen => servegen::sessions(self, lines)?,
            Format::Own => own::sessions(self, lines),
        };
        let scale = self.time_scale;
        Ok(Box::new(self.chosen(units).map(move |unit| unit.map(|unit| scaled(unit, scale)))))
    }

    /// Of a trace's units those that `share` and `limit` leave, up to the first error.
    fn chosen<T, I>(
        &self,
        units: I,
    ) -> impl Iterator<Item = Result<T, PlanError>> + Send + use<T, I>
    where
        I: Iterator<Item = Result<T, PlanError>> + Send,
    {
        let (seed, share) = (self.seed, self.share);
        let keeps = move |number: usize| {
            share >= 1.0 || seed::rng(&[seed, seed::KEEP, number as u64]).random::<f64>() < share
        };
        units
            .enumerate()
            .filter(move |(number, unit)| unit.is_err() || keeps(*number))
            .map(|(_, unit)| unit)
            .take(self.limit.map_or(usize::MAX, |limit| limit as usize))
    }

    fn open(&self) -> Result<(Format, Lines), PlanError> {
        let mut lines = Lines::open(&self.path)?;
        let format = match self.format {
            Some(format) => format,
            None => detect(&self.path, lines.peek()?)?,
        };
        Ok((format, lines))
    }

    fn check(&self) -> Result<(), PlanError> {
        if !(self.time_scale.is_finite() && self.time_scale > 0.0) {
            let reason = "a time scale must be above 0";
            let usage = "0.1 to replay ten times as fast";
            return Err(spec::refuse(&self.time_scale.to_string(), reason, usage));
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            let reason = "no such share of a trace can be taken";
            return Err(spec::refuse(&self.share.to_string(), reason, "a number above 0, up to 1"));
        }
        Ok(())
    }
}

fn detect(path: &Path, first: Option<&str>) -> Result<Format, PlanError> {
    let first = first.unwrap_or("").trim_start_matches('\u{feff}').trim_start();
    let has = |key: &str| first.contains(key);
    if first.starts_with('{') {
        return Ok(if has("\"hash_ids\"") {
            Format::Mooncake
        } else if has("\"bs\"") && has("\"r\"") {
            Format::Agentic
        } else {
            Format::Own
        });
    }
    let head = first.to_ascii_lowercase();
    if head.contains("contexttokens") {
        Ok(Format::Azure)
    } else if head.starts_with("model,client,t_s") {
        Ok(Format::Servegen)
    } else {
        let reason = "this is the first line of no known trace; name its format with --trace-format, or write JSON lines \
                      such as {\"at_s\": 0.5, \"input_tokens\": 512, \"output_tokens\": 128}";
        Err(PlanError::Line { file: path.display().to_string(), line: 1, reason: reason.into() })
    }
}

fn scaled(mut unit: Vec<Session>, scale: f64) -> Vec<Session> {
    // Not for its speed: a scale of 1 keeps times to the nanosecond.
    if scale == 1.0 {
        return unit;
    }
    let times = |time: Duration| {
        Duration::try_from_secs_f64(time.as_secs_f64() * scale).unwrap_or(Duration::MAX)
    };
    for session in &mut unit {
        session.start = times(session.start);
        for turn in &mut session.turns {
            turn.begins = match turn.begins {
                Begins::At(time) => Begins::At(times(time)),
                Begins::After(pause) => Begins::After(times(pause)),
            };
        }
    }
    unit
}

/// The unit's first session starts at `start`, the others as long after it as before.
fn moved(mut unit: Vec<Session>, start: Duration) -> Vec<Session> {
    let begin = unit.iter().map(|session| session.start).min().unwrap_or_default();
    for session in &mut unit {
        session.start = start.saturating_add(session.start - begin);
    }
    unit
}

/// Units in the order of their begins become sessions in the order of theirs. What waits are the later sessions of units that
/// have begun.
struct Merged {
    /// `None` after the end, or an error.
    units: Option<Units>,
    /// The next unit, whose begin says up to when `waiting` is complete.
    ahead: Option<Vec<Session>>,
    /// The latest start first.
    waiting: Vec<Session>,
    /// Told after all that was read before it.
    error: Option<PlanError>,
}

impl Iterator for Merged {
    type Item = Result<Session, PlanError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.ahead.is_none() {
                match self.units.as_mut().and_then(Iterator::next) {
                    Some(Ok(unit)) if unit.is_empty() => continue,
                    Some(Ok(unit)) => self.ahead = Some(unit),
                    Some(Err(error)) => {
                        (self.units, self.error) = (None, Some(error));
                    }
                    None => self.units = None,
                }
            }
            let begin = self.ahead.iter().flatten().map(|session| session.start).min();
            if self.waiting.last().is_some_and(|next| begin.is_none_or(|begin| next.start <= begin))
            {
                return self.waiting.pop().map(Ok);
            }
            let Some(unit) = self.ahead.take() else { return self.error.take().map(Err) };
            // The earliest last; among equals the trace's first last, for it is the next to go.
            self.waiting.splice(0..0, unit.into_iter().rev());
            self.waiting.sort_by_key(|session| std::cmp::Reverse(session.start));
        }
    }
}

/// What share an unbounded cache holds by a trace's own ids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwnHits {
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Blocks and tokens, the last and shorter block of a prompt counted where the trace names it.
    pub hits: HitRate,
    /// Whole blocks only, as a real cache holds them.
    pub whole_blocks: HitRate,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.time_scale != 1.0 {
            write!(f, ", times x {}", self.time_scale)?;
        }
        if self.share < 1.0 {
            write!(f, ", a share of {}", self.share)?;
        }
        if let Some(limit) = self.limit {
            write!(f, ", the first {limit}")?;
        }
        if self.pace == Pace::Answered {
            f.write_str(", turns after the answer before")?;
        }
        Ok(())
    }
}
