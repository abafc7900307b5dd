//! glint-tokenizer
