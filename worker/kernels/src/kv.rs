//! The KV cache of one rank: blocks of sixteen tokens, for every layer.

use half::bf16;

use crate::Compute;
use crate::buffer::Buffer;

/// Tokens of a KV block.
pub const BLOCK_TOKENS: usize = 16;

/// How large a KV cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Blocks per layer; a block table names them by index.
    pub blocks: usize,
    /// KV heads of this rank.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Returns the elements of one block of one head, keys only.
    fn tile(self) -> usize {
        self.head_dim * BLOCK_TOKENS
    }

    /// Returns the bytes of one block over all layers, keys and values.
    pub fn block_bytes(self, compute: Compute) -> usize {
        2 * self.layers * self.kv_heads * self.tile() * compute.element_bytes()
    }
}

enum Elements {
    F32(Buffer<f32>),
    Bf16(Buffer<u16>),
}

/// A key tile and the value tile that follows it.
pub(crate) enum Tiles<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

/// Keys and values, `[layer][block][kv_head]` of a key tile `[head_dim][16]` and a value tile
/// `[16][head_dim]`.
///
/// Tokens are the lanes of a key tile, columns those of a value tile, so that scores and outputs
/// are both lane sums.
pub struct KvCache {
    shape: KvShape,
    elements: Elements,
}

impl KvCache {
    /// Returns a cache of zeroes whose elements have the type of `compute`. Memory is taken as
    /// blocks are written.
    ///
    /// # Panics
    ///
    /// Panics if the system has not so much address space.
    pub fn new(compute: Compute, shape: KvShape) -> Self {
        let len = 2 * shape.layers * shape.blocks * shape.kv_heads * shape.tile();
        let elements = match compute {
            Compute::F32 => Elements::F32(Buffer::zeroed(len)),
            Compute::Bf16 => Elements::Bf16(Buffer::zeroed(len)),
        };
        Self { shape, elements }
    }

    /// Stores one token's keys and values of one layer, both `[kv_heads, head_dim]`, in `slot =
    /// block · 16 + offset`.
    ///
    /// A bf16 cache rounds to nearest, ties to even.
    ///
    /// # Panics
    ///
    /// Panics if layer, slot or a length is outside the shape.
    pub fn write(&mut self, layer: usize, slot: usize, k: &[f32], v: &[f32]) {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        assert_eq!(k.len(), kv_heads * head_dim, "k is [{kv_heads}, {head_dim}]");
        assert_eq!(v.len(), kv_heads * head_dim, "v is [{kv_heads}, {head_dim}]");
        let (block, offset) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS);
        for head in 0..kv_heads {
            let (start, tile) = (self.tile_start(layer, block, head), self.shape.tile());
            let k = &k[head * head_dim..][..head_dim];
            let v = &v[head * head_dim..][..head_dim];
            match &mut self.elements {
                Elements::F32(all) => {
                    write_tiles(&mut all.as_mut_slice()[start..][..2 * tile], offset, k, v, |x| x);
                }
                Elements::Bf16(all) => {
                    let tiles = &mut all.as_mut_slice()[start..][..2 * tile];
                    write_tiles(tiles, offset, k, v, |x| bf16::from_f32(x).to_bits());
                }
            }
        }
    }

    /// Returns the layers, blocks and heads.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Returns how elements are stored.
    pub fn compute(&self) -> Compute {
        match self.elements {
            Elements::F32(_) => Compute::F32,
            Elements::Bf16(_) => Compute::Bf16,
        }
    }

    /// Returns the memory that the cache takes.
    pub fn bytes(&self) -> usize {
        match &self.elements {
            Elements::F32(all) => all.bytes(),
            Elements::Bf16(all) => all.bytes(),
        }
    }

    /// Returns one block of one KV head: its key tile, and its value tile after it.
    #[inline(always)]
    pub(crate) fn tiles(&self, layer: usize, block: usize, head: usize) -> Tiles<'_> {
        let (start, len) = (self.tile_start(layer, block, head), 2 * self.shape.tile());
        match &self.elements {
            Elements::F32(all) => Tiles::F32(&all.as_slice()[start..][..len]),
            Elements::Bf16(all) => Tiles::Bf16(&all.as_slice()[start..][..len]),
        }
    }

    /// Returns the key and the value of one token and head, as f32, column by column.
    pub(crate) fn token(&self, layer: usize, slot: usize, head: usize) -> (Vec<f32>, Vec<f32>) {
        let start = self.tile_start(layer, slot / BLOCK_TOKENS, head);
        let (offset, tile) = (slot % BLOCK_TOKENS, self.shape.tile());
        let at = |i: usize| match &self.elements {
            Elements::F32(all) => all.as_slice()[start + i],
            Elements::Bf16(all) => bf16::from_bits(all.as_slice()[start + i]).to_f32(),
        };
        let columns = 0..self.shape.head_dim;
        (
            columns.clone().map(|d| at(d * BLOCK_TOKENS + offset)).collect(),
            columns.map(|d| at(tile + offset * self.shape.head_dim + d)).collect(),
        )
    }

    /// Returns where the key tile of a block begins; the value tile follows it.
    #[inline(always)]
    fn tile_start(&self, layer: usize, block: usize, head: usize) -> usize {
        let KvShape { layers, blocks, kv_heads, .. } = self.shape;
        assert!(layer < layers, "layer {layer} of {layers}");
        assert!(block < blocks, "block {block} of {blocks}");
        debug_assert!(head < kv_heads, "head {head} of {kv_heads}");
        2 * ((layer * blocks + block) * kv_heads + head) * self.shape.tile()
    }
}

fn write_tiles<T>(tiles: &mut [T], offset: usize, k: &[f32], v: &[f32], round: impl Fn(f32) -> T) {
    let (keys, values) = tiles.split_at_mut(k.len() * BLOCK_TOKENS);
    for (tokens, &k) in keys.chunks_exact_mut(BLOCK_TOKENS).zip(k) {
        tokens[offset] = round(k);
    }
    for (value, &v) in values[offset * v.len()..].iter_mut().zip(v) {
        *value = round(v);
    }
}
