//! How do the ranks of a group find each other?
//!
//! Rank 0 calls [`host`] and publishes [`Host::address`], one short line; the others [`join`] it; rank 0's
//! [`Host::accept`] returns when all are there, and so do the joins.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::address::{Address, Token};
use super::region::{self, Region};
use super::{Collective, CollectiveError, Group, SharedCollective, Solo, tcp};

/// By which way the ranks of a group reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A segment of `/dev/shm`, half a MiB per rank: all ranks are processes of one host (or containers that
    /// share its `/dev/shm`) and one user.
    SharedMemory,
    /// TCP between all pairs of ranks.
    Tcp {
        /// Where rank 0 listens until all have come; port 0 lets the system choose.
        listen: SocketAddr,
        /// The name or IP by which the others reach rank 0; `None` if it is the one of `listen`.
        advertise: Option<String>,
    },
}

/// Rank 0's side of a group that is forming.
///
/// Dropped without [`Host::accept`], it leaves nothing behind. A process killed between [`host`] and the end
/// of `accept` may leave a segment named `glint-…` in `/dev/shm`; afterwards nothing has a name.
pub struct Host {
    address: String,
    side: Side,
}

enum Side {
    Solo(Group),
    Shared { rank: SharedCollective, _name: SegmentName },
    Tcp { listener: TcpListener, token: Token, group: Group },
}

/// A segment's name, taken away on drop.
struct SegmentName(String);

impl Drop for SegmentName {
    fn drop(&mut self) {
        region::unlink(&self.0);
    }
}

/// Opens a group as its rank 0, so that the others can [`join`] it.
///
/// # Errors
/// [`CollectiveError::Invalid`] for arguments that cannot be right, [`CollectiveError::System`] where the system
/// gives no memory, socket or port.
pub fn host(transport: &Transport, group: &Group) -> Result<Host, CollectiveError> {
    group.check(0)?;
    if group.world_size == 1 {
        return Ok(Host { address: "solo:".to_owned(), side: Side::Solo(group.clone()) });
    }
    let token = Token::random()?;
    match transport {
        Transport::SharedMemory => {
            let [low, _] = Token::random()?.halves();
            let name = format!("/glint-{}-{low:016x}", std::process::id());
            let region = Region::create(&name, group.world_size, group.epoch, token)?;
            let name = SegmentName(name);
            let rank = SharedCollective::attach(region, 0, group)
                .expect("nobody knows the segment yet, so nobody has taken rank 0");
            let address = Address::SharedMemory { name: name.0.clone(), token }.to_string();
            Ok(Host { address, side: Side::Shared { rank, _name: name } })
        }
        Transport::Tcp { listen, advertise } => {
            let refused = |error| CollectiveError::system(format!("listen on {listen}"), error);
            let listener = TcpListener::bind(listen).map_err(refused)?;
            let bound = listener.local_addr().map_err(refused)?;
            let host = match advertise {
                Some(host) => host.clone(),
                None if bound.ip().is_unspecified() => {
                    return Err(CollectiveError::Invalid(format!(
                        "nobody can connect to {listen}: say under which name or IP it is reached"
                    )));
                }
                None if bound.is_ipv6() => format!("[{}]", bound.ip()),
                None => bound.ip().to_string(),
            };
            let address = Address::Tcp { host, port: bound.port(), token }.to_string();
            // An advertised name that does not fit the format would fail on the other ranks, which know less.
            Address::parse(&address)?;
            Ok(Host { address, side: Side::Tcp { listener, token, group: group.clone() } })
        }
    }
}

impl Host {
    /// Returns what the other ranks pass to [`join`]. It holds the group's secret: publish it, do not log it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits until all ranks have joined.
    ///
    /// # Errors
    /// [`CollectiveError::Timeout`] names a rank that did not come.
    pub fn accept(self) -> Result<Box<dyn Collective>, CollectiveError> {
        match self.side {
            Side::Solo(group) => Ok(Box::new(Solo::with_abort(group.abort))),
            Side::Shared { mut rank, _name } => {
                rank.meet()?;
                Ok(Box::new(rank))
            }
            Side::Tcp { listener, token, group } => {
                Ok(Box::new(tcp::accept(&listener, token, &group)?))
            }
        }
    }
}

/// Joins, as `rank`, the group whose rank 0 published `address`; returns when all ranks have come.
///
/// # Errors
/// [`CollectiveError::Refused`] if the group is not there, or is of another epoch, token or size, or has
/// this rank already; [`CollectiveError::Timeout`] names a rank that did not come.
pub fn join(
    address: &str,
    rank: usize,
    group: &Group,
) -> Result<Box<dyn Collective>, CollectiveError> {
    group.check(rank)?;
    if rank == 0 {
        return Err(CollectiveError::Invalid("rank 0 hosts the group, it cannot join".to_owned()));
    }
    match Address::parse(address)? {
        Address::SharedMemory { name, token } => {
            let refused = |why| CollectiveError::Refused { address: format!("shm:{name}"), why };
            let region: Arc<Region> =
                Region::open(&name, group.world_size, group.epoch, token).map_err(refused)?;
            let mut rank = SharedCollective::attach(region, rank, group)
                .ok_or_else(|| refused(format!("it already has a rank {rank}")))?;
            rank.meet()?;
            Ok(Box::new(rank))
        }
        Address::Tcp { host, port, token } => {
            Ok(Box::new(tcp::join(&format!("{host}:{port}"), token, rank, group)?))
        }
    }
}
