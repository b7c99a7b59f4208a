//! What mixers are made of and stand in: parameters, linear maps, norms, rotation, the decoder.

mod decoder;
mod heads;
mod init;
mod linear;
pub(crate) mod neural_memory;
mod norm;
mod rope;
mod short_conv;

pub use decoder::{Block, Config, Decoder, Mlp};
pub use heads::{join, split};
pub(crate) use init::hash;
pub use init::{Init, Param, Params};
pub use linear::Linear;
pub use neural_memory::NeuralMemory;
pub use norm::RmsNorm;
pub use rope::Rope;
pub use short_conv::ShortConv;
