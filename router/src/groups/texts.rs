//! Where do tokenizer, chat template and defaults come from?
//!
//! From a worker, by digest. Groups of one model share what was loaded once; it is forgotten with the last of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use glint_proto::v1::worker_client::WorkerClient;
use glint_proto::v1::{Asset, GetAssetRequest};
use glint_tokenizer::{Assets, ChatTemplate, LoadError, Tokenizer};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tonic::transport::Channel;

/// Largest asset taken; GLM-4's tokenizer.json has 20 MB.
const ASSET_BYTES_MAX: u64 = 256 << 20;
/// The assets that concern text; a worker may have others.
const NAMES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// A model's way with text. Immutable.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) defaults: Defaults,
}

/// What the model's authors advise for sampling; `generation_config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Defaults {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) max_tokens: Option<u32>,
}

/// Why a group's texts cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum TextError {
    #[error("asset {name} has {size_bytes} bytes, at most {ASSET_BYTES_MAX} are taken")]
    TooLarge { name: String, size_bytes: u64 },
    #[error("asset {name} is not what its digest says: sha256 {got} instead of {wanted}")]
    Digest { name: String, wanted: String, got: String },
    #[error("asset {name} cannot be fetched: {status}")]
    Fetch { name: String, status: Box<tonic::Status> },
    #[error("{0}")]
    Load(#[from] LoadError),
    #[error("loading the texts panicked")]
    Panicked,
}

type Key = BTreeMap<String, String>;
type Cell = OnceCell<Arc<Text>>;

/// What is loaded, by the digests of its assets.
#[derive(Debug, Default)]
pub(super) struct Texts {
    cells: Mutex<HashMap<Key, Weak<Cell>>>,
}

/// Keeps a text in [`Texts`] for as long as it lives.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) text: Arc<Text>,
    _cell: Arc<Cell>,
}

impl Texts {
    /// Returns the text of a group, fetched from it unless it is there. Two groups that come together fetch once.
    pub(super) async fn get(
        &self,
        assets: &[Asset],
        client: &WorkerClient<Channel>,
    ) -> Result<Lease, TextError> {
        let wanted: Vec<&Asset> =
            assets.iter().filter(|asset| NAMES.contains(&asset.name.as_str())).collect();
        let key: Key = wanted.iter().map(|a| (a.name.clone(), a.sha256.clone())).collect();
        let cell = {
            let mut cells = self.cells.lock();
            cells.retain(|_, cell| cell.strong_count() > 0);
            let found = cells.get(&key).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let cell = Arc::default();
                cells.insert(key, Arc::downgrade(&cell));
                cell
            })
        };
        let text = cell.get_or_try_init(|| async {
            let mut files = HashMap::new();
            for asset in wanted {
                files.insert(asset.name.clone(), fetch(asset, client.clone()).await?);
            }
            let loading = tokio::task::spawn_blocking(move || load(&files));
            Ok::<_, TextError>(Arc::new(loading.await.map_err(|_| TextError::Panicked)??))
        });
        let text = Arc::clone(text.await?);
        Ok(Lease { text, _cell: cell })
    }
}

async fn fetch(asset: &Asset, mut client: WorkerClient<Channel>) -> Result<Bytes, TextError> {
    let Asset { name, sha256, size_bytes } = asset;
    let too_large = |size_bytes| TextError::TooLarge { name: name.clone(), size_bytes };
    let failed = |status| TextError::Fetch { name: name.clone(), status: Box::new(status) };
    if *size_bytes > ASSET_BYTES_MAX {
        return Err(too_large(*size_bytes));
    }
    let request = GetAssetRequest { sha256: sha256.clone() };
    let mut chunks = client.get_asset(request).await.map_err(failed)?.into_inner();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk.data);
        // What was announced is the bound, so that a worker cannot fill our memory.
        if bytes.len() as u64 > *size_bytes {
            return Err(too_large(bytes.len() as u64));
        }
    }
    let got = Sha256::digest(&bytes);
    let got: String = got.iter().map(|byte| format!("{byte:02x}")).collect();
    if got != sha256.to_ascii_lowercase() {
        return Err(TextError::Digest { name: name.clone(), wanted: sha256.clone(), got });
    }
    Ok(bytes.freeze())
}

fn load(files: &HashMap<String, Bytes>) -> Result<Text, LoadError> {
    let file = |name: &str| files.get(name).map(|bytes| &bytes[..]);
    let assets = Assets {
        tokenizer_json: file("tokenizer.json"),
        tokenizer_model: file("tokenizer.model"),
        tokenizer_config: file("tokenizer_config.json"),
        chat_template: file("chat_template.jinja"),
        generation_config: file("generation_config.json"),
    };
    let tokenizer = Tokenizer::load(&assets)?;
    let template = ChatTemplate::load(&assets, &tokenizer)?;
    let defaults = Defaults::read(assets.generation_config);
    Ok(Text { tokenizer: Arc::new(tokenizer), template, defaults })
}

impl Defaults {
    /// Reads what is there; what makes no sense is as if it were not there, for it is only advice.
    pub(crate) fn read(generation_config: Option<&[u8]>) -> Self {
        let config: Value = generation_config
            .and_then(|json| serde_json::from_slice(json).ok())
            .unwrap_or_default();
        let float = |name: &str| config.get(name).and_then(Value::as_f64).map(|f| f as f32);
        let whole = |name: &str| {
            config.get(name).and_then(Value::as_u64).and_then(|whole| u32::try_from(whole).ok())
        };
        let within = |low: f32, high: f32| move |value: &f32| (low..=high).contains(value);
        let is_greedy = config.get("do_sample").and_then(Value::as_bool) == Some(false);
        Self {
            temperature: if is_greedy {
                Some(0.0)
            } else {
                float("temperature").filter(within(0.0, 100.0))
            },
            top_p: float("top_p").filter(within(f32::MIN_POSITIVE, 1.0)),
            top_k: whole("top_k"),
            min_p: float("min_p").filter(within(0.0, 1.0)),
            repetition_penalty: float("repetition_penalty").filter(within(0.01, 100.0)),
            max_tokens: whole("max_new_tokens").filter(|tokens| *tokens > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_read_and_nonsense_is_none() {
        let glm4 =
            br#"{"do_sample": true, "temperature": 0.8, "top_p": 0.8, "max_length": 128000}"#;
        let defaults = Defaults::read(Some(glm4));
        assert_eq!((defaults.temperature, defaults.top_p), (Some(0.8), Some(0.8)));
        assert_eq!(defaults.max_tokens, None);
        let greedy = Defaults::read(Some(br#"{"do_sample": false, "temperature": 0.8}"#));
        assert_eq!(greedy.temperature, Some(0.0));
        let nonsense = br#"{"temperature": "hot", "top_p": 7, "top_k": -1, "max_new_tokens": 0}"#;
        assert_eq!(Defaults::read(Some(nonsense)), Defaults::default());
        assert_eq!(Defaults::read(Some(b"{")), Defaults::default());
        assert_eq!(Defaults::read(None), Defaults::default());
    }
}
