//! Reading one rank's matrices and vectors from the files of a checkpoint.

use std::ops::Range;

use glint_kernels::{Compute, Matrix};

use super::parts::{Part, qkv_parts};
use super::{LayerWeights, Progress};
use crate::checkpoint::{Checkpoint, CheckpointError, Stored, WeightFile};
use crate::config::Config;
use crate::shard::Shard;
use crate::tensors::LayerNames;

/// Rows that lie behind one another are read together up to this size.
const READ_BYTES: usize = 4 << 20;

pub(super) struct Loader<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) compute: Compute,
    pub(super) done: Progress,
    pub(super) progress: &'a mut dyn FnMut(Progress),
    pub(super) buffer: Vec<u8>,
}

impl Loader<'_> {
    pub(super) fn layer(
        &mut self,
        config: &Config,
        shard: &Shard,
        layer: usize,
    ) -> Result<LayerWeights, CheckpointError> {
        let names = LayerNames::new(config, layer);
        let (hidden, ffn) = (config.hidden_size, &shard.ffn);
        let heads = shard.heads.start * config.head_dim..shard.heads.end * config.head_dim;
        let qkv = qkv_parts(config, shard, &names.qkv);
        let qkv_bias = if config.qkv_bias { Some(self.bias(&qkv)?) } else { None };
        let gate = Part { name: names.gate_up.clone(), rows: ffn.clone() };
        let up = ffn.start + config.ffn_size..ffn.end + config.ffn_size;
        let up = Part { name: names.gate_up, rows: up };
        let whole = |name: String| [Part { name, rows: 0..hidden }];
        Ok(LayerWeights {
            attention_norm: self.vector(&names.attention_norm, ".weight")?,
            qkv: self.matrix(&qkv, 0..hidden)?,
            qkv_bias,
            attention_out: self.matrix(&whole(names.attention_out), heads)?,
            attention_out_norm: self.norm_if_any(names.attention_out_norm)?,
            ffn_norm: self.vector(&names.ffn_norm, ".weight")?,
            gate_up: self.matrix(&[gate, up], 0..hidden)?,
            down: self.matrix(&whole(names.down), ffn.clone())?,
            ffn_out_norm: self.norm_if_any(names.ffn_out_norm)?,
        })
    }

    fn norm_if_any(&mut self, name: Option<String>) -> Result<Option<Vec<f32>>, CheckpointError> {
        name.map(|name| self.vector(&name, ".weight")).transpose()
    }

    /// Reads a whole vector.
    pub(super) fn vector(&mut self, name: &str, suffix: &str) -> Result<Vec<f32>, CheckpointError> {
        let (_, stored) = self.checkpoint.find(&format!("{name}{suffix}"))?;
        let len = stored.shape.iter().product();
        let mut out = vec![0.0; len];
        self.slice(&format!("{name}{suffix}"), 0, &mut out)?;
        Ok(out)
    }

    /// Reads the biases of these rows.
    fn bias(&mut self, parts: &[Part]) -> Result<Vec<f32>, CheckpointError> {
        let mut out = vec![0.0; parts.iter().map(|part| part.rows.len()).sum()];
        let mut rest = out.as_mut_slice();
        for Part { name, rows } in parts {
            let (these, others) = rest.split_at_mut(rows.len());
            self.slice(&format!("{name}.bias"), rows.start, these)?;
            rest = others;
        }
        Ok(out)
    }

    fn slice(
        &mut self,
        tensor: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let (file, stored) = self.checkpoint.find(tensor)?;
        let kind = stored.element_type(file.path(), tensor)?;
        self.buffer.resize(out.len() * kind.bytes(), 0);
        file.read(stored, (first * kind.bytes()) as u64, &mut self.buffer)?;
        kind.decode(&self.buffer, out);
        self.done.read_bytes += self.buffer.len() as u64;
        Ok(())
    }

    /// Packs these rows, one part below the other, and of each row the columns `cols`.
    pub(super) fn matrix(
        &mut self,
        parts: &[Part],
        cols: Range<usize>,
    ) -> Result<Matrix, CheckpointError> {
        let mut sources = Vec::with_capacity(parts.len());
        for part in parts {
            let tensor = format!("{}.weight", part.name);
            let (file, stored) = self.checkpoint.find(&tensor)?;
            let element_bytes = stored.element_type(file.path(), &tensor)?.bytes();
            let rows = part.rows.clone();
            sources.push(Source { file, stored, tensor, element_bytes, next: rows.start, rows });
        }
        let rows = parts.iter().map(|part| part.rows.len()).sum();
        let mut reader = RowReader {
            sources,
            current: 0,
            cols: cols.clone(),
            buffer: std::mem::take(&mut self.buffer),
            buffered: 0..0,
            read_bytes: 0,
        };
        let mut failure = None;
        let matrix = Matrix::pack(self.compute, rows, cols.len(), &mut |_, row| {
            if failure.is_none() {
                failure = reader.next(row).err();
            }
        });
        self.done.read_bytes += reader.read_bytes;
        self.buffer = reader.buffer;
        (self.progress)(self.done);
        failure.map_or(Ok(matrix), Err)
    }
}

/// A part of a matrix and how much of it was read.
struct Source<'a> {
    file: &'a WeightFile,
    stored: &'a Stored,
    tensor: String,
    element_bytes: usize,
    next: usize,
    rows: Range<usize>,
}

/// Gives out rows in order, reading many at once where they lie together.
struct RowReader<'a> {
    sources: Vec<Source<'a>>,
    current: usize,
    cols: Range<usize>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were not given out.
    buffered: Range<usize>,
    read_bytes: u64,
}

impl RowReader<'_> {
    fn next(&mut self, row: &mut [f32]) -> Result<(), CheckpointError> {
        while self.buffered.is_empty()
            && self.sources[self.current].next >= self.sources[self.current].rows.end
        {
            self.current += 1;
        }
        if self.buffered.is_empty() {
            self.fill()?;
        }
        let source = &self.sources[self.current];
        let bytes = self.cols.len() * source.element_bytes;
        let at = self.buffered.start;
        let kind = source.stored.element_type(source.file.path(), &source.tensor)?;
        kind.decode(&self.buffer[at..at + bytes], row);
        self.buffered.start += bytes;
        Ok(())
    }

    fn fill(&mut self) -> Result<(), CheckpointError> {
        let source = &mut self.sources[self.current];
        let width = source.stored.shape[1];
        let row_bytes = self.cols.len() * source.element_bytes;
        // Whole rows lie together, parts of rows do not.
        let rows = match self.cols.len() == width {
            true => (READ_BYTES / row_bytes).clamp(1, source.rows.end - source.next),
            false => 1,
        };
        self.buffered = 0..rows * row_bytes;
        if self.buffer.len() < self.buffered.end {
            self.buffer.resize(self.buffered.end, 0);
        }
        let offset = (source.next * width + self.cols.start) * source.element_bytes;
        source.file.read(source.stored, offset as u64, &mut self.buffer[self.buffered.clone()])?;
        source.next += rows;
        self.read_bytes += self.buffered.len() as u64;
        Ok(())
    }
}
