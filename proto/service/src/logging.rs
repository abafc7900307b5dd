//! Where do logs go?
//!
//! To standard error, as text for people or as one JSON object per line for collectors.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The switches of logging, the same for each role.
#[derive(Clone, Debug, clap::Args)]
pub struct LogConfig {
    /// What to log: a level, or directives such as `info,glint_router=debug` [default: info; of `up`: warn].
    #[arg(long, env = "GLINT_LOG", global = true)]
    pub log: Option<String>,

    /// Form of the log.
    #[arg(long, env = "GLINT_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error("--log {filter:?} is no filter: {why}")]
    Filter {
        /// What was given.
        filter: String,
        /// What the parser says.
        why: String,
    },
}

/// Sets logging up for the whole process, at `default_filter` where none was asked for; a second call changes nothing.
///
/// # Errors
///
/// When the filter cannot be read.
pub fn init(config: &LogConfig, default_filter: &str) -> Result<(), LogError> {
    let filter = config.log.as_deref().unwrap_or(default_filter);
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| LogError::Filter { filter: filter.into(), why: e.to_string() })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // An error means that a test or an embedding program has set a subscriber up: theirs stays.
    let _already_set = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let config = LogConfig { log: Some("a=b=c".into()), log_format: LogFormat::Text };
        let error = init(&config, "info").unwrap_err().to_string();
        assert!(error.starts_with("--log \"a=b=c\" is no filter"), "{error}");
    }
}
