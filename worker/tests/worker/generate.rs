//! One request: taken, refused, taken back.

use std::time::Duration;

use glint_core::SamplingParams;
use glint_proto::v1;
use glint_proto::v1::generate_response::Event;
use tonic::{Code, Request};

use crate::support::{FAST, Registry, SLOW, answer, broken, read, request, soon, started};

#[tokio::test]
async fn a_request_is_answered_and_the_same_one_hits_the_cache() {
    let (_group, mut client) = Registry::new().one(&[FAST]).await;
    let first = answer(&mut client, request(0..40, 20)).await.unwrap();
    assert_eq!((first.started_with, first.tokens.len()), (0, 20));
    assert_eq!(first.finished.reason(), v1::FinishReason::Length);
    let v1::Finished { prompt_tokens, cached_tokens, output_tokens, .. } = first.finished;
    assert_eq!((prompt_tokens, cached_tokens, output_tokens), (40, 0, 20));
    let second = answer(&mut client, request(0..40, 20)).await.unwrap();
    assert_eq!((second.started_with, &second.tokens), (32, &first.tokens));

    let salted = v1::GenerateRequest { cache_salt: b"other".into(), ..request(0..40, 20) };
    assert_eq!(answer(&mut client, salted).await.unwrap().started_with, 0);
}

#[tokio::test]
async fn a_resumed_request_goes_on_where_it_was() {
    let (_group, mut client) = Registry::new().one(&[FAST]).await;
    let whole = answer(&mut client, request(0..20, 12)).await.unwrap().tokens;
    let mut resumed = request((0..20).chain(whole[..5].iter().copied()), 12);
    resumed.resume_from = Some(20);
    let rest = answer(&mut client, resumed).await.unwrap();
    assert_eq!(rest.tokens, whole[5..]);
    assert_eq!((rest.finished.prompt_tokens, rest.finished.output_tokens), (20, 7));
}

#[tokio::test]
async fn many_sequences_run_together() {
    let (_group, client) = Registry::new().one(&[FAST, "--max-sequences=8"]).await;
    let ask = |n: u32| {
        let mut client = client.clone();
        async move { answer(&mut client, request(n..n + 30, 30)).await.unwrap().tokens.len() }
    };
    let lengths = futures::future::join_all((0..64).map(ask)).await;
    assert_eq!(lengths, [30; 64]);
}

#[tokio::test]
async fn logprobs_come_with_tokens_and_before_them_for_the_prompt() {
    let (_group, mut client) = Registry::new().one(&[FAST]).await;
    let mut sampling = SamplingParams::plain(7, 4);
    (sampling.logprobs, sampling.prompt_logprobs) = (Some(2), Some(1));
    let asked = v1::GenerateRequest { sampling: Some((&sampling).into()), ..request(0..40, 4) };
    let mut stream = client.generate(asked).await.unwrap().into_inner();
    let (mut described, mut drawn) = (Vec::new(), Vec::new());
    while let Some(message) = soon("the next message", stream.message()).await.unwrap() {
        match message.event.unwrap() {
            Event::PromptLogprobs(some) => {
                assert_eq!(some.first_position as usize, described.len() + 1);
                described.extend(some.tokens);
            }
            Event::Tokens(some) => {
                assert_eq!(some.ids.len(), some.logprobs.len());
                drawn.extend(some.logprobs);
            }
            Event::Started(_) | Event::Finished(_) => {}
        }
    }
    assert_eq!((described.len(), drawn.len()), (39, 4));
    assert!(described.iter().all(|token| token.top_ids.len() == 1));
    assert!(drawn.iter().all(|token| token.top_ids.len() == 2));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_begins() {
    let (_group, mut client) = Registry::new().one(&[FAST]).await;
    let spoiled: [(&str, v1::GenerateRequest); 5] = [
        ("prompt is empty", request([], 5)),
        ("token id 4000000", request([4_000_000], 5)),
        ("max_tokens is 0", request(0..5, 0)),
        ("has no sampling", v1::GenerateRequest { sampling: None, ..request(0..5, 5) }),
        ("router's name", v1::GenerateRequest { router: "r".repeat(200), ..request(0..5, 5) }),
    ];
    for (why, spoiled) in spoiled {
        let refused = answer(&mut client, spoiled).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(why), "{refused} does not say {why:?}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_as_exhausted() {
    let flags = [SLOW, "--max-sequences=1", "--waiting-max=1"];
    let (_group, mut client) = Registry::new().one(&flags).await;
    let _running = started(&mut client, request(0..5, 4000)).await;
    let waiting = client.generate(request(0..5, 4000)).await.unwrap();
    let refused = answer(&mut client, request(0..5, 5)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "1 requests wait, at most 1 may");
    drop(waiting);
}

#[tokio::test]
async fn closing_a_stream_takes_the_request_back() {
    let (group, mut client) = Registry::new().one(&[SLOW, "--max-sequences=1"]).await;
    let endless = started(&mut client, request(0..5, 4000)).await;
    let waiting = client.generate(request(0..5, 3)).await.unwrap().into_inner();
    drop(endless);
    assert_eq!(read(waiting).await.unwrap().tokens.len(), 3);
    assert!(group.admin("/metrics").await.contains("glint_worker_requests_aborted_total 1"));
}

#[tokio::test]
async fn a_stream_ends_at_its_callers_deadline() {
    let (_group, mut client) = Registry::new().one(&[SLOW, "--max-sequences=1"]).await;
    let mut asked = Request::new(request(0..5, 4000));
    asked.set_timeout(Duration::from_millis(300));
    let stream = client.generate(asked).await.unwrap().into_inner();
    assert_eq!(broken(stream).await.code(), Code::DeadlineExceeded);
    // Its place is free again.
    assert!(answer(&mut client, request(0..5, 2)).await.is_ok());
}
