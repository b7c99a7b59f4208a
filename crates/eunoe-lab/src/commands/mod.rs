//! One file per command.

mod bars;
pub(crate) mod bench;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod list;
pub(crate) mod out;
pub(crate) mod train;
