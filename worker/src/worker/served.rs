//! Does a server of this process still serve?

use std::fmt::Display;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio_util::task::AbortOnDropHandle;

use crate::error::WorkerError;

/// A server on a task of its own. Clones are the same; the task is aborted when the last is dropped.
#[derive(Clone)]
pub(super) struct Served {
    name: &'static str,
    /// Why it failed, if it did.
    ended: Shared<BoxFuture<'static, Result<(), String>>>,
}

impl Served {
    /// Starts a server. Must be called within a tokio runtime.
    pub(super) fn start<E: Display + Send + 'static>(
        name: &'static str,
        server: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Self {
        let task = AbortOnDropHandle::new(tokio::spawn(server));
        let ended = async {
            match task.await {
                Ok(ended) => ended.map_err(|error| error.to_string()),
                Err(broken) => Err(broken.to_string()),
            }
        };
        Self { name, ended: ended.boxed().shared() }
    }

    /// Waits for the end that it was told to come to.
    ///
    /// # Errors
    ///
    /// [`WorkerError::ServerEnded`]: it failed.
    pub(super) async fn ended(&self) -> Result<(), WorkerError> {
        self.ended.clone().await.map_err(|reason| self.lost(reason))
    }

    /// Waits for an end that nobody told it to come to, and returns it as what it is.
    pub(super) async fn lost_early(&self) -> WorkerError {
        match self.ended().await {
            Err(failed) => failed,
            Ok(()) => self.lost("nobody told it to, and it gives no reason".to_owned()),
        }
    }

    fn lost(&self, reason: String) -> WorkerError {
        WorkerError::ServerEnded { server: self.name, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn every_way_to_end_is_told_with_the_servers_name_and_again_to_whoever_asks_later() {
        type End = BoxFuture<'static, Result<(), &'static str>>;
        let failed: End = ready(Err("its port is gone")).boxed();
        let panicked: End = async { panic!("a bug") }.boxed();
        let quiet: End = ready(Ok(())).boxed();
        for (server, reason) in
            [(failed, "its port is gone"), (panicked, "panicked"), (quiet, "gives no reason")]
        {
            let served = Served::start("gRPC", server);
            for _ in 0..2 {
                let lost = served.lost_early().await.to_string();
                assert!(lost.contains("gRPC") && lost.contains(reason), "{lost}");
            }
        }
    }

    #[tokio::test]
    async fn an_end_on_demand_is_no_failure() {
        let served = Served::start("admin", ready(Ok::<_, String>(())));
        assert!(served.ended().await.is_ok());
    }
}
