//! Everything that touches raw memory or SIMD: the only crate with `unsafe`.
#![allow(unsafe_code, reason = "SIMD, virtual memory and shared output buffers live here and nowhere else")]

mod isa;
pub mod pool;

pub use isa::Isa;
pub use pool::Pool;
