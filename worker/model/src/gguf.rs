//! What is in a GGUF file, llama.cpp's format for quantised models?
//!
//! As much as the demo model needs: version 3, its key/value pairs, and tensors in f32, f16, Q8_0 and Q4_1, read back
//! as f32. A stranger's file is believed nothing: every length is compared with what is left of the file before a byte is
//! allocated for it, every tensor's place is checked when the file is opened, and what does not fit is one sentence.
//!
//! Start with [`Gguf::open`]; `parse` reads the header, `dequantise` the numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

mod dequantise;
mod parse;

#[cfg(test)]
pub(crate) use parse::tests::{file as file_without_numbers, text as text_value};

/// A GGUF file whose header has been read.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    header: Header,
}

/// Everything before the numbers.
#[derive(Debug, Default)]
struct Header {
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any of the integer types, or a truth value as 0 or 1.
    Integer(i64),
    /// f32 or f64.
    Float(f64),
    /// UTF-8.
    Text(String),
    /// An array of integers or truth values.
    Integers(Vec<i64>),
    /// An array of f32 or f64.
    Floats(Vec<f64>),
    /// An array of strings.
    Texts(Vec<String>),
}

/// Where a tensor lies and how its numbers are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Rows first, as everywhere in Glint; the file has the fastest dimension first.
    pub shape: Vec<usize>,
    /// How the numbers are written.
    pub encoding: Encoding,
    /// From the beginning of the file.
    start: u64,
    bytes: usize,
}

impl Tensor {
    /// Returns how many numbers it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns whether it has no numbers: never, such tensors are refused when the file is opened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The ways to write numbers that are read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Blocks of 32 numbers: an f16 scale `d`, an f16 minimum `m`, 4 bits each; `x = d·q + m`.
    Q4_1,
    /// Blocks of 32 numbers: an f16 scale `d`, 8 bits each; `x = d·q`.
    Q8_0,
}

/// Why a GGUF file gives no model.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, or what the system said.
    pub reason: String,
}

impl Gguf {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    ///
    /// [`GgufError`]: not readable, not GGUF version 3, cut short, or with tensors that are not read here.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let failed = |reason: String| GgufError { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let file_bytes = file.metadata().map_err(|error| failed(error.to_string()))?.len();
        let header =
            parse::header(BufReader::with_capacity(1 << 16, &file), file_bytes).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, header })
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.header.values.get(key)
    }

    /// Returns all tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.header.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Returns a tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.header.tensors.get(name)
    }

    /// Reads a tensor's numbers, row by row.
    ///
    /// # Errors
    ///
    /// [`GgufError`]: there is no such tensor, or the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, GgufError> {
        let Some(tensor) = self.tensor(name) else {
            return Err(self.error(format!("has no tensor {name}")));
        };
        let mut bytes = vec![0; tensor.bytes];
        self.file
            .read_exact_at(&mut bytes, tensor.start)
            .map_err(|error| self.error(format!("tensor {name} cannot be read: {error}")))?;
        Ok(dequantise::numbers(tensor.encoding, &bytes))
    }

    pub(crate) fn error(&self, reason: String) -> GgufError {
        GgufError { path: self.path.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_tensor_is_read_as_it_was_written_with_rows_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let numbers: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let mut bytes =
            file_without_numbers(&[("general.name", text_value("x"))], &[("w", &[3, 2], 0, 0)]);
        bytes.extend(&numbers);
        fs::write(&path, &bytes).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.value("general.name"), Some(&Value::Text("x".to_owned())));
        assert_eq!(gguf.tensor("w").unwrap().shape, [2, 3]);
        assert_eq!(gguf.read("w").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let missing = gguf.read("v").unwrap_err().to_string();
        assert!(missing.ends_with("x.gguf: has no tensor v"), "{missing}");

        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let short = Gguf::open(&path).unwrap_err().to_string();
        assert!(short.contains("tensor w"), "{short}");
        let nowhere = Gguf::open(&folder.path().join("y.gguf")).unwrap_err().to_string();
        assert!(nowhere.contains("y.gguf: No such file"), "{nowhere}");
    }
}
