//! What the attention heads of one model do, measured once; policies that split heads are made from it.

use eunoe_core::{Error, Result, Shape};
use serde::{Deserialize, Serialize};

/// Scores of every query head, layer-major `[layers, heads]`, each from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The model's name, for people.
    pub model: String,
    /// SHA-256 of the model file, in lower-case hexadecimal.
    pub sha256: String,
    /// Layers that a policy acts on.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Share of a planted sentence that the head copies: its most attended key is the token being written.
    pub retrieval: Vec<f32>,
    /// Attention to the token after an earlier copy of the current one, in repeated random tokens.
    pub induction: Vec<f32>,
    /// Attention to earlier copies of the current token.
    pub echo: Vec<f32>,
    /// Attention to the first four tokens of a text.
    pub sink: Vec<f32>,
    /// Attention to the first four and the newest 256 tokens of a text.
    pub streaming: Vec<f32>,
    /// Planted sentences that the model repeated, of those tried.
    pub found: [u32; 2],
}

impl Profile {
    /// The profile that a policy was given, if it is one of a model of this shape.
    ///
    /// # Errors
    /// Those of [`Policy::bind`](crate::Policy::bind).
    pub(crate) fn given<'a>(profile: Option<&'a Self>, shape: &Shape) -> Result<&'a Self> {
        let missing = || {
            Error::Invalid(
                "this policy splits the heads of a model, and there is no profile of this model's: \
                 `eunoe probe retrieval_heads -m MODEL` makes one"
                    .into(),
            )
        };
        let profile = profile.ok_or_else(missing)?;
        profile.check(shape)?;
        Ok(profile)
    }

    /// Checks that the scores are those of a model of this shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for another model's heads, [`Error::Invalid`] for scores that are none.
    pub fn check(&self, shape: &Shape) -> Result<()> {
        let sizes = |l: usize, h: usize, kv: usize| format!("{l} layers, {h} heads, {kv} KV heads");
        let (want, got) =
            (sizes(shape.layers, shape.heads, shape.kv_heads), sizes(self.layers, self.heads, self.kv_heads));
        if want != got {
            return Err(Error::shape("a profile of this model's heads", want, got));
        }
        for scores in [&self.retrieval, &self.induction, &self.echo, &self.sink, &self.streaming] {
            if scores.len() != self.layers * self.heads {
                return Err(Error::shape("scores of a profile", self.layers * self.heads, scores.len()));
            }
            if let Some(bad) = scores.iter().find(|s| !(0.0..=1.0).contains(*s)) {
                return Err(Error::Invalid(format!("a profile's score of `{bad}` is not from 0 to 1")));
            }
        }
        Ok(())
    }

    /// Scores `[layers, heads]` of query heads as scores of KV heads `[layers, kv_heads]`: the most in each group.
    pub fn of_strips(&self, scores: &[f32]) -> Vec<f32> {
        let group = self.heads / self.kv_heads;
        scores.chunks(group).map(|group| group.iter().copied().fold(0.0, f32::max)).collect()
    }
}

/// The `count` strips of highest score, of equals those that `then` ranks higher, then the lower index: one flag each.
pub(crate) fn top(scores: &[f32], then: &[f32], count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| {
        let by = |x: &[f32]| x[b].total_cmp(&x[a]);
        by(scores).then(by(then)).then(a.cmp(&b))
    });
    let mut flags = vec![false; scores.len()];
    order.into_iter().take(count).for_each(|i| flags[i] = true);
    flags
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SHAPE: Shape = Shape { layers: 2, heads: 4, kv_heads: 2, head_dim: 64 };

    /// Two layers of four heads on two KV heads.
    pub(crate) fn small() -> Profile {
        Profile {
            model: "small".into(),
            sha256: "0".repeat(64),
            layers: 2,
            heads: 4,
            kv_heads: 2,
            retrieval: vec![0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.9, 0.2],
            induction: vec![0.5, 0.0, 0.2, 0.3, 0.0, 0.0, 0.1, 0.1],
            echo: vec![0.0, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0],
            sink: vec![0.5; 8],
            streaming: vec![0.9; 8],
            found: [3, 4],
        }
    }

    #[test]
    fn a_group_scores_as_its_highest_head_and_ties_go_down() {
        let profile = small();
        assert_eq!(profile.of_strips(&profile.retrieval), [0.1, 0.0, 0.0, 0.9]);
        assert_eq!(top(&[0.1, 0.0, 0.0, 0.9], &[0.0, 0.2, 0.3, 0.0], 3), [true, false, true, true]);
        assert_eq!(top(&[1.0, 1.0], &[0.0, 0.0], 1), [true, false]);
    }

    #[test]
    fn scores_of_another_model_are_refused() {
        small().check(&SHAPE).unwrap();
        assert!(small().check(&Shape { heads: 8, ..SHAPE }).unwrap_err().to_string().contains("8 heads"));
        let short = Profile { echo: vec![0.0; 7], ..small() };
        assert!(short.check(&SHAPE).is_err());
        let wild = Profile { sink: vec![f32::NAN; 8], ..small() };
        assert!(wild.check(&SHAPE).is_err());
        assert!(Profile::given(None, &SHAPE).unwrap_err().to_string().contains("eunoe probe"));
    }
}
