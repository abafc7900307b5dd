//! How does a sequence get to a group?
//!
//! A group that refuses, or breaks before it has begun, leaves nothing behind; so the next one is asked. Once tokens have
//! come, a failure ends the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use glint_core::{FinishReason, GroupId, Kind, ModelDigest, TokenLogprobs, Usage, WireHash};
use glint_policy::{Candidate, choose};
use glint_proto::KindOf;
use glint_proto::v1::generate_response::Event;
use glint_proto::v1::{GenerateRequest, GenerateResponse, Sampling};
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use super::Groups;
use super::link::{Link, reusable_chain};
use crate::error::RequestError;
use crate::metrics::{Dispatched, Held};
use crate::request::Generation;

/// Groups that are asked before a request fails.
const ATTEMPTS_MAX: usize = 3;

/// A sequence that runs on a group. Dropped, it is aborted.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Of the prompt's tokens, those that the group had in its cache.
    pub(crate) cached_tokens: u32,
    /// For errors and the log.
    group: GroupId,
    request_id: String,
    events: Streaming<GenerateResponse>,
    _held: Held,
}

/// What a group says about a sequence.
#[derive(Debug)]
pub(crate) enum SequenceEvent {
    /// Log-probabilities of consecutive prompt tokens; the first ever is that of position 1.
    PromptLogprobs(Vec<TokenLogprobs>),
    /// Tokens, each with log-probabilities if they were asked for.
    Tokens(Vec<(u32, Option<TokenLogprobs>)>),
    /// Nothing follows.
    Finished(FinishReason, Usage),
}

impl Groups {
    /// Starts answer `choice` of a request on the group that is best for it.
    pub(crate) async fn dispatch(
        &self,
        generation: &Generation,
        choice: u32,
    ) -> Result<Sequence, RequestError> {
        let _copy = generation.copies.acquire().await;
        let prompt = generation.prompt_of(choice);
        let mut chains = BTreeMap::new();
        let mut tried: Vec<Arc<Link>> = Vec::new();
        let mut failure = None;
        while tried.len() < ATTEMPTS_MAX {
            let Some(link) = self.choose(generation, &prompt.ids, &mut chains, &tried) else {
                break;
            };
            match self.begin(&link, generation, choice).await {
                Ok(sequence) => {
                    self.metrics.dispatched(Dispatched::Started);
                    return Ok(sequence);
                }
                Err(status) => {
                    let kind = status.kind_of();
                    let is_broken = kind == Kind::Unavailable;
                    let outcome = if is_broken { Dispatched::Failed } else { Dispatched::Refused };
                    self.metrics.dispatched(outcome);
                    let error = RequestError::of_group(&link.group, &status);
                    match kind {
                        Kind::Exhausted | Kind::Unavailable => {
                            debug!(request = generation.request_id, group = %link.group, error = %error, "group passed over");
                            failure = Some(error);
                            tried.push(link);
                        }
                        Kind::Internal => {
                            warn!(request = generation.request_id, group = %link.group, error = %status, "group failed a request");
                            return Err(error);
                        }
                        Kind::Invalid | Kind::NotFound | Kind::Deadline | Kind::Cancelled => {
                            return Err(error);
                        }
                    }
                }
            }
        }
        let name = generation.served.name.clone();
        Err(failure.unwrap_or(RequestError::NotReady { name }))
    }

    fn choose(
        &self,
        generation: &Generation,
        prompt: &[u32],
        chains: &mut BTreeMap<ModelDigest, Vec<WireHash>>,
        tried: &[Arc<Link>],
    ) -> Option<Arc<Link>> {
        let links: Vec<Arc<Link>> = {
            let groups = self.groups.read();
            let serves = |group: &&Arc<super::Group>| {
                group.state.read().served_names.contains(&generation.served.name)
            };
            let links = groups.values().filter(serves).filter_map(|group| group.taking());
            links
                .filter(|link| Arc::ptr_eq(&link.text, &generation.served.text))
                .filter(|link| !tried.iter().any(|tried| Arc::ptr_eq(tried, link)))
                .collect()
        };
        for link in &links {
            let salt = generation.cache_salt.as_bytes();
            chains.entry(link.digest).or_insert_with(|| reusable_chain(&link.digest, salt, prompt));
        }
        let views: Vec<_> = links.iter().map(|link| link.view.read()).collect();
        let loads: Vec<_> = links.iter().map(|link| link.load()).collect();
        let candidates: Vec<_> = links
            .iter()
            .zip(&views)
            .zip(&loads)
            .map(|((link, view), (load, unseen_sequences))| Candidate {
                view,
                chain: &chains[&link.digest],
                load: load.as_ref(),
                unseen_sequences: *unseen_sequences,
            })
            .collect();
        let choice = choose(&candidates, self.turn.fetch_add(1, Ordering::Relaxed))?;
        Some(Arc::clone(&links[choice.candidate]))
    }

    /// Returns once the group has taken the sequence.
    async fn begin(
        &self,
        link: &Link,
        generation: &Generation,
        choice: u32,
    ) -> Result<Sequence, Status> {
        let held = self.metrics.sequence_in_flight();
        let request = GenerateRequest {
            request_id: generation.request_id.clone(),
            router: self.router.to_string(),
            dispatch: link.next_dispatch(),
            prompt_tokens: generation.prompt_of(choice).ids.to_vec(),
            resume_from: None,
            sampling: Some(Sampling::from(&generation.sampling_of(choice))),
            cache_salt: generation.cache_salt.clone().into_bytes(),
            adapter: String::new(),
        };
        let mut events = link.client.clone().generate(request).await?.into_inner();
        let first = events.message().await?.and_then(|message| message.event);
        match first {
            Some(Event::Started(started)) => Ok(Sequence {
                cached_tokens: started.cached_tokens,
                group: link.group.clone(),
                request_id: generation.request_id.clone(),
                events,
                _held: held,
            }),
            Some(Event::PromptLogprobs(_) | Event::Tokens(_) | Event::Finished(_)) => {
                Err(Status::internal("the group's answer does not begin with Started"))
            }
            None => Err(Status::unavailable("the group closed the stream before it began")),
        }
    }
}

impl Sequence {
    /// Returns what comes next; after [`SequenceEvent::Finished`] it must not be called again.
    pub(crate) async fn next(&mut self) -> Result<SequenceEvent, RequestError> {
        loop {
            let message = self.events.message().await.map_err(|status| {
                let error = RequestError::of_group(&self.group, &status);
                warn!(request = self.request_id, group = %self.group, error = %status, "a group broke an answer off");
                error
            })?;
            let Some(message) = message else {
                return Err(self.lost("it closed the stream in the middle of the answer"));
            };
            return match message.event {
                Some(Event::Tokens(tokens)) => {
                    let mut logprobs = tokens.logprobs.into_iter();
                    let ids = tokens.ids.into_iter();
                    ids.map(|id| Ok((id, logprobs.next().map(TryInto::try_into).transpose()?)))
                        .collect::<Result<_, glint_proto::WireError>>()
                        .map(SequenceEvent::Tokens)
                        .map_err(|error| RequestError::Internal(error.to_string()))
                }
                Some(Event::PromptLogprobs(prompt)) => prompt
                    .tokens
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<Result<_, glint_proto::WireError>>()
                    .map(SequenceEvent::PromptLogprobs)
                    .map_err(|error| RequestError::Internal(error.to_string())),
                Some(Event::Finished(finished)) => match finished.try_into() {
                    Ok((FinishReason::Aborted, _)) => Err(self.lost("it took the sequence back")),
                    Ok((reason, usage)) => Ok(SequenceEvent::Finished(reason, usage)),
                    Err(error) => Err(RequestError::Internal(error.to_string())),
                },
                // Started is told once; anything else is of a newer worker.
                Some(Event::Started(_)) | None => continue,
            };
        }
    }

    fn lost(&self, why: &str) -> RequestError {
        let message = format!("group {}, which answered, is lost: {why}", self.group);
        RequestError::Group { kind: Kind::Unavailable, message }
    }
}
