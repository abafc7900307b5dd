//! How do connections come and go?
//!
//! A connection on which no whole request head arrives in time is closed, be it new, slow or idle. On a drain, connections
//! without a request are closed at once, the others after their answer.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use glint_service::Drain;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::config::RouterConfig;
use crate::front::Front;

/// Head of a request: far more than any client sends.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// After an accept that failed: the process is out of files, and some will be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP until the drain has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    config: &RouterConfig,
    drain: Drain,
) {
    let routes = super::routes(&front);
    let room = Arc::new(Semaphore::new(config.connections_max as usize));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(error = %error, "a connection's task ended");
                }
                continue;
            }
            () = drain.draining() => break,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                let (routes, drain) = (routes.clone(), drain.clone());
                let idle_timeout = config.idle_timeout;
                connections.spawn(async move {
                    connection(stream, peer, routes, idle_timeout, drain).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(error = %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // Without it a token waits for the acknowledgement of the one before: 40 ms.
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    idle_timeout: Duration,
    drain: Drain,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(idle_timeout).max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(routes);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
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
