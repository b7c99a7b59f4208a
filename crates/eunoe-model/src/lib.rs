//! Model files, tokenizers, chat templates and the forward pass.

pub mod backend;
pub mod chat;
mod config;
mod forward;
pub mod gguf;
pub mod probe;
pub mod tokenizer;
mod weights;

pub use backend::{Backend, Cpu};
pub use config::{Config, Sliding};
pub use forward::Memory;
pub use weights::{Layer, Linear, Model};
