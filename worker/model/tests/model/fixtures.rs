//! Where reference models and their expected values come from.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// Every text model of the fixtures that has expected values of its own.
pub(crate) const MODELS: [&str; 10] = [
    "chatglm2-mha-tiny",
    "chatglm2-tiny",
    "chatglm3-tiny",
    "chatglm4-tiny",
    "glm-longrope-tiny",
    "glm-tiny",
    "glm-tiny-bf16",
    "glm4-0414-32b-tiny",
    "glm4-0414-tiny",
    "glm4-0414-tiny-bf16",
];

fn workspace() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).to_path_buf()
}

/// Returns a file or folder of the shared fixtures; without them prints why the test is skipped.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let found = workspace().join("../shared/fixtures").join(path);
    if found.exists() {
        return Some(found);
    }
    assert!(
        std::env::var_os("GLINT_REQUIRE_SHARED").is_none_or(|value| value != "1"),
        "GLINT_REQUIRE_SHARED=1, and shared/fixtures/{path} is missing"
    );
    println!("skipped: shared/fixtures/{path} is not beside the repository");
    None
}

/// Returns a tiny model's folder, from the repository if it is there.
pub(crate) fn tiny(name: &str) -> Option<PathBuf> {
    let committed = workspace().join("tests/fixtures/tiny").join(name);
    if committed.exists() { Some(committed) } else { shared(&format!("tiny/{name}")) }
}

/// Expected values by name.
pub(crate) struct Expected(Vec<u8>);

impl Expected {
    pub(crate) fn of(folder: &Path) -> Self {
        Self(std::fs::read(folder.join("expected.safetensors")).unwrap())
    }

    fn read<T>(&self, name: &str, kinds: &[Dtype], convert: impl Fn(&[u8]) -> T) -> Vec<T> {
        let all = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = all.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(kinds.contains(&tensor.dtype()), "{name} is {:?}", tensor.dtype());
        tensor.data().chunks_exact(tensor.dtype().bitsize() / 8).map(convert).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<f32> {
        self.read(name, &[Dtype::F32, Dtype::F16], |bytes| match *bytes {
            [a, b] => half::f16::from_le_bytes([a, b]).to_f32(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("two or four bytes"),
        })
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.read(name, &[Dtype::I32], |bytes| i32::from_le_bytes(bytes.try_into().unwrap()) as u32)
    }

    /// Returns the rows of the padded batch, without padding.
    pub(crate) fn batch(&self) -> Vec<Vec<u32>> {
        let lengths = self.ids("batch.lengths");
        let padded = self.ids("batch.ids_left_padded");
        let width = padded.len() / lengths.len();
        let rows = padded.chunks_exact(width).zip(lengths);
        rows.map(|(row, length)| row[width - length as usize..].to_vec()).collect()
    }
}

/// Returns the largest difference; infinite if one is NaN.
pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, d| if d.is_nan() { f32::INFINITY } else { f32::max(most, d) })
}

pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}
