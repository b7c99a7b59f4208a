//! What every command gets besides its own arguments.

/// The global options.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// One JSON document on standard output instead of text.
    pub json: bool,
    /// Never touch the network.
    pub offline: bool,
    /// Threads to compute with, at least 1.
    pub threads: usize,
}
