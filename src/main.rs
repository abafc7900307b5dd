//! glint
fn main() {}
