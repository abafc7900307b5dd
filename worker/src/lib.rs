//! glint-worker
