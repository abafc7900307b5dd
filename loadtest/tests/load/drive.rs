//! When requests are sent, from when latency counts, and how a test ends.

use std::{sync::Arc, time::Duration};

use glint_loadtest::{
    drive::{self, Load, Sink, Watch},
    measure::Window,
    plan::{Begins, PlanError, Session},
    record::Outcome,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    kit::{closed, open, run, run_watched, schedule, single, target, turn, whole},
    mock::{Mock, Step, answer, gated, piece, wait_for},
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_frozen_server_is_felt_by_all_who_ask_meanwhile() {
    // It answers nobody until the last has asked, 400 ms after the first.
    let gate = Arc::new(Semaphore::new(0));
    let mock = Mock::start(move |seen| {
        if seen.number == 4 {
            gate.add_permits(100);
        }
        gated(&gate, &["a", "b"])
    });
    let (driven, records) = run(target(&mock), (0..5).map(|n| single(100 * n)).collect(), &open());
    assert_eq!(driven.run.summary.done, 5);
    for (n, record) in (0..).zip(&records) {
        assert!(record.ttft().unwrap() >= ms(400 - 100 * n), "{n}: {:?}", record.ttft());
    }
    assert!(driven.run.summary.ttft.max >= 399.0);
    assert_eq!(driven.run.generator.streams_peak, 5);
}

#[test]
fn latency_counts_from_the_intended_start_when_the_generator_was_late() {
    let mock = Mock::start(|_| answer(&["a"]));
    let load = open();
    let watch = Watch::new(&load);
    // The generator's only thread stands still until 600 ms, while the others are due at 50, 100 and 150 ms.
    let (clock, records) = (watch.clone(), Arc::new(Mutex::new(Vec::new())));
    let kept = records.clone();
    let sink: Sink = Arc::new(move |record, _| {
        if record.session == 0 {
            std::thread::sleep(ms(600).saturating_sub(clock.elapsed()));
        }
        kept.lock().push(record.clone());
    });
    let sessions = [0, 50, 100, 150].map(single).to_vec();
    let driven =
        drive::run(&Arc::new(target(&mock)), schedule(sessions), &load, &watch, Some(sink))
            .unwrap();
    let records = records.lock();
    let late: Vec<_> = records.iter().filter(|record| record.session > 0).collect();
    assert_eq!(late.len(), 3);
    for record in late {
        let ttft = record.ttft().unwrap();
        let from_sent = record.first_token.unwrap() - record.sent;
        assert!(ttft >= ms(450) && record.lateness() >= ms(450), "{record:?}");
        assert_eq!(ttft, from_sent + record.lateness());
    }
    let summary = &driven.run.summary;
    assert!(summary.ttft.max - summary.ttft_from_sent.max >= 100.0, "{summary:?}");
    assert!(!driven.run.generator.kept_schedule);
    assert!(driven.run.generator.lateness.max >= 449.0);
}

#[test]
fn a_closed_loop_holds_exactly_as_many_as_it_should_on_any_number_of_threads() {
    for (sessions, threads) in [(1, 1), (5, 2), (2, 4)] {
        // Nobody is answered until as many ask at once.
        let gate = Arc::new(Semaphore::new(0));
        let mock = Mock::start(move |seen| {
            if seen.running == sessions {
                gate.add_permits(1000);
            }
            gated(&gate, &["a"])
        });
        let load = Load { threads, ..closed(sessions) };
        let (driven, _) = run(target(&mock), (0..20).map(|_| single(0)).collect(), &load);
        assert_eq!(driven.run.summary.done, 20);
        assert_eq!(mock.running_peak(), sessions, "on {threads} threads");
    }
}

#[test]
fn a_thread_without_work_takes_what_another_would_get() {
    // The first request is answered when all others are, so one of the two users does all the rest.
    let gate = Arc::new(Semaphore::new(0));
    let mock = Mock::start(move |seen| match seen.number {
        0 => gated(&gate, &["a"]),
        19 => {
            gate.add_permits(1);
            answer(&["a"])
        }
        _ => answer(&["a"]),
    });
    let load = Load { threads: 2, ..closed(2) };
    let (driven, _) = run(target(&mock), (0..20).map(|_| single(0)).collect(), &load);
    assert_eq!(driven.run.summary.done, 20);
}

#[test]
fn a_closed_loop_is_not_cut_while_it_goes_on_and_its_rates_are_over_all_of_its_time() {
    // Each is answered well before the drain, all together are not.
    let mock = Mock::start(|_| {
        let mut steps = answer(&["a"]);
        steps.insert(0, Step::Wait(ms(60)));
        steps
    });
    let load = Load { drain: ms(300), ..closed(1) };
    let (driven, _) = run(target(&mock), (0..8).map(|_| single(0)).collect(), &load);
    let run = &driven.run;
    assert_eq!((run.summary.done, run.summary.unfinished), (8, 0));
    assert!(run.measured_to_s >= 0.48, "{}", run.measured_to_s);
    assert!(run.summary.done_per_s <= 8.0 / 0.48, "{}", run.summary.done_per_s);
}

#[test]
fn a_closed_loop_starts_nothing_after_its_time() {
    let mock = Mock::start(|_| {
        let mut steps = answer(&["a"]);
        steps.insert(0, Step::Wait(ms(5)));
        steps
    });
    let load = Load {
        duration: Some(ms(200)),
        window: Window { from: Duration::ZERO, to: Some(ms(200)) },
        ..closed(3)
    };
    let endless = Box::new((0..).map(|_| Ok(single(0))));
    let (driven, records) = run_watched(target(&mock), endless, &load, &Watch::new(&load));
    assert!(records.len() > 3 && records.iter().all(|record| record.intended < ms(200)));
    assert_eq!(driven.run.summary.requests, records.len() as u64);
    assert!((driven.run.measured_to_s - 0.2).abs() < 1e-9);
}

#[test]
fn connections_are_used_again() {
    let mock = Mock::start(|_| answer(&["a"]));
    let (driven, _) = run(target(&mock), (0..10).map(|_| single(0)).collect(), &closed(1));
    assert_eq!((driven.run.summary.done, driven.run.generator.connections), (10, 1));
    assert_eq!(mock.connections(), 1);
}

#[test]
fn what_the_server_counted_is_added_up() {
    let mock = Mock::start(|_| answer(&["a", "b", "c"]));
    let (driven, _) = run(target(&mock), vec![single(0), single(1)], &open());
    let of = &driven.run.summary;
    assert_eq!((of.prompt_tokens, of.cached_tokens, of.output_tokens), (20, 8, 6));
    assert!(of.cached_tokens_known);
    assert_eq!(of.itl.count, 4);
}

#[test]
fn requests_of_the_warm_up_are_sent_and_not_counted() {
    let mock = Mock::start(|_| answer(&["a"]));
    let load = Load { window: Window { from: ms(50), to: Some(ms(150)) }, ..open() };
    let (driven, records) = run(target(&mock), [0, 60, 100, 160].map(single).to_vec(), &load);
    assert_eq!((records.len(), driven.run.summary.requests), (4, 2));
}

/// Three at once, and one that nobody will wait for.
fn three_and_a_late_one() -> Vec<Session> {
    [0, 0, 0, 3_600_000].map(single).to_vec()
}

#[test]
fn stopping_starts_nothing_more_and_lets_answers_end() {
    let gate = Arc::new(Semaphore::new(0));
    let load = open();
    let watch = Watch::new(&load);
    let stopping = watch.clone();
    let mock = Mock::start(move |seen| {
        if seen.number == 2 {
            stopping.stop();
            gate.add_permits(100);
        }
        gated(&gate, &["a"])
    });
    let (driven, _) = run_watched(target(&mock), schedule(three_and_a_late_one()), &load, &watch);
    assert_eq!((driven.run.summary.requests, driven.run.summary.done), (3, 3));
    assert!(driven.broken.is_none());
}

#[test]
fn cutting_counts_what_runs_as_unfinished_and_keeps_what_came() {
    let load = open();
    let watch = Watch::new(&load);
    let mock = Mock::start(move |seen| match seen.number {
        0 => answer(&["a"]),
        _ => vec![Step::Head, Step::Events(vec![piece("a")]), Step::Forever],
    });
    let (driven, records) = std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("one answer", || watch.look(|measures| measures.counts().0) == 1);
            wait_for("all requests", || mock.seen().len() == 3);
            watch.cut();
        });
        run_watched(target(&mock), schedule(three_and_a_late_one()), &load, &watch)
    });
    let of = &driven.run.summary;
    assert_eq!((of.requests, of.done, of.unfinished, of.failed), (3, 1, 2, 0));
    let unfinished = records.iter().filter(|record| record.outcome == Outcome::Unfinished);
    assert_eq!(unfinished.count(), 2);
    assert_eq!(driven.run.series.iter().map(|second| second.sent).sum::<u64>(), 3);
}

#[test]
fn stopping_does_not_wait_for_users_who_think() {
    let mock = Mock::start(|_| answer(&["a"]));
    let load = open();
    let watch = Watch::new(&load);
    let after = turn(Begins::After(Duration::from_secs(3600)), whole(2, 2));
    let mut session = single(0);
    session.turns.push(after);
    let (driven, _) = std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("one answer", || watch.look(|measures| measures.counts().0) == 1);
            watch.stop();
        });
        run_watched(target(&mock), schedule(vec![session]), &load, &watch)
    });
    assert_eq!((driven.run.summary.requests, driven.run.summary.done), (1, 1));
}

#[test]
fn answers_that_go_on_after_the_drain_are_unfinished() {
    let mock = Mock::start(|_| vec![Step::Head, Step::Events(vec![piece("a")]), Step::Forever]);
    let load = Load { drain: ms(100), ..open() };
    let (driven, records) = run(target(&mock), vec![single(0)], &load);
    assert_eq!((driven.run.summary.unfinished, records[0].output_tokens), (1, 1));
}

#[test]
fn the_drain_begins_after_the_last_turn_of_a_thread_and_not_after_the_last_session() {
    // One session hangs; the other, on another thread, goes on for longer than the drain.
    let mock = Mock::start(|seen| match &seen.headers["authorization"][..] {
        "Bearer hangs" => vec![Step::Head, Step::Forever],
        _ => answer(&["a"]),
    });
    let mut target = target(&mock);
    target.api_key = Some(Arc::from("common"));
    target.tenant_keys.insert(Arc::from("hangs"), Arc::from("hangs"));
    let (mut hangs, mut goes_on) = (single(0), single(0));
    hangs.labels.tenant = Some(Arc::from("hangs"));
    goes_on.turns.extend((0..12).map(|n| turn(Begins::After(ms(50)), whole(n, 2))));
    let load = Load { drain: ms(400), threads: 2, ..open() };
    let (driven, _) = run(target, vec![hangs, goes_on], &load);
    assert_eq!((driven.run.summary.unfinished, driven.run.summary.done), (1, 13));
    // The rate is over the time in which they were due.
    assert!(driven.run.measured_to_s >= 0.6, "{}", driven.run.measured_to_s);
}

#[test]
fn a_schedule_that_breaks_keeps_what_was_measured() {
    let mock = Mock::start(|_| answer(&["a"]));
    let load = open();
    let broken = PlanError::Line { file: "t.jsonl".into(), line: 3, reason: "no prompt".into() };
    let schedule = vec![Ok(single(0)), Ok(single(1)), Err(broken), Ok(single(2))];
    let (driven, records) =
        run_watched(target(&mock), Box::new(schedule.into_iter()), &load, &Watch::new(&load));
    assert_eq!(driven.broken.unwrap().to_string(), "t.jsonl, line 3: no prompt");
    assert_eq!((records.len(), driven.run.summary.done), (2, 2));
}
