//! Find-max on a server whose limit is known, because it is only a calculation.

use std::{collections::BinaryHeap, sync::Arc, time::Duration};

use glint_loadtest::{
    arrivals::{Arrivals, Law, Rates},
    findmax::{Search, judge},
    measure::{Measures, Window},
    plan::Labels,
    record::{Outcome, Record},
    report::Run,
    slo::Condition,
};

/// Streams at a time, and how long each takes: 8 / 0.4 s = 20 requests/s and no more.
const SLOTS: usize = 8;
const SERVICE: Duration = Duration::from_millis(400);
const LIMIT: f64 = 20.0;
const PROBE: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(60);

/// What a probe would measure: whoever comes takes the slot that is free first, waits for it if need be, and gets ten tokens over
/// its time. Times scatter by ±`scatter`.
fn probe(law: &str, rate: f64, seed: u64, scatter: f64, slo: &[Condition]) -> Run {
    let law: Law = law.parse().unwrap();
    let arrivals = Arrivals::Drawn { law, rates: Rates::constant(rate).unwrap() };
    let window = Window { from: Duration::ZERO, to: Some(PROBE) };
    let mut measures = Measures::new(window, Arc::from(slo));
    let mut free: BinaryHeap<_> = (0..SLOTS).map(|_| std::cmp::Reverse(Duration::ZERO)).collect();
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (session, at) in (0..).zip(arrivals.times(seed).take_while(|at| *at < PROBE)) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let share = 1.0 + scatter * ((random >> 11) as f64 / (1_u64 << 52) as f64 - 1.0);
        let service = SERVICE.mul_f64(share);
        let std::cmp::Reverse(slot) = free.pop().unwrap();
        let begin = slot.max(at);
        let end = begin + service;
        free.push(std::cmp::Reverse(end));
        let outcome = if end > PROBE + DRAIN { Outcome::Unfinished } else { Outcome::Done };
        measures.sent(at);
        measures.ended(&Record {
            session,
            turn: 0,
            labels: Labels::default(),
            revision: None,
            intended: at,
            sent: at,
            first_token: Some(begin + service / 10),
            last_token: Some(end),
            end: end.min(PROBE + DRAIN),
            prompt_tokens: None,
            cached_tokens: None,
            output_tokens: 10,
            gaps_us: vec![40_000; 9],
            outcome,
        });
    }
    measures.run("simulated", Some(rate), PROBE)
}

fn found(law: &str, seed: u64, scatter: f64, slo: &[&str]) -> f64 {
    let slo: Vec<Condition> = slo.iter().map(|text| text.parse().unwrap()).collect();
    let mut search = Search::new(1.0, 0.05, 100_000.0, 0.02);
    let mut round = 0;
    while let Some(rate) = search.next_rate() {
        let run = probe(law, rate, seed * 1000 + round, scatter, &slo);
        search.tell(rate, judge(&run, &slo));
        round += 1;
    }
    let answer = search.answer();
    answer.rate.unwrap_or_else(|| panic!("nothing held: {:?}", answer.probes))
}

#[test]
fn the_limit_of_a_known_server_is_found_within_three_per_cent_five_times_of_five() {
    for seed in 1..=5 {
        let rate = found("constant", seed, 0.2, &["ttft_p95<500ms"]);
        assert!((rate / LIMIT - 1.0).abs() < 0.03, "{rate} of {LIMIT} requests/s, seed {seed}");
    }
}

#[test]
fn a_server_that_falls_behind_is_found_out_without_an_objective() {
    for seed in 1..=5 {
        let rate = found("constant", seed, 0.2, &[]);
        assert!((rate / LIMIT - 1.0).abs() < 0.03, "{rate} of {LIMIT} requests/s, seed {seed}");
    }
}

#[test]
fn answers_that_take_long_are_no_queue() {
    // Far below the limit, and each answer takes a good part of the probe: running streams only fill the pipe.
    for seconds in [2, 5, 10, 20, 30] {
        let mut measures =
            Measures::new(Window { from: Duration::ZERO, to: Some(PROBE) }, Arc::from([]));
        for n in 0..600_u32 {
            let at = Duration::from_millis(100) * n;
            let end = at + Duration::from_secs(seconds);
            measures.sent(at);
            measures.ended(&Record {
                session: u64::from(n),
                turn: 0,
                labels: Labels::default(),
                revision: None,
                intended: at,
                sent: at,
                first_token: Some(at + Duration::from_millis(50)),
                last_token: Some(end),
                end,
                prompt_tokens: None,
                cached_tokens: None,
                output_tokens: 10,
                gaps_us: Vec::new(),
                outcome: Outcome::Done,
            });
        }
        let judgement = judge(&measures.run("", Some(10.0), PROBE), &[]);
        assert!(judgement.held, "answers of {seconds} s: {}", judgement.reason);
    }
}
