//! One safetensors file: a length, a JSON header, and the numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::f16;
use serde::Deserialize;

use super::CheckpointError;

/// The format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Numbers that are read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
    F32,
    F16,
    Bf16,
}

impl ElementType {
    fn of(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Converts little-endian numbers; `bytes` has as many as `out`.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(bytes.len(), out.len() * self.bytes(), "as many bytes as numbers");
        let pair = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        match self {
            Self::F32 => out.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(out, four)| {
                *out = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }),
            Self::F16 => out
                .iter_mut()
                .zip(bytes.chunks_exact(2))
                .for_each(|(out, two)| *out = f16::from_bits(pair(two)).to_f32()),
            Self::Bf16 => out
                .iter_mut()
                .zip(bytes.chunks_exact(2))
                .for_each(|(out, two)| *out = f32::from_bits(u32::from(pair(two)) << 16)),
        }
    }
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    kind: String,
    pub(crate) shape: Vec<usize>,
    /// Offset in the file of the first number, and behind the last.
    start: u64,
    end: u64,
}

impl Stored {
    pub(crate) fn bytes(&self) -> u64 {
        self.end - self.start
    }

    pub(crate) fn element_type(
        &self,
        path: &Path,
        tensor: &str,
    ) -> Result<ElementType, CheckpointError> {
        ElementType::of(&self.kind).ok_or_else(|| CheckpointError::ElementType {
            path: path.into(),
            tensor: tensor.into(),
            found: self.kind.chars().take(20).collect(),
        })
    }
}

/// A safetensors file whose header was read; its tensors lie within it.
#[derive(Debug)]
pub(crate) struct WeightFile {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl WeightFile {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let read = |error: io::Error| CheckpointError::read(path, &error);
        let bad = |why: String| CheckpointError::Header { path: path.into(), why };
        let file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(bad("it is no file".into()));
        }
        let has_bytes = metadata.len();
        if has_bytes < 8 {
            return Err(bad(format!("it has {has_bytes} bytes")));
        }
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(read)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX.min(has_bytes - 8) {
            return Err(bad(format!(
                "it says that its header has {length} bytes, and has {has_bytes} in all"
            )));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 8).map_err(read)?;
        let header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|error| bad(error.to_string()))?;
        let data_start = 8 + length;
        let mut tensors = BTreeMap::new();
        for (name, entry) in header {
            if name == "__metadata__" {
                continue;
            }
            let stored = stored(&name, entry, data_start).map_err(bad)?;
            tensors.insert(name, stored);
        }
        let cut = tensors.iter().filter(|(_, stored)| stored.end > has_bytes);
        if let Some((tensor, stored)) = cut.min_by_key(|(_, stored)| stored.start) {
            return Err(CheckpointError::Truncated {
                path: path.into(),
                tensor: tensor.clone(),
                has_bytes,
                needed_bytes: stored.end,
            });
        }
        Ok(Self { path: path.into(), file, tensors })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the name without the folder.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Stored> {
        self.tensors.values()
    }

    /// Reads bytes of a tensor, from `offset` bytes behind its beginning.
    pub(crate) fn read(
        &self,
        tensor: &Stored,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), CheckpointError> {
        debug_assert!(offset + bytes.len() as u64 <= tensor.bytes(), "within the tensor");
        self.file
            .read_exact_at(bytes, tensor.start + offset)
            .map_err(|error| CheckpointError::read(&self.path, &error))
    }
}

fn stored(name: &str, entry: serde_json::Value, data_start: u64) -> Result<Stored, String> {
    let Entry { dtype, shape, data_offsets: (from, to) } =
        serde_json::from_value(entry).map_err(|error| format!("tensor {name}: {error}"))?;
    let place = from.checked_add(data_start).zip(to.checked_add(data_start));
    let (start, end) = place
        .filter(|(start, end)| start <= end)
        .ok_or_else(|| format!("tensor {name} lies from {from} to {to}"))?;
    // Types that are not read here have sizes that are not checked here.
    if let Some(kind) = ElementType::of(&dtype) {
        let numbers = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let bytes = numbers.and_then(|numbers| numbers.checked_mul(kind.bytes()));
        if bytes.map(|bytes| bytes as u64) != Some(end - start) {
            return Err(format!(
                "tensor {name} of shape {shape:?} and type {dtype} has {} bytes",
                end - start
            ));
        }
    }
    Ok(Stored { kind: dtype, shape, start, end })
}

/// Reads a text file of at most `bytes_max`.
pub(super) fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if read as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(text)
}
