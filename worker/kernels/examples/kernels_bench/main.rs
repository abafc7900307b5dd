//! How close are products to what this machine can do?
//!
//! `cargo run --release -p glint-kernels --example kernels_bench [threads]` prints, for each
//! instruction set and element type, the bandwidth of a product for one token beside the measured
//! read bandwidth of the memory, and its arithmetic for many tokens beside the measured peak of the
//! same instructions. Ceilings and products are measured alternately, so that a loud neighbour
//! disturbs both.

#![expect(clippy::print_stdout, reason = "printing is what a benchmark is for")]

mod peak;

use std::hint::black_box;
use std::time::{Duration, Instant};

use glint_kernels::{
    Attention, AttentionRow, BLOCK_TOKENS, Compute, Cpu, Isa, KvCache, KvShape, Matrix, attention,
    matmul,
};

/// Larger than any cache of the machines this runs on.
const STREAM_BYTES: usize = 512 << 20;

fn best(runs: usize, mut run: impl FnMut()) -> Duration {
    let once = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    run();
    (0..runs).map(|_| once(&mut run)).min().unwrap_or_default()
}

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|arg| arg.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.unwrap_or(cores);
    println!("{threads} threads, fastest instruction set {}", Isa::detect());

    let reader = Cpu::new(Isa::detect(), threads);
    let stream = vec![1u64; STREAM_BYTES / 8];
    let chunk = stream.len() / (16 * threads);
    let read = || {
        let time = best(5, || {
            reader.parallel(16 * threads, &|i| {
                let lanes = stream[i * chunk..][..chunk].chunks_exact(32);
                let sum = lanes.fold([0u64; 32], |mut sums, values| {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum ^= value);
                    sums
                });
                black_box(sum);
            });
        });
        (16 * threads * chunk * 8) as f64 / time.as_secs_f64() / 1e9
    };

    for isa in Isa::available().into_iter().rev() {
        let cpu = Cpu::new(isa, threads);
        for compute in [Compute::F32, Compute::Bf16] {
            decode(&cpu, compute, &read);
            prefill(&cpu, compute);
        }
        attend(&cpu);
    }
}

/// One token through layers of a size that no cache holds.
fn decode(cpu: &Cpu, compute: Compute, read: &dyn Fn() -> f64) {
    let (rows, cols) = (4096, 1024);
    let count = match cpu.isa() {
        Isa::Portable => 2,
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => {
            STREAM_BYTES / (rows * cols * compute.element_bytes())
        }
    };
    let values = noise(rows * cols);
    let layers: Vec<_> = (0..count)
        .map(|_| {
            Matrix::pack(compute, rows, cols, &mut |r, row| {
                row.copy_from_slice(&values[r * cols..][..cols]);
            })
        })
        .collect();
    let ceiling = read();
    for tokens in [1, 2, 4, 8] {
        let (x, mut out) = (noise(tokens * cols), vec![0.0; tokens * rows]);
        let time = best(4, || {
            layers.iter().for_each(|w| matmul(cpu, &mut out, &x, w, None, tokens));
        });
        let bytes: usize = layers.iter().map(Matrix::bytes).sum();
        let bandwidth = bytes as f64 / time.as_secs_f64() / 1e9;
        println!(
            "{:<12} {:<5} {tokens:>4} tokens  {bandwidth:6.1} GB/s of {ceiling:.1} ({:.0} %)",
            cpu.isa(),
            compute.name(),
            100.0 * bandwidth / ceiling
        );
    }
}

/// Many tokens, against the same instructions on operands that never leave the nearest cache.
fn prefill(cpu: &Cpu, compute: Compute) {
    let isa = cpu.isa();
    let ceiling = || {
        let tasks = 8 * cpu.threads();
        let flops = tasks as f64 * peak::flops(isa, compute);
        let time = best(4, || cpu.parallel(tasks, &|_| peak::run(isa, compute)));
        flops / time.as_secs_f64() / 1e9
    };
    let flops = |rows: usize, cols: usize, tokens: usize, runs: usize| {
        let values = noise(rows * cols);
        let w = Matrix::pack(compute, rows, cols, &mut |r, row| {
            row.copy_from_slice(&values[r * cols..][..cols]);
        });
        let (x, mut out) = (noise(tokens * cols), vec![0.0; tokens * rows]);
        let time = best(runs, || matmul(cpu, &mut out, &x, &w, None, tokens));
        2.0 * (rows * cols * tokens) as f64 / time.as_secs_f64() / 1e9
    };
    let small = if cpu.isa() == Isa::Portable { 8 } else { 1 };
    for (rows, cols, tokens) in
        [(576, 576, 128), (1024, 1024, 256), (4096, 1024, 64), (4096, 1024, 256), (1024, 4096, 256)]
    {
        let (ceiling, rate) = (ceiling(), flops(rows / small, cols, tokens, 6));
        println!(
            "{isa:<12} {:<5} {tokens:>4} tokens  {rate:6.1} GFLOP/s of {ceiling:.1} ({:.0} %), {rows}x{cols}",
            compute.name(),
            100.0 * rate / ceiling
        );
    }
}

/// Attention of the demo model's shape: decode at a long context, and a chunk of prefill.
fn attend(cpu: &Cpu) {
    let context = 1024;
    let shape =
        KvShape { layers: 1, blocks: 8 * context / BLOCK_TOKENS, kv_heads: 3, head_dim: 64 };
    for compute in [Compute::F32, Compute::Bf16] {
        let mut cache = KvCache::new(compute, shape);
        let (k, v) = (noise(192), noise(192));
        for slot in 0..8 * context {
            cache.write(0, slot, &k, &v);
        }
        let tables: Vec<Vec<u32>> = (0..8u32).map(|i| (64 * i..64 * (i + 1)).collect()).collect();
        let step = Attention { layer: 0, heads: 9, scale: 0.125 };
        let batch = |count: usize| -> Vec<AttentionRow<'_>> {
            let row = |blocks| AttentionRow { position: context as u32 - 1, blocks };
            tables.iter().take(count).map(|blocks| row(blocks.as_slice())).collect()
        };
        let chunk = (512..1024).map(|position| AttentionRow { position, blocks: &tables[0] });
        for (name, rows) in
            [("1 row", batch(1)), ("8 rows", batch(8)), ("chunk of 512", chunk.collect::<Vec<_>>())]
        {
            let (q, mut out) = (noise(rows.len() * 576), vec![0.0; rows.len() * 576]);
            let time = best(5, || attention(cpu, &mut out, &q, &cache, step, &rows));
            let keys: usize = rows.iter().map(|row| row.position as usize + 1).sum();
            let rate = 4.0 * (keys * 576) as f64 / time.as_secs_f64() / 1e9;
            println!(
                "{:<12} {:<5} attention, {name}: {:.0} us, {rate:.1} GFLOP/s",
                cpu.isa(),
                compute.name(),
                time.as_secs_f64() * 1e6
            );
        }
    }
}
