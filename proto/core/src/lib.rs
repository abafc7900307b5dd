//! What do all parts of Glint mean by the same words?
//!
//! The vocabulary: identifiers, the names of KV blocks, sampling parameters and the draw of a token, the plan of
//! one step, a group's load, and what a caller can do about a failure. Everything here must agree to the bit
//! between processes, versions and devices, so it does no I/O, knows no async runtime and depends on nothing of
//! ours. `FORMATS.md`'s test vectors are the tests of this crate.
//!
//! Start with [`block`] for the prefix cache's names, [`draw`] for the randomness, [`step`] for what travels from
//! a group's leader to its ranks.

pub mod block;
pub mod draw;
pub mod failure;
pub mod hex;
pub mod id;
pub mod load;
pub mod math;
pub mod pause;
pub mod sampling;
pub mod step;

pub use block::{BLOCK_SIZE_TOKENS, BlockHash, Namespace, WireHash};
pub use failure::{Failure, Kind};
pub use hex::hex;
pub use id::{ClusterId, Epoch, GroupId, ModelDigest, ModelId, Numerics, RouterId};
pub use load::{Credits, LoadSnapshot};
pub use pause::Pause;
pub use sampling::{FinishReason, SamplingError, SamplingParams, TokenLogprobs, Usage};
pub use step::{Chunk, SequenceStart, StepOutcome, StepPlan};
