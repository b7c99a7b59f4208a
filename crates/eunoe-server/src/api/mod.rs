//! What clients ask for, path by path.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod health;
pub(crate) mod models;
mod params;
pub(crate) mod sessions;
mod stream;
pub(crate) mod tokens;
