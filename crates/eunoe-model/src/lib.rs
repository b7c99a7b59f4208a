//! Model files, tokenizers, chat templates and the forward pass.

pub mod backend;
mod buffer;
pub mod chat;
mod config;
mod folder;
mod forward;
pub mod gguf;
pub mod probe;
pub mod tokenizer;
mod weights;

pub use backend::{Backend, Cpu};
pub use buffer::Buffer;
pub use config::{Config, Sliding};
pub use forward::Memory;
pub use weights::{Layer, Linear, Model};
