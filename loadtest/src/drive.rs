//! How is a schedule put on a server?
//!
//! ```text
//! pacer thread                        generator threads (one runtime each)
//!   schedule → first request made        one task per session
//!   → sleeps until its start ──bounded──▶ sent at once, whatever runs already ──▶ Measures
//! ```
//!
//! The pacer makes the body of a session's first request *before* its start and sleeps on the system's own timer, so that neither counts
//! as latency. In an open loop nothing waits for the server. A closed loop keeps so many sessions going and takes the next when one
//! has ended; its intended start is when its place became free.

mod pacer;
mod session;

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use pacer::Prepared;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    task::{JoinSet, LocalSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    measure::{Measures, Window},
    plan::{PlanError, Schedule},
    record::Record,
    report::Run,
    slo::Condition,
    target::{Client, RenderError, Target, TargetError},
};

/// Sessions handed over and not yet begun, per thread. Far more than are due at one moment.
const HANDOVER_MAX: usize = 4096;
/// How often a running test looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What load, for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// Open or closed loop.
    pub pace: Pace,
    /// In words, for the report.
    pub description: String,
    /// Intended request rate of an open loop, requests/s.
    pub rate: Option<f64>,
    /// No session starts later than that; `None`: until the schedule ends.
    pub duration: Option<Duration>,
    /// No more sessions than that.
    pub sessions_max: Option<u64>,
    /// The part that counts.
    pub window: Window,
    /// How long answers may go on after the schedule's end.
    pub drain: Duration,
    /// Threads that send and read.
    pub threads: usize,
    /// Objectives, for goodput.
    pub slo: Arc<[Condition]>,
}

impl Load {
    /// Length of the window that counts; without an end, that of a minute's test.
    #[must_use]
    pub fn measured(&self) -> Duration {
        let end = self.window.to.or(self.duration).unwrap_or(Duration::from_secs(60));
        end.saturating_sub(self.window.from)
    }
}

/// Who decides when the next session starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The schedule.
    Open,
    /// The server: so many sessions run at a time.
    Closed {
        /// Above 0.
        sessions: usize,
    },
}

/// A test could not go on. What was measured until then is in the measures.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The schedule broke.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A request cannot be made.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The target cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The system refuses a thread or a timer.
    #[error("cannot start a generator thread: {0}")]
    System(#[from] std::io::Error),
}

/// A handle on a running test, for who watches it and who ends it.
#[derive(Clone)]
pub struct Watch {
    measures: Arc<Mutex<Measures>>,
    begin: Instant,
    stop: CancellationToken,
    stopped_at: Arc<OnceLock<Duration>>,
    cut: CancellationToken,
}

/// Is told what became of every request, in and out of the window, on a generator thread. The gaps are the record's, no longer the answer's.
pub type Sink = Arc<dyn Fn(&Record, &crate::target::Answer) + Send + Sync>;

impl Watch {
    /// A test that begins now.
    #[must_use]
    pub fn new(load: &Load) -> Self {
        Self {
            measures: Arc::new(Mutex::new(Measures::new(load.window, load.slo.clone()))),
            begin: Instant::now(),
            stop: CancellationToken::new(),
            stopped_at: Arc::default(),
            cut: CancellationToken::new(),
        }
    }

    /// Starts nothing further, no later turn either; answers that come may end.
    pub fn stop(&self) {
        self.stopped_at.get_or_init(|| self.begin.elapsed());
        self.stop.cancel();
    }

    /// Ends at once; what runs is unfinished.
    pub fn cut(&self) {
        self.stop();
        self.cut.cancel();
    }

    /// Time since the begin.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Looks at what is measured so far. It must be short: the generator waits.
    pub fn look<T>(&self, look: impl FnOnce(&Measures) -> T) -> T {
        look(&self.measures.lock())
    }

    fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn since_begin(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.begin)
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Driven {
    /// What was measured.
    pub run: Run,
    /// Why it ended early, if it did.
    pub broken: Option<DriveError>,
}

/// Puts a load on a server and blocks until it is over. A schedule that breaks in the middle ends the test; what was measured
/// until then is kept.
///
/// # Errors
///
/// Nothing could be started.
pub fn run(
    target: &Arc<Target>,
    schedule: Schedule,
    load: &Load,
    watch: &Watch,
    sink: Option<Sink>,
) -> Result<Driven, DriveError> {
    let cpu_before = cpu_time();
    let threads = match load.pace {
        Pace::Open => load.threads.max(1),
        // A thread without a session would have nothing to do.
        Pace::Closed { sessions } => load.threads.clamp(1, sessions.max(1)),
    };
    let (handovers, intakes) = intakes(load.pace, threads);
    let mut generators = Vec::new();
    for intake in intakes {
        let generator = Generator {
            target: target.clone(),
            // Its own, for what is overdue here may not be elsewhere.
            watch: Watch { cut: watch.cut.child_token(), ..watch.clone() },
            drain: load.drain,
            sink: sink.clone(),
            duration: load.duration,
        };
        // Checked here, where an error can be told.
        Client::new(target.clone())?;
        let thread = std::thread::Builder::new().name("generator".to_owned());
        generators.push(thread.spawn(move || generator.run(intake))?);
    }
    let paced = pacer::pace(target, schedule, load, watch, handovers);
    let paced_end = watch.elapsed();
    let mut broken = paced.err();
    for generator in generators {
        match generator.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => broken = broken.or(Some(error)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    let duration = load.duration.unwrap_or(Duration::MAX);
    let schedule_end = match load.pace {
        Pace::Open if load.duration.is_some() && broken.is_none() => duration,
        Pace::Open => watch.look(Measures::last_intended).max(paced_end).min(duration),
        // Its throughput is over all of its time, for nothing begins but when something ends.
        Pace::Closed { .. } => watch.look(Measures::last_end).min(duration),
    };
    let schedule_end = watch.stopped_at.get().map_or(schedule_end, |at| schedule_end.min(*at));
    let mut run = watch.look(|measures| measures.run(&load.description, load.rate, schedule_end));
    run.generator.cpu_s = cpu_time().saturating_sub(cpu_before).as_secs_f64();
    run.generator.rss_bytes = rss_peak_bytes();
    Ok(Driven { run, broken })
}

/// Where a thread takes its sessions.
enum Intake {
    /// Its own.
    Open(mpsc::Receiver<Prepared>),
    /// Those of all threads, so that none waits while another has some in stock; and how many it keeps going.
    Closed(Arc<tokio::sync::Mutex<mpsc::Receiver<Prepared>>>, usize),
}

fn intakes(pace: Pace, threads: usize) -> (Vec<mpsc::Sender<Prepared>>, Vec<Intake>) {
    match pace {
        Pace::Open => {
            let pairs = (0..threads).map(|_| mpsc::channel(HANDOVER_MAX));
            pairs.map(|(handover, sessions)| (handover, Intake::Open(sessions))).unzip()
        }
        Pace::Closed { sessions } => {
            // One waits ready for each that runs.
            let (handover, shared) = mpsc::channel(sessions.clamp(1, HANDOVER_MAX));
            let shared = Arc::new(tokio::sync::Mutex::new(shared));
            let users = |thread| sessions / threads + usize::from(thread < sessions % threads);
            let intakes =
                (0..threads).map(|thread| Intake::Closed(shared.clone(), users(thread))).collect();
            (vec![handover], intakes)
        }
    }
}

/// One thread that sends and reads.
struct Generator {
    target: Arc<Target>,
    watch: Watch,
    drain: Duration,
    duration: Option<Duration>,
    sink: Option<Sink>,
}

impl Generator {
    fn run(self, intake: Intake) -> Result<(), DriveError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = Client::new(self.target.clone())?;
        let context = Rc::new(session::Context {
            client,
            target: self.target.clone(),
            watch: self.watch.clone(),
            duration: self.duration,
            sink: self.sink.clone(),
            last_due: Cell::default(),
        });
        let local = LocalSet::new();
        local.block_on(&runtime, async {
            let mut running = JoinSet::new();
            match intake {
                Intake::Open(sessions) => open(&context, sessions, &mut running).await,
                Intake::Closed(sessions, users) => {
                    closed(&context, &sessions, users, &mut running).await;
                }
            }
            self.drain(&context, &mut running).await;
        });
        self.watch.measures.lock().connected(context.client.connections());
        Ok(())
    }

    /// Waits until all sessions have ended, at most `drain` after the last turn was due; then they are cut.
    async fn drain(&self, context: &session::Context, running: &mut JoinSet<()>) {
        let ended = async { while running.join_next().await.is_some() {} };
        tokio::select! {
            () = ended => return,
            () = self.overdue(context) => {}
            () = self.watch.cut.cancelled() => {}
        }
        self.watch.cut.cancel();
        while running.join_next().await.is_some() {}
    }

    /// Ends `drain` after the last turn was due. A session that goes on after the schedule's end makes later turns due.
    async fn overdue(&self, context: &session::Context) {
        let mut from = self.watch.elapsed();
        loop {
            tokio::time::sleep((from + self.drain).saturating_sub(self.watch.elapsed())).await;
            // Ctrl-C means now, and not when the users will have thought.
            let due = context.last_due.get();
            if due <= from || self.watch.stopped() {
                return;
            }
            from = due;
        }
    }
}

async fn open(
    context: &Rc<session::Context>,
    mut sessions: mpsc::Receiver<Prepared>,
    running: &mut JoinSet<()>,
) {
    while let Some(prepared) = sessions.recv().await {
        running.spawn_local(session::run(context.clone(), prepared));
        // The set keeps what has ended until it is asked for.
        while running.try_join_next().is_some() {}
    }
}

/// Returns when no further session begins.
async fn closed(
    context: &Rc<session::Context>,
    sessions: &Arc<tokio::sync::Mutex<mpsc::Receiver<Prepared>>>,
    users: usize,
    running: &mut JoinSet<()>,
) {
    let exhausted = CancellationToken::new();
    for _ in 0..users {
        let (context, sessions) = (context.clone(), sessions.clone());
        let at_end = exhausted.clone().drop_guard();
        running.spawn_local(async move {
            // The first whose place stays free tells that the end has come.
            let _at_end = at_end;
            loop {
                let free = context.watch.elapsed();
                let next = sessions.lock().await.recv().await;
                let Some(mut prepared) = next else { return };
                if context.watch.stopped() || context.duration.is_some_and(|end| free >= end) {
                    return;
                }
                // How long the pacer took is the generator's lateness, not the server's.
                prepared.start = free;
                session::run(context.clone(), prepared).await;
            }
        });
    }
    let over = async {
        match context.duration {
            Some(end) => tokio::time::sleep(end.saturating_sub(context.watch.elapsed())).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over => {}
        () = exhausted.cancelled() => {}
        () = context.watch.stop.cancelled() => {}
    }
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Largest resident memory so far; 0 where the system does not say.
fn rss_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
