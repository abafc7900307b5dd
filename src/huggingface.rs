//! How does a checkpoint come from Hugging Face?

use std::path::PathBuf;

use anyhow::{Context, bail};
use hf_hub::api::sync::ApiBuilder;

/// Files besides the weights that a checkpoint may have and that a worker serves.
const TEXTS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// Downloads what is not in the Hugging Face cache yet and returns the snapshot's folder. Blocks; draws progress bars
/// of its own. `HF_HOME`, `HF_ENDPOINT` and a token saved there are honoured.
///
/// # Errors
///
/// The repository cannot be reached, does not exist, or holds no safetensors.
pub(crate) fn fetch(repository: &str) -> anyhow::Result<PathBuf> {
    let advice = || {
        format!(
            "cannot fetch hf:{repository}; download it where the network allows, then use --model FOLDER"
        )
    };
    let api = ApiBuilder::from_env().with_progress(true).build().with_context(advice)?;
    let model = api.model(repository.to_owned());
    let names: Vec<String> = model
        .info()
        .with_context(advice)?
        .siblings
        .into_iter()
        .map(|sibling| sibling.rfilename)
        .filter(|name| TEXTS.contains(&name.as_str()) || is_weights(name))
        .collect();
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        bail!("hf:{repository} has no safetensors, and no other format is read");
    }
    let mut folder = None;
    for name in &names {
        let path = model.get(name).with_context(advice)?;
        folder = path.parent().map(PathBuf::from);
    }
    folder.with_context(|| format!("hf:{repository} has no config.json"))
}

/// Weights at the top of the repository, or their index; not the copies that some keep in folders.
fn is_weights(name: &str) -> bool {
    !name.contains('/')
        && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
}
