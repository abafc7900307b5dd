//! How long until the next try?

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses that double, up to two seconds.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Waits, longer each time.
    pub(crate) async fn pause(&mut self) {
        // Half of the pause is drawn: a fleet that lost its registry at one moment does not come back at one moment.
        let permille = random() % 1000;
        let pause = self.next / 2 + self.next / 2 * u32::try_from(permille).unwrap_or(0) / 1000;
        self.next = (self.next * 2).min(LONGEST);
        tokio::time::sleep(pause).await;
    }

    /// Begins anew after a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// Returns a number that differs between processes and calls; no secret.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
