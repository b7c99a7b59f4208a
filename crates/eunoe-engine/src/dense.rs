//! Attention under full memory, row by row: what the tokens that a plan dropped would have drawn.

use crate::engine::{Engine, GoOn, Session};
use crate::layout::Length;
use crate::score::count;
use crate::store::LayerKv;
use eunoe_core::{Error, Result};
use eunoe_kv::Plan;
use eunoe_model::Config;
use eunoe_model::probe::{Point, Probe, Site};
use std::sync::Mutex;

/// Attention of some rows to a prompt before them, by strip that a policy acts on.
pub(crate) struct Mass {
    /// Per strip, layer-major, and position of the prompt: summed over rows and the heads of the group.
    strips: Vec<Vec<f32>>,
    /// All of the rows' attention, that to tokens after the prompt included.
    total: f64,
}

/// For each strip, layer-major, whether it holds each position of a prompt.
pub(crate) type Held = Vec<Vec<bool>>;

impl Mass {
    /// Share of the rows' attention, out of `of`, that falls on positions for which `counts` holds.
    fn share(&self, held: &Held, of: f64, counts: impl Fn(bool) -> bool) -> f64 {
        let strips = self.strips.iter().zip(held);
        let on = strips.flat_map(|(mass, held)| mass.iter().zip(held)).filter(|(_, held)| counts(**held));
        on.fold(0.0, |sum, (mass, _)| sum + f64::from(*mass)) / of.max(f64::MIN_POSITIVE)
    }

    /// Share of all attention that falls on what is not held.
    pub(crate) fn forgotten(&self, held: &Held) -> f64 {
        self.share(held, self.total, |held| !held)
    }

    /// Share of the attention to the prompt that falls on what is held.
    pub(crate) fn recalled(&self, held: &Held) -> f64 {
        let prompt = self.strips.iter().flatten().map(|mass| f64::from(*mass)).sum();
        self.share(held, prompt, |held| held)
    }

    /// Share of all attention that falls on each position where it is no longer held.
    pub(crate) fn forgotten_by_position(&self, held: &Held) -> Vec<f64> {
        let mut sums = vec![0.0; self.strips.first().map_or(0, Vec::len)];
        for (mass, held) in self.strips.iter().zip(held) {
            for (sum, (mass, _)) in
                sums.iter_mut().zip(mass.iter().zip(held)).filter(|(_, (_, held))| !**held)
            {
                *sum += f64::from(*mass) / self.total;
            }
        }
        sums
    }
}

impl Session {
    /// Which of the first `tokens` positions each strip that the policy acts on holds in hot memory; what waits in a cold tier
    /// is not held.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where landmark tokens stand between those of the text.
    pub(crate) fn held(&self, tokens: usize) -> Result<Held> {
        if self.kv.needs().recall.is_some_and(|sizes| sizes.landmark().is_some()) {
            let why = "attention to what was forgotten is not measured with landmark tokens in the text";
            return Err(Error::Unsupported(why.into()));
        }
        let global = self.kv.layers.iter().filter(|l| l.policy_layer.is_some());
        let of = |strip: &eunoe_kernels::strip::Strip| {
            let mut held = vec![false; tokens];
            for pos in (0..strip.len()).map(|slot| strip.pos(slot) as usize).filter(|pos| *pos < tokens) {
                held[pos] = true;
            }
            held
        };
        Ok(global.flat_map(|l| &l.heads).map(|head| of(&head.strip)).collect())
    }
}

impl Engine {
    /// Reads `rows` after what `session`, under full memory, has read; gives their attention to its first `tokens`
    /// tokens, and their normalised stream `[rows, d_model]`.
    ///
    /// # Errors
    /// Those of [`Engine::step`]; [`Error::Interrupted`].
    pub(crate) fn read_dense(
        &self,
        session: &mut Session,
        rows: &[u32],
        tokens: usize,
        go_on: GoOn<'_>,
    ) -> Result<(Mass, Vec<f32>)> {
        /// Rows whose queries are held at once.
        const ROWS: usize = 64;
        let (mut mass, mut streams) = (Mass { strips: Vec::new(), total: 0.0 }, Vec::new());
        for rows in rows.chunks(ROWS) {
            if !go_on(session.kv.seen() as usize) {
                return Err(Error::Interrupted);
            }
            let mut queries = Queries { q: vec![Vec::new(); self.config().layers] };
            streams.extend_from_slice(&self.step(&mut [(session, rows)], &mut queries)?);
            let first = session.kv.seen() as usize - rows.len();
            let layers = session.kv.layers.iter().zip(&queries.q);
            let global = layers.filter(|(layer, _)| layer.policy_layer.is_some());
            let new: Vec<Vec<f32>> =
                global.flat_map(|(layer, q)| self.layer_mass(layer, q, first, rows.len(), tokens)).collect();
            mass.total += (rows.len() * self.config().heads * new.len() / self.config().kv_heads) as f64;
            match mass.strips.is_empty() {
                true => mass.strips = new,
                false => mass.strips.iter_mut().zip(new).for_each(|(sum, new)| add(sum, &new)),
            }
        }
        Ok((mass, streams))
    }

    /// Attention of rows from position `first` on to the first `tokens` positions, summed over rows and the heads of each KV
    /// head of a layer that holds everything.
    fn layer_mass(
        &self,
        layer: &LayerKv,
        q: &[f32],
        first: usize,
        rows: usize,
        tokens: usize,
    ) -> Vec<Vec<f32>> {
        let c = self.config();
        let (group, d) = (c.heads / c.kv_heads, c.head_dim);
        let mut k = vec![0.0; (first + rows) * c.kv_heads * d];
        for (h, head) in layer.heads.iter().enumerate() {
            for (j, k) in k.chunks_exact_mut(c.kv_heads * d).enumerate() {
                head.strip.read_k(j, &mut k[h * d..][..d]);
            }
        }
        let sums: Vec<Mutex<Vec<f32>>> = (0..c.kv_heads).map(|_| Mutex::new(vec![0.0; tokens])).collect();
        self.model.backend.pool.run(c.kv_heads, &|h| {
            let (mut attn, mut sum) = (vec![0.0; first + rows], vec![0.0; tokens]);
            for (row, q) in q.chunks_exact(c.heads * d).enumerate() {
                for head in h * group..(h + 1) * group {
                    attend(c, head, q, &k, &mut attn[..=first + row]);
                    add(&mut sum, &attn[..(first + row + 1).min(tokens)]);
                }
            }
            if let Ok(mut all) = sums[h].lock() {
                *all = sum;
            }
        });
        sums.into_iter().map(|s| s.into_inner().unwrap_or_default()).collect()
    }

    /// Share of the attention that the tokens `next`, under full memory, pay to `tokens` before them and that falls on what
    /// `session`, which has just read these, holds in hot memory.
    ///
    /// # Errors
    /// Those of reading; [`Error::Unsupported`] for a plan that puts tokens of its own into the text.
    pub fn mass_recall(
        &self,
        session: &Session,
        tokens: &[u32],
        next: &[u32],
        go_on: GoOn<'_>,
    ) -> Result<f64> {
        let length = Length { prompt: count(tokens.len())?, longest: count(tokens.len() + next.len())? };
        let held = session.held(tokens.len())?;
        let mut dense = self.session(&Plan::parse("full")?, length)?;
        self.read(&mut dense, tokens, go_on)?;
        let (mass, _) = self.read_dense(&mut dense, next, tokens.len(), go_on)?;
        Ok(mass.recalled(&held))
    }
}

/// `sum += x`, as far as both go.
fn add(sum: &mut [f32], x: &[f32]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

/// Rotated queries of each layer, row by row.
struct Queries {
    q: Vec<Vec<f32>>,
}

impl Probe for Queries {
    const ACTIVE: bool = true;

    fn wants(&self, point: Point, _layer: usize) -> bool {
        point == Point::QRot
    }

    fn visit(&mut self, site: Site, x: &mut [f32]) {
        self.q[site.layer].extend_from_slice(x);
    }
}

/// Writes the attention of one row and head to its keys; `attn` is as long as there are keys, and sums to 1.
pub(crate) fn attend(c: &Config, head: usize, q: &[f32], k: &[f32], attn: &mut [f32]) {
    let (d, width) = (c.head_dim, c.kv_heads * c.head_dim);
    let kv = head / (c.heads / c.kv_heads);
    let q = &q[head * d..][..d];
    let mut peak = f32::NEG_INFINITY;
    for (j, score) in attn.iter_mut().enumerate() {
        let key = &k[j * width + kv * d..][..d];
        let mut sums = [0.0; 16];
        for (q, k) in q.as_chunks::<16>().0.iter().zip(key.as_chunks::<16>().0) {
            for i in 0..16 {
                sums[i] += q[i] * k[i];
            }
        }
        *score = c.attn_scale * sums.iter().sum::<f32>();
        peak = peak.max(*score);
    }
    let mut sum = 0.0;
    for score in attn.iter_mut() {
        *score = (*score - peak).exp();
        sum += *score;
    }
    attn.iter_mut().for_each(|p| *p /= sum);
}
