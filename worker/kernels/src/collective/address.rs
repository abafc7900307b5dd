//! Where a group meets, in one line of text that rank 0 publishes.
//!
//! `shm:/glint-<random>:<token>` or `tcp:<host>:<port>:<token>`, the token being 32 hex digits that only
//! those who can read the address know.

use std::fmt;
use std::fs::File;
use std::io::Read;

use super::CollectiveError;

/// A random number that tells this group from any other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u128);

impl Token {
    pub(super) fn random() -> Result<Self, CollectiveError> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut bytes))
            .map_err(|error| CollectiveError::system("read /dev/urandom", error))?;
        Ok(Self(u128::from_le_bytes(bytes)))
    }

    pub(super) fn halves(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }

    pub(super) fn to_le_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    SharedMemory {
        name: String,
        token: Token,
    },
    /// `host` is a name, an IPv4 address, or an IPv6 address in brackets.
    Tcp {
        host: String,
        port: u16,
        token: Token,
    },
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, CollectiveError> {
        Self::try_parse(text).ok_or_else(|| {
            CollectiveError::Invalid(format!(
                "{text:?} is no address of a group: expected shm:/NAME:TOKEN or tcp:HOST:PORT:TOKEN"
            ))
        })
    }

    fn try_parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        let (place, token) = rest.rsplit_once(':')?;
        if token.len() != 32 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let token = Token(u128::from_str_radix(token, 16).ok()?);
        match scheme {
            "shm" => {
                let word = place.strip_prefix("/glint-")?;
                let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                (plain && (1..=64).contains(&word.len()))
                    .then(|| Self::SharedMemory { name: place.to_owned(), token })
            }
            "tcp" => {
                let (host, port) = place.rsplit_once(':')?;
                let port = port.parse().ok().filter(|&port| port != 0)?;
                let bracketed = host.starts_with('[') && host.ends_with(']');
                (!host.is_empty() && (bracketed || !host.contains(':'))).then(|| Self::Tcp {
                    host: host.to_owned(),
                    port,
                    token,
                })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedMemory { name, token } => write!(f, "shm:{name}:{token}"),
            Self::Tcp { host, port, token } => write!(f, "tcp:{host}:{port}:{token}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_survives_being_written_and_read() {
        let token = Token::random().unwrap();
        for address in [
            Address::SharedMemory { name: "/glint-12-ab".into(), token },
            Address::Tcp { host: "10.0.0.1".into(), port: 4000, token },
            Address::Tcp { host: "[::1]".into(), port: 1, token },
            Address::Tcp { host: "rank-0.group.svc".into(), port: 65535, token: Token(7) },
        ] {
            assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        let token = "0".repeat(32);
        for text in [
            String::new(),
            "shm:/glint-a".into(),
            format!("shm:/glint-../x:{token}"),
            format!("shm:/other:{token}"),
            format!("tcp::80:{token}"),
            format!("tcp:host:0:{token}"),
            format!("tcp:::1:80:{token}"),
            format!("tcp:host:80:{token}0"),
            format!("udp:host:80:{token}"),
            format!("tcp:host:80:+{}", &token[1..]),
        ] {
            let error = Address::parse(&text).unwrap_err().to_string();
            assert!(error.contains("expected shm:"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(shm|tcp|x)?[:/\\[\\]0-9a-f é-]{0,60}") {
            let _ = Address::parse(&text);
        }
    }
}
