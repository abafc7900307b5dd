//! What do Glint's processes say to each other?
//!
//! The generated code of `glint/v1/*.proto` ([`v1`]), and the only places where wire and vocabulary meet:
//! [`convert`] for messages, [`status()`] for failures, [`deadline`] for how long a caller waits. A wire message that makes no sense is refused
//! here, so the code behind it only sees values that hold.
//!
//! Start with the comments at the head of each `.proto` file: who calls whom, in which order.

pub mod convert;
pub mod deadline;
pub mod status;

pub use convert::WireError;
pub use status::{KindOf, status};

/// The generated messages, clients and servers.
#[expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto files carry the documentation"
)]
pub mod v1 {
    tonic::include_proto!("glint.v1");
}

/// Describes the services to reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("glint");
