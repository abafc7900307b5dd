//! Which texts does a router need, so that it needs no model files of its own?

use std::path::Path;

use bytes::Bytes;
use glint_proto::v1;
use sha2::{Digest, Sha256};

/// Text files of a checkpoint that routers read.
const NAMES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
];
/// The largest file served: real tokenizers have some 20 MB.
const BYTES_MAX: u64 = 256 << 20;

/// One file, in memory: a checkpoint's folder may be replaced while it is served.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    sha256: String,
    bytes: Bytes,
}

/// The files of a checkpoint that are there.
#[derive(Debug)]
pub(crate) struct Assets(Vec<Asset>);

impl Assets {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A sentence that names the file that cannot be read.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        let mut assets = Vec::new();
        for name in NAMES {
            let path = folder.join(name);
            let failed = |why: String| format!("cannot read {}: {why}", path.display());
            let size = match std::fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error.to_string())),
            };
            if size > BYTES_MAX {
                return Err(failed(format!("it has {size} bytes, at most {BYTES_MAX} are served")));
            }
            let bytes = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
            let sha256 = glint_core::hex(&Sha256::digest(&bytes));
            assets.push(Asset { name, sha256, bytes: bytes.into() });
        }
        Ok(Self(assets))
    }

    /// Returns what `Describe` lists.
    pub(crate) fn describe(&self) -> Vec<v1::Asset> {
        let describe = |asset: &Asset| v1::Asset {
            name: asset.name.to_owned(),
            sha256: asset.sha256.clone(),
            size_bytes: asset.bytes.len() as u64,
        };
        self.0.iter().map(describe).collect()
    }

    /// Returns the bytes of the file with this digest.
    pub(crate) fn find(&self, sha256: &str) -> Option<&Bytes> {
        self.0.iter().find(|asset| asset.sha256 == sha256).map(|asset| &asset.bytes)
    }

    /// Returns the bytes of the file with this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|asset| asset.name == name).map(|asset| &asset.bytes)
    }
}
