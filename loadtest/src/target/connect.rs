//! How is a connection made?

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use ::http::Uri;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::TargetError;

/// A server that does not answer a SYN by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes connections to one server.
pub(super) struct Connector {
    /// `host:port`, for TCP and for the `host` header.
    pub(super) authority: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

pub(super) type Sender = SendRequest<Full<Bytes>>;

impl Connector {
    pub(super) fn new(url: &Uri, ca: Option<&[u8]>) -> Result<Self, TargetError> {
        let host = url.host().unwrap_or_default();
        let secure = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure {
            let name =
                ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| {
                    TargetError(format!("{host} is no name that a certificate can have"))
                })?;
            Some((TlsConnector::from(Arc::new(tls_config(ca)?)), name))
        } else {
            None
        };
        Ok(Self { authority: format!("{host}:{port}"), tls })
    }

    /// Opens a connection. `abrupt`: closing it resets it.
    pub(super) async fn connect(&self, abrupt: bool) -> Result<Sender, String> {
        let opened =
            tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await;
        let stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("cannot connect to {}: {error}", self.authority)),
            Err(_) => return Err(format!("{} does not answer", self.authority)),
        };
        let set = stream.set_nodelay(true).and_then(|()| {
            if abrupt {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            }
            Ok(())
        });
        set.map_err(|error| format!("cannot set up a socket: {error}"))?;
        let stream = Socket { stream, abrupt };
        match &self.tls {
            None => talk(stream).await,
            Some((connector, name)) => {
                let secured = connector.connect(name.clone(), stream).await;
                talk(secured.map_err(|error| format!("TLS with {}: {error}", self.authority))?)
                    .await
            }
        }
    }
}

/// A TCP connection. One that is to be reset says no goodbye first: its peer would take the end of what is sent for an orderly one.
struct Socket {
    stream: TcpStream,
    abrupt: bool,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        if self.abrupt {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Sender, String> {
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("cannot begin HTTP: {error}"))?;
    // It ends with its sender, or with its peer; what went wrong is told to whoever waits for an answer.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

fn tls_config(ca: Option<&[u8]>) -> Result<rustls::ClientConfig, TargetError> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in CertificateDer::pem_slice_iter(ca.unwrap_or_default()) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|error| TargetError(format!("the file of --ca-file: {error}")))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TargetError(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
