//! Which instructions may the ops use?

use std::fmt;

/// An instruction set that the ops are written for, from the slowest to the fastest.
///
/// With `Compute::F32` all of them give the same bits. With `Compute::Bf16` all but
/// [`Isa::Avx512Bf16`] do: its dot product of pairs has a rounding of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Portable,
    /// 256-bit lanes with fused multiply-add.
    Avx2,
    /// 512-bit lanes.
    Avx512,
    /// 512-bit lanes and `vdpbf16ps`, two bf16 products per lane and instruction.
    Avx512Bf16,
}

impl Isa {
    /// Returns the fastest instruction set that this machine has.
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Self::Portable)
    }

    /// Returns every instruction set that this machine has, slowest first.
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16]
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// Says whether this machine has the instruction set.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = || has!("avx2") && has!("fma");
            let avx512 = || avx2() && has!("avx512f") && has!("avx512bw") && has!("avx512dq");
            match self {
                Self::Portable => true,
                Self::Avx2 => avx2(),
                Self::Avx512 => avx512(),
                Self::Avx512Bf16 => avx512() && has!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// Returns the name as it stands in a group's `numerics`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
