//! Every op on every instruction set of this machine: equal to its twin, and blind to what runs
//! beside it.

use glint_kernels::{
    Attention, AttentionRow, BLOCK_TOKENS, Compute, Cpu, Isa, KvCache, KvShape, Matrix, add,
    add_rms_norm, attention, matmul, rms_norm, silu_mul, twin,
};

const COMPUTES: [Compute; 2] = [Compute::F32, Compute::Bf16];

/// Numbers between -1 and 1 that are the same on every run.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn matrix(compute: Compute, rows: usize, cols: usize) -> (Matrix, Vec<f32>) {
    let all = noise(rows * cols, (rows * 1000 + cols) as u64);
    let matrix = Matrix::pack(compute, rows, cols, &mut |r, row| {
        row.copy_from_slice(&all[r * cols..][..cols]);
    });
    (matrix, all)
}

#[test]
fn a_product_is_its_twin_on_every_instruction_set() {
    let shapes = [(1, 1), (15, 2), (16, 3), (33, 17), (64, 255), (97, 256), (40, 257), (70, 1031)];
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        for (shape, compute) in shapes.into_iter().flat_map(|s| COMPUTES.map(|c| (s, c))) {
            let (rows, cols) = shape;
            let (w, all) = matrix(compute, rows, cols);
            let bias = noise(rows, 5);
            for (tokens, bias) in [(1, None), (2, Some(&bias[..])), (13, None), (25, Some(&bias))] {
                let x = noise(tokens * cols, 7);
                let (mut expected, mut out) = (vec![0.0; tokens * rows], vec![9.0; tokens * rows]);
                twin::matmul(&mut expected, &x, &w, bias, tokens);
                matmul(&cpu, &mut out, &x, &w, bias, tokens);
                let case = format!("{isa} {compute:?} {rows}x{cols}, {tokens} tokens");
                if compute == Compute::F32 || isa != Isa::Avx512Bf16 {
                    assert_eq!(bits(&out), bits(&expected), "{case}");
                    continue;
                }
                for (i, (out, expected)) in out.iter().zip(&expected).enumerate() {
                    let (x, w) = (&x[i / rows * cols..], &all[i % rows * cols..]);
                    let scale: f32 = x[..cols].iter().zip(w).map(|(x, w)| (x * w).abs()).sum();
                    let error = (out - expected).abs();
                    assert!(error <= 1e-5 * scale + 1e-7, "{case}: {out} for {expected}");
                }
            }
        }
    }
}

#[test]
fn a_product_does_not_depend_on_batch_or_threads() {
    const TOKENS: usize = 33;
    let (rows, cols) = (171, 611);
    let x = noise(TOKENS * cols, 3);
    let bias = noise(rows, 4);
    for compute in COMPUTES {
        let (w, _) = matrix(compute, rows, cols);
        for isa in Isa::available() {
            let alone = Cpu::new(isa, 1);
            let mut expected = vec![0.0; TOKENS * rows];
            for (out, x) in expected.chunks_exact_mut(rows).zip(x.chunks_exact(cols)) {
                matmul(&alone, out, x, &w, Some(&bias), 1);
            }
            for threads in 1..=4 {
                let cpu = Cpu::new(isa, threads);
                for tokens in 1..=TOKENS {
                    let mut out = vec![0.0; tokens * rows];
                    matmul(&cpu, &mut out, &x[..tokens * cols], &w, Some(&bias), tokens);
                    assert!(
                        bits(&out) == bits(&expected[..tokens * rows]),
                        "{isa} {compute:?}, {tokens} tokens on {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn a_product_without_columns_is_its_bias() {
    let cpu = Cpu::new(Isa::detect(), 1);
    let w = Matrix::pack(Compute::F32, 3, 0, &mut |_, _| {});
    let mut out = [7.0; 6];
    matmul(&cpu, &mut out, &[], &w, Some(&[1.0, 2.0, 3.0]), 2);
    assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    matmul(&cpu, &mut [], &[], &w, None, 0);
}

#[test]
fn norms_and_activations_are_their_twins_on_every_instruction_set() {
    for isa in Isa::available() {
        for (threads, tokens, width) in
            [(1, 1, 1), (1, 3, 7), (2, 2, 16), (3, 37, 1000), (2, 9, 4099)]
        {
            let cpu = Cpu::new(isa, threads);
            let case = format!("{isa} {tokens}x{width} on {threads} threads");
            let (x, y, weight) =
                (noise(tokens * width, 1), noise(tokens * width, 2), noise(width, 3));
            let (mut expected, mut out) = (vec![0.0; tokens * width], vec![0.0; tokens * width]);
            twin::rms_norm(&mut expected, &x, &weight, 1e-5);
            rms_norm(&cpu, &mut out, &x, &weight, 1e-5, tokens);
            assert_eq!(bits(&out), bits(&expected), "rms_norm {case}");

            let (mut sum, mut fused) = (x.clone(), x.clone());
            add(&cpu, &mut sum, &y);
            assert!(sum.iter().zip(&x).zip(&y).all(|((sum, x), y)| *sum == x + y), "add {case}");
            rms_norm(&cpu, &mut expected, &sum, &weight, 1e-5, tokens);
            add_rms_norm(&cpu, &mut out, &mut fused, &y, &weight, 1e-5, tokens);
            assert_eq!(bits(&fused), bits(&sum), "add_rms_norm {case}");
            assert_eq!(bits(&out), bits(&expected), "add_rms_norm {case}");

            let mut gate_up = noise(2 * tokens * width, 4);
            gate_up.iter_mut().for_each(|x| *x *= 100.0);
            twin::silu_mul(&mut expected, &gate_up, width);
            silu_mul(&cpu, &mut out, &gate_up, tokens);
            assert_eq!(bits(&out), bits(&expected), "silu_mul {case}");
        }
    }
}

/// One sequence's keys and values, and queries for all its positions.
struct Sequence {
    tokens: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
}

const LAYERS: usize = 2;
const LAYER: usize = 1;

#[derive(Clone, Copy)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Heads {
    fn sequence(self, tokens: usize, seed: u64) -> Sequence {
        let kv = tokens * self.kv_heads * self.head_dim;
        let mut q = noise(tokens * self.heads * self.head_dim, seed + 2);
        q.iter_mut().for_each(|q| *q *= 4.0);
        Sequence { tokens, k: noise(kv, seed), v: noise(kv, seed + 1), q }
    }

    /// A cache whose every slot holds what is no number, so that a key too many is seen.
    fn cache(self, compute: Compute, blocks: usize) -> KvCache {
        let Self { kv_heads, head_dim, .. } = self;
        let mut cache =
            KvCache::new(compute, KvShape { layers: LAYERS, blocks, kv_heads, head_dim });
        let stale = vec![f32::NAN; kv_heads * head_dim];
        for layer in 0..LAYERS {
            for slot in 0..blocks * BLOCK_TOKENS {
                cache.write(layer, slot, &stale, &stale);
            }
        }
        cache
    }

    fn write(self, cache: &mut KvCache, sequence: &Sequence, blocks: &[u32]) {
        let kv = self.kv_heads * self.head_dim;
        let tokens = sequence.k.chunks_exact(kv).zip(sequence.v.chunks_exact(kv));
        for (position, (k, v)) in tokens.enumerate() {
            let block = blocks[position / BLOCK_TOKENS] as usize;
            cache.write(LAYER, block * BLOCK_TOKENS + position % BLOCK_TOKENS, k, v);
        }
    }

    fn shape(self) -> Attention {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        Attention { layer: LAYER, heads: self.heads, scale }
    }

    /// Attends with these positions of the sequence in one call.
    fn attend(
        self,
        cpu: &Cpu,
        cache: &KvCache,
        sequence: &Sequence,
        blocks: &[u32],
        positions: std::ops::Range<usize>,
    ) -> Vec<f32> {
        let width = self.heads * self.head_dim;
        let rows: Vec<_> = positions
            .clone()
            .map(|position| AttentionRow { position: position as u32, blocks })
            .collect();
        let mut out = vec![0.0; rows.len() * width];
        let q = &sequence.q[positions.start * width..positions.end * width];
        attention(cpu, &mut out, q, cache, self.shape(), &rows);
        out
    }
}

#[test]
fn attention_is_its_twin_on_every_instruction_set() {
    for (heads, kv_heads, head_dim) in
        [(1, 1, 1), (3, 3, 16), (4, 2, 24), (9, 3, 64), (32, 2, 80), (5, 1, 128)]
    {
        let heads = Heads { heads, kv_heads, head_dim };
        let (sequence, blocks) = (heads.sequence(53, 11), [3, 0, 5, 2]);
        for compute in COMPUTES {
            let mut cache = heads.cache(compute, 6);
            heads.write(&mut cache, &sequence, &blocks);
            let rows: Vec<_> = (0..sequence.tokens as u32)
                .map(|position| AttentionRow { position, blocks: &blocks })
                .collect();
            let mut expected = vec![0.0; sequence.q.len()];
            twin::attention(&mut expected, &sequence.q, &cache, heads.shape(), &rows);
            assert!(expected.iter().all(|x| x.is_finite()), "the twin looked at a stale key");
            for isa in Isa::available() {
                let cpu = Cpu::new(isa, 2);
                let out = heads.attend(&cpu, &cache, &sequence, &blocks, 0..sequence.tokens);
                assert!(
                    bits(&out) == bits(&expected),
                    "{isa} {compute:?}, {} heads over {kv_heads} of {head_dim}",
                    heads.heads
                );
            }
        }
    }
}

/// The twin itself, against the formula in f64.
#[test]
fn the_twin_of_attention_is_softmax_in_f64() {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 16 };
    let (sequence, blocks) = (heads.sequence(50, 21), [1, 2, 3, 0]);
    let mut cache = heads.cache(Compute::F32, 4);
    heads.write(&mut cache, &sequence, &blocks);
    let rows = [AttentionRow { position: 49, blocks: &blocks }];
    let q = &sequence.q[49 * 64..];
    let mut out = vec![0.0; 64];
    twin::attention(&mut out, q, &cache, heads.shape(), &rows);
    for (h, out) in out.chunks_exact(16).enumerate() {
        let at = |all: &[f32], position: usize, d: usize| {
            f64::from(all[(position * 2 + h / 2) * 16 + d])
        };
        let weights: Vec<f64> = (0..50)
            .map(|p| (0..16).map(|d| f64::from(q[h * 16 + d]) * at(&sequence.k, p, d)).sum::<f64>())
            .map(|dot| (dot * 0.25).exp())
            .collect();
        for (d, &out) in out.iter().enumerate() {
            let sum: f64 = weights.iter().enumerate().map(|(p, w)| w * at(&sequence.v, p, d)).sum();
            let expected = sum / weights.iter().sum::<f64>();
            assert!((f64::from(out) - expected).abs() < 1e-5, "head {h}, column {d}");
        }
    }
}

#[test]
fn attention_does_not_depend_on_chunk_batch_blocks_or_threads() {
    let heads = Heads { heads: 6, kv_heads: 2, head_dim: 32 };
    let (one, other) = (heads.sequence(70, 31), heads.sequence(41, 41));
    let tables: [&[u32]; 2] = [&[4, 1, 7, 0, 9], &[0, 1, 2, 3, 4]];
    let other_blocks = [8, 5, 6];
    for compute in COMPUTES {
        for isa in Isa::available() {
            let alone = Cpu::new(isa, 1);
            let mut cache = heads.cache(compute, 10);
            heads.write(&mut cache, &one, tables[0]);
            heads.write(&mut cache, &other, &other_blocks);
            let width = heads.heads * heads.head_dim;
            let each = |sequence: &Sequence, blocks: &[u32]| -> Vec<f32> {
                let one_by_one = |p| heads.attend(&alone, &cache, sequence, blocks, p..p + 1);
                (0..sequence.tokens).flat_map(one_by_one).collect()
            };
            let expected = each(&one, tables[0]);
            let expected_other = each(&other, &other_blocks);
            for threads in 1..=4 {
                let cpu = Cpu::new(isa, threads);
                let case = format!("{isa} {compute:?} on {threads} threads");
                for chunk in [1, 3, 16, 33, 70] {
                    for start in (0..one.tokens).step_by(chunk) {
                        let range = start..one.tokens.min(start + chunk);
                        let out = heads.attend(&cpu, &cache, &one, tables[0], range.clone());
                        let expected = &expected[range.start * width..range.end * width];
                        assert!(bits(&out) == bits(expected), "{case}, positions {range:?}");
                    }
                }

                // The other sequence's last token between two chunks of this one, as in a mixed
                // step.
                let mut rows: Vec<_> = [20, 21, 22]
                    .map(|position| AttentionRow { position, blocks: tables[0] })
                    .to_vec();
                rows.insert(1, AttentionRow { position: 40, blocks: &other_blocks });
                let positions = [(&one, 20), (&other, 40), (&one, 21), (&one, 22)];
                let row = |all: &[f32], p: usize| all[p * width..(p + 1) * width].to_vec();
                let q: Vec<f32> =
                    positions.iter().flat_map(|(sequence, p)| row(&sequence.q, *p)).collect();
                let mut out = vec![0.0; q.len()];
                attention(&cpu, &mut out, &q, &cache, heads.shape(), &rows);
                let mixed: Vec<f32> = [20, 40, 21, 22]
                    .iter()
                    .zip([&expected, &expected_other, &expected, &expected])
                    .flat_map(|(&p, all)| row(all, p))
                    .collect();
                assert!(bits(&out) == bits(&mixed), "{case}, mixed");

                let mut moved = heads.cache(compute, 5);
                heads.write(&mut moved, &one, tables[1]);
                let out = heads.attend(&cpu, &moved, &one, tables[1], 0..one.tokens);
                assert!(bits(&out) == bits(&expected), "{case}, other blocks");
            }
        }
    }
}

#[test]
#[should_panic(expected = "x is [2, 5]")]
fn activations_of_another_width_are_refused() {
    let (w, _) = matrix(Compute::F32, 4, 5);
    matmul(&Cpu::new(Isa::Portable, 1), &mut [0.0; 8], &[0.0; 8], &w, None, 2);
}

#[test]
#[should_panic(expected = "1 blocks, 2 needed")]
fn a_short_block_table_is_refused() {
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 4 };
    let cache = heads.cache(Compute::F32, 2);
    let rows = [AttentionRow { position: 16, blocks: &[1] }];
    let cpu = Cpu::new(Isa::Portable, 1);
    attention(&cpu, &mut [0.0; 4], &[0.0; 4], &cache, heads.shape(), &rows);
}

#[test]
#[should_panic(expected = "block 2 of 2")]
fn a_block_outside_the_cache_is_refused() {
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 4 };
    let mut cache = heads.cache(Compute::F32, 2);
    cache.write(0, 32, &[0.0; 4], &[0.0; 4]);
}
