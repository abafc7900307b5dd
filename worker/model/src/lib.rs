//! glint-model

pub mod tiny;
mod write;

pub use write::WriteError;
