//! How is the header of a GGUF file read, when nothing in it can be trusted?
//!
//! ```text
//! "GGUF" u32 version, u64 tensors, u64 pairs | pair: text key, u32 type, value | tensor: text name, u32 dimensions,
//! u64 each (fastest first), u32 encoding, u64 start | padding to the alignment | numbers
//! ```
//!
//! A text is a u64 length and UTF-8; an array a u32 type, a u64 length and its items.

use std::collections::BTreeMap;
use std::io::Read;

use super::{Encoding, Header, Tensor, Value};

/// Above any tokenizer's vocabulary, and what a header may take of the memory.
const HEADER_BYTES_MAX: u64 = 256 << 20;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT_BYTES: u64 = 32;

/// The value types by their numbers in the file.
mod kind {
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
}

/// Reads the header of a file of `file_bytes`; the error is the reason in words.
pub(super) fn header(reader: impl Read, file_bytes: u64) -> Result<Header, String> {
    let mut input = Input { reader, read_bytes: 0, limit_bytes: file_bytes.min(HEADER_BYTES_MAX) };
    if input.fixed::<4>("the magic number").ok() != Some(*b"GGUF") {
        return Err("is no GGUF file: it does not begin with GGUF".to_owned());
    }
    let version = input.u32("the version")?;
    if version != 3 {
        return Err(format!("has GGUF version {version}, version 3 is read"));
    }
    let tensors = input.u64("the number of tensors")?;
    let pairs = input.u64("the number of key/value pairs")?;

    let mut values = BTreeMap::new();
    for _ in 0..pairs {
        let key = input.text("a key")?;
        let kind = input.u32("the type of a value")?;
        let value = input.value(kind, &key)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(format!("has the key {key:?} twice"));
        }
    }

    let mut places = Vec::new();
    for _ in 0..tensors {
        places.push(input.place()?);
    }
    let alignment = match values.get(ALIGNMENT_KEY) {
        None => ALIGNMENT_DEFAULT_BYTES,
        Some(Value::Integer(bytes @ 1..=65536)) => *bytes as u64,
        Some(other) => {
            return Err(format!("has {ALIGNMENT_KEY} = {other:?}, 1 to 65536 is possible"));
        }
    };
    let numbers_start = input.read_bytes.next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for Place { name, shape, encoding, offset } in places {
        let tensor = tensor(shape, encoding, numbers_start.checked_add(offset), file_bytes)
            .map_err(|reason| format!("tensor {name} {reason}"))?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(format!("has the tensor {name} twice"));
        }
    }
    Ok(Header { values, tensors })
}

/// What the header says of a tensor.
struct Place {
    name: String,
    shape: Vec<u64>,
    encoding: u32,
    offset: u64,
}

fn tensor(
    shape: Vec<u64>,
    encoding: u32,
    start: Option<u64>,
    file_bytes: u64,
) -> Result<Tensor, String> {
    let encoding = Encoding::of(encoding).ok_or_else(|| {
        format!("has ggml type {encoding}; F32 (0), F16 (1), Q4_1 (3) and Q8_0 (8) are read")
    })?;
    let (block_numbers, block_bytes) = encoding.block();
    let numbers = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
    let row = *shape.last().ok_or("has no dimensions")?;
    let bytes = numbers
        .filter(|&numbers| numbers > 0 && row % block_numbers as u64 == 0)
        .and_then(|numbers| (numbers / block_numbers as u64).checked_mul(block_bytes as u64))
        .ok_or_else(|| format!("cannot have the shape {shape:?} in {encoding:?}"))?;
    let fits = |start: &u64| start.checked_add(bytes).is_some_and(|end| end <= file_bytes);
    let start = start.filter(fits).ok_or_else(|| {
        format!("has {bytes} bytes that reach beyond the end of the file, which has {file_bytes}: it is cut short")
    })?;
    let narrow =
        |size: u64| usize::try_from(size).map_err(|_| format!("has a dimension of {size}"));
    let bytes = narrow(bytes)?;
    let shape = shape.into_iter().map(narrow).collect::<Result<_, _>>()?;
    Ok(Tensor { shape, encoding, start, bytes })
}

struct Input<R> {
    reader: R,
    read_bytes: u64,
    /// Nothing is read, and no memory asked for, beyond this.
    limit_bytes: u64,
}

impl<R: Read> Input<R> {
    fn claim(&mut self, bytes: u64, what: &str) -> Result<usize, String> {
        let left = self.limit_bytes - self.read_bytes;
        if bytes > left {
            return Err(format!("is cut short: {what} needs {bytes} bytes, {left} are left"));
        }
        self.read_bytes += bytes;
        usize::try_from(bytes).map_err(|_| format!("{what} has {bytes} bytes"))
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        self.claim(N as u64, what)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|error| format!("{what}: {error}"))?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        let length = self.u64(what)?;
        let mut bytes = vec![0; self.claim(length, what)?];
        self.reader.read_exact(&mut bytes).map_err(|error| format!("{what}: {error}"))?;
        String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, String> {
        match kind {
            kind::TEXT => self.text(key).map(Value::Text),
            kind::ARRAY => self.array(key),
            _ => self.number(kind, key).map(|number| match number {
                Number::Integer(number) => Value::Integer(number),
                Number::Float(number) => Value::Float(number),
            }),
        }
    }

    fn array(&mut self, key: &str) -> Result<Value, String> {
        let kind = self.u32(key)?;
        let items = self.u64(key)?;
        // Each item takes a byte at least, a text eight: no more than the file can have is allocated, and that
        // only as it comes.
        if items > self.limit_bytes - self.read_bytes {
            return Err(format!("is cut short: {key} has {items} items"));
        }
        if kind == kind::TEXT {
            let texts = (0..items).map(|_| self.text(key)).collect::<Result<_, _>>()?;
            return Ok(Value::Texts(texts));
        }
        let (mut integers, mut floats) = (Vec::new(), Vec::new());
        for _ in 0..items {
            match self.number(kind, key)? {
                Number::Integer(number) => integers.push(number),
                Number::Float(number) => floats.push(number),
            }
        }
        Ok(if floats.is_empty() { Value::Integers(integers) } else { Value::Floats(floats) })
    }

    fn number(&mut self, kind: u32, key: &str) -> Result<Number, String> {
        let integer = match kind {
            0 | 7 => i64::from(u8::from_le_bytes(self.fixed(key)?)),
            1 => i64::from(i8::from_le_bytes(self.fixed(key)?)),
            2 => i64::from(u16::from_le_bytes(self.fixed(key)?)),
            3 => i64::from(i16::from_le_bytes(self.fixed(key)?)),
            4 => i64::from(self.u32(key)?),
            5 => i64::from(i32::from_le_bytes(self.fixed(key)?)),
            6 => return Ok(Number::Float(f32::from_le_bytes(self.fixed(key)?).into())),
            10 => i64::try_from(self.u64(key)?)
                .map_err(|_| format!("has a value of {key} above {}", i64::MAX))?,
            11 => i64::from_le_bytes(self.fixed(key)?),
            12 => return Ok(Number::Float(f64::from_le_bytes(self.fixed(key)?))),
            kind => return Err(format!("has {key} of type {kind}, which is not read here")),
        };
        Ok(Number::Integer(integer))
    }

    fn place(&mut self) -> Result<Place, String> {
        let name = self.text("a tensor's name")?;
        let dimensions = self.u32(&name)?;
        if dimensions > DIMENSIONS_MAX {
            return Err(format!(
                "tensor {name} has {dimensions} dimensions, {DIMENSIONS_MAX} are possible"
            ));
        }
        let mut shape =
            (0..dimensions).map(|_| self.u64(&name)).collect::<Result<Vec<_>, String>>()?;
        shape.reverse();
        Ok(Place { shape, encoding: self.u32(&name)?, offset: self.u64(&name)?, name })
    }
}

enum Number {
    Integer(i64),
    Float(f64),
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A text value with its type.
    pub(crate) fn text(text: &str) -> Vec<u8> {
        [&kind::TEXT.to_le_bytes()[..], &string(text)].concat()
    }

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    /// A file without its numbers: pairs of key and encoded value, tensors of name, dimensions, type and offset.
    pub(crate) fn file(pairs: &[(&str, Vec<u8>)], tensors: &[(&str, &[u64], u32, u64)]) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend((tensors.len() as u64).to_le_bytes());
        file.extend((pairs.len() as u64).to_le_bytes());
        for (key, value) in pairs {
            file.extend(string(key));
            file.extend(value);
        }
        for (name, dimensions, encoding, offset) in tensors {
            file.extend(string(name));
            file.extend((dimensions.len() as u32).to_le_bytes());
            file.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
            file.extend(encoding.to_le_bytes());
            file.extend(offset.to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file
    }

    fn read(file: &[u8]) -> Result<Header, String> {
        header(file, file.len() as u64)
    }

    fn array(kind: u32, items: &[&[u8]]) -> Vec<u8> {
        let head = [&kind::ARRAY.to_le_bytes()[..], &kind.to_le_bytes()].concat();
        [&head[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat()
    }

    #[test]
    fn values_of_every_kind_are_read() {
        let header = read(&file(
            &[
                ("u8", [&0_u32.to_le_bytes()[..], &[255]].concat()),
                ("bool", [&7_u32.to_le_bytes()[..], &[1]].concat()),
                ("i64", [&11_u32.to_le_bytes()[..], &(-5_i64).to_le_bytes()].concat()),
                ("f32", [&6_u32.to_le_bytes()[..], &1.5_f32.to_le_bytes()].concat()),
                ("ids", array(5, &[&(-1_i32).to_le_bytes(), &7_i32.to_le_bytes()])),
                ("scores", array(6, &[&0.5_f32.to_le_bytes()])),
                ("tokens", array(8, &[&string("a"), &string("é")])),
            ],
            &[],
        ))
        .unwrap();
        for (key, value) in [
            ("u8", Value::Integer(255)),
            ("bool", Value::Integer(1)),
            ("i64", Value::Integer(-5)),
            ("f32", Value::Float(1.5)),
            ("ids", Value::Integers(vec![-1, 7])),
            ("scores", Value::Floats(vec![0.5])),
            ("tokens", Value::Texts(vec!["a".to_owned(), "é".to_owned()])),
        ] {
            assert_eq!(header.values[key], value, "{key}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_sentence() {
        let tensor = |dimensions: &[u64], encoding, offset| {
            file(&[], &[("w", dimensions, encoding, offset)])
        };
        let endless = [&array(8, &[])[..8], &u64::MAX.to_le_bytes()].concat();
        let nested = array(kind::ARRAY, &[&[0; 12]]);
        for (bytes, words) in [
            (b"GGUX".to_vec(), "does not begin with GGUF"),
            (b"GG".to_vec(), "does not begin with GGUF"),
            (b"GGUF\x02\0\0\0".to_vec(), "version 2"),
            (file(&[("a", text("")), ("a", text(""))], &[]), "\"a\" twice"),
            (file(&[("a", endless)], &[]), "cut short"),
            (file(&[("a", nested)], &[]), "type 9"),
            (file(&[(ALIGNMENT_KEY, text("x"))], &[]), "general.alignment"),
            (file(&[], &[("w", &[1], 0, 0), ("w", &[1], 0, 0)]), "beyond the end"),
            (tensor(&[64], 12, 0), "ggml type 12"),
            (tensor(&[33, 32], 3, 0), "shape [32, 33]"),
            (tensor(&[0], 0, 0), "shape [0]"),
            (tensor(&[], 0, 0), "no dimensions"),
            (tensor(&[1; 5], 0, 0), "5 dimensions"),
            (tensor(&[u64::MAX, 2], 0, 0), "shape [2,"),
            (tensor(&[32], 0, u64::MAX), "beyond the end"),
            (tensor(&[1 << 40], 8, 0), "beyond the end"),
        ] {
            let reason = read(&bytes).unwrap_err();
            assert!(reason.contains(words), "{words}: {reason}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
            length in any::<proptest::sample::Index>(),
            cut: bool,
        ) {
            let mut bytes = file(
                &[
                    ("general.alignment", [&4_u32.to_le_bytes()[..], &32_u32.to_le_bytes()].concat()),
                    ("tokens", array(8, &[&string("a"), &string("bc")])),
                    ("types", array(5, &[&3_i32.to_le_bytes()])),
                ],
                &[("a", &[32, 2], 3, 0), ("b", &[3], 0, 64)],
            );
            bytes.extend([7; 96]);
            for (place, byte) in flips {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if cut {
                bytes.truncate(length.index(bytes.len()));
            }
            if let Ok(header) = read(&bytes) {
                for tensor in header.tensors.values() {
                    prop_assert!(tensor.start + tensor.bytes as u64 <= bytes.len() as u64);
                }
            }
        }

        #[test]
        fn no_garbage_makes_the_reader_panic(tail in proptest::collection::vec(0_u8..12, 0..200)) {
            let _ = read(&[b"GGUF\x03\0\0\0", &tail[..]].concat());
        }
    }
}
