//! glint-policy
