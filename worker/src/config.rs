//! What can an owner decide about a worker?

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use glint_core::{ClusterId, GroupId, ModelId};

mod values;

use glint_service::flags::millis;
use values::bytes;
pub use values::{CollectiveKind, ComputeKind, DeviceKind, RankRange, SimCosts, Switch};

/// Flags of `glint worker`.
#[derive(Clone, Debug, clap::Args)]
pub struct WorkerConfig {
    /// Checkpoint folder. A simulated device needs its texts only, not the weights.
    #[arg(long, env = "GLINT_WORKER_MODEL")]
    pub model: PathBuf,

    /// Names that clients may ask for, separated by commas [default: the folder's name].
    #[arg(long, env = "GLINT_WORKER_MODEL_NAME", value_delimiter = ',')]
    pub model_name: Vec<String>,

    /// The model's name in the fleet, a DNS label [default: made from the first --model-name].
    #[arg(long, env = "GLINT_WORKER_MODEL_ID")]
    pub model_id: Option<ModelId>,

    /// Deployed version of the model, as routers and the operator tell versions apart.
    #[arg(long, env = "GLINT_WORKER_REVISION", default_value = "1")]
    pub revision: String,

    /// Replica group that the ranks belong to, a DNS label.
    #[arg(long, env = "GLINT_WORKER_GROUP", default_value = "group-0")]
    pub group: GroupId,

    /// Registry of the cluster: `remote:http://HOST:PORT` or `etcd:http://HOST:PORT[,…]`.
    #[arg(long, env = "GLINT_FLEET")]
    pub fleet: String,

    /// Cluster within the registry.
    #[arg(long, env = "GLINT_CLUSTER", default_value = "default")]
    pub cluster: ClusterId,

    /// Ranks that this process holds: one (`0`) or several (`0-3`). Rank 0 leads the group.
    #[arg(long, env = "GLINT_WORKER_RANKS", default_value = "0")]
    pub ranks: RankRange,

    /// Ranks of the whole group.
    #[arg(long, env = "GLINT_WORKER_WORLD_SIZE", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub world_size: u32,

    /// What computes: `cpu`, or `sim[:KEY=VALUE,…]`, which waits and makes tokens up; keys: prefill (tokens per second),
    /// step and sequence (time, such as 5ms: a step's, and what each sequence adds), end (chance that a token is the last).
    #[arg(long, env = "GLINT_WORKER_DEVICE", default_value = "cpu")]
    pub device: DeviceKind,

    /// Arithmetic of the CPU [default: bf16 where the CPU has instructions for it, else f32].
    #[arg(long, env = "GLINT_WORKER_COMPUTE", value_enum)]
    pub compute: Option<ComputeKind>,

    /// Threads of each rank [default: the machine's cores, divided among the ranks of this process].
    #[arg(long, env = "GLINT_WORKER_THREADS")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// How tensors travel between ranks [default: shared memory if all ranks are on one host, else TCP].
    #[arg(long, env = "GLINT_WORKER_COLLECTIVE", value_enum)]
    pub collective: Option<CollectiveKind>,

    /// Memory of each rank for keys and values, for example 512MiB or 2GiB.
    #[arg(long, env = "GLINT_WORKER_KV_MEMORY", default_value = "1GiB", value_parser = bytes)]
    pub kv_memory: u64,

    /// KV blocks of 16 tokens [default: as many as fit into --kv-memory and can be used]. The group takes the least of
    /// its ranks' numbers.
    #[arg(long, env = "GLINT_WORKER_KV_BLOCKS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub kv_blocks: Option<u32>,

    /// Sequences that run at once; more wait.
    #[arg(long, env = "GLINT_WORKER_MAX_SEQUENCES", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub max_sequences: u32,

    /// Requests that wait; more are refused as exhausted, and another group may take them.
    #[arg(long, env = "GLINT_WORKER_WAITING_MAX", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub waiting_max: u32,

    /// Positions computed in one step, decodes and prefill together. More: prompts get on faster, and delay the tokens of
    /// others for longer.
    #[arg(long, env = "GLINT_WORKER_STEP_TOKENS", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub step_tokens: u32,

    /// Positions of one sequence in one step.
    #[arg(long, env = "GLINT_WORKER_CHUNK_TOKENS", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub chunk_tokens: u32,

    /// Longest sequence in tokens, prompt and output together [default: the model's, or what the KV blocks hold].
    #[arg(long, env = "GLINT_WORKER_CONTEXT")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..))]
    pub context: Option<u32>,

    /// Whether equal beginnings of prompts share KV blocks.
    #[arg(long, env = "GLINT_WORKER_PREFIX_CACHE", value_enum, default_value = "on")]
    pub prefix_cache: Switch,

    /// Address on which routers and other ranks are served.
    #[arg(long, env = "GLINT_WORKER_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Name or IP by which routers and other ranks reach this process [default: --host].
    #[arg(long, env = "GLINT_WORKER_ADVERTISE")]
    pub advertise: Option<String>,

    /// Port for gRPC; 0 takes a free one.
    #[arg(long, env = "GLINT_WORKER_PORT", default_value_t = 7100)]
    pub port: u16,

    /// Port for /livez, /readyz and /metrics; 0 takes a free one.
    #[arg(long, env = "GLINT_WORKER_ADMIN_PORT", default_value_t = 7101)]
    pub admin_port: u16,

    /// End the epoch when a rank gives no sign of life for so long. Less: faults are noticed sooner, and a busy machine is
    /// taken for a dead one.
    #[arg(long = "stall-timeout-ms", env = "GLINT_WORKER_STALL_TIMEOUT_MS")]
    #[arg(default_value = "5000", value_parser = millis)]
    pub stall_timeout: Duration,

    /// End the epoch when one step takes so long, or when ranks that said hello do not meet.
    #[arg(long = "step-timeout-ms", env = "GLINT_WORKER_STEP_TIMEOUT_MS")]
    #[arg(default_value = "60000", value_parser = millis)]
    pub step_timeout: Duration,

    /// Life of this process's keys in the registry after its death.
    #[arg(long = "lease-ttl-ms", env = "GLINT_WORKER_LEASE_TTL_MS")]
    #[arg(default_value = "5000", value_parser = millis)]
    pub lease_ttl: Duration,

    /// Folder that remembers the digests of weight files by size and time [default: they are read at each start].
    #[arg(long, env = "GLINT_WORKER_DIGEST_CACHE")]
    pub digest_cache: Option<PathBuf>,
}
