//! Which checkpoint does `--model` mean?

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context;

use crate::{demo, huggingface};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelSource {
    /// SmolLM2-135M-Instruct in GLM-4's architecture, fetched once.
    Demo,
    /// Random weights and a byte tokenizer, made on the spot.
    Tiny,
    /// A checkpoint folder.
    Folder(PathBuf),
    /// A Hugging Face repository.
    HuggingFace {
        /// ORG/NAME.
        repository: String,
    },
}

impl FromStr for ModelSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("is empty, use demo, tiny, a folder, or hf:ORG/NAME".into()),
            "demo" => Ok(Self::Demo),
            "tiny" => Ok(Self::Tiny),
            _ => match text.strip_prefix("hf:") {
                None => Ok(Self::Folder(text.into())),
                Some(repository) => match repository.split_once('/') {
                    Some((org, name))
                        if !org.is_empty() && !name.is_empty() && !name.contains('/') =>
                    {
                        Ok(Self::HuggingFace { repository: repository.into() })
                    }
                    _ => Err(format!("{text:?} is no repository, use hf:ORG/NAME")),
                },
            },
        }
    }
}

impl ModelSource {
    /// Returns a name for the fleet and for clients: a DNS label.
    pub(crate) fn default_name(&self) -> String {
        let raw = match self {
            Self::Demo => "demo".into(),
            Self::Tiny => "tiny".into(),
            Self::Folder(path) => path
                .canonicalize()
                .unwrap_or_else(|_| path.clone())
                .file_name()
                .map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned()),
            Self::HuggingFace { repository } => {
                repository.rsplit('/').next().unwrap_or(repository).to_owned()
            }
        };
        dns_label(&raw)
    }

    /// Returns the folder of the checkpoint, fetched or made if it is not there yet. Blocks.
    ///
    /// # Errors
    ///
    /// One sentence that says what is missing.
    pub(crate) fn folder(
        &self,
        cache: &Path,
        progress: &dyn demo::Progress,
    ) -> anyhow::Result<PathBuf> {
        match self {
            Self::Demo => demo::fetch(cache, progress),
            Self::Tiny => {
                let folder = cache.join("models").join("tiny");
                glint_model::tiny::write(&folder).with_context(|| {
                    format!("cannot write the tiny model to {}", folder.display())
                })?;
                Ok(folder)
            }
            Self::Folder(path) => Ok(path.clone()),
            Self::HuggingFace { repository } => huggingface::fetch(repository),
        }
    }
}

/// Returns the folder under which models are kept.
pub(crate) fn cache_folder() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let base = base.context("neither XDG_CACHE_HOME nor HOME is set, set one of them")?;
    Ok(base.join("glint"))
}

/// Lowercase letters, digits and inner hyphens, at most 63 of them.
fn dns_label(raw: &str) -> String {
    let mut label: String = raw
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(63)
        .collect();
    label.truncate(label.trim_end_matches('-').len());
    let label = label.trim_start_matches('-');
    if label.is_empty() { "model".into() } else { label.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_means_one_source() {
        assert_eq!("demo".parse(), Ok(ModelSource::Demo));
        assert_eq!("tiny".parse(), Ok(ModelSource::Tiny));
        assert_eq!("./tiny".parse(), Ok(ModelSource::Folder("./tiny".into())));
        assert_eq!(
            "hf:THUDM/glm-4-9b-chat-hf".parse(),
            Ok(ModelSource::HuggingFace { repository: "THUDM/glm-4-9b-chat-hf".into() })
        );
        for bad in ["", "hf:", "hf:glm", "hf:/x", "hf:a/", "hf:a/b/c"] {
            assert!(bad.parse::<ModelSource>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_dns_labels() {
        let name = |s: &str| s.parse::<ModelSource>().unwrap().default_name();
        assert_eq!(name("hf:THUDM/GLM-4-9B_chat.hf"), "glm-4-9b-chat-hf");
        assert_eq!(name("/models/__x__"), "x");
        assert_eq!(name("/models/..."), "model");
    }
}
