//! A memory that learns while it reads: a small network takes a gradient step on every token; attention sees the last few.
//!
//! * Paper:    Behrouz, 2024, arXiv 2501.00663, sections 3 (memory) and 4 (wirings)
//! * Equation: `memory`: y = W_o(norm(M(x)) ⊙ σ(W_g x)); `mag`: y = W_o(norm(attend(x)) ⊙ σ(norm(M(x))));
//!   `mal`: y = W_o attend(norm(M(x))); `mac`, in segments: y = norm(a) ⊙ σ(norm(M(a))), a = attend(\[P ‖ M₋(x) ‖ x\]) with M₋ the
//!   memory at the segment's start, then W_o
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state: the memory's (see `NeuralMemory`), and window − 1 keys and values
//! * Cost:     constant per token; constant state
//! * Differs:  every row of `mac` sees recalled rows up to its own and reads the memory behind itself: as drawn in the
//!   paper, both let a row see later tokens of its segment; rows are recalled by queries without the convolution, which
//!   has no tail there. `mal` has a norm between memory and attention. Persistent tokens are learned keys and values per
//!   head, and stand before attention alone: for the memory, its learned first weights are the same thing. η is at most 0.9,
//!   and a token's gradient in a memory of two layers at most `clip` long: without, descent on texts diverges
//! * Oracle:   the memory's loop over tokens in f64 (`NeuralMemory`); attention and wirings as double loops around it

use candle_core::{D, Tensor};
use eunoe_core::{Arg, Card, Kind, Shelf};

use super::{MixerEntry, Spec};
use crate::nets::{self, Init, Linear, NeuralMemory, RmsNorm, Rope};
use crate::ops::matmul;
use crate::{Cost, Ctx, Mixer, Result, State, ops};

const fn int(name: &'static str, (min, max): (u32, u32), default: &'static str, help: &'static str) -> Arg {
    Arg { name, kind: Kind::Int { min, max }, default, help }
}

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "titans",
        shelf: Shelf::Mixer,
        name: "Titans",
        paper: "Behrouz 2024, arXiv 2501.00663",
        idea: "a small network is trained on the tokens as they pass, and read beside a window",
        args: &[
            Arg {
                name: "wiring",
                kind: Kind::Choice(&["memory", "mac", "mag", "mal"]),
                default: "mag",
                help: "the memory alone, as context, as gate, as layer",
            },
            int("layers", (1, 2), "2", "layers of the memory"),
            int("expand", (1, 8), "2", "width inside the memory, in heads"),
            int("chunk", (1, 64), "16", "tokens whose gradients are taken at the same weights"),
            int("window", (1, 1 << 16), "64", "tokens that attention sees; the segment of `mac`"),
            int("persistent", (0, 64), "4", "learned tokens that attention always sees"),
            Arg {
                name: "step",
                kind: Kind::Float { min: 0.0, max: 0.5 },
                default: "0.003",
                help: "the largest step of the descent on ‖M(k) − v‖²; keys of texts are alike, so that much larger ones diverge",
            },
            Arg {
                name: "clip",
                kind: Kind::Float { min: 0.001, max: 1e6 },
                default: "1",
                help: "the longest gradient of a token in a memory of two layers",
            },
        ],
    },
    make: |args, spec, init| {
        let size = |name| args.int(name) as usize;
        let (window, chunk) = (size("window"), size("chunk"));
        let wiring = args.word("wiring");
        if wiring == "mac" && !window.is_multiple_of(chunk) {
            candle_core::bail!("a segment of {window} tokens is not made of chunks of {chunk}");
        }
        let shape = (size("layers"), size("expand"));
        let descent = (f64::from(args.float("step")), f64::from(args.float("clip")));
        let memory = NeuralMemory::new(spec, shape, chunk, descent, &mut init.at("memory"))?;
        let attention = match wiring {
            "memory" => None,
            _ => Some(Near::new(spec, window, size("persistent"), &mut init.at("attention"))?),
        };
        Ok(Box::new(Titans::new(spec, wiring, memory, attention, init)?))
    },
};

/// Attention to the last tokens and to learned ones.
struct Near {
    qkv: [Linear; 3],
    /// Keys and values of the persistent tokens `[2, h, n, d]`; empty where there is none.
    persistent: Option<Tensor>,
    rope: Rope,
    heads: usize,
    window: usize,
}

impl Near {
    fn new(spec: &Spec, window: usize, persistent: usize, init: &mut Init<'_>) -> Result<Self> {
        let (m, d) = (spec.d_model, spec.head_dim());
        let shape = [2, spec.heads, persistent, d];
        let persistent = (persistent > 0).then(|| init.normal("persistent", &shape, spec.std)).transpose()?;
        let mut linear = |name| Linear::new(&mut init.at(name), m, m, spec.std);
        let qkv = [linear("q")?, linear("k")?, linear("v")?];
        Ok(Self { qkv, persistent, rope: Rope::new(spec.rope_base, d)?, heads: spec.heads, window })
    }

    /// Keys and values of rows `[b, t, m]` from position `pos` on.
    fn stored(&self, x: &Tensor, pos: usize) -> Result<(Tensor, Tensor)> {
        let [_, k, v] = &self.qkv;
        let k = self.rope.run(&nets::split(&k.run(x)?, self.heads)?, pos)?;
        Ok((k, nets::split(&v.run(x)?, self.heads)?))
    }

    /// What rows `[b, t, m]` see of keys and values where `mask` `[t, t_k]` is 1, and of the persistent ones.
    fn attend(&self, x: &Tensor, pos: usize, (k, v): (&Tensor, &Tensor), mask: &Tensor) -> Result<Tensor> {
        let q = self.rope.run(&nets::split(&self.qkv[0].run(x)?, self.heads)?, pos)?;
        let (b, h, t, d) = q.dims4()?;
        let (k, v, mask) = match &self.persistent {
            None => (k.clone(), v.clone(), mask.clone()),
            Some(p) => {
                let n = p.dim(2)?;
                let part = |i: usize| p.get(i)?.to_dtype(q.dtype())?.broadcast_as((b, h, n, d));
                let seen = Tensor::ones((t, n), mask.dtype(), mask.device())?;
                let k = Tensor::cat(&[&part(0)?, k], 2)?;
                (k, Tensor::cat(&[&part(1)?, v], 2)?, Tensor::cat(&[&seen, mask], 1)?)
            }
        };
        let scores = (matmul(&q, &k.t()?)? * (d as f64).powf(-0.5))?;
        nets::join(&matmul(&ops::softmax(&ops::masked(&scores, &mask)?)?, &v)?)
    }

    /// Attention to the window.
    fn run(&self, x: &Tensor, state: &mut State) -> Result<Tensor> {
        let (k, v) = self.stored(x, state.pos)?;
        let (k, v) = (state.append("k", &k, 2)?, state.append("v", &v, 2)?);
        let mask = ops::causal(x.dim(1)?, k.dim(2)?, Some(self.window), x)?;
        let y = self.attend(x, state.pos, (&k, &v), &mask)?;
        state.keep_last("k", &k, 2, self.window - 1)?;
        state.keep_last("v", &v, 2, self.window - 1)?;
        state.pos += x.dim(1)?;
        Ok(y)
    }
}

/// See the module.
pub struct Titans {
    wiring: &'static str,
    memory: NeuralMemory,
    attention: Option<Near>,
    gate: Option<Linear>,
    norms: [RmsNorm; 2],
    out: Linear,
    spec: Spec,
}

impl Titans {
    fn new(
        spec: &Spec,
        wiring: &'static str,
        memory: NeuralMemory,
        attention: Option<Near>,
        init: &mut Init<'_>,
    ) -> Result<Self> {
        let m = spec.d_model;
        let gate =
            (wiring == "memory").then(|| Linear::new(&mut init.at("gate"), m, m, spec.std)).transpose()?;
        let norms = [RmsNorm::new(&mut init.at("norm"), m, spec.norm_eps)?, RmsNorm::plain(spec.norm_eps)];
        let out = Linear::new(&mut init.at("out"), m, m, spec.out_std)?;
        Ok(Self { wiring, memory, attention, gate, norms, out, spec: *spec })
    }

    /// norm(y) ⊙ σ(norm(m)).
    fn gated(&self, y: &Tensor, m: &Tensor) -> Result<Tensor> {
        self.norms[0].run(y)? * ops::sigmoid(&self.norms[1].run(m)?)?
    }

    /// Segment by segment: recalled rows and the segment's own, causally; what attention makes of them is written.
    fn in_segments(&self, near: &Near, x: &Tensor, state: &mut State, memory: &mut State) -> Result<Tensor> {
        let mut outputs = Vec::new();
        for rows in ops::chunks(x, 1, near.window, state.pos % near.window)? {
            let (open, c) = (state.pos % near.window, rows.dim(1)?);
            // the memory at the segment's start: what is written meanwhile must not be seen
            let start = if open == 0 { memory.clone() } else { state.take_part("start") };
            let recalled = near.stored(&self.memory.recall(&rows, &start)?, open)?;
            let own = near.stored(&rows, open)?;
            let [rk, rv] = [state.append("rk", &recalled.0, 2)?, state.append("rv", &recalled.1, 2)?];
            let [k, v] = [state.append("k", &own.0, 2)?, state.append("v", &own.1, 2)?];
            let upto = ops::causal(c, open + c, None, x)?;
            let seen = (Tensor::cat(&[&rk, &k], 2)?, Tensor::cat(&[&rv, &v], 2)?);
            let mask = Tensor::cat(&[&upto, &upto], 1)?;
            let y = near.attend(&rows, open, (&seen.0, &seen.1), &mask)?;
            outputs.push(self.gated(&y, &self.memory.run(&y, memory)?)?);
            if open + c < near.window {
                for (name, rows) in [("rk", rk), ("rv", rv), ("k", k), ("v", v)] {
                    state.put(name, rows);
                }
                state.put_part("start", start);
            }
            state.pos += c;
        }
        Tensor::cat(&outputs, D::Minus2)
    }
}

impl Mixer for Titans {
    fn run(&self, x: &Tensor, mut state: State, _: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let mut memory = state.take_part("memory");
        let y = match (&self.attention, self.wiring) {
            (Some(near), "mac") => self.in_segments(near, x, &mut state, &mut memory)?,
            (Some(near), "mal") => {
                near.run(&self.norms[0].run(&self.memory.run(x, &mut memory)?)?, &mut state)?
            }
            (Some(near), _) => self.gated(&near.run(x, &mut state)?, &self.memory.run(x, &mut memory)?)?,
            (None, _) => {
                let read = self.norms[0].run(&self.memory.run(x, &mut memory)?)?;
                state.pos += x.dim(1)?;
                match &self.gate {
                    Some(gate) => (read * ops::sigmoid(&gate.run(x)?)?)?,
                    None => read,
                }
            }
        };
        state.put_part("memory", memory);
        Ok((self.out.run(&y)?, state))
    }

    fn cost(&self, t: usize) -> Cost {
        let m = self.spec.d_model;
        let own = m * m + self.memory.macs();
        let memory = self.memory.state(t);
        match (&self.attention, self.wiring) {
            (Some(near), "mac") => {
                let open = t % near.window;
                // rows of the open segment, and the memory as it stood at its start
                let start = if open > 0 { self.memory.state(t - open) } else { 0 };
                Cost { macs: own + 6 * m * m + 4 * (open + 1) * m, state: memory + 4 * open * m + start }
            }
            (Some(near), _) => {
                let kept = t.min(near.window - 1);
                Cost { macs: own + 3 * m * m + 2 * (kept + 1) * m, state: memory + 2 * kept * m }
            }
            (None, _) => Cost { macs: own + m * m, state: memory },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{Lab, close, turned};
    use crate::nets::neural_memory::tests::{Rows, recalled, slow as remembered};

    /// What the row `x` at `pos` makes of rows it sees, each with its position, and of the persistent ones.
    fn looked(near: &Near, base: f64, (x, pos): (&[f64], usize), seen: &[(&Vec<f64>, usize)]) -> Vec<f64> {
        let of = |n: usize, x: &[f64]| Lab::rows(&near.qkv[n], &[x.to_vec()]).remove(0);
        let d = x.len() / near.heads;
        let persistent = |n: usize, h: usize| match &near.persistent {
            Some(p) => p.get(n).unwrap().get(h).unwrap().to_vec2::<f64>().unwrap(),
            None => Vec::new(),
        };
        let head = |h: usize| {
            let part = |row: Vec<f64>| row[h * d..(h + 1) * d].to_vec();
            let q = turned(&part(of(0, x)), pos, base);
            // learned keys stand at no position
            let (mut keys, mut values) = (persistent(0, h), persistent(1, h));
            for (row, at) in seen {
                keys.push(turned(&part(of(1, row)), *at, base));
                values.push(part(of(2, row)));
            }
            let weight =
                |k: &Vec<f64>| (k.iter().zip(&q).map(|(k, q)| k * q).sum::<f64>() / (d as f64).sqrt()).exp();
            let weights: Vec<f64> = keys.iter().map(weight).collect();
            let mean = |c: usize| values.iter().zip(&weights).map(|(v, w)| w * v[c]).sum::<f64>();
            (0..d).map(|c| mean(c) / weights.iter().sum::<f64>()).collect::<Vec<f64>>()
        };
        (0..near.heads).flat_map(head).collect()
    }

    /// Every row over the last `window`, itself included.
    fn in_window(near: &Near, base: f64, x: &Rows) -> Rows {
        let row = |i: usize| {
            let seen: Vec<_> = (0..=i).filter(|j| i - j < near.window).map(|j| (&x[j], j)).collect();
            looked(near, base, (&x[i], i), &seen)
        };
        (0..x.len()).map(row).collect()
    }

    fn normed(x: &Rows, gain: Option<&[f64]>, eps: f64) -> Rows {
        let row = |row: &Vec<f64>| {
            let rms = (row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64 + eps).sqrt();
            (0..row.len()).map(|c| row[c] / rms * gain.map_or(1.0, |gain| gain[c])).collect()
        };
        x.iter().map(row).collect()
    }

    fn gated(x: &Rows, gate: &Rows) -> Rows {
        let row =
            |(x, g): (&Vec<f64>, &Vec<f64>)| x.iter().zip(g).map(|(x, g)| x / (1.0 + (-g).exp())).collect();
        x.iter().zip(gate).map(row).collect()
    }

    /// The rows of `mac`: those of its segment up to its own, and what the memory at the segment's start recalls for them.
    fn in_segments(mixer: &Titans, near: &Near, x: &Rows) -> Rows {
        let (mut y, mut nets) = (Rows::new(), Vec::new());
        for i in 0..x.len() {
            let first = i / near.window * near.window;
            if i == first {
                nets = remembered(&mixer.memory, &y).1;
            }
            let own = &x[first..=i];
            let past = recalled(&mixer.memory, &nets, &own.to_vec());
            let seen: Vec<_> = past.iter().zip(0..).chain(own.iter().zip(0..)).collect();
            y.push(looked(near, mixer.spec.rope_base, (&x[i], i - first), &seen));
        }
        y
    }

    fn slow(mixer: &Titans, x: &Rows) -> Rows {
        let (eps, base) = (mixer.spec.norm_eps, mixer.spec.rope_base);
        let gain: Vec<f64> = mixer.norms[0].weight.as_ref().unwrap().to_vec1().unwrap();
        let read = |x: &Rows| remembered(&mixer.memory, x).0;
        let beside = |y: &Rows, read: &Rows| gated(&normed(y, Some(&gain), eps), &normed(read, None, eps));
        let y = match (mixer.wiring, &mixer.attention) {
            ("mag", Some(near)) => beside(&in_window(near, base, x), &read(x)),
            ("mal", Some(near)) => in_window(near, base, &normed(&read(x), Some(&gain), eps)),
            ("mac", Some(near)) => {
                let y = in_segments(mixer, near, x);
                beside(&y, &read(&y))
            }
            _ => gated(&normed(&read(x), Some(&gain), eps), &Lab::rows(mixer.gate.as_ref().unwrap(), x)),
        };
        Lab::rows(&mixer.out, &y)
    }

    #[test]
    fn each_wiring_is_its_loop_over_tokens() {
        for (wiring, window, persistent, t) in [
            ("memory", 4, 0, 9),
            ("mag", 3, 2, 9),
            ("mag", 16, 0, 5),
            ("mal", 3, 2, 9),
            ("mal", 1, 1, 5),
            ("mac", 4, 2, 11),
            ("mac", 2, 0, 7),
        ] {
            let mut lab = Lab::f64(8, 2, 2);
            let spec = lab.spec;
            let memory =
                NeuralMemory::new(&spec, (2, 2), 2, (0.5, 1.0), &mut lab.params.init().at("memory")).unwrap();
            let near = (wiring != "memory")
                .then(|| Near::new(&spec, window, persistent, &mut lab.params.init()).unwrap());
            let mixer =
                Titans::new(&spec, wiring, memory, near, &mut lab.params.init().at("titans")).unwrap();
            // gains begin as 1, which would hide them
            let gain = lab.input(1, 1).flatten_all().unwrap();
            lab.params.get("titans.norm.weight").unwrap().var.set(&gain).unwrap();
            let x = lab.input(1, t);
            let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
            let want = slow(&mixer, &x.get(0).unwrap().to_vec2().unwrap());
            close(&y.get(0).unwrap().to_vec2().unwrap(), &want, 1e-7);
        }
    }
}
