//! How is a checkpoint folder written, so that nobody ever reads half of one?
//!
//! Each file is written beside its place under a name of its own and then renamed, and `config.json` comes last:
//! a folder with a `config.json` is complete, whoever died or wrote at the same time.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use half::bf16;
use serde_json::json;

/// A file of a checkpoint folder could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {error}", path.display())]
pub struct WriteError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub error: io::Error,
}

impl WriteError {
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { path, error }
    }
}

/// Writes `path` whole or not at all.
pub(crate) fn file<E: From<WriteError>>(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    static UNIQUE: AtomicU32 = AtomicU32::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{unique}.part", std::process::id()));
    let part = path.with_file_name(name);

    let written = (|| {
        let mut writer =
            BufWriter::with_capacity(1 << 20, File::create(&part).map_err(WriteError::at(path))?);
        fill(&mut writer)?;
        // On the disk before it has its name: after a power cut a short file would look like a whole one.
        writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_data())
            .and_then(|()| fs::rename(&part, path))
            .map_err(WriteError::at(path))?;
        Ok(())
    })();
    if written.is_err() {
        // Best effort: what is to be reported is why it could not be written.
        let _ = fs::remove_file(&part);
    }
    written
}

/// Writes `path` unless it has these very bytes already.
pub(crate) fn bytes(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    file(path, |out| out.write_all(bytes).map_err(WriteError::at(path)))
}

/// The header of a safetensors file whose tensors are all bf16 and lie in the order given, its length included.
pub(crate) fn bf16_header<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize])>) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut start = 0;
    for (name, shape) in tensors {
        let end = start + shape.iter().product::<usize>() * size_of::<bf16>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        entries.insert(name.to_owned(), entry);
        start = end;
    }
    let mut text = serde_json::Value::Object(entries).to_string();
    // Readers map the file and want the numbers aligned.
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_could_not_be_filled_leaves_the_old_one_and_no_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        bytes(&path, b"old").unwrap();
        let failed = file(&path, |out| {
            out.write_all(b"new").unwrap();
            Err(WriteError { path: path.clone(), error: io::Error::other("the disk is full") })
        });
        assert!(failed.unwrap_err().to_string().ends_with("config.json: the disk is full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_header_is_read_by_the_safetensors_library() {
        let tensors: [(&str, &[usize]); 2] = [("b", &[2, 3]), ("a", &[4])];
        let mut file = bf16_header(tensors.into_iter());
        assert!(file.len().is_multiple_of(8));
        file.extend([0; 20]);
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        for (name, shape) in tensors {
            let tensor = read.tensor(name).unwrap();
            assert_eq!((tensor.shape(), tensor.dtype()), (shape, safetensors::Dtype::BF16));
        }
    }
}
