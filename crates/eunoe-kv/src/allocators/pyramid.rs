//! Lower layers get more, higher layers less, on a straight line: attention gathers on few tokens as it goes up.
//!
//! * Paper:    Cai et al., 2024, arXiv 2406.02069, section 4.1
//! * Equation: weight\[l\] = (2 - 1/beta) - l * (2 - 2/beta) / (layers - 1), of what is left above the protected slots:
//!   2 - 1/beta times the mean in the first layer, 1/beta times in the last
//! * Shapes:   shape → weights \[layers * kv_heads\]
//! * Cost:     nothing
//! * Differs:  a layer whose share exceeds the text hands its surplus on by weight (authors: the line is made flatter);
//!   shares are of the slots above `sinks + recent + step` (authors: above their window)
//! * Oracle:   the authors' integers for one published size

use eunoe_core::{Arg, Card, Kind, Shape, Shelf};

use crate::common::arg;
use crate::{Allocate, AllocatorEntry};

const BETA: Arg = arg(
    "beta",
    Kind::Float { min: 1.0, max: 1000.0 },
    "20",
    "the last layer gets 1/beta of the mean; 1 is uniform",
);

/// The method's entry.
pub static ENTRY: AllocatorEntry = AllocatorEntry {
    card: Card {
        id: "pyramid",
        shelf: Shelf::Allocator,
        name: "PyramidKV",
        paper: "Cai 2024, arXiv 2406.02069",
        idea: "gives lower layers more and higher layers less",
        args: &[BETA],
    },
    make: |args| Ok(Box::new(Pyramid { beta: args.float("beta") })),
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Pyramid {
    beta: f32,
}

impl Allocate for Pyramid {
    fn weights(&self, shape: &Shape) -> Vec<f32> {
        let (first, last) = (2.0 - 1.0 / self.beta, 1.0 / self.beta);
        let weight = |l: usize| match shape.layers {
            1 => 1.0,
            layers => first - l as f32 * (first - last) / (layers - 1) as f32,
        };
        (0..shape.strips()).map(|strip| weight(strip / shape.kv_heads)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(beta: f32, layers: usize, kv_heads: usize) -> Vec<f32> {
        Pyramid { beta }.weights(&Shape { layers, heads: kv_heads, kv_heads, head_dim: 8 })
    }

    #[test]
    fn the_line_falls_from_the_first_layer_to_the_last() {
        // beta = 4: 2 - 1/4 = 1.75, down by 1.5 / 2 per layer to 1/4.
        assert_eq!(weights(4.0, 3, 2), [1.75, 1.75, 1.0, 1.0, 0.25, 0.25]);
        assert_eq!(weights(1.0, 3, 1), [1.0; 3]);
        assert_eq!(weights(20.0, 1, 2), [1.0; 2]);
    }

    #[test]
    fn the_authors_capacities_are_these_weights_of_their_mean() {
        // Their code for 32 layers, capacity 2048, window 8, beta 20, long prompt: min = 2040 / 20 = 102,
        // max = 2 * 2040 - 102 = 3978, steps = 3876 / 31 = 125 rounded down, layer l gets 3978 - 125 l. The rounding
        // of `steps` adds at most 1 per layer.
        for (l, weight) in weights(20.0, 32, 1).into_iter().enumerate() {
            let authors = 3978 - 125 * l as i32;
            let ours = (weight * 2040.0).round() as i32;
            assert!((authors - ours).abs() <= 1 + l as i32 / 31, "layer {l}: {authors} {ours}");
        }
    }
}
