//! The GLM-4 family on one rank: from a checkpoint folder and a step plan to drawn tokens.
//!
//! A [`Checkpoint`] is opened and checked without reading a weight; [`RankWeights::load`] reads one rank's [`Shard`] of
//! it; [`RankModel`] keeps sequences and KV blocks and carries out plans. The ranks of a group run the same steps on
//! their own shards and meet in a [`Collective`](glint_kernels::collective::Collective); rank 0 alone sees whole
//! logits and draws ([`sampler`]), and tells the others what.
//!
//! **Invariant.** The logits of a position depend on the tokens before it, the weights and the group's
//! [`Numerics`](glint_core::Numerics), and on nothing else: not on the batch, the chunk or the cache that it was computed
//! with. The kernels order their sums so; nothing here adds a number across tokens.
//!
//! Left out: requests and scheduling (`glint-engine`), how an op is computed (`glint-kernels`), text. Mixtures of experts,
//! the first ChatGLM-6B and vision models are refused by name.
//!
//! Start with [`Config`] for the architectures, `forward` for the formula, [`RankModel::execute`] for a step.

mod bpe;
mod checkpoint;
mod config;
pub mod demo;
mod digest;
mod forward;
pub mod gguf;
mod inspect;
mod rank;
pub mod sampler;
mod sequence;
mod shard;
mod tensors;
pub mod tiny;
mod weights;
mod write;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{Config, ConfigError, Family, QkvLayout};
pub use inspect::{Inspection, Plan, PlanError, RankPlan};
pub use rank::{ExecuteError, PositionLogits, RankModel, numerics};
pub use shard::{Shard, WorldSizeError};
pub use weights::{LoadError, Progress, RankOptions, RankWeights};
pub use write::WriteError;
