//! Reference data that is not in the repository.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use glint_tokenizer::{Assets, ChatTemplate, Tokenizer};
use serde_json::Value;

/// Returns the folder of reference data; without it, says that a test is skipped.
pub(crate) fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures"));
    if folder.is_dir() {
        return Some(folder.to_owned());
    }
    let required = std::env::var("GLINT_REQUIRE_SHARED").is_ok_and(|value| value == "1");
    assert!(!required, "GLINT_REQUIRE_SHARED=1, but {} is no folder", folder.display());
    eprintln!("skipped: no reference data in {}", folder.display());
    None
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut plain = Vec::new();
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
        return plain;
    }
    bytes
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| u32::try_from(id.as_u64().unwrap()).unwrap();
    value.as_array().unwrap().iter().map(id).collect()
}

/// A model's files, by name.
#[derive(Default)]
pub(crate) struct Files(Vec<(&'static str, Vec<u8>)>);

impl Files {
    pub(crate) fn with(mut self, name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        assert!(Assets::NAMES.contains(&name), "{name} is no asset");
        self.0.push((name, bytes.into()));
        self
    }

    pub(crate) fn assets(&self) -> Assets<'_> {
        Assets::by_name(|name| {
            self.0.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.as_slice())
        })
    }

    pub(crate) fn tokenizer(&self) -> Tokenizer {
        Tokenizer::load(&self.assets()).unwrap()
    }

    pub(crate) fn template(&self, tokenizer: &Tokenizer) -> ChatTemplate {
        ChatTemplate::load(&self.assets(), tokenizer)
            .unwrap()
            .expect("these files have a chat template")
    }
}
