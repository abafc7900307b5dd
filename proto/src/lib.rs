//! glint-proto
