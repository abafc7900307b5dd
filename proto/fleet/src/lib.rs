//! glint-fleet
