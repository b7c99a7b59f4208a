//! Everything that touches raw memory or SIMD: the only crate with `unsafe`.
#![allow(unsafe_code, reason = "SIMD, virtual memory and shared output buffers live here and nowhere else")]

pub mod attend;
mod float16;
pub mod gemm;
pub mod grad;
mod isa;
pub mod limits;
pub mod math;
pub mod matmul;
mod memory;
#[cfg(test)]
mod noise;
pub mod ops;
pub mod pool;
pub mod rope;
pub mod strip;
#[cfg(target_arch = "x86_64")]
mod transpose;
pub mod vm;

pub use isa::Isa;
pub use pool::Pool;
