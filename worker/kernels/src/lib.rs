//! glint-kernels
