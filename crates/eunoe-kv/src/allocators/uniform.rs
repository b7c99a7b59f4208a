//! Every strip gets the same: what a plan means that names no allocator.
//!
//! * Paper:    none
//! * Equation: weight = 1
//! * Shapes:   shape → weights \[layers * kv_heads\]
//! * Cost:     nothing
//! * Differs:  nothing
//! * Oracle:   equal caps

use eunoe_core::{Card, Shape, Shelf};

use crate::{Allocate, AllocatorEntry};

/// The method's entry.
pub static ENTRY: AllocatorEntry = AllocatorEntry {
    card: Card {
        id: "uniform",
        shelf: Shelf::Allocator,
        name: "Uniform",
        paper: "",
        idea: "gives every layer and KV head the same",
        args: &[],
    },
    make: |_| Ok(Box::new(Uniform)),
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Uniform;

impl Allocate for Uniform {
    fn weights(&self, shape: &Shape) -> Vec<f32> {
        vec![1.0; shape.strips()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_weights_are_equal() {
        let shape = Shape { layers: 3, heads: 4, kv_heads: 2, head_dim: 8 };
        assert_eq!(Uniform.weights(&shape), [1.0; 6]);
    }
}
