//! The operations of training, forward and backward, in f32: one file per operation.
//!
//! Every result is a sum in one fixed order: its bits depend neither on the number of threads nor on the instruction
//! set. Sizes are checked once, where a call comes in; outputs are overwritten, whatever they held.

pub mod adamw;
pub mod attend;
pub mod bias;
pub mod conv;
pub mod decay;
pub mod glu;
pub mod norm;
mod parts;
pub mod prefix;
mod product;
pub mod rope;
mod scratch;
pub mod softmax_loss;
#[cfg(test)]
mod testing;
