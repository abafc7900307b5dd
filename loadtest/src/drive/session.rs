//! One user's turns.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{Sink, Watch, pacer::Prepared};
use crate::{
    plan::{Begins, Labels, Reader, Turn},
    record::{ErrorKind, Outcome, Record},
    target::{Answer, Ask, Client, Conversation, Target},
};

/// What all sessions of a thread share.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) target: Arc<Target>,
    pub(super) watch: Watch,
    pub(super) duration: Option<Duration>,
    pub(super) sink: Option<Sink>,
    /// The latest intended start so far, also of a turn that is yet to be sent.
    pub(super) last_due: Cell<Duration>,
}

/// Which request, for its record.
struct Place {
    session: u64,
    turn: u32,
    labels: Labels,
    intended: Duration,
    reader: Reader,
}

/// Whether a turn is sent only when those before it are over. In a conversation all are, for each stands on the answers before.
fn waits(turn: &Turn, conversation: &Conversation) -> bool {
    conversation.goes_on() || matches!(turn.begins, Begins::After(_))
}

/// Sends the turns of a session, each at its time. A turn after an answer that did not come is not sent: nobody could have asked it.
pub(super) async fn run(context: Rc<Context>, prepared: Prepared) {
    let Prepared { number, session, first, start } = prepared;
    let mut first = Some(first);
    let mut conversation = Conversation::of(&session);
    let mut before_ended = start;
    let mut overlapping = JoinSet::new();
    for (turn_number, turn) in (0..).zip(&session.turns) {
        let own_waits = waits(turn, &conversation);
        if own_waits && !overlapping.is_empty() {
            while overlapping.join_next().await.is_some() {}
            before_ended = context.watch.elapsed();
        }
        let intended = match turn.begins {
            Begins::At(offset) => {
                (start + offset).max(if own_waits { before_ended } else { start })
            }
            Begins::After(offset) => before_ended + offset,
        };
        context.last_due.set(context.last_due.get().max(intended));
        let place = Place {
            session: number,
            turn: turn_number,
            labels: session.labels.clone(),
            intended,
            reader: turn.reader,
        };
        let ask = match first.take() {
            Some(ask) => Ok(ask),
            None => {
                if context.duration.is_some_and(|end| intended >= end) || context.watch.stopped() {
                    break;
                }
                let ask = Ask::new(&context.target, turn, &conversation);
                let now = context.watch.elapsed();
                tokio::select! {
                    () = tokio::time::sleep(intended.saturating_sub(now)) => {}
                    () = context.watch.stop.cancelled() => break,
                    () = context.watch.cut.cancelled() => break,
                }
                ask
            }
        };
        let ask = match ask {
            Ok(ask) => ask,
            Err(error) => {
                let failed = Outcome::Failed(ErrorKind::ClientError, error.to_string().into());
                let at = context.watch.elapsed();
                context.watch.measures.lock().sent(at);
                context.note(&place, &mut Answer::default(), (at, at), failed);
                break;
            }
        };
        let next = session.turns.get(turn_number as usize + 1);
        if own_waits || next.is_none_or(|next| waits(next, &conversation)) {
            let (answer, outcome) = context.ask(&ask, &place).await;
            before_ended = context.watch.elapsed();
            if outcome != Outcome::Done {
                break;
            }
            conversation.grow(ask, &answer, &context.target);
        } else {
            let context = context.clone();
            overlapping.spawn_local(async move { drop(context.ask(&ask, &place).await) });
        }
    }
    while overlapping.join_next().await.is_some() {}
}

impl Context {
    async fn ask(&self, ask: &Ask, place: &Place) -> (Answer, Outcome) {
        self.watch.measures.lock().sent(self.watch.elapsed());
        let mut asked = self.client.ask(ask, &place.labels, place.reader, &self.watch.cut).await;
        let times = (self.watch.since_begin(asked.sent), self.watch.since_begin(asked.end));
        let outcome = self.note(place, &mut asked.answer, times, asked.outcome);
        (asked.answer, outcome)
    }

    fn note(
        &self,
        place: &Place,
        answer: &mut Answer,
        (sent, end): (Duration, Duration),
        outcome: Outcome,
    ) -> Outcome {
        let record = Record {
            session: place.session,
            turn: place.turn,
            labels: place.labels.clone(),
            revision: answer.revision.clone(),
            intended: place.intended,
            sent,
            first_token: answer.first_token.map(|at| self.watch.since_begin(at)),
            last_token: answer.last_token.map(|at| self.watch.since_begin(at)),
            end,
            prompt_tokens: answer.prompt_tokens,
            cached_tokens: answer.cached_tokens,
            output_tokens: answer.output_tokens(),
            gaps_us: std::mem::take(&mut answer.gaps_us),
            outcome,
        };
        self.watch.measures.lock().ended(&record);
        if let Some(sink) = &self.sink {
            sink(&record, answer);
        }
        record.outcome
    }
}
