//! Does the model digest name the weights, and is it computed once?

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use glint_core::ModelDigest;
use glint_model::{Checkpoint, Progress};
use sha2::{Digest, Sha256};

use crate::random::{self, Shape};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn age(folder: &Path, by: Duration) {
    for file in fs::read_dir(folder).unwrap() {
        let file = fs::File::options().write(true).open(file.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }
}

/// Returns the digest and how many bytes were read for it.
fn digest(folder: &Path, cache: Option<&Path>) -> (ModelDigest, u64) {
    let mut last = Progress { read_bytes: 0, total_bytes: 0 };
    let checkpoint = Checkpoint::open(folder).unwrap();
    let digest = checkpoint.digest(cache, &mut |progress| last = progress).unwrap();
    assert_eq!(last.read_bytes, last.total_bytes);
    (digest, last.read_bytes)
}

#[test]
fn a_digest_is_that_of_the_format_and_is_computed_once() {
    let folder = tempfile::tempdir().unwrap();
    let shape =
        Shape { family: "glm", heads: 2, kv_heads: 1, head_dim: 8, ffn: 16, vocab: 16, tied: true };
    random::write(folder.path(), shape);
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let hash = |name: &str| hex(&Sha256::digest(fs::read(folder.path().join(name)).unwrap()));
    let lines = format!(
        "{}  config.json\n{}  model.safetensors\n",
        hash("config.json"),
        hash("model.safetensors")
    );
    let expected = ModelDigest(Sha256::digest(lines).into());

    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("digests");
    let (first, all_bytes) = digest(folder.path(), Some(&cache));
    assert_eq!(first, expected);
    assert_eq!(digest(folder.path(), Some(&cache)).1, all_bytes, "files too young to be trusted");

    age(folder.path(), Duration::from_secs(60));
    assert_eq!(digest(folder.path(), Some(&cache)), (expected, all_bytes));
    assert_eq!(digest(folder.path(), Some(&cache)), (expected, 0));
    assert_eq!(digest(folder.path(), None), (expected, all_bytes));

    // Another time is another file; another content another digest.
    age(folder.path(), Duration::from_secs(30));
    assert_eq!(digest(folder.path(), Some(&cache)), (expected, all_bytes));
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let (changed, read_bytes) = digest(folder.path(), Some(&cache));
    assert_ne!(changed, expected);
    assert!(read_bytes < all_bytes, "config.json did not change");
    assert_eq!(changed, digest(folder.path(), None).0);
}

#[test]
fn a_note_that_is_spoilt_or_cannot_be_written_is_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let shape =
        Shape { family: "glm", heads: 2, kv_heads: 1, head_dim: 8, ffn: 16, vocab: 16, tied: true };
    random::write(folder.path(), shape);
    age(folder.path(), Duration::from_secs(60));
    let expected = digest(folder.path(), None);
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(digest(folder.path(), Some(cache.path())), expected);
    for note in fs::read_dir(cache.path()).unwrap() {
        fs::write(note.unwrap().path(), "{\"config.json\": 1}").unwrap();
    }
    assert_eq!(digest(folder.path(), Some(cache.path())), expected);
    let no_folder = folder.path().join("config.json");
    assert_eq!(digest(folder.path(), Some(&no_folder)), expected);
}

/// Of ranks that start at once, one hashes: the others find its note when it is done.
#[test]
fn whoever_finds_the_files_being_hashed_waits_for_the_note() {
    let folder = tempfile::tempdir().unwrap();
    let shape =
        Shape { family: "glm", heads: 2, kv_heads: 1, head_dim: 8, ffn: 16, vocab: 16, tied: true };
    random::write(folder.path(), shape);
    age(folder.path(), Duration::from_secs(60));
    let caches = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [cache, elsewhere] = caches.each_ref().map(|cache| cache.path());
    let (expected, all_bytes) = digest(folder.path(), Some(elsewhere));
    assert!(all_bytes > 0);
    let note = fs::read_dir(elsewhere).unwrap().map(|file| file.unwrap().path());
    let note = note.into_iter().find(|path| path.extension() == Some("json".as_ref())).unwrap();

    // This test is the rank that hashes.
    let kept = cache.join(note.file_name().unwrap());
    let held = fs::File::create(kept.with_extension("lock")).unwrap();
    held.lock().unwrap();
    let (tell, heard) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            checkpoint.digest(Some(cache), &mut |progress| tell.send(progress).unwrap()).unwrap()
        });
        // However late the other comes, it reads nothing; were it not to wait, it would be seen within this time.
        let read = heard.recv_timeout(Duration::from_millis(200));
        assert!(read.is_err(), "the other rank hashes as well: {read:?}");
        fs::copy(&note, &kept).unwrap();
        drop(held);
        assert_eq!(other.join().unwrap(), expected);
        assert!(heard.try_recv().is_err(), "all was in the note");
    });
    // A lock that its holder left is nobody's.
    age(folder.path(), Duration::from_secs(30));
    assert_eq!(digest(folder.path(), Some(cache)), (expected, all_bytes));
}
