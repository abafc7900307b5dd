//! How are the values of flags read, the same for each role?

use std::time::Duration;

/// Reads the value of a flag that ends in `-ms`.
///
/// # Errors
///
/// It is no positive whole number.
pub fn millis(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("use a whole number of milliseconds, at least 1".to_owned()),
        Ok(ms) => Ok(Duration::from_millis(ms)),
    }
}
