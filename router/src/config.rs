//! What can an owner decide about a router?

use std::net::IpAddr;
use std::time::Duration;

use glint_core::{ClusterId, RouterId};
use glint_service::flags::millis;

/// Flags of `glint router`.
#[derive(Clone, Debug, clap::Args)]
pub struct RouterConfig {
    /// Registry of the cluster: `remote:http://HOST:PORT` or `etcd:http://HOST:PORT[,…]`.
    #[arg(long, env = "GLINT_FLEET")]
    pub fleet: String,

    /// Cluster within the registry.
    #[arg(long, env = "GLINT_CLUSTER", default_value = "default")]
    pub cluster: ClusterId,

    /// Name of this router [default: made at start].
    #[arg(long, env = "GLINT_ROUTER_ID")]
    pub router_id: Option<RouterId>,

    /// Address on which clients are served.
    #[arg(long, env = "GLINT_ROUTER_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port for HTTP; 0 takes a free one.
    #[arg(long, env = "GLINT_ROUTER_PORT", default_value_t = 8080)]
    pub port: u16,

    /// Port for gRPC; 0 takes a free one.
    #[arg(long, env = "GLINT_ROUTER_GRPC_PORT", default_value_t = 8081)]
    pub grpc_port: u16,

    /// Port for /livez, /readyz and /metrics; 0 takes a free one.
    #[arg(long, env = "GLINT_ROUTER_ADMIN_PORT", default_value_t = 8082)]
    pub admin_port: u16,

    /// Largest body of a request. Larger ones are refused with 413.
    #[arg(long, env = "GLINT_ROUTER_BODY_BYTES_MAX", default_value_t = 8 << 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1024..=1 << 30))]
    pub body_bytes_max: u32,

    /// Requests that are answered at a time. More are refused with 429.
    #[arg(long, env = "GLINT_ROUTER_REQUESTS_MAX", default_value_t = 16_384)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_max: u32,

    /// Connections that are open at a time, by HTTP and by gRPC each. More wait to be accepted.
    #[arg(long, env = "GLINT_ROUTER_CONNECTIONS_MAX", default_value_t = 32_768)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_max: u32,

    /// Close a connection on which no whole request head came for so long; also how long a body may take.
    #[arg(long = "idle-timeout-ms", env = "GLINT_ROUTER_IDLE_TIMEOUT_MS")]
    #[arg(default_value = "60000", value_parser = millis)]
    pub idle_timeout: Duration,

    /// Close a connection whose client takes nothing for so long while there is something to send.
    #[arg(long = "write-timeout-ms", env = "GLINT_ROUTER_WRITE_TIMEOUT_MS")]
    #[arg(default_value = "60000", value_parser = millis)]
    pub write_timeout: Duration,

    /// Send the head of a streamed answer by then, even if there is no token yet, and a comment each time it passes again
    /// without one. Until then a failure has its true status.
    #[arg(long = "first-byte-ms", env = "GLINT_ROUTER_FIRST_BYTE_MS")]
    #[arg(default_value = "10000", value_parser = millis)]
    pub first_byte: Duration,
}
