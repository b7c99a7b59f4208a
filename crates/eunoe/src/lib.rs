//! The command line of Eunoe. A library only so that tests and `cargo xtask docs` reach the same code as `main`.

#![allow(clippy::print_stderr, reason = "the command line is the one crate that prints")]

pub mod answer;
pub mod bill;
pub mod cli;
pub mod commands;
pub mod context;
pub mod docs;
mod eval;
mod fail;
pub mod home;
pub mod interrupt;
pub mod memory;
pub mod models;
mod nearest;
pub mod open;
pub mod out;
mod profiles;
mod progress;
pub mod pull;
pub mod talk;
pub mod units;
pub mod wheel;

pub use fail::main;
