//! glint-model
