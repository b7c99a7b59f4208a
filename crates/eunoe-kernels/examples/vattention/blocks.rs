//! Decode attention over strips beside the same slots in blocks at random places of a pool.

use std::time::Instant;

use eunoe_kernels::attend::{Heads, Run, attend};
use eunoe_kernels::strip::Strip;
use eunoe_kernels::{Isa, Pool};

use super::{D, Random, SLOT, Shape, median, say};

/// Bytes of all strips in a round: more than caches hold.
const ROUND: usize = 96 << 20;
const TURNS: usize = 11;
const DEPTHS: [usize; 3] = [1 << 10, 4 << 10, 16 << 10];
/// Tokens of a block.
const BLOCK: usize = 16;

struct Bench<'a> {
    shape: &'a Shape,
    pool: &'a Pool,
    depth: usize,
    /// `[sequence, KV head]`: each sequence in strips of its own.
    strips: Vec<Strip>,
    /// `[KV head]`: all sequences in blocks of one pool.
    pools: Vec<Strip>,
    /// `[sequence, slot]`: where in the pool.
    lists: Vec<Vec<u32>>,
}

impl<'a> Bench<'a> {
    fn new(shape: &'a Shape, pool: &'a Pool, depth: usize) -> Self {
        let sequences = ROUND.div_ceil(depth * SLOT.bytes() * shape.kv_heads);
        let new = |slots: usize| Strip::new(SLOT, slots).expect("address space");
        let mut random = Random(depth as u64);
        let mut strips: Vec<Strip> = (0..sequences * shape.kv_heads).map(|_| new(depth)).collect();
        for strip in &mut strips {
            for i in 0..depth {
                let [k, v] = std::array::from_fn(|_| [(); D].map(|()| random.unit() as f32 - 0.5));
                strip.push(&k, &v, i as u32);
            }
        }
        let mut places: Vec<usize> = (0..sequences * depth / BLOCK).collect();
        (1..places.len()).rev().for_each(|i| places.swap(i, random.below(i + 1)));
        let table = |blocks: &[usize]| {
            blocks.iter().flat_map(|b| b * BLOCK..(b + 1) * BLOCK).map(|i| i as u32).collect()
        };
        let lists = places.chunks(depth / BLOCK).map(table).collect();
        let pooled = |head: usize| {
            let (mut all, bytes) = (new(sequences * depth), SLOT.bytes() * BLOCK);
            let to = all.append(sequences * depth);
            for (n, place) in places.iter().enumerate() {
                let (sequence, first) = (n * BLOCK / depth, n * BLOCK % depth);
                let from = strips[sequence * shape.kv_heads + head].records(first..first + BLOCK);
                to[place * bytes..][..bytes].copy_from_slice(from);
            }
            all
        };
        let pools = (0..shape.kv_heads).map(pooled).collect();
        Self { shape, pool, depth, strips, pools, lists }
    }

    /// Seconds of one row of each sequence, one after the other, over what `run` names; and the outputs.
    fn pass<'s>(
        &'s self,
        mut strips: impl FnMut(usize, usize) -> (&'s Strip, Option<&'s [u32]>),
    ) -> (f64, Vec<f32>) {
        let Shape { kv_heads, group, .. } = *self.shape;
        let heads = kv_heads * group;
        let q: Vec<f32> = (0..heads * D).map(|i| (i % 89) as f32 / 44.5 - 1.0).collect();
        let shape = Heads { heads, group, scale: (D as f32).powf(-0.5) };
        let mut out = vec![0.0; self.lists.len() * q.len()];
        let start = Instant::now();
        for (sequence, out) in out.chunks_exact_mut(q.len()).enumerate() {
            let mut runs = Vec::with_capacity(kv_heads);
            for head in 0..kv_heads {
                let (strip, list) = strips(sequence, head);
                runs.push(Run { list, ..Run::new(strip, 0..1, self.depth - 1, head * group) });
            }
            attend(Isa::detect(), self.pool, &runs, shape, &q, out, None);
        }
        (start.elapsed().as_secs_f64(), out)
    }

    fn contiguous(&self) -> (f64, Vec<f32>) {
        self.pass(|sequence, head| (&self.strips[sequence * self.shape.kv_heads + head], None))
    }

    fn listed(&self) -> (f64, Vec<f32>) {
        self.pass(|sequence, head| (&self.pools[head], Some(&self.lists[sequence])))
    }

    /// Seconds to gather each sequence's blocks in strips that are used again and again.
    fn gather(&self) -> f64 {
        let new = |_| Strip::new(SLOT, self.depth).expect("address space");
        let mut side_by_side: Vec<Strip> = (0..self.pools.len()).map(new).collect();
        let mut gather = || {
            for list in &self.lists {
                for (strip, pool) in side_by_side.iter_mut().zip(&self.pools) {
                    strip.reset();
                    for block in list.chunks(BLOCK) {
                        let first = block[0] as usize;
                        strip.append(BLOCK).copy_from_slice(pool.records(first..first + BLOCK));
                    }
                }
            }
        };
        gather();
        let start = Instant::now();
        gather();
        start.elapsed().as_secs_f64()
    }

    /// Seconds to read all slots and do nothing else, by one thread: in strips, and in blocks.
    fn read(&self) -> [f64; 2] {
        let sum = |bytes: &[u8]| {
            bytes.as_chunks().0.iter().map(|b| u64::from_ne_bytes(*b)).fold(0u64, u64::wrapping_add)
        };
        let start = Instant::now();
        let strips = self.strips.iter().map(|s| sum(s.records(0..self.depth))).fold(0, u64::wrapping_add);
        let first = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut blocks = 0u64;
        for (list, pool) in self.lists.iter().flat_map(|list| self.pools.iter().map(move |p| (list, p))) {
            for block in list.chunks(BLOCK) {
                let at = block[0] as usize;
                blocks = blocks.wrapping_add(sum(pool.records(at..at + BLOCK)));
            }
        }
        let second = start.elapsed().as_secs_f64();
        assert_eq!(strips, blocks, "the same slots");
        [first, second]
    }
}

pub(crate) fn page(shapes: &[Shape], pool: &Pool, threads: usize) {
    say(&format!(
        "## Attention over a strip and over a block table\n\nOne row of each of as many sequences as fill {} MiB, so that slots \
         come from memory; {threads} threads, {:?}. Blocks of {BLOCK}\ntokens lie at random places of one pool per KV head. The \
         kernel reads them as a list of slots: it copies tiles of 64 into\nthe first cache and asks for those of the next \
         tile. Of what is there that is the fairest; a kernel written for blocks would\nsave the copy. Gathered: each sequence's \
         blocks are first copied side by side, and then read as a strip. Plain reads add\nup all bytes by one thread, in order \
         and in blocks: what order alone is worth where nothing is asked for ahead. Medians of\n{TURNS} turns taken \
         alternately, and the quartiles of the ratio. The outputs are \
         the same bits.\n\n| model | slots | strip, µs | blocks, µs | blocks / strip | gathered / strip | plain reads, blocks / \
         strip |\n|---|---|---|---|---|---|---|",
        ROUND >> 20,
        Isa::detect()
    ));
    for (shape, depth) in shapes.iter().flat_map(|shape| DEPTHS.map(|depth| (shape, depth))) {
        let bench = Bench::new(shape, pool, depth);
        assert_eq!(bench.contiguous().1, bench.listed().1, "the same slots give the same bits");
        let mut times: [Vec<f64>; 5] = Default::default();
        for _ in 0..TURNS {
            let (strip, blocks) = (bench.contiguous().0, bench.listed().0);
            let [in_order, in_blocks] = bench.read();
            let now = [strip, blocks, blocks / strip, bench.gather() / strip + 1.0, in_blocks / in_order];
            times.iter_mut().zip(now).for_each(|(all, x)| all.push(x));
        }
        times[2].sort_by(f64::total_cmp);
        let [low, high] = [times[2][TURNS / 4], times[2][TURNS - 1 - TURNS / 4]];
        let [strip, blocks, ratio, gathered, read] = times.map(median);
        let each = |seconds: f64| seconds * 1e6 / bench.lists.len() as f64;
        say(&format!(
            "| {} | {depth} | {:.0} | {:.0} | {ratio:.2} ({low:.2} … {high:.2}) | {gathered:.2} | {read:.2} |",
            shape.name,
            each(strip),
            each(blocks)
        ));
    }
    say("");
}
