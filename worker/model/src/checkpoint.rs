//! Which tensors does a checkpoint folder have, and are they those of the model that its `config.json` describes?
//!
//! A folder in Hugging Face's layout: `config.json`, and `model.safetensors` or several files with an index. Opening one
//! reads the headers only, and checks name, shape and type of every tensor, so that whatever is wrong is said at once
//! and not minutes later. Tensors are read by position, never mapped: a file that is cut off under a mapping
//! kills the process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{Config, ConfigError};
use crate::tensors::{self, Expected};

mod error;
mod file;

pub use error::CheckpointError;
pub(crate) use file::{Stored, WeightFile};

const ONE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// The most bytes of a JSON file that are read: an index of a hundred thousand tensors is below 16 MiB.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// A checkpoint folder whose headers were read and checked.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Config,
    files: Vec<WeightFile>,
    /// Which of `files` has a tensor.
    places: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens a folder and checks that it has all that its `config.json` promises, and nothing that contradicts it.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]: one sentence that names the file and, where there is one, the tensor.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(CheckpointError::NoFolder { path: folder.into() });
        }
        let config = read_config(folder)
            .map_err(|error| CheckpointError::Config { folder: folder.into(), error })?;
        let (files, places) = open_files(folder)?;
        let checkpoint = Self { folder: folder.into(), config, files, places };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// Returns the folder, as it was given.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns what `config.json` says.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the names of `config.json` and the weight files: what a model digest covers.
    #[must_use]
    pub fn digest_files(&self) -> Vec<String> {
        let mut names: Vec<String> = self.files.iter().map(WeightFile::name).collect();
        names.push("config.json".into());
        names.sort();
        names
    }

    /// Returns the weight files.
    pub(crate) fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// Finds a tensor and the file that has it.
    pub(crate) fn find(&self, tensor: &str) -> Result<(&WeightFile, &Stored), CheckpointError> {
        let file = self.places.get(tensor).map(|&place| &self.files[place]);
        let found = file.and_then(|file| Some((file, file.tensor(tensor)?)));
        found.ok_or_else(|| CheckpointError::MissingTensor {
            path: file.map_or_else(|| self.listing(), |file| file.path().into()),
            tensor: tensor.into(),
            family: self.config.family,
        })
    }

    /// Returns the file that says which tensors there are.
    fn listing(&self) -> PathBuf {
        match self.files.as_slice() {
            [only] if only.name() == ONE_FILE => only.path().into(),
            _ => self.folder.join(INDEX_FILE),
        }
    }

    fn check(&self) -> Result<(), CheckpointError> {
        // Before a list of all layers is made: a config may name sixteen million.
        self.find(&tensors::last_layer_norm(&self.config))?;
        let expected = tensors::expected(&self.config);
        for Expected { name, shape } in &expected {
            let (file, stored) = self.find(name)?;
            if stored.shape != *shape {
                return Err(CheckpointError::Shape {
                    path: file.path().into(),
                    tensor: name.clone(),
                    found: stored.shape.clone(),
                    expected: shape.clone(),
                });
            }
            stored.element_type(file.path(), name)?;
        }
        // A tensor too many means that the config describes another model: fewer layers, no bias.
        let known: std::collections::HashSet<&str> =
            expected.iter().map(|expected| expected.name.as_str()).collect();
        for file in &self.files {
            let stranger = file
                .names()
                .find(|name| !known.contains(name) && !tensors::is_ignored(&self.config, name));
            if let Some(name) = stranger {
                return Err(CheckpointError::UnknownTensor {
                    path: file.path().into(),
                    tensor: name.into(),
                    family: self.config.family,
                });
            }
        }
        Ok(())
    }
}

fn read_config(folder: &Path) -> Result<Config, ConfigError> {
    match file::read_text(&folder.join("config.json"), JSON_BYTES_MAX) {
        Ok(text) => Config::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ConfigError::NoConfig),
        Err(error) => Err(ConfigError::Read(error.to_string())),
    }
}

type Files = (Vec<WeightFile>, HashMap<String, usize>);

fn open_files(folder: &Path) -> Result<Files, CheckpointError> {
    let one = folder.join(ONE_FILE);
    if one.exists() {
        let file = WeightFile::open(&one)?;
        let places = file.names().map(|name| (name.to_owned(), 0)).collect();
        return Ok((vec![file], places));
    }
    let index = folder.join(INDEX_FILE);
    if index.exists() {
        return open_indexed(folder, &index);
    }
    match pickled(folder) {
        Some(file) => Err(CheckpointError::Pickled { folder: folder.into(), file }),
        None => Err(CheckpointError::NoWeights { folder: folder.into() }),
    }
}

fn open_indexed(folder: &Path, path: &Path) -> Result<Files, CheckpointError> {
    let bad = |why: String| CheckpointError::Index { path: path.into(), why };
    let text = file::read_text(path, JSON_BYTES_MAX)
        .map_err(|error| CheckpointError::read(path, &error))?;
    let index: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| bad("it has no object weight_map".into()))?;
    let mut files: Vec<WeightFile> = Vec::new();
    let mut places = HashMap::with_capacity(map.len());
    for (tensor, name) in map {
        let name = name
            .as_str()
            .filter(|name| is_plain_file_name(name))
            .ok_or_else(|| bad(format!("tensor {tensor} is not in a file of this folder")))?;
        let known = files.iter().position(|file| file.name() == name);
        let place = match known {
            Some(place) => place,
            None => {
                files.push(WeightFile::open(&folder.join(name))?);
                files.len() - 1
            }
        };
        places.insert(tensor.clone(), place);
    }
    Ok((files, places))
}

/// Whether a name stays in its folder: an index comes from strangers.
fn is_plain_file_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|last| last == name)
}

/// Returns a PyTorch weight file of the folder, if there is one.
fn pickled(folder: &Path) -> Option<String> {
    let names = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    let mut names = names.filter_map(|name| name.into_string().ok()).filter(|name| {
        name.starts_with("pytorch_model") || name.ends_with(".bin") || name.ends_with(".pt")
    });
    names.next()
}
