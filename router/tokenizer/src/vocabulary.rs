//! Which bytes does a token stand for?

use std::collections::HashMap;

use tokenizers::DecoderWrapper;

use crate::special::Added;

/// No token id reaches this: a table of all ids must not be as large as a stranger's file says.
pub(crate) const ID_LIMIT: u32 = 1 << 22;

/// How a vocabulary spells bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// One printable character per byte (GPT-2, GLM-4).
    ByteLevel,
    /// Characters, with `▁` for a space and `<0x0A>` for a byte that is none (SentencePiece, ChatGLM2 and 3).
    SentencePiece {
        /// So many spaces at the very beginning of a decoded text are not part of it.
        leading_spaces: usize,
    },
}

impl Spelling {
    /// Reads the spelling off the decoder of a `tokenizer.json`.
    pub(crate) fn of(decoder: Option<&DecoderWrapper>) -> Result<Self, String> {
        let mut spelling = None;
        let mut leading_spaces = 0;
        let steps = match decoder {
            Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        for step in steps {
            match step {
                DecoderWrapper::ByteLevel(_) => spelling = Some(Self::ByteLevel),
                DecoderWrapper::ByteFallback(_) | DecoderWrapper::Fuse(_) => {}
                DecoderWrapper::Replace(replace) if replaces_space_mark(replace) => {
                    spelling = Some(Self::SentencePiece { leading_spaces: 0 });
                }
                DecoderWrapper::Metaspace(space) if space.get_replacement() == SPACE_MARK => {
                    use tokenizers::pre_tokenizers::metaspace::PrependScheme;
                    leading_spaces =
                        usize::from(space.get_prepend_scheme() != PrependScheme::Never);
                    spelling = Some(Self::SentencePiece { leading_spaces: 0 });
                }
                DecoderWrapper::Strip(strip) if strip.content == ' ' && strip.stop == 0 => {
                    leading_spaces = strip.start;
                }
                other @ (DecoderWrapper::BPE(_)
                | DecoderWrapper::WordPiece(_)
                | DecoderWrapper::Metaspace(_)
                | DecoderWrapper::CTC(_)
                | DecoderWrapper::Sequence(_)
                | DecoderWrapper::Replace(_)
                | DecoderWrapper::Strip(_)) => {
                    return Err(format!("the decoder {other:?} is not supported"));
                }
            }
        }
        match spelling {
            Some(Self::SentencePiece { .. }) => Ok(Self::SentencePiece { leading_spaces }),
            Some(Self::ByteLevel) => Ok(Self::ByteLevel),
            None => {
                Err("the decoder must be ByteLevel, Metaspace or replace ▁ by a space".to_owned())
            }
        }
    }
}

const SPACE_MARK: char = '▁';

fn replaces_space_mark(replace: &tokenizers::normalizers::Replace) -> bool {
    // The pattern is private; its JSON is not.
    let json = serde_json::to_value(replace).unwrap_or_default();
    json["pattern"]["String"] == "▁" && json["content"] == " "
}

/// What there is to know of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A hole in the vocabulary.
    Absent,
    Ordinary,
    /// Left out of decoded text.
    Special,
}

/// The bytes of every token, in one piece.
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    /// Token `id` has the bytes `starts[id]..starts[id + 1]`.
    starts: Vec<usize>,
    kinds: Vec<Kind>,
}

impl Vocabulary {
    /// Returns an error text if an id is too large.
    pub(crate) fn new(
        spelling: Spelling,
        tokens: &HashMap<String, u32>,
        added: &[Added],
    ) -> Result<Self, String> {
        let ids = tokens.values().copied().chain(added.iter().map(|token| token.id));
        let size = ids.max().map_or(0, |id| id.saturating_add(1));
        if size > ID_LIMIT {
            return Err(format!("token id {} is over the limit of {ID_LIMIT}", size - 1));
        }
        let mut table: Vec<(Kind, Vec<u8>)> = vec![(Kind::Absent, Vec::new()); size as usize];
        let decode = Decode::new(spelling);
        for (token, id) in tokens {
            table[*id as usize] = (Kind::Ordinary, decode.bytes(token));
        }
        for token in added {
            let kind = if token.special { Kind::Special } else { Kind::Ordinary };
            table[token.id as usize] = (kind, token.content.clone().into_bytes());
        }
        let mut all = Self { bytes: Vec::new(), starts: vec![0], kinds: Vec::new() };
        for (kind, bytes) in table {
            all.bytes.extend(bytes);
            all.starts.push(all.bytes.len());
            all.kinds.push(kind);
        }
        Ok(all)
    }

    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        match self.kinds.get(id)? {
            Kind::Absent => None,
            Kind::Ordinary | Kind::Special => {
                Some(&self.bytes[self.starts[id]..self.starts[id + 1]])
            }
        }
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Special)
    }

    /// One more than the largest id.
    pub(crate) fn size(&self) -> u32 {
        // Ids are below `ID_LIMIT`, so this loses nothing.
        self.kinds.len() as u32
    }
}

struct Decode {
    spelling: Spelling,
    char_to_byte: HashMap<char, u8>,
}

impl Decode {
    fn new(spelling: Spelling) -> Self {
        let char_to_byte = byte_to_char().into_iter().zip(0..=u8::MAX).collect();
        Self { spelling, char_to_byte }
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        match self.spelling {
            Spelling::ByteLevel => {
                let bytes: Option<Vec<u8>> =
                    token.chars().map(|c| self.char_to_byte.get(&c).copied()).collect();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Spelling::SentencePiece { .. } => match byte_token(token) {
                Some(byte) => vec![byte],
                None => token.replace(SPACE_MARK, " ").into_bytes(),
            },
        }
    }
}

/// `<0x0A>` is the byte 10.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The printable character that a byte-level vocabulary writes for each byte: printable Latin-1 stands for itself, the others
/// follow from U+0100 on, in order.
pub(crate) fn byte_to_char() -> [char; 256] {
    let mut chars = ['\0'; 256];
    let mut next = 0x100_u32;
    for (byte, slot) in (0..=u8::MAX).zip(&mut chars) {
        *slot = match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                let other = char::from_u32(next).expect("U+0100 and the next 67 are characters");
                next += 1;
                other
            }
        };
    }
    chars
}
