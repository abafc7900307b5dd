//! What does the rest of the worker have to know of the model?

use std::collections::BTreeSet;
use std::path::Path;

use glint_core::{BLOCK_SIZE_TOKENS, ModelDigest, ModelId};
use glint_model::{Checkpoint, Config};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::assets::Assets;
use crate::config::{DeviceKind, WorkerConfig};
use crate::error::WorkerError;

/// A model as the group presents it.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) id: ModelId,
    /// Names that clients may ask for; at least one.
    pub(crate) served_names: Vec<String>,
    pub(crate) revision: String,
    pub(crate) digest: ModelDigest,
    pub(crate) config: Config,
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) assets: Assets,
    /// The weights; nothing where nothing is computed.
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Model {
    /// Reads and checks everything but the weights' numbers. Blocks: the digest may need all bytes.
    ///
    /// # Errors
    ///
    /// One sentence on what is wrong with the checkpoint or the flags.
    pub(crate) fn open(flags: &WorkerConfig) -> Result<Self, WorkerError> {
        let bad = |error: &dyn std::fmt::Display| WorkerError::Model(error.to_string());
        let folder = &flags.model;
        let (checkpoint, config, digest) = match &flags.device {
            DeviceKind::Cpu => {
                let checkpoint = Checkpoint::open(folder).map_err(|e| bad(&e))?;
                let config = checkpoint.config().clone();
                // Said before the weights are read for the digest, not after.
                config.check_world_size(flags.world_size).map_err(|e| bad(&e))?;
                let digest = checkpoint.digest(flags.digest_cache.as_deref(), &mut |_| {});
                (Some(checkpoint), config, digest.map_err(|e| bad(&e))?)
            }
            DeviceKind::Sim(_) => {
                let path = folder.join("config.json");
                let place = path.display();
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| WorkerError::Model(format!("cannot read {place}: {error}")))?;
                let config = Config::parse(&text)
                    .map_err(|error| WorkerError::Model(format!("{place}: {error}")))?;
                // Whatever the weights are, none are used: equal texts behave alike.
                let digest = Sha256::new_with_prefix("sim\0").chain_update(text).finalize();
                (None, config, ModelDigest(digest.into()))
            }
        };
        let assets = Assets::read(folder).map_err(WorkerError::Model)?;
        let eos_token_ids = eos_token_ids(&config, &assets);
        let served_names = served_names(flags);
        let id = match &flags.model_id {
            Some(id) => id.clone(),
            None => model_id(&served_names[0])?,
        };
        let revision = flags.revision.clone();
        Ok(Self { id, served_names, revision, digest, config, eos_token_ids, assets, checkpoint })
    }

    /// Returns the longest sequence: what the model and the owner allow, and no longer than all KV blocks together hold.
    pub(crate) fn context_tokens(&self, asked: Option<u32>, kv_blocks: u32) -> u32 {
        let trained = u32::try_from(self.config.context_tokens_max).unwrap_or(u32::MAX);
        // The last token is drawn and has no place in a block.
        let held = kv_blocks.saturating_mul(BLOCK_SIZE_TOKENS as u32).saturating_add(1);
        asked.unwrap_or(trained).min(held)
    }

    /// Returns the vocabulary's size.
    pub(crate) fn vocab_size(&self) -> u32 {
        u32::try_from(self.config.vocab_size).expect("a checkpoint's sizes were checked")
    }
}

/// End tokens stand in `config.json`, in `generation_config.json`, or in both: all of them end an answer.
fn eos_token_ids(config: &Config, assets: &Assets) -> Vec<u32> {
    let mut ids: BTreeSet<u32> = config.eos_token_ids.iter().copied().collect();
    let generation: Option<Value> =
        assets.named("generation_config.json").and_then(|bytes| serde_json::from_slice(bytes).ok());
    let listed = generation.as_ref().and_then(|json| json.get("eos_token_id"));
    let listed = match listed {
        Some(Value::Array(many)) => many.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    ids.extend(listed.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()));
    // Some configurations name ids of a larger tokenizer.
    ids.into_iter().filter(|&id| (id as usize) < config.vocab_size).collect()
}

fn served_names(flags: &WorkerConfig) -> Vec<String> {
    let names = flags.model_name.iter().filter(|name| !name.is_empty());
    let names: Vec<String> = names.cloned().collect();
    if names.is_empty() { vec![folder_name(&flags.model)] } else { names }
}

fn folder_name(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// Makes a DNS label of a name: `GLM-4_9B` becomes `glm-4-9b`.
fn model_id(name: &str) -> Result<ModelId, WorkerError> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = name.chars().map(plain).take(63).collect();
    label.trim_matches('-').parse().map_err(|_| {
        let name: String = name.chars().take(80).collect();
        WorkerError::Config(format!("no fleet name can be made of {name:?}, give --model-id"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_id_is_made_from_its_name() {
        let id = |name: &str| model_id(name).map(|id| id.to_string());
        assert_eq!(id("GLM-4_9B.chat").unwrap(), "glm-4-9b-chat");
        assert_eq!(id("THUDM/glm").unwrap(), "thudm-glm");
        assert_eq!(id(&"x".repeat(100)).unwrap().len(), 63);
        assert!(id("模型").unwrap_err().to_string().contains("--model-id"));
    }
}
