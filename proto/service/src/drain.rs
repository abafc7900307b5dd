//! How does a process stop?
//!
//! In two steps: *draining* (take nothing new, finish what runs) and *stop* (end now). SIGTERM or Ctrl-C begins the
//! first; the second follows when the grace period is over, or at a second signal.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Tells every part of a process that it is to stop. Clones are the same drain.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    stop: CancellationToken,
}

impl Drain {
    /// Returns a drain that begins only when [`Drain::begin`] is called.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a drain that SIGTERM or SIGINT begins, and that a second signal or the end of `grace` turns into a
    /// stop. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the process may not handle signals.
    pub fn on_signal(grace: Duration) -> std::io::Result<Self> {
        let drain = Self::new();
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let watched = drain.clone();
        // Lives as long as the process: nothing joins it, for it waits for the process's own end.
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            info!(grace_s = grace.as_secs_f32(), "draining");
            watched.begin();
            tokio::select! {
                _ = term.recv() => {},
                _ = interrupt.recv() => {},
                () = tokio::time::sleep(grace) => {},
            }
            watched.stop();
        });
        Ok(drain)
    }

    /// Begins to drain.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Ends the grace period.
    pub fn stop(&self) {
        self.draining.cancel();
        self.stop.cancel();
    }

    /// Returns whether nothing new is to be taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits until nothing new is to be taken.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Waits until all is to end now.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_is_also_a_drain() {
        let drain = Drain::new();
        let other = drain.clone();
        assert!(!other.is_draining());
        drain.stop();
        other.draining().await;
        other.stopped().await;
    }
}
