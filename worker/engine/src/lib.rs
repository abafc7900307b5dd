//! glint-engine
