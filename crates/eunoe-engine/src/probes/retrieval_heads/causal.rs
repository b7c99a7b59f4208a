//! The check that chosen heads matter: texts are read again with their output taken away.

use super::{Planted, TOP, ranked, read};
use crate::engine::{Engine, GoOn};
use eunoe_core::{Error, Result};
use eunoe_kv::Profile;
use eunoe_model::Config;
use eunoe_model::probe::{Point, Probe, Site};
use serde::Serialize;
use std::ops::Range;

/// Share of the planted secrets that the model writes.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Texts.
    pub n: usize,
    /// Heads taken away.
    pub heads: usize,
    /// Nothing taken away.
    pub whole: Share,
    /// Without the heads of the highest retrieval score.
    pub without_best: Share,
    /// Without as many drawn from the others, mean over three draws.
    pub without_random: Share,
}

/// A mean over texts and its 95 % bootstrap interval.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// The mean.
    pub mean: f64,
    /// Low and high end.
    pub interval: [f64; 2],
}

/// Takes heads away where the answer is written: their output is 0.
pub(super) struct Without<'a> {
    pub(super) config: &'a Config,
    pub(super) global: &'a [usize],
    /// Layer-major among the global ones.
    pub(super) heads: &'a [usize],
    pub(super) rows: Range<usize>,
}

impl Probe for Without<'_> {
    const ACTIVE: bool = true;

    fn wants(&self, point: Point, layer: usize) -> bool {
        point == Point::Z && self.global.contains(&layer)
    }

    fn visit(&mut self, site: Site, z: &mut [f32]) {
        let Some(layer) = self.global.iter().position(|l| *l == site.layer) else { return };
        let c = self.config;
        if self.rows.contains(&site.row) {
            for head in self.heads.iter().filter(|h| **h / c.heads == layer) {
                z[head % c.heads * c.head_dim..][..c.head_dim].fill(0.0);
            }
        }
    }
}

/// Most texts that the check reads again.
const CHECKED: usize = 12;
/// Draws of other heads.
const DRAWS: usize = 3;

impl Check {
    /// Most texts that are read where `samples` were: as they are, without the best heads, and once per draw.
    pub(super) fn texts(samples: usize) -> usize {
        (2 + DRAWS) * samples.min(CHECKED)
    }

    /// Reads texts again without the best heads, and without others. `go_on` is asked with the texts read here.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) fn run(
        engine: &Engine,
        global: &[usize],
        profile: &Profile,
        found: &[Planted],
        go_on: GoOn<'_>,
    ) -> Result<Self> {
        let order = ranked(&profile.retrieval);
        let count = (TOP * order.len() as f64).round().max(1.0) as usize;
        let mut random = fastrand::Rng::with_seed(99);
        let texts: Vec<&Planted> = found.iter().step_by(found.len().div_ceil(CHECKED)).collect();
        let mut done = 0;
        let mut share = |heads: &[usize]| -> Result<Vec<f64>> {
            let mut shares = Vec::new();
            for Planted { tokens, rows, secret, .. } in &texts {
                go_on(done).then_some(()).ok_or(Error::Interrupted)?;
                done += 1;
                let mut probe = Without { config: engine.config(), global, heads, rows: rows.clone() };
                shares.push(read(engine, tokens, secret, &mut probe)? as f64 / secret.len() as f64);
            }
            Ok(shares)
        };
        let (whole, without_best) = (share(&[])?, share(&order[..count])?);
        let mut others = vec![0.0; texts.len()];
        for _ in 0..DRAWS {
            let mut rest = order[count..].to_vec();
            random.shuffle(&mut rest);
            rest.truncate(count);
            others.iter_mut().zip(share(&rest)?).for_each(|(sum, s)| *sum += s / DRAWS as f64);
        }
        let of = Share::of;
        let (whole, without_best, without_random) = (of(&whole), of(&without_best), of(&others));
        Ok(Self { n: texts.len(), heads: count, whole, without_best, without_random })
    }
}

impl Share {
    pub(super) fn of(x: &[f64]) -> Self {
        let mean = |x: &mut dyn Iterator<Item = f64>, n: usize| x.sum::<f64>() / n as f64;
        let mut random = fastrand::Rng::with_seed(7);
        let mut means: Vec<f64> =
            (0..2000).map(|_| mean(&mut (0..x.len()).map(|_| x[random.usize(..x.len())]), x.len())).collect();
        means.sort_by(f64::total_cmp);
        Self { mean: mean(&mut x.iter().copied(), x.len()), interval: [means[50], means[1949]] }
    }
}
