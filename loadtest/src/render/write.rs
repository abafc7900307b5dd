//! A report appears whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::RenderError;

/// Writes `bytes` to `path`: into a file beside it first, which is synced and then takes the name, so that a reader never sees
/// half a report and a full disk does not cost an earlier one. What is no regular file, such as `/dev/stdout`, is written straight into.
///
/// # Errors
///
/// [`RenderError::Write`] with the path and the system's words; the file beside it is gone then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), RenderError> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let straight =
            File::options().write(true).open(path).and_then(|mut file| file.write_all(bytes));
        return straight.map_err(|error| RenderError::Write { path: path.to_owned(), error });
    }
    let beside = beside(path);
    let written = fill(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        // What cannot be made cannot be removed either; the first error is the one to tell.
        let _ = fs::remove_file(&beside);
        RenderError::Write { path: path.to_owned(), error }
    })
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

fn fill(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_replaces_an_earlier_one_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        fs::write(&path, "old and longer").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_and_a_device_stays_one() {
        let error = write(Path::new("/dev/full"), b"new").unwrap_err().to_string();
        assert!(error.contains("/dev/full: No space left on device"), "{error}");
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
    }

    #[test]
    fn a_failure_names_the_path_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        // A folder stands where the file should go, so that the last step fails.
        let path = folder.path().join("report.json");
        fs::create_dir(&path).unwrap();
        let error = write(&path, b"new").unwrap_err().to_string();
        assert!(error.starts_with("the report could not be written to /"), "{error}");
        assert!(error.contains("report.json: "), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = write(&folder.path().join("no/such/report.json"), b"new").unwrap_err();
        assert!(nowhere.to_string().contains("No such file"), "{nowhere}");
    }
}
