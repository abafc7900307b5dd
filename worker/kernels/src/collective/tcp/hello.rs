//! What do two ranks say to each other before they trust the connection?
//!
//! The one that connects says hello, the other answers; both messages have a fixed size.

use std::io::Write;
use std::net::TcpStream;

use super::super::address::Token;
use super::super::{CollectiveError, Group, WORLD_SIZE_MAX};

const MAGIC: [u8; 8] = *b"GLINTTCP";
const VERSION: u32 = 1;

pub(super) const HELLO_BYTES: usize = 48;
pub(super) const ANSWER_BYTES: usize = 16;

/// Why a hello was refused; the number's meaning is in the variant, `detail` says what would have been right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Answer {
    Welcome = 0,
    OtherVersion = 1,
    OtherToken = 2,
    OtherWorldSize = 3,
    OtherEpoch = 4,
    RankTaken = 5,
    NoSuchRank = 6,
    /// The group did not come about, because of rank `detail`.
    GaveUp = 7,
}

impl Answer {
    fn of(number: u32) -> Option<Self> {
        [
            Self::Welcome,
            Self::OtherVersion,
            Self::OtherToken,
            Self::OtherWorldSize,
            Self::OtherEpoch,
            Self::RankTaken,
            Self::NoSuchRank,
            Self::GaveUp,
        ]
        .into_iter()
        .find(|answer| *answer as u32 == number)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Hello {
    pub(super) rank: usize,
    pub(super) world_size: usize,
    pub(super) epoch: u64,
    pub(super) token: Token,
    /// Where this rank listens for higher ones.
    pub(super) port: u16,
}

impl Hello {
    pub(super) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        let words = [VERSION, self.rank as u32, self.world_size as u32, u32::from(self.port)];
        for (place, word) in bytes[8..24].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[32..].copy_from_slice(&self.token.to_le_bytes());
        bytes
    }
}

/// What a rank that accepts compares a hello with.
pub(super) struct Expected<'a> {
    pub(super) group: &'a Group,
    pub(super) token: Token,
    /// The ranks that may still come are those above this one without a link.
    pub(super) own_rank: usize,
}

impl Expected<'_> {
    /// Returns the rank and port of who said hello, or what to answer.
    pub(super) fn judge(
        &self,
        bytes: &[u8; HELLO_BYTES],
        came: impl Fn(usize) -> bool,
    ) -> Result<(usize, u16), (Answer, u64)> {
        let word = |at: usize| {
            u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
        };
        if bytes[..8] != MAGIC || word(8) != VERSION {
            return Err((Answer::OtherVersion, u64::from(VERSION)));
        }
        if bytes[32..] != self.token.to_le_bytes() {
            return Err((Answer::OtherToken, 0));
        }
        if word(16) as usize != self.group.world_size {
            return Err((Answer::OtherWorldSize, self.group.world_size as u64));
        }
        if u64::from(word(24)) | u64::from(word(28)) << 32 != self.group.epoch {
            return Err((Answer::OtherEpoch, self.group.epoch));
        }
        let rank = word(12) as usize;
        if rank <= self.own_rank || rank >= self.group.world_size {
            return Err((Answer::NoSuchRank, rank as u64));
        }
        if came(rank) {
            return Err((Answer::RankTaken, rank as u64));
        }
        Ok((rank, word(20) as u16))
    }
}

pub(super) fn answer(stream: &mut TcpStream, answer: Answer, detail: u64) -> std::io::Result<()> {
    let mut bytes = [0; ANSWER_BYTES];
    bytes[..4].copy_from_slice(&(answer as u32).to_le_bytes());
    bytes[8..].copy_from_slice(&detail.to_le_bytes());
    // A fresh socket has room for a few bytes; if it has none, the other side is not worth waiting for.
    stream.write_all(&bytes)
}

/// Turns the answer of the rank `by`, which listens on `address`, into a welcome or an error.
pub(super) fn understand(
    bytes: &[u8; ANSWER_BYTES],
    address: &str,
    by: usize,
) -> Result<(), CollectiveError> {
    let (code, detail) = bytes.split_at(8);
    let code = u32::from_le_bytes([code[0], code[1], code[2], code[3]]);
    let detail = u64::from_le_bytes(detail.try_into().expect("16 bytes split at 8"));
    let refused = |why: String| Err(CollectiveError::Refused { address: address.to_owned(), why });
    match Answer::of(code) {
        Some(Answer::Welcome) => Ok(()),
        Some(Answer::OtherVersion) => {
            refused(format!("it speaks version {detail}, this rank version {VERSION}"))
        }
        Some(Answer::OtherToken) => refused("it has another token".to_owned()),
        Some(Answer::OtherWorldSize) => {
            refused(format!("it has {detail} ranks, this rank expects another number"))
        }
        Some(Answer::OtherEpoch) => {
            refused(format!("it is of epoch {detail}, this rank of another"))
        }
        Some(Answer::RankTaken) => refused(format!("it already has a rank {detail}")),
        Some(Answer::NoSuchRank) => refused(format!("it expects no rank {detail}")),
        Some(Answer::GaveUp) => {
            let (rank, why) = match usize::try_from(detail) {
                Ok(culprit) if culprit != by && culprit < WORLD_SIZE_MAX => {
                    (culprit, format!("rank {by} gave up on it"))
                }
                Ok(_) | Err(_) => (by, "it gave up on the group".to_owned()),
            };
            let why = format!("{why} while the group was forming");
            Err(CollectiveError::PeerLost { rank, why })
        }
        None => refused(format!("its answer {code} is unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_understood_and_no_other() {
        for code in 0..20_u32 {
            let mut bytes = [0; ANSWER_BYTES];
            bytes[..4].copy_from_slice(&code.to_le_bytes());
            bytes[8] = 2;
            let understood = understand(&bytes, "10.0.0.1:4000", 1);
            match Answer::of(code) {
                Some(answer) => assert_eq!(answer as u32, code),
                None => assert!(understood.unwrap_err().to_string().contains("unknown")),
            }
        }
        let mut bytes = [0; ANSWER_BYTES];
        assert_eq!(understand(&bytes, "", 1), Ok(()));
        bytes[0] = Answer::GaveUp as u8;
        bytes[8] = 2;
        let told = understand(&bytes, "", 1).unwrap_err();
        assert!(matches!(told, CollectiveError::PeerLost { rank: 2, .. }), "{told}");
    }
}
