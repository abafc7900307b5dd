//! How does a client's connection come in, and when is it given up?
//!
//! Both fronts accept through a [`Door`]. Only so many connections are open at a time, so none may be held for nothing: one
//! whose client never begins to speak, does not read what it is sent, or has gone without a word is closed.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::config::RouterConfig;

/// After an accept that failed: the process is out of files, and some will be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client that is idle for so long is probed, and gone if it answers none of the probes.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 3;
/// Length of HTTP/2's preface. The protocols' own timers only start once they have read something.
const GREETING_BYTES: usize = 24;

/// Where clients of one front come in.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
    greeting_timeout: Duration,
    write_timeout: Duration,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, config: &RouterConfig) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(config.connections_max as usize)),
            greeting_timeout: config.idle_timeout,
            write_timeout: config.write_timeout,
        }
    }

    /// Returns the next connection, once there is room for one.
    pub(crate) async fn accept(&self) -> Connection {
        loop {
            match self.try_accept().await {
                Ok(connection) => return connection,
                Err(error) => {
                    warn!(error = %error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn try_accept(&self) -> io::Result<Connection> {
        let place = Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = self.listener.accept().await?;
        // Without it a token waits for the acknowledgement of the one before: 40 ms.
        stream.set_nodelay(true)?;
        sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEP_ALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEP_ALIVE_PROBES)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        let greeting =
            Greeting { left_bytes: GREETING_BYTES, due: Box::pin(sleep(self.greeting_timeout)) };
        Ok(Connection {
            stream,
            peer,
            greeting: Some(greeting),
            write_timeout: self.write_timeout,
            blocked: None,
            _place: place,
        })
    }
}

/// A client's connection, and its place among those that may be open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// Until the client has begun to speak.
    greeting: Option<Greeting>,
    write_timeout: Duration,
    /// Runs while there is something to send and the client takes nothing.
    blocked: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Greeting {
    left_bytes: usize,
    due: Pin<Box<Sleep>>,
}

impl Connection {
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Fails a write that has waited too long. Any progress, however small, starts the time anew.
    fn in_time(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(self.write_timeout)));
        ready!(blocked.as_mut().poll(context));
        Poll::Ready(Err(timed_out("the client does not read")))
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(greeting) = &mut self.greeting else { return read };
        if read.is_pending() {
            ready!(greeting.due.as_mut().poll(context));
            return Poll::Ready(Err(timed_out("the client says nothing")));
        }
        greeting.left_bytes = greeting.left_bytes.saturating_sub(buffer.filled().len() - before);
        if greeting.left_bytes == 0 {
            self.greeting = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
