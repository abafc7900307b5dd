//! What is in a tiktoken-style `tokenizer.model`?
//!
//! A line per token: its bytes in base64, a space, its rank, which is also its id. A pair merges when the two together are a
//! token, the lowest rank first. Written as the merges of a byte-level BPE, that is: for each token, every way
//! to cut it into two tokens, in the order of ranks.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::assets::{LoadError, TOKENIZER_MODEL};
use crate::vocabulary::{ID_LIMIT, byte_to_char};

/// How GLM-4 cuts text into words before it merges.
const GLM4_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GLM-4's special tokens; their ids follow the ranks, in this order.
pub(crate) const GLM4_SPECIALS: [&str; 14] = [
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
];

/// Returns the same tokenizer as `tokenizers` would load it from a `tokenizer.json`, without its special tokens.
pub(crate) fn tokenizer(bytes: &[u8]) -> Result<tokenizers::Tokenizer, LoadError> {
    let ranks = parse(bytes)?;
    let invalid = |error: tokenizers::Error| LoadError::invalid(TOKENIZER_MODEL, error);
    let chars = byte_to_char();
    let spell = |bytes: &[u8]| bytes.iter().map(|b| chars[usize::from(*b)]).collect::<String>();

    let mut tokens: Vec<(&[u8], u32)> =
        ranks.iter().map(|(bytes, rank)| (bytes.as_slice(), *rank)).collect();
    tokens.sort_unstable_by_key(|(_, rank)| *rank);
    let mut merges = Vec::with_capacity(tokens.len() * 2);
    for (token, _) in &tokens {
        let mut cuts: Vec<(u32, u32, usize)> = (1..token.len())
            .filter_map(|at| Some((*ranks.get(&token[..at])?, *ranks.get(&token[at..])?, at)))
            .collect();
        cuts.sort_unstable();
        merges
            .extend(cuts.into_iter().map(|(_, _, at)| (spell(&token[..at]), spell(&token[at..]))));
    }
    let vocabulary: Vocab = tokens.iter().map(|(token, rank)| (spell(token), *rank)).collect();
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(true)
        .build()
        .map_err(invalid)?;

    let words = SplitPattern::Regex(GLM4_WORDS.to_owned());
    let words = Split::new(words, SplitDelimiterBehavior::Isolated, false).map_err(invalid)?;
    let bytes = ByteLevel::new(false, true, false);
    let pre_tokenizer =
        Sequence::new(vec![PreTokenizerWrapper::from(words), PreTokenizerWrapper::from(bytes)]);
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

fn parse(bytes: &[u8]) -> Result<HashMap<Vec<u8>, u32>, LoadError> {
    let invalid = |reason: String| LoadError::invalid(TOKENIZER_MODEL, reason);
    let text = std::str::from_utf8(bytes).map_err(|_| {
        let reason = "not tiktoken text; a SentencePiece model needs its tokenizer.json beside it";
        invalid(reason.to_owned())
    })?;
    let mut ranks = HashMap::new();
    let mut taken = std::collections::HashSet::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.is_empty()) {
        let at = |what: &str| invalid(format!("line {number} {what}"));
        let (token, rank) =
            line.split_once(' ').ok_or_else(|| at("is not a base64 token, a space and a rank"))?;
        let token = STANDARD.decode(token).map_err(|_| at("has a token that is not base64"))?;
        let rank: u32 = rank.trim().parse().map_err(|_| at("has a rank that is no number"))?;
        if rank >= ID_LIMIT {
            return Err(at(&format!("has rank {rank}, the limit is {ID_LIMIT}")));
        }
        if token.is_empty() || !taken.insert(rank) || ranks.insert(token, rank).is_some() {
            return Err(at("has an empty token, or a token or rank that came before"));
        }
    }
    match (0..=u8::MAX).find(|byte| !ranks.contains_key([*byte].as_slice())) {
        Some(byte) => {
            Err(invalid(format!("no token for the byte {byte:#04x}, all 256 must be there")))
        }
        None => Ok(ranks),
    }
}
