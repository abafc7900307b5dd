//! One connection to one rank: frames out, frames in, never blocking.
//!
//! A frame is a header of 24 bytes and a payload of f32 values:
//!
//! | bytes | u32 round | u32 kind | u32 root | u32 payload values | u64 length of the whole operation |
//! |---|---|---|---|---|---|
//!
//! A rank that gives up sends, as its last words, a header of kind [`GAVE_UP`] whose root is the rank to blame.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::super::{Call, CollectiveError, RawCall};

const HEADER_BYTES: usize = 24;

/// No operation has this kind.
pub(super) const GAVE_UP: u32 = 0;

/// Bytes read at once where little is expected; a small frame is one system call this way.
const BUFFER_BYTES: usize = 16 << 10;

/// A connected, non-blocking socket and what was read from it too early.
pub(super) struct Link {
    stream: TcpStream,
    buffer: Box<[u8]>,
    /// The part of `buffer` that is not used up: a rank one round ahead sends before we ask.
    unread: std::ops::Range<usize>,
    /// Why nothing will follow what is unread.
    ended: Option<String>,
    /// Whether a frame was begun and not ended: nothing else can be sent then.
    mid_frame: bool,
}

/// What a frame's header says.
pub(super) struct Header {
    pub(super) round: u32,
    pub(super) call: RawCall,
    pub(super) payload_values: u32,
}

/// A frame on its way out.
pub(super) struct Outgoing<'a> {
    header: [u8; HEADER_BYTES],
    payload: &'a [u8],
    sent: usize,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(round: u32, call: Call, payload: &'a [f32]) -> Self {
        let header = encode(round, call.into(), payload.len() as u32);
        Self { header, payload: bytemuck::cast_slice(payload), sent: 0 }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.sent == HEADER_BYTES + self.payload.len()
    }
}

/// A frame on its way in.
#[derive(Default)]
pub(super) struct Incoming {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Known once the header is in.
    payload_bytes: Option<usize>,
    received_bytes: usize,
}

impl Incoming {
    pub(super) fn is_complete(&self) -> bool {
        self.payload_bytes == Some(self.received_bytes)
    }
}

fn encode(round: u32, call: RawCall, payload_values: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let words = [round, call.kind, call.root, payload_values];
    for (place, word) in header.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    header[16..].copy_from_slice(&call.len.to_le_bytes());
    header
}

fn decode(header: &[u8; HEADER_BYTES]) -> Header {
    let word = |at: usize| {
        u32::from_le_bytes(header[at..at + 4].try_into().expect("a slice of four bytes"))
    };
    let len = u64::from(word(16)) | u64::from(word(20)) << 32;
    Header {
        round: word(0),
        call: RawCall { kind: word(4), root: word(8), len },
        payload_values: word(12),
    }
}

fn is_temporary(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl Link {
    /// Takes over a connected stream.
    pub(super) fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_BYTES].into(),
            unread: 0..0,
            ended: None,
            mid_frame: false,
        })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Tells the other side, if there is a way to, that this rank gave up and which rank is to blame.
    pub(super) fn give_up(&mut self, round: u32, culprit: usize) {
        if !self.mid_frame {
            let header = encode(round, RawCall { kind: GAVE_UP, root: culprit as u32, len: 0 }, 0);
            // A few bytes that a socket has room for, or the other side learns it from the end of the stream.
            let _ = self.stream.write(&header);
        }
        // For writing only: a socket closed with unread bytes would take back what was sent before. It fails
        // where the connection is gone, and then the other side knows.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Returns whom this peer blamed when it gave up, if it did so after the frames taken so far.
    ///
    /// A stream that merely ended is no failure yet: the peer may have left after its last operation.
    pub(super) fn gave_up(&mut self) -> Option<usize> {
        if self.may_say_more() {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            match self.stream.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => self.ended = Some("it closed the connection".to_owned()),
                Ok(got) => self.unread.end += got,
                Err(error) if is_temporary(&error) => {}
                Err(error) => self.ended = Some(error.to_string()),
            }
        }
        let unread = self.buffer[self.unread.clone()].first_chunk()?;
        let Header { call, .. } = decode(unread);
        (call.kind == GAVE_UP).then_some(call.root as usize)
    }

    /// Returns whether [`Link::gave_up`] may find something new.
    pub(super) fn may_say_more(&self) -> bool {
        self.ended.is_none() && self.unread.len() < HEADER_BYTES
    }

    /// Sends what the socket takes; returns whether that was anything.
    pub(super) fn send(
        &mut self,
        peer: usize,
        frame: &mut Outgoing<'_>,
    ) -> Result<bool, CollectiveError> {
        let mut moved = false;
        while !frame.is_complete() {
            let header = &frame.header[frame.sent.min(HEADER_BYTES)..];
            let payload = &frame.payload[frame.sent.saturating_sub(HEADER_BYTES)..];
            match self.stream.write_vectored(&[IoSlice::new(header), IoSlice::new(payload)]) {
                Ok(sent) => {
                    frame.sent += sent;
                    moved |= sent > 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // What it said before it went is worth more than that we could not answer: read that first.
                    if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
                        frame.sent = HEADER_BYTES + frame.payload.len();
                        break;
                    }
                    return Err(lost(peer, error.to_string()));
                }
            }
        }
        self.mid_frame = 0 < frame.sent && !frame.is_complete();
        Ok(moved)
    }

    /// Takes what has come of a frame; returns whether that was anything.
    ///
    /// `check` sees the header once and returns how many values the payload must have; `payload` is made
    /// as long as that.
    pub(super) fn take(
        &mut self,
        peer: usize,
        frame: &mut Incoming,
        payload: &mut Vec<f32>,
        check: impl FnOnce(Header) -> Result<usize, CollectiveError>,
    ) -> Result<bool, CollectiveError> {
        let mut moved = false;
        if frame.payload_bytes.is_none() {
            let Some(got) = self.read(peer, &mut frame.header[frame.header_bytes..])? else {
                return Ok(false);
            };
            frame.header_bytes += got;
            moved = true;
            if frame.header_bytes < HEADER_BYTES {
                return Ok(true);
            }
            let values = check(decode(&frame.header))?;
            payload.resize(values, 0.0);
            frame.payload_bytes = Some(values * size_of::<f32>());
        }
        while !frame.is_complete() {
            let rest: &mut [u8] = bytemuck::cast_slice_mut(payload);
            let Some(got) = self.read(peer, &mut rest[frame.received_bytes..])? else { break };
            frame.received_bytes += got;
            moved = true;
        }
        Ok(moved)
    }

    /// Reads some bytes into `wanted`, which is not empty; `None` if there are none yet.
    fn read(&mut self, peer: usize, wanted: &mut [u8]) -> Result<Option<usize>, CollectiveError> {
        if self.unread.is_empty() {
            if let Some(why) = &self.ended {
                return Err(lost(peer, why.clone()));
            }
            let direct = wanted.len() >= BUFFER_BYTES;
            let target = if direct { &mut *wanted } else { &mut self.buffer[..] };
            let got = loop {
                match self.stream.read(target) {
                    Ok(0) => return Err(lost(peer, "it closed the connection".to_owned())),
                    Ok(got) => break got,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(lost(peer, error.to_string())),
                }
            };
            if direct {
                return Ok(Some(got));
            }
            self.unread = 0..got;
        }
        let got = wanted.len().min(self.unread.len());
        wanted[..got].copy_from_slice(&self.buffer[self.unread.start..][..got]);
        self.unread.start += got;
        Ok(Some(got))
    }
}

fn lost(rank: usize, why: String) -> CollectiveError {
    CollectiveError::PeerLost { rank, why }
}
