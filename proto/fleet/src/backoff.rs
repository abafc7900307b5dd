//! How long until the next try?

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use glint_core::Pause;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses that double, up to two seconds.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Pause,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { pause: Pause::new(FIRST, LONGEST) }
    }

    /// Waits, longer each time.
    pub(crate) async fn pause(&mut self) {
        // Half of the pause is drawn: a fleet that lost its registry at one moment does not come back at one moment.
        let permille = random() % 1000;
        let half = self.pause.take() / 2;
        tokio::time::sleep(half + half * u32::try_from(permille).unwrap_or(0) / 1000).await;
    }

    /// Begins anew after a success.
    pub(crate) fn reset(&mut self) {
        self.pause.reset();
    }
}

/// Returns a number that differs between processes and calls; no secret.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
