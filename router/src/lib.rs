//! glint-router
