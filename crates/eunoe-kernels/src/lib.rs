//! Everything that touches raw memory or SIMD: the only crate with `unsafe`.
#![allow(unsafe_code, reason = "SIMD, virtual memory and shared output buffers live here and nowhere else")]

mod float16;
mod isa;
pub mod matmul;
pub mod pool;

pub use isa::Isa;
pub use pool::Pool;
