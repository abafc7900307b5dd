//! Traces through the front door: what is sent has the prefix structure, the times and the lengths of what was recorded, and a
//! bad line is named.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use glint_loadtest::{
    arrivals::Arrivals,
    plan::{Begins, PlanError, Prompt, Reader, Session},
    tokens::{IdealCache, Vocabulary},
    trace::{Format, OwnHits, Pace, Servegen, Trace},
};

fn fixture(name: &str) -> Trace {
    Trace::new(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name))
}

/// A recorded trace that is too large for the repository.
fn shared(name: &str) -> Option<Trace> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/traces")).join(name);
    if path.exists() {
        return Some(Trace::new(path));
    }
    assert!(std::env::var_os("GLINT_REQUIRE_SHARED").is_none(), "{} is missing", path.display());
    eprintln!("skipped: {} is missing", path.display());
    None
}

fn sessions(trace: &Trace) -> Vec<Session> {
    trace.schedule().unwrap().collect::<Result<_, _>>().unwrap()
}

/// The prompts that are sent, as a cache of the trace's block size sees them.
fn sent_hits(trace: &Trace, block_tokens: u32) -> IdealCache {
    let vocabulary = Vocabulary::new(1_000..=150_000).unwrap();
    let mut cache = IdealCache::new(block_tokens);
    let mut ids = Vec::new();
    for session in trace.schedule().unwrap() {
        for turn in session.unwrap().turns {
            let Prompt::Whole(pieces) = turn.prompt else { panic!("{:?}", turn.prompt) };
            ids.clear();
            for piece in pieces {
                vocabulary.push(piece, &mut ids);
            }
            cache.ask(&ids);
        }
    }
    cache
}

/// Within 0.1 point, by blocks and by tokens, with and without the short blocks at the ends of prompts.
fn reproduces_its_prefixes(trace: &Trace) -> OwnHits {
    let own = trace.own_hits().unwrap().unwrap();
    let sent = sent_hits(trace, own.block_tokens);
    let mut pairs = vec![(sent.whole_blocks(), own.whole_blocks)];
    if own.hits != own.whole_blocks {
        pairs.push((sent.hits(), own.hits));
    }
    for (sent, own) in pairs {
        eprintln!("{trace}: sent {sent}; the trace's own {own}");
        assert_eq!(sent.blocks, own.blocks);
        assert!((sent.of_blocks() - own.of_blocks()).abs() < 0.001);
        assert!((sent.of_tokens() - own.of_tokens()).abs() < 0.001);
    }
    own
}

#[test]
fn each_recorded_trace_keeps_its_prefixes() {
    for (name, limit) in [
        ("mooncake_conversation.jsonl.gz", None),
        ("mooncake_synthetic.jsonl.gz", None),
        // All of it are six billion tokens: `examples/trace_hits.rs` takes them.
        ("agentic_coding_sessions.jsonl.gz", Some(20)),
    ] {
        let Some(whole) = shared(name) else { return };
        let own = reproduces_its_prefixes(&Trace { limit, ..whole });
        assert!(own.hits.of_blocks() > 0.2, "{name} shares beginnings: {}", own.hits);
    }
}

#[test]
fn the_whole_recorded_traces_hit_as_often_as_their_readme_says() {
    for (name, percent) in [
        ("mooncake_conversation.jsonl.gz", 36.6),
        ("mooncake_synthetic.jsonl.gz", 64.0),
        ("agentic_coding_sessions.jsonl.gz", 96.3),
    ] {
        let Some(trace) = shared(name) else { return };
        let own = trace.own_hits().unwrap().unwrap();
        assert!((100.0 * own.hits.of_blocks() - percent).abs() < 0.1, "{name}: {}", own.hits);
    }
}

#[test]
fn every_recorded_trace_is_read_to_its_end_in_the_order_of_its_starts() {
    for (name, format, count, last_s) in [
        ("mooncake_conversation.jsonl.gz", Format::Mooncake, 12_031, 3_536),
        ("mooncake_synthetic.jsonl.gz", Format::Mooncake, 3_993, 1_021),
        ("azure_llm_2023_code.csv.gz", Format::Azure, 8_819, 3_435),
        ("azure_llm_2023_conv.csv.gz", Format::Azure, 19_366, 3_501),
        ("agentic_coding_sessions.jsonl.gz", Format::Agentic, 710, 0),
    ] {
        let Some(trace) = shared(name) else { return };
        assert_eq!(trace.format().unwrap(), format);
        let (mut read, mut last) = (0, Duration::ZERO);
        for session in trace.schedule().unwrap() {
            let start = session.unwrap().start;
            assert!(start >= last);
            (read, last) = (read + 1, start);
        }
        assert_eq!(read, count, "{name}");
        assert!(last.as_secs().abs_diff(last_s) <= 4, "{name} ends at {last:?}");
    }
}

#[test]
fn servegen_brings_the_recorded_rate_and_lengths() {
    let (Some(rates), Some(summary)) =
        (shared("servegen_client_rates.csv.gz"), shared("servegen_summary.json.gz"))
    else {
        return;
    };
    let servegen = Servegen {
        model: Some("deepseek-r1".into()),
        from: Duration::from_secs(12 * 3_600),
        span: Some(Duration::from_secs(1_200)),
        summary: Some(summary.path),
        ..Servegen::default()
    };
    let expected = expected_requests(&rates.path, "deepseek-r1", 43_200.0, 44_400.0);
    let sessions = sessions(&Trace { servegen, ..rates });
    let read = sessions.len() as f64;
    // Bursts scatter the count: ten standard deviations of a Poisson count, about a twentieth.
    assert!((read - expected).abs() < 10.0 * expected.sqrt(), "{read} of {expected}");
    assert!(sessions.is_sorted_by_key(|session| session.start));
    assert!(sessions.iter().all(|session| session.start < Duration::from_secs(1_200)));
}

fn expected_requests(path: &Path, model: &str, from_s: f64, until_s: f64) -> f64 {
    let file = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
    std::io::BufRead::lines(std::io::BufReader::new(file))
        .map(Result::unwrap)
        .filter(|line| line.split(',').next() == Some(model))
        .filter_map(|line| {
            let numbers: Vec<f64> =
                line.split(',').skip(2).take(2).map(|field| field.parse().unwrap()).collect();
            (from_s <= numbers[0] && numbers[0] < until_s).then_some(numbers[1] * 600.0)
        })
        .sum()
}

#[test]
fn a_mooncake_block_becomes_a_piece_of_512_tokens_or_the_rest() {
    let trace = fixture("mooncake.jsonl");
    let sessions = sessions(&trace);
    let starts: Vec<u64> = sessions.iter().map(|session| session.start.as_secs()).collect();
    assert_eq!(starts, [0, 0, 3, 6]);
    assert_eq!(lengths(&sessions[0]), [512, 512, 76]);
    assert_eq!(lengths(&sessions[2]), [512, 512, 512]);
    assert_eq!(sessions[2].turns[0].output_tokens, 30);
    let own = reproduces_its_prefixes(&trace);
    assert_eq!((own.hits.hit_blocks, own.hits.blocks), (5, 10));
    assert_eq!((own.whole_blocks.hit_blocks, own.whole_blocks.blocks), (4, 8));
}

fn lengths(session: &Session) -> Vec<u32> {
    let Prompt::Whole(pieces) = &session.turns[0].prompt else { panic!("{session:?}") };
    pieces.iter().map(|piece| piece.tokens).collect()
}

#[test]
fn azure_knows_times_across_midnight_and_lengths_but_no_prefixes() {
    let trace = fixture("azure.csv");
    let sessions = sessions(&trace);
    let starts: Vec<u128> = sessions.iter().map(|session| session.start.as_millis()).collect();
    assert_eq!(starts, [0, 250, 2_500]);
    assert_eq!(sessions.iter().flat_map(lengths).collect::<Vec<_>>(), [4_808, 3_180, 110]);
    assert_eq!(sessions[2].turns[0].output_tokens, 27);
    assert_eq!(trace.own_hits().unwrap(), None);
    assert_eq!(sent_hits(&trace, 64).hits().hit_blocks, 0);
}

#[test]
fn an_agentic_session_keeps_its_tree_and_its_recorded_times() {
    let trace = fixture("agentic.jsonl");
    let own = reproduces_its_prefixes(&trace);
    assert_eq!((own.hits.hit_blocks, own.hits.blocks), (3 + 1 + 4, 3 + 5 + 1 + 2 + 6 + 2));
    let sessions = sessions(&trace);
    let times: Vec<Begins> = sessions[0].turns.iter().map(|turn| turn.begins).collect();
    let at = |ms| Begins::At(Duration::from_millis(ms));
    assert_eq!(times, [at(0), at(4_000), at(5_000), at(6_500), at(9_000)]);
    let tokens: Vec<u64> =
        sessions[0].turns.iter().map(|turn| turn.prompt.tokens().unwrap()).collect();
    assert_eq!(tokens, [200, 330, 70, 140, 400]);
}

#[test]
fn agents_that_wait_for_their_answers_go_side_by_side() {
    let trace = Trace { pace: Pace::Answered, time_scale: 0.5, ..fixture("agentic.jsonl") };
    let starts = Arrivals::constant(1.0).unwrap();
    let sessions: Vec<Session> = trace.schedule_at(&starts).unwrap().map(Result::unwrap).collect();
    let read: Vec<(u128, usize)> =
        sessions.iter().map(|session| (session.start.as_millis(), session.turns.len())).collect();
    // The second session starts before the first one's second agent.
    assert_eq!(read, [(0, 3), (1_000, 1), (2_500, 2)]);
    assert_eq!(sessions[0].turns[1].begins, Begins::After(Duration::from_millis(1_500)));
    assert_eq!(trace.schedule_now().unwrap().count(), 3);
}

#[test]
fn servegen_clients_come_at_their_own_rates_and_windows_are_cut_out() {
    let trace = |from_s, span_s| Trace {
        servegen: Servegen {
            from: Duration::from_secs(from_s),
            span: Some(Duration::from_secs(span_s)),
            summary: Some(fixture("servegen_summary.json").path),
            ..Servegen::default()
        },
        ..fixture("servegen_rates.csv")
    };
    let mut counts = HashMap::new();
    for seed in 0..40 {
        for (window, from_s, span_s) in
            [("first", 0, 600), ("both", 0, 1_200), ("within", 300, 300)]
        {
            let sessions = sessions(&Trace { seed, ..trace(from_s, span_s) });
            assert!(sessions.iter().all(|session| session.start.as_secs() < span_s));
            *counts.entry(window).or_insert(0.0) += sessions.len() as f64 / 40.0;
        }
    }
    // A count scatters by cv * sqrt(count), its mean over 40 seeds by a sixth of that.
    for (window, expected) in [("first", 1_200.0), ("both", 4_200.0), ("within", 600.0)] {
        let tolerance = 4.0 * 4.0 * f64::sqrt(expected) / f64::sqrt(40.0);
        let mean = counts[window];
        assert!((mean - expected).abs() < tolerance, "{window}: {mean} of {expected}");
    }
    let sessions = sessions(&trace(0, 600));
    // Bins 57, 65 and 25 begin at 2^7, 2^8 and 2^3.
    let long = sessions.iter().filter(|session| lengths(session)[0] >= 256).count() as f64;
    assert!((long / sessions.len() as f64 - 0.75).abs() < 0.06);
    assert!(sessions.iter().all(|session| (128..=280).contains(&lengths(session)[0])));
    assert!(sessions.iter().all(|session| (8..=9).contains(&session.turns[0].output_tokens)));
}

#[test]
fn a_trace_of_ones_own_says_everything() {
    let sessions = sessions(&fixture("own.jsonl"));
    assert_eq!(sessions.len(), 5);
    let first = &sessions[0];
    assert!(matches!(&first.turns[0].prompt, Prompt::Text(text) if &**text == "Say hello."));
    assert_eq!(first.labels.tenant.as_deref(), Some("acme"));
    assert_eq!(first.labels.class.as_deref(), Some("interactive"));
    assert!(
        matches!(&sessions[1].turns[0].prompt, Prompt::Messages(messages) if messages.get().contains("Hello"))
    );
    assert!(matches!(&sessions[2].turns[0].prompt, Prompt::TokenIds(ids) if ids[..] == [1, 2, 3]));
    assert_eq!(sessions[2].turns[0].reader, Reader::Cancel { after_tokens: 2 });
    assert_eq!(sessions[2].turns[0].output_tokens, 128);
    let chat = &sessions[3];
    assert_eq!(lengths(chat), [100, 20, 30]);
    let begins: Vec<Begins> = chat.turns.iter().map(|turn| turn.begins).collect();
    let seconds = Duration::from_secs;
    assert_eq!(begins, [Begins::At(seconds(0)), Begins::After(seconds(2)), Begins::At(seconds(8))]);
    assert!(matches!(&chat.turns[1].prompt, Prompt::Next(pieces) if pieces[0].tokens == 40));
    let Prompt::Whole(third) = &chat.turns[2].prompt else { panic!() };
    let Prompt::Whole(shared) = &sessions[4].turns[0].prompt else { panic!() };
    assert_eq!(third[0].name, shared[0].name);
    assert_eq!(sessions[4].turns[0].reader, Reader::Slow { tokens_per_s: 2.5 });
    assert_eq!(sessions[4].start, seconds(1), "without a time, with the line above");
}

/// Writes a file and returns what its schedule ends with.
fn fails(content: &[u8], format: Option<Format>) -> PlanError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    std::fs::write(&path, content).unwrap();
    let trace = Trace { format, ..Trace::new(path) };
    let mut schedule = match trace.schedule() {
        Ok(schedule) => schedule,
        Err(error) => return error,
    };
    let error = schedule.find_map(Result::err).expect("a bad line is an error");
    assert!(schedule.next().is_none(), "the first bad line is the end");
    error
}

#[test]
fn a_bad_line_is_named_with_its_number_and_its_reason() {
    let mooncake =
        r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}"#;
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04,1,1";
    let servegen = "model,client,t_s,rate_rps,cv,law,p1,p2\nm,0,600,2,4,Gamma,0.0625,8";
    let agentic = r#"{"bs":64,"r":[[0,0,0,0,200,5,-1,0,3,0]]}"#;
    let own = r#"{"at_s": 1, "input_tokens": 3, "session": 1}"#;
    let cases: &[(&str, &str, u64, &str)] = &[
        (mooncake, "{", 2, "EOF while parsing"),
        (mooncake, "{}", 2, "missing field `timestamp`"),
        (
            mooncake,
            r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [1]}"#,
            2,
            "2 blocks of 512, but `hash_ids` has 1",
        ),
        (
            mooncake,
            r#"{"timestamp": 4, "input_length": 1, "output_length": 1, "hash_ids": [1]}"#,
            2,
            "sort the file",
        ),
        (
            mooncake,
            r#"{"timestamp": -4, "input_length": 1, "output_length": 1, "hash_ids": [1]}"#,
            2,
            "milliseconds from 0",
        ),
        (
            mooncake,
            r#"{"timestamp": 9, "input_length": 0, "output_length": 1, "hash_ids": []}"#,
            2,
            "`input_length` is 0",
        ),
        (
            mooncake,
            r#"{"timestamp": 9, "input_length": 4294967296, "output_length": 1, "hash_ids": []}"#,
            2,
            "invalid value",
        ),
        (azure, "2023-11-16 18:17:05,1", 3, "`GeneratedTokens` is missing"),
        (azure, "2023-11-16 18:17:05,x,1", 3, "`ContextTokens` is `x`"),
        (azure, "yesterday,1,1", 3, "such as `2023-11-16"),
        (azure, "2023-11-16 18:17:03,1,1", 3, "1 s before the line above"),
        (servegen, "m,0,1200,2,4,Gamma,0.0625", 3, "7 columns"),
        (servegen, "m,0,1200,2,4,Normal,0.0625,8", 3, "neither Gamma nor Weibull"),
        (servegen, "m,0,1200,-2,4,Gamma,0.0625,8", 3, "`rate_rps` is `-2`"),
        (servegen, "m,0,1200,2,4,Gamma,0,8", 3, "a shape of 0"),
        (servegen, "m,0,600,2,4,Gamma,1,8", 3, "sort its rows by `t_s`"),
        (agentic, r#"{"bs":64,"r":[]}"#, 2, "`r` have a request"),
        (
            agentic,
            r#"{"bs":64,"r":[[0,0,0,0,200,5,0,0,3,0]]}"#,
            2,
            "its parent 0 does not come before it",
        ),
        (agentic, r#"{"bs":64,"r":[[0,0,0,0,200,5,-1,1,3,0]]}"#, 2, "1 blocks in common"),
        (
            agentic,
            r#"{"bs":64,"r":[[0,0,0,0,200,5,-1,0,4,0]]}"#,
            2,
            "200 tokens are 3 blocks, not 4",
        ),
        (agentic, r#"{"bs":64,"r":[[0,0,0,0,200,5]]}"#, 2, "invalid length 6"),
        (own, "{}", 2, "must be there"),
        (own, r#"{"input_tokens": 3, "promt": "x"}"#, 2, "unknown field `promt`"),
        (own, r#"{"input_tokens": 3, "prompt": "x"}"#, 2, "only one of"),
        (own, r#"{"at_s": -1, "input_tokens": 3}"#, 2, "`at_s` is -1"),
        (own, r#"{"at_s": 0.5, "input_tokens": 3}"#, 2, "sort the sessions"),
        (own, r#"{"input_tokens": 0}"#, 2, "`input_tokens` is empty"),
        (own, r#"{"prompt": ""}"#, 2, "`prompt` is empty"),
        (own, r#"{"messages": {}}"#, 2, "must be an array"),
        (own, r#"{"input_tokens": 3, "output_tokens": 0}"#, 2, "`output_tokens` is 0"),
        (own, r#"{"input_tokens": 3, "after_s": 1}"#, 2, "needs an answer before it"),
        (own, r#"{"input_tokens": 3, "continues": true}"#, 2, "`continues` needs"),
        (own, r#"{"input_tokens": 3, "slow_tokens_per_s": 0}"#, 2, "must be above 0"),
        (own, "{\"input_tokens\": 3}\n{\"input_tokens\": 3, \"session\": 1}", 3, "has ended above"),
        ("no trace at all", "", 1, "first line of no known trace"),
        ("", "", 1, "first line of no known trace"),
    ];
    for (good, bad, number, words) in cases {
        match fails(format!("{good}\n{bad}\n").as_bytes(), None) {
            PlanError::Line { line, reason, .. } => {
                assert!(reason.contains(words), "{bad}: {reason}");
                assert_eq!(line, *number, "{bad}: {reason}");
            }
            other => panic!("{bad}: {other}"),
        }
    }
    let reason = fails(b"{\"prompt\": \"\xff\"}\n", Some(Format::Own)).to_string();
    assert!(reason.contains("line 1: the line is not UTF-8"), "{reason}");
}

/// Whatever stands in a file, there is an answer. The alphabet is of what the formats are made of.
#[test]
fn no_line_makes_a_reader_panic() {
    let parts = [
        "{",
        "}",
        "[",
        "]",
        "\"r\":",
        "\"bs\":64",
        "\"hash_ids\":",
        "\"at_s\":",
        "-1",
        "1e400",
        "0",
        ",",
        "\n",
        ":",
        "\"input_tokens\":",
        "18446744073709551615",
        "m",
        "Gamma",
        "2023-11-16 18:17:03",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n",
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let mut state = 1_u64;
    for _ in 0..300 {
        let content: String = (0..40)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                parts[(state >> 33) as usize % parts.len()]
            })
            .collect();
        std::fs::write(&path, &content).unwrap();
        for format in
            [Format::Mooncake, Format::Azure, Format::Agentic, Format::Servegen, Format::Own]
        {
            let trace = Trace { format: Some(format), ..Trace::new(&path) };
            if let Ok(schedule) = trace.schedule() {
                assert!(schedule.take(100).count() <= 100);
            }
        }
    }
}

#[test]
fn a_packed_trace_is_read_like_a_plain_one_and_a_broken_one_is_named() {
    let plain = fixture("mooncake.jsonl");
    let content = std::fs::read(&plain.path).unwrap();
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&content).unwrap();
    let packed = packed.finish().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("packed");
    std::fs::write(&path, &packed).unwrap();
    let written = |trace: &Trace| format!("{:?}", sessions(trace));
    assert_eq!(written(&Trace::new(path)), written(&plain));
    match fails(&packed[..packed.len() - 20], None) {
        PlanError::Read { error, .. } => {
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof)
        }
        other => panic!("{other}"),
    }
    let missing = Trace::new("/nowhere/at/all").schedule().err().unwrap();
    assert!(missing.to_string().starts_with("cannot read /nowhere/at/all: "), "{missing}");
}

#[test]
fn a_scale_a_share_a_limit_and_other_starts_change_what_they_say_and_nothing_else() {
    let trace = fixture("mooncake.jsonl");
    let starts = |trace: &Trace| -> Vec<u64> {
        sessions(trace).iter().map(|session| session.start.as_millis() as u64).collect()
    };
    assert_eq!(starts(&Trace { time_scale: 0.1, ..trace.clone() }), [0, 0, 300, 600]);
    assert_eq!(starts(&Trace { limit: Some(3), ..trace.clone() }), [0, 0, 3_000]);
    let arrivals = Arrivals::constant(10.0).unwrap();
    let others: Vec<Session> = trace.schedule_at(&arrivals).unwrap().map(Result::unwrap).collect();
    assert_eq!(
        others.iter().map(|one| one.start.as_millis()).collect::<Vec<_>>(),
        [0, 100, 200, 300]
    );
    assert_eq!(lengths(&others[2]), lengths(&sessions(&trace)[2]));
    let kept: usize =
        (0..200).map(|seed| sessions(&Trace { share: 0.25, seed, ..trace.clone() }).len()).sum();
    assert!(kept.abs_diff(200) < 50, "{kept} of 800");
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(Trace { time_scale: wrong, ..trace.clone() }.schedule().is_err());
        assert!(Trace { share: wrong, ..trace.clone() }.schedule().is_err());
    }
    let Arrivals::Replayed { times, .. } = trace.arrivals().unwrap() else { panic!() };
    assert_eq!(times.len(), 4);
}

#[test]
fn another_seed_sends_other_tokens_with_the_same_prefixes() {
    let trace = |seed| Trace { seed, ..fixture("mooncake.jsonl") };
    let name = |trace: &Trace| match &sessions(trace)[0].turns[0].prompt {
        Prompt::Whole(pieces) => pieces[0].name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(&trace(1)), name(&trace(1)));
    assert_ne!(name(&trace(1)), name(&trace(2)));
    reproduces_its_prefixes(&trace(2));
}
