//! How is a file read line by line, plain or gzip, without holding it?

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
    time::Duration,
};

use flate2::bufread::MultiGzDecoder;

use crate::plan::PlanError;

/// A longer line is no line: most likely the file is something else.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The lines of a file that are not blank.
pub(super) struct Lines {
    file: String,
    reader: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    number: u64,
    peeked: bool,
}

/// Opens a file, and unpacks it where it begins as gzip does.
pub(super) fn reader(path: &Path) -> Result<Box<dyn BufRead + Send>, PlanError> {
    let failed = |error| PlanError::Read { file: path.display().to_string(), error };
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(failed)?);
    let packed = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    Ok(if packed {
        Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    })
}

impl Lines {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Self, PlanError> {
        Ok(Self {
            file: path.display().to_string(),
            reader: reader(path)?,
            line: Vec::new(),
            number: 0,
            peeked: false,
        })
    }

    /// The first line, which stays the next one.
    pub(super) fn peek(&mut self) -> Result<Option<&str>, PlanError> {
        let there = self.next()?.is_some();
        self.peeked = there;
        Ok(if there { self.text().ok() } else { None })
    }

    /// The next line, without its end.
    pub(super) fn next(&mut self) -> Result<Option<&str>, PlanError> {
        if !std::mem::take(&mut self.peeked) {
            loop {
                self.line.clear();
                let mut limited = self.reader.by_ref().take(LINE_BYTES_MAX);
                let read = limited
                    .read_until(b'\n', &mut self.line)
                    .map_err(|source| self.broken(source))?;
                if read == 0 {
                    return Ok(None);
                }
                self.number += 1;
                if read as u64 == LINE_BYTES_MAX {
                    return Err(self.error(
                        "the line is longer than 64 MiB; write one request or session a line",
                    ));
                }
                if !self.line.trim_ascii().is_empty() {
                    break;
                }
            }
        }
        self.text().map(Some)
    }

    /// The last line, with what is wrong with it.
    pub(super) fn error(&self, reason: impl Into<String>) -> PlanError {
        PlanError::Line { file: self.file.clone(), line: self.number, reason: reason.into() }
    }

    /// What `parse` makes of each line; it is asked once more with `None` at the end. The first error ends it.
    pub(super) fn each<T>(
        mut self,
        mut parse: impl FnMut(Option<&str>) -> Result<Option<T>, String> + Send,
    ) -> impl Iterator<Item = Result<T, PlanError>> + Send {
        let mut ended = false;
        std::iter::from_fn(move || {
            while !ended {
                let parsed = match self.next() {
                    Ok(line) => {
                        ended = line.is_none();
                        parse(line)
                    }
                    Err(error) => {
                        ended = true;
                        return Some(Err(error));
                    }
                };
                match parsed {
                    Ok(None) => {}
                    Ok(Some(unit)) => return Some(Ok(unit)),
                    Err(reason) => {
                        ended = true;
                        return Some(Err(self.error(reason)));
                    }
                }
            }
            None
        })
    }

    fn text(&self) -> Result<&str, PlanError> {
        std::str::from_utf8(self.line.trim_ascii_end())
            .map_err(|_| self.error("the line is not UTF-8"))
    }

    fn broken(&self, error: io::Error) -> PlanError {
        PlanError::Read { file: self.file.clone(), error }
    }
}

/// Reads a JSON line; the reason keeps serde's words and the column, the number of the line is added by whoever reads.
pub(super) fn json<'a, T: serde::Deserialize<'a>>(line: &'a str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| {
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        format!("{words} (column {})", error.column())
    })
}

/// Starts of a trace, counted from its first; they must not go back.
#[derive(Default)]
pub(super) struct Clock {
    first_and_last_ns: Option<(i64, i64)>,
}

impl Clock {
    /// Time after the first.
    pub(super) fn since_first(&mut self, ns: i64) -> Result<Duration, String> {
        let (first, last) = self.first_and_last_ns.unwrap_or((ns, ns));
        if ns < last {
            let back = (last - ns) as f64 / 1e9;
            return Err(format!(
                "its time is {back} s before the line above; sort the file by time"
            ));
        }
        self.first_and_last_ns = Some((first, ns));
        Ok(Duration::from_nanos(ns.abs_diff(first)))
    }
}
