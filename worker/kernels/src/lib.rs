//! The arithmetic of one rank: how are the sums of a transformer computed on this machine?
//!
//! Every op is written twice: as a plain loop in [`twin`], which says what is meant, and as the
//! lane code that runs. The two are compared in the tests on every instruction set that the machine
//! has ([`Isa`]).
//!
//! The order of every sum is fixed, whatever runs beside it. Lanes lie along the *output*: sixteen
//! rows of a weight matrix, sixteen keys of a KV block. A lane then adds its products one after the
//! other, first column first, and no lane is ever added to another where the number of tokens,
//! threads or chunks could be seen. So the bits of one token's result do not depend on the batch it
//! ran in, which makes prefix reuse, preemption and migration exact.
//!
//! What is not here: the model (which ops, in which order), requests, sampling. Shapes that do not
//! fit are bugs of the caller and panic with both numbers.
//!
//! Start with [`matmul`], then [`attention`]; [`Cpu`] is the device that both are given.

mod activation;
mod attention;
mod buffer;
pub mod collective;
mod cpu;
mod isa;
mod kv;
mod logits;
mod matmul;
mod matrix;
mod norm;
mod rope;
mod simd;
pub mod twin;

pub use activation::{add, silu_mul};
pub use attention::{Attention, AttentionRow, attention};
pub use cpu::Cpu;
pub use isa::Isa;
pub use kv::{BLOCK_TOKENS, KvCache, KvShape};
pub use logits::{argmax, log_sum_exp};
pub use matmul::matmul;
pub use matrix::{Compute, Matrix};
pub use norm::{add_rms_norm, rms_norm};
pub use rope::{RopeStyle, RopeTable, Rotation, rope};
