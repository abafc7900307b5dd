//! What do users ask?
//!
//! A [`Workload`] makes [`Session`]s, each a pure function of the seed and the session's number: its lengths, turns, pauses and
//! tools do not depend on when it starts, so that two runs at different rates ask the same things. [`schedule`] gives them their
//! starts. [`WorkloadConfig`] is all of it, and replayed traces, as flags of a command line.

mod config;
mod distribution;
mod mix;
mod prefix;
pub(crate) mod seed;

use std::time::Duration;

pub use config::{Starts, WorkloadConfig};
pub use distribution::Distribution;
pub use mix::{LabelMix, ReaderMix, Weighted};
pub use prefix::PrefixTree;

use crate::plan::{Begins, Piece, Prompt, Schedule, Session, Turn};

/// More turns a session cannot have.
pub const TURNS_MAX: u32 = 10_000;

/// What the users of a made-up workload ask.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Equal seeds, equal sessions; different seeds, different tokens, so that no cache is warm from another run.
    pub seed: u64,
    /// What first prompts begin with.
    pub prefix: PrefixTree,
    /// Tokens of a first prompt after the prefix; nobody shares them.
    pub input: Distribution,
    /// Tokens of an answer.
    pub output: Distribution,
    /// How often the user of a session speaks.
    pub turns: Distribution,
    /// Tokens of what a user says after the first turn.
    pub next_input: Distribution,
    /// Pause between an answer and the user's next turn.
    pub think: Distribution,
    /// An agent that calls tools before it answers.
    pub tools: Option<Tools>,
    /// Who asks.
    pub labels: LabelMix,
    /// How the answers are read.
    pub readers: ReaderMix,
}

/// An agent's tools. Each call is a turn of its own: the model's answer is the call, and after the tool's latency its result is the
/// next prompt; the last result is answered like a user.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// Calls for each time that the user speaks.
    pub calls: Distribution,
    /// How long a tool runs.
    pub latency: Distribution,
    /// Tokens of what a tool brings.
    pub result: Distribution,
    /// Tokens of a call.
    pub call_output: Distribution,
}

impl Workload {
    /// The session of a number, from 0, which starts at once.
    #[must_use]
    pub fn session(&self, number: u64) -> Session {
        let mut rng = seed::rng(&[self.seed, seed::SESSION, number]);
        let labels = self.labels.draw(&mut rng);
        let mut first = self.prefix.path(self.seed, &mut rng);
        let mut turns: Vec<Turn> = Vec::new();
        let spoken_max = self.turns.tokens(&mut rng).min(TURNS_MAX);
        for spoken in 0..spoken_max {
            let calls = self.tools.as_ref().map_or(0, |tools| tools.calls.whole(&mut rng));
            let calls = calls.min(TURNS_MAX - turns.len() as u32);
            for step in 0..=calls {
                let of_user = step == 0;
                let (pause, tokens) = match (&self.tools, of_user) {
                    (Some(tools), false) => {
                        (tools.latency.pause(&mut rng), tools.result.tokens(&mut rng))
                    }
                    _ if spoken == 0 => (Duration::ZERO, self.input.tokens(&mut rng)),
                    _ => (self.think.pause(&mut rng), self.next_input.tokens(&mut rng)),
                };
                let name = seed::name(&[self.seed, seed::TURN, number, turns.len() as u64]);
                let said = Piece { name, tokens };
                let (begins, prompt) = if turns.is_empty() {
                    first.push(said);
                    (Begins::At(Duration::ZERO), Prompt::Whole(std::mem::take(&mut first)))
                } else {
                    (Begins::After(pause), Prompt::Next(vec![said]))
                };
                let output_tokens = match &self.tools {
                    Some(tools) if step < calls => tools.call_output.tokens(&mut rng),
                    _ => self.output.tokens(&mut rng),
                };
                turns.push(Turn {
                    begins,
                    prompt,
                    output_tokens,
                    reader: self.readers.draw(&mut rng),
                });
            }
            if turns.len() as u32 >= TURNS_MAX {
                break;
            }
        }
        Session { start: Duration::ZERO, labels, turns }
    }

    /// All sessions in order, endlessly; all start at once.
    pub fn sessions(self) -> impl Iterator<Item = Session> + Send {
        (0..).map(move |number| self.session(number))
    }
}

/// Gives sessions their starts; ends with the first of both. Sessions whose start is not of a trace come from
/// [`Workload::sessions`].
pub fn schedule(
    starts: impl Iterator<Item = Duration> + Send + 'static,
    sessions: impl Iterator<Item = Session> + Send + 'static,
) -> Schedule {
    Box::new(starts.zip(sessions).map(|(start, session)| Ok(Session { start, ..session })))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::arrivals::Arrivals;

    fn chat() -> Workload {
        Workload {
            seed: 42,
            prefix: "1x2000,8x500".parse().unwrap(),
            input: "uniform:64-256".parse().unwrap(),
            output: "lognormal:mean=200,sd=100".parse().unwrap(),
            turns: "uniform:1-5".parse().unwrap(),
            next_input: "32".parse().unwrap(),
            think: "exponential:mean=5".parse().unwrap(),
            tools: None,
            labels: LabelMix::default(),
            readers: ReaderMix::default(),
        }
    }

    /// Sessions hold no `PartialEq`, for a trace's raw JSON has none.
    fn written(sessions: impl Iterator<Item = Session>) -> Vec<String> {
        sessions.map(|session| format!("{session:?}")).collect()
    }

    #[test]
    fn a_session_is_the_same_alone_and_among_others() {
        let all = written(chat().sessions().take(20));
        assert_eq!(all[13], format!("{:?}", chat().session(13)));
        assert_eq!(all, written(chat().sessions().take(20)));
        let other = Workload { seed: 43, ..chat() };
        assert_ne!(all, written(other.sessions().take(20)));
    }

    #[test]
    fn prompts_share_the_tree_and_nothing_else() {
        let mut levels = [HashSet::new(), HashSet::new(), HashSet::new()];
        let count = 500;
        for session in chat().sessions().take(count) {
            let Prompt::Whole(pieces) = &session.turns[0].prompt else { panic!("{session:?}") };
            let lengths: Vec<u32> = pieces.iter().map(|piece| piece.tokens).collect();
            assert_eq!(lengths[..2], [2_000, 500]);
            assert!((64..=256).contains(&lengths[2]));
            for (level, piece) in levels.iter_mut().zip(pieces) {
                level.insert(piece.name);
            }
        }
        assert_eq!(levels.map(|level| level.len()), [1, 8, count]);
    }

    #[test]
    fn later_turns_go_on_after_the_answer_and_say_something_new() {
        let mut turns_seen = HashSet::new();
        let mut names = HashSet::new();
        for session in chat().sessions().take(200) {
            turns_seen.insert(session.turns.len());
            assert_eq!(session.turns[0].begins, Begins::At(Duration::ZERO));
            for turn in &session.turns[1..] {
                assert!(matches!(turn.begins, Begins::After(_)));
                let Prompt::Next(pieces) = &turn.prompt else { panic!("{turn:?}") };
                assert_eq!(pieces[0].tokens, 32);
                assert!(names.insert(pieces[0].name));
            }
        }
        assert_eq!(turns_seen, HashSet::from([1, 2, 3, 4, 5]));
    }

    #[test]
    fn an_agent_calls_its_tools_before_it_answers() {
        let tools = Tools {
            calls: "2".parse().unwrap(),
            latency: "3".parse().unwrap(),
            result: "700".parse().unwrap(),
            call_output: "20".parse().unwrap(),
        };
        let agent = Workload {
            turns: Distribution::fixed(2),
            output: Distribution::fixed(300),
            think: Distribution::fixed(10),
            tools: Some(tools),
            ..chat()
        };
        let session = agent.session(0);
        let outputs: Vec<u32> = session.turns.iter().map(|turn| turn.output_tokens).collect();
        assert_eq!(outputs, [20, 20, 300, 20, 20, 300]);
        let pauses: Vec<u64> = session.turns[1..]
            .iter()
            .map(|turn| match turn.begins {
                Begins::After(pause) => pause.as_secs(),
                Begins::At(_) => panic!("{turn:?}"),
            })
            .collect();
        assert_eq!(pauses, [3, 3, 10, 3, 3]);
        let said: Vec<u32> = session.turns[1..]
            .iter()
            .map(|turn| match &turn.prompt {
                Prompt::Next(pieces) => pieces[0].tokens,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(said, [700, 700, 32, 700, 700]);
    }

    #[test]
    fn a_session_cannot_grow_without_end() {
        let endless = Workload { turns: Distribution::fixed(u32::MAX), ..chat() };
        assert_eq!(endless.session(0).turns.len(), TURNS_MAX as usize);
    }

    #[test]
    fn a_schedule_gives_sessions_their_starts_in_order() {
        let arrivals = Arrivals::poisson(10.0).unwrap();
        let starts: Vec<Duration> = schedule(arrivals.times(1), chat().sessions())
            .take(100)
            .map(|session| session.unwrap().start)
            .collect();
        assert_eq!(starts, arrivals.times(1).take(100).collect::<Vec<_>>());
    }
}
