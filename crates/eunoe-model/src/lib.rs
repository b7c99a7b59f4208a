//! Model files, tokenizers, chat templates and the forward pass.

pub mod gguf;
pub mod tokenizer;
pub mod backend;
mod config;
mod forward;
pub mod probe;
mod weights;

pub use backend::{Backend, Cpu};
pub use config::{Config, Sliding};
pub use forward::Memory;
pub use weights::{Layer, Linear, Model};
