//! Between the lab and the engine: models that the engine runs become decoders of the lab, and decoders of softmax
//! attention become folders that the engine runs.

mod export;
mod load;

pub use export::export;
pub use load::load;
