//! glint-service
