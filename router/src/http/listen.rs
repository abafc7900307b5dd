//! How do connections come and go?
//!
//! A connection on which no whole request head arrives in time is closed, be it new, slow or idle. On a drain, connections
//! without a request are closed at once, the others after their answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use glint_service::Drain;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::debug;

use crate::config::RouterConfig;
use crate::connection::{Connection, Door};
use crate::front::Front;

/// Head of a request: far more than any client sends.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Serves HTTP until the drain has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    config: &RouterConfig,
    drain: Drain,
) {
    let routes = super::routes(&front);
    let door = Door::new(listener, config);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(error = %error, "a connection's task ended");
                }
                continue;
            }
            () = drain.draining() => break,
        };
        connections.spawn(connection(accepted, routes.clone(), config.idle_timeout, drain.clone()));
    }
    drop(door);
    while connections.join_next().await.is_some() {}
}

async fn connection(accepted: Connection, routes: Router, idle_timeout: Duration, drain: Drain) {
    let peer = accepted.peer();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(idle_timeout).max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(routes);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(accepted), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = drain.draining() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = drain.stopped() => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%peer, error = %error, "a connection broke");
    }
}
