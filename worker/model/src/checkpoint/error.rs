//! What can be wrong with a checkpoint folder?

use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Family};

/// Why a checkpoint cannot be opened or read. Each message is one sentence that names the file, and the tensor if there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Nothing there, or no folder.
    #[error("{} is no folder, a checkpoint is a folder with config.json and safetensors", path.display())]
    NoFolder {
        /// What was given.
        path: PathBuf,
    },
    /// `config.json` gives no model.
    #[error("{}: {error}", folder.display())]
    Config {
        /// The checkpoint.
        folder: PathBuf,
        /// What is wrong with it.
        error: ConfigError,
    },
    /// PyTorch's own format, which is a program.
    #[error(
        "{} has its weights as PyTorch pickles ({file}), which can run code when they are read: convert them to safetensors",
        folder.display()
    )]
    Pickled {
        /// The checkpoint.
        folder: PathBuf,
        /// One of the files.
        file: String,
    },
    /// No weights at all.
    #[error(
        "{} has no weights, neither model.safetensors nor model.safetensors.index.json",
        folder.display()
    )]
    NoWeights {
        /// The checkpoint.
        folder: PathBuf,
    },
    /// The system does not give it out.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: String,
    },
    /// A file whose header makes no sense.
    #[error("{} is no safetensors file: {why}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// An index whose content makes no sense.
    #[error("{} is no index of weights: {why}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A file that ends before its tensors do.
    #[error(
        "{} is cut off: it has {has_bytes} bytes, tensor {tensor} ends at {needed_bytes}",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The first tensor that is not whole.
        tensor: String,
        /// Size of the file.
        has_bytes: u64,
        /// Where the tensor ends.
        needed_bytes: u64,
    },
    /// A tensor that the model needs is nowhere.
    #[error(
        "{} has no tensor {tensor}, which the {family} model of config.json needs",
        path.display()
    )]
    MissingTensor {
        /// The file that should have or list it.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The model.
        family: Family,
    },
    /// A tensor that the model has no use for: `config.json` describes another one.
    #[error(
        "{} has a tensor {tensor}, which the {family} model of config.json has no place for",
        path.display()
    )]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The model.
        family: Family,
    },
    /// A tensor of another size than `config.json` says.
    #[error(
        "{}: tensor {tensor} has shape {found:?}, by config.json it is {expected:?}",
        path.display()
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the model needs.
        expected: Vec<usize>,
    },
    /// A tensor of numbers that are not read here.
    #[error(
        "{}: tensor {tensor} has type {found}, only F32, F16 and BF16 are read",
        path.display()
    )]
    ElementType {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Its type as the file spells it.
        found: String,
    },
}

impl CheckpointError {
    pub(crate) fn read(path: &Path, error: &std::io::Error) -> Self {
        Self::Read { path: path.into(), error: error.to_string() }
    }
}
