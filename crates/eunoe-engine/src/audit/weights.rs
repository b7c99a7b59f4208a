//! Weights of the verdict's models, the constant first; written by `bench/audit.py`.

/// Of ln(KL of the answer), disagreement of the answer, forgotten mass, lost canaries, ln(KL of the whole).
pub(super) const AUDIT: [f64; 6] = [0.0, 0.3, 1.0, 2.0, 1.5, 0.2];
/// Of the mean and the least log-probability of the answer, lost canaries, share of slots that are gone.
pub(super) const OUTLOOK: [f64; 5] = [-2.0, -0.5, -0.1, 2.0, 1.0];
