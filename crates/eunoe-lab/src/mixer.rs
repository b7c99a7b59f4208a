//! What a mixer is: one call for training, prefill and decode, and everything it remembers between calls.

use std::collections::BTreeMap;

use candle_core::{Storage, Tensor};

use crate::Result;

/// Everything a mixer remembers between two calls. Axis 0 of each tensor is the batch.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Tokens seen so far.
    pub pos: usize,
    slots: BTreeMap<&'static str, Tensor>,
    parts: BTreeMap<&'static str, State>,
}

impl State {
    /// Takes what is kept under `name` out of the state.
    pub fn take(&mut self, name: &'static str) -> Option<Tensor> {
        self.slots.remove(name)
    }

    /// Keeps a tensor `[b, …]` under `name`.
    pub fn put(&mut self, name: &'static str, tensor: Tensor) {
        self.slots.insert(name, tensor);
    }

    /// Takes the state of a mixer inside this one; an empty one where there is none.
    pub fn take_part(&mut self, name: &'static str) -> State {
        self.parts.remove(name).unwrap_or_default()
    }

    /// Keeps the state of a mixer inside this one.
    pub fn put_part(&mut self, name: &'static str, part: State) {
        self.parts.insert(name, part);
    }

    /// What is kept under `name` with the rows `new` behind it on axis `dim`; `new` alone where nothing is.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn append(&mut self, name: &'static str, new: &Tensor, dim: usize) -> Result<Tensor> {
        match self.take(name) {
            Some(old) => Tensor::cat(&[&old, new], dim),
            None => Ok(new.clone()),
        }
    }

    /// Keeps the last `most` rows of axis `dim` under `name`, and nothing where that is none.
    ///
    /// # Errors
    /// An axis that is not there.
    pub fn keep_last(&mut self, name: &'static str, rows: &Tensor, dim: usize, most: usize) -> Result<()> {
        let len = rows.dim(dim)?;
        let kept = len.min(most);
        if kept > 0 {
            self.put(name, rows.narrow(dim, len - kept, kept)?);
        }
        Ok(())
    }

    /// The state cut from the tape: gradients end here.
    pub fn detach(&self) -> State {
        let parts = self.parts.iter().map(|(name, part)| (*name, part.detach())).collect();
        let slots = self.slots.iter().map(|(name, tensor)| (*name, tensor.detach())).collect();
        State { pos: self.pos, slots, parts }
    }

    /// The state of the sequences `rows`, in this order.
    ///
    /// # Errors
    /// A row that is not there.
    pub fn pick(&self, rows: &Tensor) -> Result<State> {
        self.map(&|tensor| tensor.contiguous()?.index_select(rows, 0))
    }

    /// The same state without views into larger tensors, so that [`State::bytes`] is the memory it holds.
    ///
    /// # Errors
    /// A copy that fails.
    pub fn compact(&self) -> Result<State> {
        self.map(&|tensor| if is_whole(tensor) { Ok(tensor.clone()) } else { tensor.force_contiguous() })
    }

    /// Text of all tensors.
    pub fn bytes(&self) -> usize {
        let own = self.slots.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum::<usize>();
        own + self.parts.values().map(State::bytes).sum::<usize>()
    }

    fn map(&self, change: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<State> {
        let slots = self.slots.iter().map(|(name, t)| Ok((*name, change(t)?))).collect::<Result<_>>()?;
        let parts = self.parts.iter().map(|(name, p)| Ok((*name, p.map(change)?))).collect::<Result<_>>()?;
        Ok(State { pos: self.pos, slots, parts })
    }
}

/// Whether a tensor is all of the memory that it holds alive. Other devices are not asked.
fn is_whole(tensor: &Tensor) -> bool {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return false };
    let len = match storage {
        candle_core::CpuStorage::F32(v) => v.len(),
        candle_core::CpuStorage::F64(v) => v.len(),
        candle_core::CpuStorage::BF16(v) => v.len(),
        _ => return false,
    };
    layout.is_contiguous() && len == tensor.elem_count()
}

/// Where `run(a ‖ b)` must equal `run(a)`, then `run(b)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Between any two tokens.
    Anywhere,
    /// At multiples of this many tokens.
    Grid(usize),
}

/// What a mixer costs after `t` tokens, in closed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-adds of one more token of one sequence.
    pub macs: usize,
    /// Numbers in the state of one sequence.
    pub state: usize,
}

/// Gets tensors from inside a mixer under their names.
pub type Probe<'c> = dyn FnMut(&'static str, &Tensor) -> Result<()> + 'c;

/// What accompanies a call.
#[derive(Default)]
pub struct Ctx<'c> {
    /// Losses besides the model's own, each a weighted scalar under a name.
    pub aux: Vec<(&'static str, Tensor)>,
    /// Gets tensors from inside, for inspection only: `attn` `[b, h, t_q, t_k]` of mixers that have such a thing.
    pub probe: Option<&'c mut Probe<'c>>,
}

impl Ctx<'_> {
    /// Shows a tensor to the probe; it is made only where one listens.
    ///
    /// # Errors
    /// Those of the probe and of making the tensor.
    pub fn show(&mut self, name: &'static str, tensor: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        self.probe.as_mut().map_or(Ok(()), |probe| probe(name, &tensor()?))
    }
}

/// How the tokens of a sequence reach each other.
pub trait Mixer: Send + Sync {
    /// Continues from `state` with the tokens `x` `[b, t, m]`: their outputs `[b, t, m]`, and the state behind them.
    ///
    /// # Errors
    /// Those of tensor work.
    fn run(&self, x: &Tensor, state: State, ctx: &mut Ctx<'_>) -> Result<(Tensor, State)>;

    /// Where a text may be cut into calls.
    fn split(&self) -> Split {
        Split::Anywhere
    }

    /// What one more token costs after `t`, and what is remembered then.
    fn cost(&self, t: usize) -> Cost;

    /// Updates what is learned without gradients, once after each step of the optimiser.
    ///
    /// # Errors
    /// Those of tensor work.
    fn after_step(&self) -> Result<()> {
        Ok(())
    }
}
