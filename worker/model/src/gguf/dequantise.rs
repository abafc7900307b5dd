//! Which numbers do the bytes of a tensor mean?
//!
//! One product and one sum in f32 per number, each rounded: no fused multiply-add, so that the bits are those of
//! ggml's own conversion everywhere.

use half::f16;

use super::Encoding;

/// Numbers in a block of the quantised encodings.
pub(super) const BLOCK: usize = 32;

impl Encoding {
    /// Returns the encoding of ggml's type number.
    pub(super) fn of(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            3 => Some(Self::Q4_1),
            8 => Some(Self::Q8_0),
            _ => None,
        }
    }

    /// Returns numbers per block and bytes per block.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_1 => (BLOCK, 2 + 2 + BLOCK / 2),
            Self::Q8_0 => (BLOCK, 2 + BLOCK),
        }
    }
}

/// Returns the numbers of whole blocks.
pub(super) fn numbers(encoding: Encoding, bytes: &[u8]) -> Vec<f32> {
    let (block_numbers, block_bytes) = encoding.block();
    let mut numbers = Vec::with_capacity(bytes.len() / block_bytes * block_numbers);
    for block in bytes.chunks_exact(block_bytes) {
        match encoding {
            Encoding::F32 => {
                numbers.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]]));
            }
            Encoding::F16 => numbers.push(half(block)),
            Encoding::Q4_1 => {
                let (scale, minimum, nibbles) = (half(block), half(&block[2..]), &block[4..]);
                // The low nibbles are the first half of the block, the high ones the second.
                let low = nibbles.iter().map(|byte| byte & 15);
                let high = nibbles.iter().map(|byte| byte >> 4);
                numbers.extend(low.chain(high).map(|q| scale * f32::from(q) + minimum));
            }
            Encoding::Q8_0 => {
                let scale = half(block);
                numbers.extend(block[2..].iter().map(|&q| scale * f32::from(q as i8)));
            }
        }
    }
    numbers
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f16s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    }

    #[test]
    fn a_block_of_four_bits_has_low_nibbles_first_and_adds_the_minimum() {
        let mut block = f16s(&[0.5, -1.0]);
        block.extend((0..16).map(|j| j | (15 - j) << 4));
        let numbers = numbers(Encoding::Q4_1, &block);
        let expected = (0..16).chain((0..16).rev()).map(|q| 0.5 * q as f32 - 1.0);
        assert!(numbers.into_iter().eq(expected));
    }

    #[test]
    fn a_block_of_eight_bits_is_signed() {
        let mut block = f16s(&[0.25]);
        block.extend((0..32).map(|j| (j as i8 - 16) as u8));
        block[33] = 0x80;
        let numbers = numbers(Encoding::Q8_0, &block);
        assert_eq!(numbers[..3], [-4.0, -3.75, -3.5]);
        assert_eq!(numbers[31], -32.0);
    }

    #[test]
    fn plain_numbers_are_themselves() {
        assert_eq!(numbers(Encoding::F16, &f16s(&[1.5, -0.0])), [1.5, -0.0]);
        let bytes = [1.0e-30_f32, f32::MAX].map(f32::to_le_bytes).concat();
        assert_eq!(numbers(Encoding::F32, &bytes), [1.0e-30, f32::MAX]);
        for encoding in [Encoding::F32, Encoding::F16, Encoding::Q4_1, Encoding::Q8_0] {
            let (numbers_per_block, bytes) = encoding.block();
            assert_eq!(numbers(encoding, &vec![0; 3 * bytes]).len(), 3 * numbers_per_block);
        }
    }
}
