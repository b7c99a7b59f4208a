//! Sequences under a hard KV budget: store, ledger, generation, scoring, and the bill.

#[cfg(test)]
extern crate self as eunoe_engine; // the toys of the tests call it by its name

mod audit;
mod batch;
mod bench;
mod bill;
mod cold;
mod conversation;
mod dense;
mod engine;
mod fork;
mod generate;
mod landmark;
mod layout;
mod ledger;
pub mod probes;
mod recall;
mod residual;
mod ring;
mod sample;
mod saved;
pub mod schedule;
mod score;
mod side;
mod store;
mod view;

pub use audit::{Audit, Canaries, Divergence, Outlook, Passage, Settings as AuditSettings, Subject, Verdict};
pub use bench::{Bench, Event, Hear, Limits, Point, Row};
pub use bill::{Bill, HeadBill, Rung};
pub use conversation::Conversation;
pub use engine::{Engine, GoOn, Options, Session, likeliest, log_prob, log_sum_exp};
pub use eunoe_kernels::matmul::Arithmetic;
pub use generate::{Answer, FinishReason, Guide, Request, TokenLogProb, Writer};
pub use layout::{Layout, Length, POSITIONS, full_bytes, policy_shape};
pub use ledger::Ledger;
pub use sample::{Sampler, Sampling, top_log_probs};
pub use score::{Scores, Windows};
pub use store::Kv;

/// The cards of everything on the shelves that the engine has: policies, allocators, codecs and probes.
pub fn methods() -> Vec<eunoe_core::Card> {
    eunoe_kv::methods().into_iter().chain(probes::LIST.iter().map(|card| **card)).collect()
}
