//! Memory that comes back: old slots wait as blocks in a cold tier, and some return while a layer reads its rows.

use std::ops::Range;

use crate::Pos;

/// What a policy that recalls blocks needs, constant; the engine keeps the blocks, searches them and brings them back.
///
/// A row sees, as one softmax, the newest `local` slots at their own positions, and beyond them the first
/// [`sinks`](crate::Needs::sinks), slots that are in no block yet, and the blocks recalled for its pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Newest slots that a row sees.
    pub local: u32,
    /// Most slots that come back at once, per layer and KV head.
    pub slots: u32,
    /// Most slots of a block.
    pub block: u32,
    /// Rows that are read at once while the prompt comes, for which blocks are recalled together; at most `local`.
    pub pass: u32,
    /// Slots of a block whose mean key stands for it in the search: those that were looked at most while near.
    pub keys: u32,
    /// Slots beyond the newest `local` keep their own positions; else all are seen at a distance of `local - 1`.
    pub own: bool,
    /// `Some`: each block is met through one landmark, and blocks leave the strips as soon as they are whole.
    pub grouped: Option<Grouped>,
    /// [`Recall::surprised`] is asked for.
    pub surprisal: bool,
    /// Bytes that the cold tier may take; `None`: as many as the text needs.
    pub cold: Option<u64>,
    /// Blocks wait in a file, not in memory.
    pub disk: bool,
}

/// How a landmark stands for its block: by the mean key of [`Sizes::keys`] slots at the block's last position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped {
    /// Its score counts ln(tokens of the block) more.
    pub weighted: bool,
    /// `Some`: the model was trained with this landmark token, which stands last in every block: its own key stands for
    /// the block, and nothing is read from it.
    pub token: Option<u32>,
}

impl Sizes {
    /// The landmark token of a model that was trained with one.
    pub fn landmark(&self) -> Option<u32> {
        self.grouped.and_then(|grouped| grouped.token)
    }

    /// The landmark token that stands at a position.
    pub fn landmark_at(&self, pos: Pos) -> Option<u32> {
        self.landmark().filter(|_| (pos + 1).is_multiple_of(self.block))
    }

    /// Positions that a text takes with the landmarks between its tokens.
    pub fn positions(&self, tokens: u32) -> u32 {
        match self.landmark() {
            Some(_) => tokens.saturating_add(tokens.saturating_sub(1) / (self.block - 1).max(1)),
            None => tokens,
        }
    }

    /// Most slots that a strip ever holds: sinks, the newest with a pass before it, and a block that is not full yet.
    pub fn hot(&self, sinks: u32) -> u32 {
        [self.local, self.pass, self.block].into_iter().fold(sinks, u32::saturating_add)
    }

    /// Most slots of a strip that can come to wait outside, of a text of `longest` positions.
    pub fn waiting(&self, sinks: u32, longest: u32) -> u32 {
        match self.grouped {
            Some(_) => longest.saturating_sub(1) / self.block * self.block,
            None => longest.saturating_sub(self.local.saturating_add(sinks)),
        }
    }

    /// Slots that a row reads on average: a block that is not full yet counts half.
    pub(crate) fn attended(&self, sinks: u32) -> f64 {
        [sinks, self.local, self.slots].map(f64::from).iter().sum::<f64>() + f64::from(self.block) / 2.0
    }

    /// Most slots that are seen beyond the newest.
    pub fn far(&self, sinks: u32) -> u32 {
        [self.slots, self.block, self.pass].into_iter().fold(sinks, u32::saturating_add)
    }
}

/// Where blocks end, and which come back.
pub trait Recall: Send + Sync {
    /// Surprisal of the rows of a pass, the first at position `first`. Rows come in order, none twice.
    fn surprised(&mut self, first: Pos, surprisal: &[f32], keys: &dyn Likeness) {
        let _ = (first, surprisal, keys);
    }

    /// Ends of the next blocks, ascending: the first begins where the last one that was given ended (at first: after
    /// the sinks), none ends after `end`, and none is longer than [`Sizes::block`].
    fn blocks(&mut self, end: Pos) -> Vec<Pos>;

    /// The blocks that come back for one pass over a layer, ascending; together no more than [`Sizes::slots`].
    /// `likeness[i]` is the dot product of block i's key with the rows' mean query, `blocks[i]` its positions. With
    /// [`Sizes::grouped`] it is asked per KV head, and `likeness[i]` is the most that a row gives to landmark i.
    fn choose(&mut self, layer: usize, likeness: &[f32], blocks: &[Range<Pos>]) -> Vec<u32>;
}

/// How alike keys are.
pub trait Likeness {
    /// `[n, n]`: dot products of the keys at `pos`, as if all stood at one position, summed over the KV heads and the
    /// later layers. Empty where some of them are no longer there.
    fn of(&self, pos: Range<Pos>) -> Vec<f32>;
}

/// Block numbers from the most to the least alike; of equals the lower.
pub(crate) fn by_likeness(likeness: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..likeness.len() as u32).collect();
    order.sort_by(|a, b| likeness[*b as usize].total_cmp(&likeness[*a as usize]).then(a.cmp(b)));
    order
}
