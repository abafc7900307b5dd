//! How does an owner see that a process is well?
//!
//! On a port of its own, so that clients never reach it: `/livez` (the process turns), `/readyz` (it can serve, else
//! 503 with the reasons), `/metrics` (OpenMetrics).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::Drain;

/// Why a process is not ready, by part. Empty: it is. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<RwLock<BTreeMap<&'static str, String>>>);

impl Readiness {
    /// Records why `part` is not ready.
    pub fn not_ready(&self, part: &'static str, why: impl Into<String>) {
        self.0.write().insert(part, why.into());
    }

    /// Records that `part` is ready.
    pub fn ready(&self, part: &'static str) {
        self.0.write().remove(part);
    }

    /// Returns the reasons, one line each; nothing when all parts are ready.
    #[must_use]
    pub fn reasons(&self) -> Option<String> {
        let parts = self.0.read();
        let line = |(part, why): (&&str, &String)| format!("{part}: {why}\n");
        (!parts.is_empty()).then(|| parts.iter().map(line).collect())
    }
}

/// The admin port's state: one per process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Admin {
    /// Why the process is not ready.
    pub readiness: Readiness,
    registry: Arc<Mutex<Registry>>,
}

impl Admin {
    /// Returns an admin state without metrics, ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a part register its metrics.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }

    /// Returns all metrics as OpenMetrics text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock()).expect("a String takes any text");
        text
    }

    /// Serves until the drain's stop.
    ///
    /// # Errors
    ///
    /// When the listener breaks.
    pub async fn serve(self, listener: TcpListener, drain: Drain) -> std::io::Result<()> {
        let routes = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        tokio::select! {
            served = axum::serve(listener, routes) => served,
            () = drain.stopped() => Ok(()),
        }
    }
}

/// Binds a listener with a sentence that names the address when it cannot.
///
/// # Errors
///
/// When the address is taken or not this machine's.
pub async fn bind(address: SocketAddr, what: &str) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let advice = match e.kind() {
            std::io::ErrorKind::AddrInUse => ": choose another port, or end what listens there",
            _ => "",
        };
        std::io::Error::new(e.kind(), format!("cannot listen on {address} for {what}: {e}{advice}"))
    })
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.readiness.reasons() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics())
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn readiness_names_each_part_that_is_not() {
        let readiness = Readiness::default();
        assert_eq!(readiness.reasons(), None);
        readiness.not_ready("fleet", "not synced");
        readiness.not_ready("assets", "loading");
        assert_eq!(readiness.reasons().unwrap(), "assets: loading\nfleet: not synced\n");
        readiness.ready("fleet");
        readiness.ready("assets");
        assert_eq!(readiness.reasons(), None);
    }

    #[test]
    fn metrics_are_those_registered() {
        let admin = Admin::new();
        let counter: Counter = Counter::default();
        admin.register(|r| r.register("glint_test", "A test", counter.clone()));
        counter.inc();
        assert!(admin.metrics().contains("glint_test_total 1"));
    }
}
