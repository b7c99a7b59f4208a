//! One file per policy. A new one takes its file and two lines here.

pub mod a2sf;
pub mod duo_attention;
pub mod em_llm;
pub mod full;
pub mod h2o;
pub mod hip_attention;
pub mod inf_llm;
pub mod landmark_attention;
pub mod random;
pub mod razor_attention;
pub mod recycled_attention;
pub mod s2_attention;
pub mod sirllm;
pub mod snapkv;
pub mod streaming_llm;

use eunoe_core::{Card, Result};

use crate::{Args, Policy};

/// A policy on the shelf.
#[derive(Clone, Copy, Debug)]
pub struct PolicyEntry {
    /// Its entry in every list.
    pub card: Card,
    /// Makes it from its arguments and the mean slots per strip (`u32::MAX` without a budget), from which sizes that
    /// the plan does not name are derived.
    pub make: fn(&Args, u32) -> Result<Box<dyn Policy>>,
}

/// Every policy.
pub static LIST: &[&PolicyEntry] = &[
    &full::ENTRY,
    &streaming_llm::ENTRY,
    &h2o::ENTRY,
    &a2sf::ENTRY,
    &snapkv::ENTRY,
    &sirllm::ENTRY,
    &duo_attention::ENTRY,
    &razor_attention::ENTRY,
    &recycled_attention::ENTRY,
    &hip_attention::ENTRY,
    &s2_attention::ENTRY,
    &inf_llm::ENTRY,
    &em_llm::ENTRY,
    &landmark_attention::ENTRY,
    &random::ENTRY,
];
