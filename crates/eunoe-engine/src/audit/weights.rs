//! Weights of the verdict's models, the constant first; written by `bench/audit.py`.

/// Of ln(KL of the answer), disagreement of the answer, forgotten mass, lost canaries, ln(KL of the whole).
pub(super) const AUDIT: [f64; 6] = [1.3809, 0.2527, 5.2304, -1.4211, 1.1038, 0.5062];
/// Of the mean and the least log-probability of the answer, lost canaries.
pub(super) const OUTLOOK: [f64; 4] = [-3.3281, -0.1983, -0.7970, 2.9342];
