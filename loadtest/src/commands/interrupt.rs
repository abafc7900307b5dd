//! What do Ctrl-C and SIGTERM do?

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use crate::drive::Watch;

/// The first of them starts nothing more and lets answers end, the second cuts them; what was measured is reported either way.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    happened: Arc<AtomicBool>,
    running: Arc<Mutex<Option<Watch>>>,
}

impl Interrupt {
    /// Listens from now on.
    pub(super) fn listen() -> std::io::Result<Self> {
        let interrupt = Self::default();
        let listening = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Here and not on the thread, whose begin nobody waits for.
        let (mut interrupts, mut terminations) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupts.recv() => {}
                        _ = terminations.recv() => {}
                    }
                    let again = listening.happened.swap(true, Ordering::Relaxed);
                    match &*listening.running.lock() {
                        Some(watch) if again => watch.cut(),
                        Some(watch) => watch.stop(),
                        None => {}
                    }
                }
            });
        })?;
        Ok(interrupt)
    }

    /// This test is to be ended.
    pub(super) fn ends(&self, watch: &Watch) {
        *self.running.lock() = Some(watch.clone());
        if self.happened() {
            watch.stop();
        }
    }

    /// Whether the user wants it to end.
    pub(super) fn happened(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }
}
