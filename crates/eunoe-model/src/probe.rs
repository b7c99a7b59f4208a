//! The seam for looking into the forward pass and for editing it: named sites, visited row by row.
//!
//! The forward pass is generic over its probe; with [`NoProbe`] every hook compiles away.

/// A named place in the forward pass. Widths per row in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Scaled token embedding `[d_model]`.
    Embed,
    /// Residual stream entering a layer `[d_model]`.
    ResidPre,
    /// Queries before RoPE `[heads * head_dim]`.
    Q,
    /// Keys before RoPE `[kv_heads * head_dim]`.
    K,
    /// Values `[kv_heads * head_dim]`.
    V,
    /// Queries after RoPE.
    QRot,
    /// Keys after RoPE.
    KRot,
    /// Values mixed per head, before the output projection `[heads * head_dim]`.
    Z,
    /// What attention adds to the stream `[d_model]`.
    AttnOut,
    /// The stream between attention and MLP `[d_model]`.
    ResidMid,
    /// Normalised input of the MLP `[d_model]`.
    MlpIn,
    /// Gated activation `[d_ff]`.
    MlpAct,
    /// What the MLP adds to the stream `[d_model]`.
    MlpOut,
    /// The stream leaving a layer `[d_model]`.
    ResidPost,
}

/// Where a visited row lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The place.
    pub point: Point,
    /// The layer (0 for `Embed`).
    pub layer: usize,
    /// Row of this forward pass.
    pub row: usize,
    /// Absolute position of the row's token.
    pub pos: u32,
}

/// Reads rows at named sites, and may edit them in place.
pub trait Probe {
    /// `false` removes every hook at compile time.
    const ACTIVE: bool;

    /// Asked once per layer and point: whether `visit` wants its rows.
    fn wants(&self, point: Point, layer: usize) -> bool {
        let _ = (point, layer);
        false
    }

    /// One row; what is left in `x` goes on through the forward pass.
    fn visit(&mut self, site: Site, x: &mut [f32]) {
        let _ = (site, x);
    }
}

/// Looks at nothing and costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

impl Probe for NoProbe {
    const ACTIVE: bool = false;
}

/// Shows the rows of `x` (one per entry of `pos`) to the probe.
#[inline(always)]
pub(crate) fn tap<P: Probe>(probe: &mut P, point: Point, layer: usize, pos: &[u32], x: &mut [f32]) {
    if P::ACTIVE && probe.wants(point, layer) {
        let width = x.len() / pos.len();
        for (row, x) in x.chunks_exact_mut(width).enumerate() {
            probe.visit(Site { point, layer, row, pos: pos[row] }, x);
        }
    }
}
