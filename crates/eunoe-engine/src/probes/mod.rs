//! Looks into a model while it reads: one file per question.

pub mod retrieval_heads;

use eunoe_core::Card;

/// Every probe.
pub static LIST: &[&Card] = &[&retrieval_heads::CARD];
