//! Weights of the verdict's models, the constant first; written by `bench/audit.py`.

/// Of ln(KL of the answer), disagreement of the answer, forgotten mass, lost canaries, ln(KL of the whole).
pub(super) const AUDIT: [f64; 6] = [3.7638, 0.4232, 3.7549, 1.1510, -0.3574, 0.7994];
/// Of the mean and the least log-probability of the answer, lost canaries.
pub(super) const OUTLOOK: [f64; 4] = [-2.3539, 0.2635, -0.5445, 2.6216];
