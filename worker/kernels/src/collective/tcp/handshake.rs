//! How does a mesh come about, when only rank 0 has an address?
//!
//! Each rank connects to rank 0 and says hello: who it is, which group it means, on which port it listens itself.
//! When all have come, rank 0 answers each with the addresses of all. Then rank `r` connects to the ranks
//! `1..r` with the same hello and accepts those of `r+1..`. Whoever is not expected is told why and dropped; whoever
//! says nothing is dropped after a while; neither holds up the others. No cycle of waiting is possible, for a
//! rank waits only for lower ranks until it accepts, and rank 1 accepts at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::super::address::Token;
use super::super::{AbortHandle, CollectiveError, Group};
use super::hello::{ANSWER_BYTES, Answer, Expected, HELLO_BYTES, Hello, answer, understand};
use super::link::Link;

const OP: &str = "join the group";

const PLACE_BYTES: usize = 18;

/// Connections that have not said hello yet: more than a group can have, so strangers push out only strangers.
const STRANGERS_MAX: usize = 128;

/// How long a connection may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks at a socket.
const NAP: Duration = Duration::from_millis(1);

/// How long this rank goes on, and what ends it sooner.
struct Patience<'a> {
    since: Instant,
    timeout: Duration,
    abort: &'a AbortHandle,
}

impl<'a> Patience<'a> {
    fn new(group: &'a Group) -> Self {
        Self { since: Instant::now(), timeout: group.timeout, abort: &group.abort }
    }

    /// Errs if it is over, blaming `rank`.
    fn check(&self, rank: usize) -> Result<(), CollectiveError> {
        let waited = self.since.elapsed();
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        if waited >= self.timeout {
            return Err(CollectiveError::Timeout { rank, op: OP, waited });
        }
        Ok(())
    }

    /// Fills `bytes` from a non-blocking stream.
    fn read(
        &self,
        rank: usize,
        stream: &mut TcpStream,
        bytes: &mut [u8],
    ) -> Result<(), CollectiveError> {
        let mut got = 0;
        while got < bytes.len() {
            match read_some(stream, &mut bytes[got..]) {
                Ok(Some(more)) => got += more,
                Ok(None) => {
                    self.check(rank)?;
                    std::thread::sleep(NAP);
                }
                Err(error) => return Err(lost(rank, error)),
            }
        }
        Ok(())
    }
}

fn read_some(stream: &mut TcpStream, bytes: &mut [u8]) -> std::io::Result<Option<usize>> {
    match stream.read(bytes) {
        Ok(0) => Err(std::io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection")),
        Ok(got) => Ok(Some(got)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn lost(rank: usize, error: impl std::fmt::Display) -> CollectiveError {
    CollectiveError::PeerLost { rank, why: format!("{error} while the group was forming") }
}

/// Accepts all ranks above `expected.own_rank`; with each comes the place where it listens.
fn accept_higher(
    listener: &TcpListener,
    expected: &Expected<'_>,
    patience: &Patience<'_>,
    came: &mut [Option<(TcpStream, SocketAddr)>],
) -> Result<(), CollectiveError> {
    struct Stranger {
        stream: TcpStream,
        address: SocketAddr,
        hello: [u8; HELLO_BYTES],
        got: usize,
        since: Instant,
    }
    let failed = |error| CollectiveError::system("accept a connection", error);
    listener.set_nonblocking(true).map_err(failed)?;
    let mut strangers: Vec<Stranger> = Vec::new();
    loop {
        let first = expected.own_rank + 1;
        let Some(missing) = (first..came.len()).find(|&rank| came[rank].is_none()) else {
            return Ok(());
        };
        patience.check(missing)?;
        while let Ok((stream, address)) = listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if strangers.len() == STRANGERS_MAX {
                strangers.remove(0);
            }
            let since = Instant::now();
            strangers.push(Stranger { stream, address, hello: [0; HELLO_BYTES], got: 0, since });
        }
        strangers = strangers
            .into_iter()
            .filter_map(|mut stranger| {
                let rest = &mut stranger.hello[stranger.got..];
                match read_some(&mut stranger.stream, rest) {
                    Ok(got) => stranger.got += got.unwrap_or(0),
                    Err(_) => return None,
                }
                if stranger.got < HELLO_BYTES {
                    return (stranger.since.elapsed() < HELLO_WITHIN).then_some(stranger);
                }
                match expected.judge(&stranger.hello, |rank| came[rank].is_some()) {
                    Ok((rank, port)) => {
                        let place = SocketAddr::new(stranger.address.ip(), port);
                        came[rank] = Some((stranger.stream, place));
                    }
                    Err((why, detail)) => {
                        tracing::warn!(from = %stranger.address, ?why, "refused a rank");
                        // It may be gone already, and then needs no answer.
                        let _ = answer(&mut stranger.stream, why, detail);
                    }
                }
                None
            })
            .collect();
        std::thread::sleep(NAP);
    }
}

fn link(rank: usize, stream: TcpStream) -> Result<Option<Link>, CollectiveError> {
    Link::new(stream).map(Some).map_err(|error| lost(rank, error))
}

/// Rank 0's side: returns its links by rank.
pub(super) fn accept(
    listener: &TcpListener,
    token: Token,
    group: &Group,
) -> Result<Vec<Option<Link>>, CollectiveError> {
    let patience = Patience::new(group);
    let expected = Expected { group, token, own_rank: 0 };
    let mut came: Vec<Option<(TcpStream, SocketAddr)>> = Vec::new();
    came.resize_with(group.world_size, || None);
    if let Err(error) = accept_higher(listener, &expected, &patience, &mut came) {
        let culprit = match &error {
            CollectiveError::Timeout { rank, .. } => *rank as u64,
            _ => 0,
        };
        for (stream, _) in came.iter_mut().flatten() {
            // Best effort: without it they wait until their own time is over.
            let _ = answer(stream, Answer::GaveUp, culprit);
        }
        return Err(error);
    }
    let mut places = Vec::with_capacity(group.world_size * PLACE_BYTES);
    for (_, place) in came.iter().flatten() {
        let ip = match place.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        places.extend_from_slice(&ip.octets());
        places.extend_from_slice(&place.port().to_le_bytes());
    }
    let links = came.into_iter().enumerate().map(|(rank, came)| {
        let Some((mut stream, _)) = came else { return Ok(None) };
        answer(&mut stream, Answer::Welcome, 0)
            .and_then(|()| stream.write_all(&places))
            .map_err(|error| lost(rank, error))?;
        link(rank, stream)
    });
    links.collect()
}

/// The side of the other ranks: returns the links of `rank` by rank.
pub(super) fn join(
    address: &str,
    token: Token,
    rank: usize,
    group: &Group,
) -> Result<Vec<Option<Link>>, CollectiveError> {
    let patience = Patience::new(group);
    let mut first = connect(address.to_owned(), 0, &patience)?;
    let local = first.local_addr().map_err(|error| lost(0, error))?.ip();
    let listener = TcpListener::bind((local, 0))
        .map_err(|error| CollectiveError::system(format!("listen on {local}"), error))?;
    let port = listener
        .local_addr()
        .map_err(|error| CollectiveError::system(format!("listen on {local}"), error))?
        .port();
    let hello =
        Hello { rank, world_size: group.world_size, epoch: group.epoch, token, port }.encode();
    greet(&mut first, 0, &hello, address, &patience)?;
    let mut places = vec![0; (group.world_size - 1) * PLACE_BYTES];
    patience.read(0, &mut first, &mut places)?;

    let mut links = vec![link(0, first)?];
    for (lower, place) in (1..rank).zip(places.chunks_exact(PLACE_BYTES)) {
        let (ip, port) = place.split_at(16);
        let ip = Ipv6Addr::from(<[u8; 16]>::try_from(ip).expect("split at 16")).to_canonical();
        let port = u16::from_le_bytes([port[0], port[1]]);
        let address = SocketAddr::new(ip, port).to_string();
        let mut stream = connect(address.clone(), lower, &patience)?;
        greet(&mut stream, lower, &hello, &address, &patience)?;
        links.push(link(lower, stream)?);
    }
    links.push(None);

    let mut came: Vec<Option<(TcpStream, SocketAddr)>> = Vec::new();
    came.resize_with(group.world_size, || None);
    let expected = Expected { group, token, own_rank: rank };
    accept_higher(&listener, &expected, &patience, &mut came)?;
    for (higher, came) in came.into_iter().enumerate().skip(rank + 1) {
        let (mut stream, _) = came.expect("accept_higher returns when all higher ranks have come");
        answer(&mut stream, Answer::Welcome, 0).map_err(|error| lost(higher, error))?;
        links.push(link(higher, stream)?);
    }
    Ok(links)
}

/// Connects to the rank `rank` at `address`.
///
/// In a thread of its own, because neither name resolution nor `connect` can be interrupted: when nobody waits for
/// it any more it ends by itself, after the timeout at the latest.
fn connect(
    address: String,
    rank: usize,
    patience: &Patience<'_>,
) -> Result<TcpStream, CollectiveError> {
    let (sender, connected) = mpsc::sync_channel(1);
    let (timeout, target) = (patience.timeout, address.clone());
    let attempt = move || {
        let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
        for place in target.to_socket_addrs()? {
            match TcpStream::connect_timeout(&place, timeout) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    std::thread::Builder::new()
        .name("glint-connect".to_owned())
        // The receiver is gone if the wait was over first.
        .spawn(move || drop(sender.send(attempt())))
        .map_err(|error| CollectiveError::system("start a thread", error))?;
    let stream = loop {
        match connected.recv_timeout(NAP * 5) {
            Ok(Ok(stream)) => break stream,
            Ok(Err(error)) if error.kind() == ErrorKind::TimedOut => {
                let waited = patience.since.elapsed();
                return Err(CollectiveError::Timeout { rank, op: OP, waited });
            }
            Ok(Err(error)) => {
                let why = format!("no connection to rank {rank} ({error})");
                return Err(CollectiveError::Refused { address, why });
            }
            Err(mpsc::RecvTimeoutError::Timeout) => patience.check(rank)?,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(CollectiveError::system("connect", "the connecting thread panicked"));
            }
        }
    };
    stream
        .set_nonblocking(true)
        .and_then(|()| stream.set_nodelay(true))
        .map_err(|error| lost(rank, error))?;
    Ok(stream)
}

/// Says hello to the rank `rank` and reads its answer.
fn greet(
    stream: &mut TcpStream,
    rank: usize,
    hello: &[u8; HELLO_BYTES],
    address: &str,
    patience: &Patience<'_>,
) -> Result<(), CollectiveError> {
    stream.write_all(hello).map_err(|error| lost(rank, error))?;
    let mut bytes = [0; ANSWER_BYTES];
    patience.read(rank, stream, &mut bytes)?;
    understand(&bytes, address, rank)
}
