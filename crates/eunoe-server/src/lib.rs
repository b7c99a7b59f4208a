//! An OpenAI-compatible server whose memory is bounded and visible.
