//! Where does one server-sent event end?
//!
//! Bytes go in as they come, the payloads of `data:` lines come out, without a copy where one read holds whole lines. Comments,
//! other fields and blank lines are passed over: OpenAI-style servers send one `data:` line per event.

/// Longest line taken; more than a hundred times what one token with all its alternatives needs.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The part of a line that the reads so far ended with.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

/// The server sent a line that is too long to be an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LineTooLong;

impl Lines {
    /// Calls `event` with the payload of each `data:` line that `bytes` ends.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        mut event: impl FnMut(&[u8]),
    ) -> Result<(), LineTooLong> {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let tail = &bytes[from..end];
            from = end + 1;
            if self.rest.is_empty() {
                line(tail, &mut event);
            } else {
                self.rest.extend_from_slice(tail);
                line(&self.rest, &mut event);
                self.rest.clear();
            }
        }
        if self.rest.len() + bytes.len() - from > LINE_BYTES_MAX {
            return Err(LineTooLong);
        }
        self.rest.extend_from_slice(&bytes[from..]);
        Ok(())
    }
}

fn line(line: &[u8], event: &mut impl FnMut(&[u8])) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Some(payload) = line.strip_prefix(b"data:") {
        event(payload.strip_prefix(b" ").unwrap_or(payload));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b": ping\n\nevent: x\r\ndata: {\"a\":1}\r\n\r\ndata:two\n\ndata: [DONE]\n\n";

    #[test]
    fn wherever_the_reads_are_cut_the_same_payloads_come() {
        for cut in 1..=STREAM.len() {
            let mut lines = Lines::default();
            let mut payloads = Vec::new();
            for part in STREAM.chunks(cut) {
                lines.push(part, |payload| payloads.push(payload.to_vec())).unwrap();
            }
            assert_eq!(payloads, [&b"{\"a\":1}"[..], b"two", b"[DONE]"], "reads of {cut} bytes");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut lines = Lines::default();
        let part = vec![b'x'; LINE_BYTES_MAX / 4];
        for _ in 0..4 {
            assert_eq!(lines.push(&part, |_| {}), Ok(()));
        }
        assert_eq!(lines.push(b"x", |_| {}), Err(LineTooLong));
    }
}
