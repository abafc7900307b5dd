//! Where do tokenizer, chat template and defaults come from?
//!
//! From a worker, by digest. Groups of one model share what was loaded once; it is forgotten with the last of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use glint_proto::v1::worker_client::WorkerClient;
use glint_proto::v1::{Asset, GetAssetRequest};
use glint_tokenizer::{Assets, ChatTemplate, GenerationConfig, LoadError, Tokenizer};
use parking_lot::Mutex;
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
    /// How the model's makers want it sampled where a request does not say.
    pub(crate) advice: GenerationConfig,
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
    let got = glint_core::hex(&Sha256::digest(&bytes));
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
    let advice = GenerationConfig::load(&assets)?;
    Ok(Text { tokenizer: Arc::new(tokenizer), template, advice })
}
