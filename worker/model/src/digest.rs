//! Which weights are these? (`FORMATS.md` section 1)
//!
//! A rank reads only its shard, so hashing whole files is work of its own. It is done once: hashes are kept by file name,
//! size and time of the last change, and ranks that start at once leave the work to one of them.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use glint_core::{ModelDigest, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Progress;
use crate::checkpoint::{Checkpoint, CheckpointError};

/// Files that changed this recently may change again without another time: their hashes are not kept.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

const PIECE_BYTES: usize = 4 << 20;

/// A rank that hashes for longer than this is not waited for any more: the others do it themselves.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A file's hash, and how to tell that it is still that file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    bytes: u64,
    modified_ns: u128,
    sha256: String,
}

type KeptByName = BTreeMap<String, Kept>;

/// A file that the digest is made of.
struct Part {
    name: String,
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
    /// What the note knows of this very file.
    kept: Option<Kept>,
}

impl Checkpoint {
    /// Returns the model digest: the SHA-256 over the names and SHA-256s of `config.json` and the weight files.
    ///
    /// Reads all of the weights, unless `cache` has their hashes from an earlier call. `cache` is a folder of such notes
    /// for any number of checkpoints; it is made if it is missing, and a note that cannot be read or written is done without.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Read`] if a file cannot be read to its end.
    pub fn digest(
        &self,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ModelDigest, CheckpointError> {
        let note = cache.map(|cache| note_path(cache, self.folder()));
        let read_note = || note.as_deref().map(read_note).unwrap_or_default();
        let mut known = read_note();
        let mut parts = self.parts(&known)?;
        let mut _held = None;
        if let Some(note) = note.as_deref().filter(|_| parts.iter().any(|part| part.kept.is_none()))
        {
            _held = lock(note);
            // Whoever held it may have written down what is missing here.
            known = read_note();
            parts = self.parts(&known)?;
        }
        let missing = parts.iter().filter(|part| part.kept.is_none());
        let total_bytes = missing.map(|part| part.bytes).sum();
        let mut hashing = Progress { read_bytes: 0, total_bytes };
        let (mut lines, mut keep) = (Sha256::new(), KeptByName::new());
        for Part { name, path, bytes, modified, kept } in parts {
            let sha256 = match kept {
                Some(kept) => kept.sha256,
                None => hash_file(&path, &mut hashing, progress)?,
            };
            lines.update(format!("{sha256}  {name}\n"));
            if let Some(modified) = modified.filter(|&modified| is_settled(modified)) {
                let modified_ns = nanoseconds(modified);
                keep.insert(name, Kept { bytes, modified_ns, sha256 });
            }
        }
        if let Some(note) = note.filter(|_| keep != known) {
            write_note(&note, &keep);
        }
        Ok(ModelDigest(lines.finalize().into()))
    }

    fn parts(&self, known: &KeptByName) -> Result<Vec<Part>, CheckpointError> {
        let part = |name: String| {
            let path = self.folder().join(&name);
            let (bytes, modified) = stat(&path)?;
            let is_this = |kept: &&Kept| {
                kept.bytes == bytes && Some(kept.modified_ns) == modified.map(nanoseconds)
            };
            let kept = known.get(&name).filter(is_this).cloned();
            Ok(Part { name, path, bytes, modified, kept })
        };
        self.digest_files().into_iter().map(part).collect()
    }
}

fn stat(path: &Path) -> Result<(u64, Option<SystemTime>), CheckpointError> {
    let metadata = path.metadata().map_err(|error| CheckpointError::read(path, &error))?;
    Ok((metadata.len(), metadata.modified().ok()))
}

fn nanoseconds(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

fn is_settled(modified: SystemTime) -> bool {
    modified.elapsed().is_ok_and(|elapsed| elapsed >= SETTLED_AFTER)
}

fn hash_file(
    path: &Path,
    hashing: &mut Progress,
    progress: &mut dyn FnMut(Progress),
) -> Result<String, CheckpointError> {
    let failed = |error: std::io::Error| CheckpointError::read(path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut hash = Sha256::new();
    loop {
        let read = file.read(&mut piece).map_err(failed)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&piece[..read]);
        hashing.read_bytes += read as u64;
        progress(*hashing);
    }
}

/// One note per folder, named by the hash of its path.
fn note_path(cache: &Path, folder: &Path) -> PathBuf {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = hex(&Sha256::digest(folder.as_os_str().as_encoded_bytes()));
    cache.join(format!("{}.json", &name[..32]))
}

fn read_note(path: &Path) -> KeptByName {
    let note = std::fs::read(path).ok();
    note.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default()
}

/// Waits until no other process hashes these files; dropped, the lock is free again. Without a lock the work is only done
/// twice, so nothing is returned when there is none to be had.
fn lock(note: &Path) -> Option<File> {
    let path = note.with_extension("lock");
    let opened = || -> std::io::Result<File> {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        File::options().create(true).truncate(false).write(true).open(&path)
    };
    let locked = opened().and_then(|file| {
        let asked_at = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if asked_at.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(error) => return Err(error.into()),
            }
        }
    });
    locked
        .inspect_err(|error| {
            tracing::debug!(path = %path.display(), error = %error, "weights are hashed unlocked");
        })
        .ok()
}

/// Ranks without a lock may write the same note at the same time, so it appears whole or not at all.
fn write_note(path: &Path, note: &KeptByName) {
    let written = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let draft = path.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&draft, serde_json::to_vec(note)?)?;
        std::fs::rename(&draft, path)
    };
    if let Err(error) = written() {
        tracing::debug!(path = %path.display(), error = %error, "hashes of weights are not kept");
    }
}
