//! Which flags say what is asked?

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use super::{
    Distribution, LabelMix, PrefixTree, ReaderMix, Tools, Weighted, Workload, schedule, seed,
};
use crate::{
    arrivals::{Arrivals, Law, Rates},
    plan::{Piece, PlanError, Prompt, Reader, Schedule, Session},
    trace::{Format, Pace, Servegen, Trace},
};

/// When the sessions of a schedule start.
#[derive(Clone, Copy, Debug)]
pub enum Starts<'a> {
    /// When a trace says. Only traces say.
    Recorded,
    /// All at once: a closed loop, which starts one when another has ended.
    Now,
    /// When others than a trace say.
    At(&'a Arrivals),
}

/// What is asked: a made-up workload, or a trace.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Workload")]
pub struct WorkloadConfig {
    /// Equal seeds, equal schedules. Another seed asks with other tokens, so that no cache is warm from a run before.
    #[arg(long, default_value = "0")]
    pub seed: u64,

    /// How the gaps between starts scatter: constant, poisson, gamma:cv=2 or weibull:cv=2.
    #[arg(long, default_value = "poisson")]
    pub arrivals: Law,

    /// Tokens of a prompt that nobody shares: 128, uniform:64-256, normal:mean=512,sd=100, lognormal:mean=512,sd=800 or
    /// exponential:mean=300; the last three also with ,min= and ,max=.
    #[arg(long, default_value = "512")]
    pub input_tokens: Distribution,

    /// Tokens of an answer; with a trace, of those answers whose length it does not say.
    #[arg(long, default_value = "128")]
    pub output_tokens: Distribution,

    /// Beginnings that prompts share, as branches x tokens from the root: 1x2000,8x500 is a system prompt of 2000 tokens for all, then
    /// one of 8 pieces of 500 tokens, then --input-tokens.
    #[arg(long, conflicts_with = "trace")]
    pub prefix_tree: Option<PrefixTree>,

    /// How often the user of a session speaks.
    #[arg(long, default_value = "1", conflicts_with = "trace")]
    pub turns: Distribution,

    /// Tokens of what a user says after the first time.
    #[arg(long, default_value = "64", conflicts_with = "trace")]
    pub turn_tokens: Distribution,

    /// Pause between an answer and the user's next turn.
    #[arg(long, default_value = "exponential:mean=5", conflicts_with = "trace")]
    pub think_time_s: Distribution,

    /// Tools that the model calls, one after another, each time before it answers.
    #[arg(long, default_value = "0", conflicts_with = "trace")]
    pub tool_calls: Distribution,

    /// How long a tool runs.
    #[arg(long, default_value = "lognormal:mean=2,sd=3", conflicts_with = "trace")]
    pub tool_latency_s: Distribution,

    /// Tokens of what a tool brings.
    #[arg(long, default_value = "400", conflicts_with = "trace")]
    pub tool_result_tokens: Distribution,

    /// Tokens of a call.
    #[arg(long, default_value = "60", conflicts_with = "trace")]
    pub tool_call_tokens: Distribution,

    /// A tenant and its weight, such as acme=3; once for each.
    #[arg(long = "tenant")]
    pub tenants: Vec<Weighted>,

    /// A priority class and its weight, such as batch=1; once for each.
    #[arg(long = "class")]
    pub classes: Vec<Weighted>,

    /// Share of the requests, 0 to 1, whose stream the client closes after --leave-after-tokens.
    #[arg(long, default_value = "0")]
    pub cancel_share: f64,

    /// Share of the requests whose connection the client breaks off after --leave-after-tokens.
    #[arg(long, default_value = "0")]
    pub disconnect_share: f64,

    /// After how many tokens a client leaves.
    #[arg(long, default_value = "uniform:0-64")]
    pub leave_after_tokens: Distribution,

    /// Share of the requests whose client takes --slow-tokens-per-s and no more.
    #[arg(long, default_value = "0")]
    pub slow_share: f64,

    /// How fast a slow client reads.
    #[arg(long, default_value = "5")]
    pub slow_tokens_per_s: f64,

    /// Longer prompts are cut off there; what they share stays shared.
    #[arg(long)]
    pub input_tokens_max: Option<u32>,

    /// Longer answers are cut off there.
    #[arg(long)]
    pub output_tokens_max: Option<u32>,

    /// A trace to replay instead, plain or gzip.
    #[arg(long)]
    pub trace: Option<PathBuf>,

    /// How the trace is written, where its first line does not tell.
    #[arg(long, requires = "trace")]
    pub trace_format: Option<Format>,

    /// What the trace's times and pauses are multiplied with: 0.1 replays it ten times as fast.
    #[arg(long, default_value = "1", requires = "trace")]
    pub time_scale: f64,

    /// Take so many of the trace's sessions (requests, where it has no sessions).
    #[arg(long, requires = "trace")]
    pub trace_limit: Option<u64>,

    /// Take each of the trace's sessions with this probability.
    #[arg(long, default_value = "1", requires = "trace")]
    pub trace_share: f64,

    /// When the later turns of a recorded session are sent.
    #[arg(long, value_enum, default_value = "recorded", requires = "trace")]
    pub trace_pace: Pace,

    /// Which model of ServeGen's rates; the file's first without it.
    #[arg(long, requires = "trace")]
    pub servegen_model: Option<String>,

    /// Begin of the window of ServeGen's rates.
    #[arg(long, default_value = "0", requires = "trace")]
    pub servegen_from_s: u64,

    /// Length of the window; to the end without it.
    #[arg(long, requires = "trace")]
    pub servegen_span_s: Option<u64>,

    /// ServeGen's summary, whose histograms say how long prompts and answers are; else --input-tokens and --output-tokens do.
    #[arg(long, requires = "trace")]
    pub servegen_summary: Option<PathBuf>,
}

impl WorkloadConfig {
    /// The arrivals that the flags ask for, at these rates.
    #[must_use]
    pub fn arrivals(&self, rates: Rates) -> Arrivals {
        Arrivals::Drawn { law: self.arrivals, rates }
    }

    /// What is to be sent.
    ///
    /// # Errors
    /// Where shares or scales cannot be, the trace cannot be read, or `starts` are recorded ones and there are none.
    pub fn schedule(&self, starts: Starts<'_>) -> Result<Schedule, PlanError> {
        let readers = self.readers();
        readers.check()?;
        let sessions = match self.replayed() {
            Some(trace) => {
                let has_starts = || Ok(trace.format()? != Format::Agentic);
                match starts {
                    Starts::Recorded if !has_starts()? => return Err(no_starts("this trace has")),
                    Starts::Recorded => trace.schedule()?,
                    Starts::Now => trace.schedule_now()?,
                    Starts::At(arrivals) => trace.schedule_at(arrivals)?,
                }
            }
            None => {
                let sessions = self.made_up().sessions();
                match starts {
                    Starts::Recorded => return Err(no_starts("a made-up workload has")),
                    Starts::Now => schedule(std::iter::repeat(Duration::ZERO), sessions),
                    Starts::At(arrivals) => schedule(arrivals.times(self.seed), sessions),
                }
            }
        };
        let finish = Finish {
            seed: self.seed,
            labels: self.trace.is_some().then(|| self.labels()),
            readers: self.trace.is_some().then_some(readers),
            input_tokens_max: self.input_tokens_max.map_or(u32::MAX, |max| max.max(1)),
            output_tokens_max: self.output_tokens_max.map_or(u32::MAX, |max| max.max(1)),
        };
        Ok(Box::new(
            sessions.zip(0..).map(move |(session, number)| Ok(finish.session(session?, number))),
        ))
    }

    /// The made-up workload of these flags.
    #[must_use]
    pub fn made_up(&self) -> Workload {
        let has_tools = self.tool_calls != Distribution::fixed(0);
        Workload {
            seed: self.seed,
            prefix: self.prefix_tree.clone().unwrap_or_default(),
            input: self.input_tokens.clone(),
            output: self.output_tokens.clone(),
            turns: self.turns.clone(),
            next_input: self.turn_tokens.clone(),
            think: self.think_time_s.clone(),
            tools: has_tools.then(|| Tools {
                calls: self.tool_calls.clone(),
                latency: self.tool_latency_s.clone(),
                result: self.tool_result_tokens.clone(),
                call_output: self.tool_call_tokens.clone(),
            }),
            labels: self.labels(),
            readers: self.readers(),
        }
    }

    /// The trace of these flags, where one was named.
    #[must_use]
    pub fn replayed(&self) -> Option<Trace> {
        Some(Trace {
            path: self.trace.clone()?,
            format: self.trace_format,
            time_scale: self.time_scale,
            limit: self.trace_limit,
            share: self.trace_share,
            pace: self.trace_pace,
            output: self.output_tokens.clone(),
            seed: self.seed,
            servegen: Servegen {
                model: self.servegen_model.clone(),
                from: Duration::from_secs(self.servegen_from_s),
                span: self.servegen_span_s.map(Duration::from_secs),
                summary: self.servegen_summary.clone(),
                input: self.input_tokens.clone(),
            },
        })
    }

    /// One line for a report.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let mut say = |part: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = text.write_fmt(part);
        };
        match self.replayed() {
            Some(trace) => say(format_args!("trace {trace}")),
            None => {
                say(format_args!(
                    "input {} tokens, output {}",
                    self.input_tokens, self.output_tokens
                ));
                if let Some(tree) = &self.prefix_tree {
                    say(format_args!(", after the prefix tree {tree}"));
                }
                if self.turns != Distribution::fixed(1) {
                    let (turns, next, think) = (&self.turns, &self.turn_tokens, &self.think_time_s);
                    say(format_args!(
                        ", {turns} turns, the next ones {next} tokens after {think} s"
                    ));
                }
                if self.tool_calls != Distribution::fixed(0) {
                    let (calls, latency) = (&self.tool_calls, &self.tool_latency_s);
                    say(format_args!(", {calls} tool calls of {latency} s"));
                }
            }
        }
        for (what, names) in [("tenants", &self.tenants), ("classes", &self.classes)] {
            if !names.is_empty() {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                say(format_args!(", {what} {}", names.join(" ")));
            }
        }
        for (what, share) in [
            ("cancelled", self.cancel_share),
            ("disconnected", self.disconnect_share),
            ("read slowly", self.slow_share),
        ] {
            if share > 0.0 {
                say(format_args!(", {:.3} % {what}", 100.0 * share));
            }
        }
        for (what, max) in [("input", self.input_tokens_max), ("output", self.output_tokens_max)] {
            if let Some(max) = max {
                say(format_args!(", {what} at most {max}"));
            }
        }
        say(format_args!(", seed {}", self.seed));
        text
    }

    fn labels(&self) -> LabelMix {
        LabelMix { tenants: self.tenants.clone(), classes: self.classes.clone() }
    }

    fn readers(&self) -> ReaderMix {
        ReaderMix {
            cancel: self.cancel_share,
            disconnect: self.disconnect_share,
            leave_after: self.leave_after_tokens.clone(),
            slow: self.slow_share,
            slow_tokens_per_s: self.slow_tokens_per_s,
        }
    }
}

fn no_starts(what: &str) -> PlanError {
    PlanError::Impossible(format!(
        "{what} no starts of its own; say how many sessions start a second (--rate) or how many go on at once (--concurrency)"
    ))
}

/// What is done to sessions after they are made or read.
struct Finish {
    seed: u64,
    /// For a trace: who asks, where it does not say.
    labels: Option<LabelMix>,
    /// For a trace: how answers are read, where it does not say.
    readers: Option<ReaderMix>,
    input_tokens_max: u32,
    output_tokens_max: u32,
}

impl Finish {
    fn session(&self, mut session: Session, number: u64) -> Session {
        let mut rng = seed::rng(&[self.seed, seed::READER, number]);
        if let Some(labels) = &self.labels {
            let drawn = labels.draw(&mut rng);
            session.labels.tenant = session.labels.tenant.or(drawn.tenant);
            session.labels.class = session.labels.class.or(drawn.class);
        }
        for turn in &mut session.turns {
            turn.output_tokens = turn.output_tokens.min(self.output_tokens_max);
            if let Prompt::Whole(pieces) | Prompt::Next(pieces) = &mut turn.prompt {
                cut(pieces, self.input_tokens_max);
            }
            if let (Some(readers), Reader::Whole) = (&self.readers, turn.reader) {
                turn.reader = readers.draw(&mut rng);
            }
        }
        session
    }
}

fn cut(pieces: &mut Vec<Piece>, tokens_max: u32) {
    let mut left = tokens_max;
    pieces.retain_mut(|piece| {
        piece.tokens = piece.tokens.min(left);
        left -= piece.tokens;
        piece.tokens > 0
    });
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        workload: WorkloadConfig,
    }

    fn flags(flags: &str) -> WorkloadConfig {
        Flags::try_parse_from(std::iter::once("test").chain(flags.split_whitespace()))
            .unwrap()
            .workload
    }

    #[test]
    fn the_flags_make_a_schedule_that_is_the_same_each_time() {
        let config = flags(
            "--seed 9 --input-tokens uniform:64-256 --prefix-tree 1x2000,8x500 --turns uniform:1-4 --tool-calls uniform:0-2 \
             --tenant a=3 --tenant b --class batch --cancel-share 0.2 --slow-share 0.1 --arrivals gamma:cv=2",
        );
        let arrivals = config.arrivals("20".parse().unwrap());
        let made = || -> Vec<String> {
            let schedule = config.schedule(Starts::At(&arrivals)).unwrap();
            schedule.take(50).map(|session| format!("{:?}", session.unwrap())).collect()
        };
        assert_eq!(made(), made());
        assert_eq!(
            config.describe(),
            "input uniform:64-256 tokens, output 128, after the prefix tree 1x2000,8x500, uniform:1-4 turns, the next ones 64 \
             tokens after exponential:mean=5 s, uniform:0-2 tool calls of lognormal:mean=2,sd=3 s, tenants a=3 b=1, classes \
             batch=1, 20.000 % cancelled, 10.000 % read slowly, seed 9"
        );
    }

    #[test]
    fn long_prompts_and_answers_are_cut_off() {
        let config = flags(
            "--prefix-tree 1x100,2x50 --input-tokens 10 --input-tokens-max 120 --output-tokens-max 7",
        );
        let session = config.schedule(Starts::Now).unwrap().next().unwrap().unwrap();
        let Prompt::Whole(pieces) = &session.turns[0].prompt else { panic!("{session:?}") };
        assert_eq!(pieces.iter().map(|piece| piece.tokens).collect::<Vec<_>>(), [100, 20]);
        assert_eq!(session.turns[0].output_tokens, 7);
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_sentence() {
        let error =
            |config: WorkloadConfig, starts| config.schedule(starts).err().unwrap().to_string();
        assert!(error(flags(""), Starts::Recorded).contains("--rate"));
        assert!(error(flags("--cancel-share 2"), Starts::Now).contains("from 0 to 1"));
        assert!(error(flags("--trace /nowhere"), Starts::Now).contains("cannot read /nowhere"));
        let refused = Flags::try_parse_from(["test", "--input-tokens", "many"]).err().unwrap();
        assert!(refused.to_string().contains("uniform:64-256"), "{refused}");
        assert!(Flags::try_parse_from(["test", "--time-scale", "2"]).is_err());
    }
}
