//! Is the process behind a rank still there?
//!
//! A killed process cannot say so, and shared memory does not notice. Linux shows it under `/proc`; where that
//! is missing, or the ranks are in different pid namespaces, nobody knows and the timeout decides.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process, named so that a later one with the same pid is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// Clock ticks after boot, 0 if unknown.
    pub(super) started_ticks: u64,
    /// Inode of the pid namespace, 0 if unknown.
    pub(super) namespace: u64,
}

impl ProcessId {
    /// Names this process.
    pub(super) fn own() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            started_ticks: stat(pid).map_or(0, |(_, started_ticks)| started_ticks),
            namespace: fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino()),
        }
    }

    /// Returns whether the process has certainly ended, as seen by `observer`.
    pub(super) fn is_gone(self, observer: Self) -> bool {
        let known = self.started_ticks != 0 && self.namespace != 0;
        if !known || self.namespace != observer.namespace || self.pid == observer.pid {
            return false;
        }
        match stat(self.pid) {
            // A zombie is dead: its parent has not asked yet, that is all.
            Some((state, started_ticks)) => {
                matches!(state, 'Z' | 'X') || started_ticks != self.started_ticks
            }
            None => !fs::exists(format!("/proc/{}", self.pid)).unwrap_or(true),
        }
    }
}

/// The state letter and the start time of a process, from proc(5).
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything, parentheses included.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of the line; the state was field 3.
    let started_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, started_ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_child_is_gone_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        let own = ProcessId::own();
        let started_ticks = stat(pid).unwrap().1;
        let id = ProcessId { pid, started_ticks, namespace: own.namespace };
        assert!(!id.is_gone(own));
        child.kill().unwrap();
        while stat(pid).is_some_and(|(state, _)| state != 'Z') {
            std::thread::yield_now();
        }
        assert!(id.is_gone(own));
        child.wait().unwrap();
        assert!(id.is_gone(own));
        let elsewhere = ProcessId { namespace: own.namespace + 1, ..id };
        assert!(!elsewhere.is_gone(own), "another namespace tells us nothing");
    }
}
