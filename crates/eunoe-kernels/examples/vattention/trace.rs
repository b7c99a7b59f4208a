//! Bytes held over a trace of requests that join, are read, write, forget to a budget and leave.

use eunoe_kernels::strip::Strip;
use eunoe_kernels::vm::page_bytes;

use super::{PAIR, Random, SLOT, Shape, say};

const REQUESTS: usize = 2000;
const AT_ONCE: usize = 64;
const LONGEST: usize = 8192 + 512;
const BUDGET: usize = 1024;
/// Rows of a prompt that are read at once.
const ROWS: usize = 256;
/// Steps from one look at the system's own count to the next.
const LOOK: usize = 16;
const BLOCKS: [usize; 3] = [16, 32, 64];

const WAYS: [&str; 13] = [
    "keys and values alone",
    "a strip per layer and KV head, pages of 4 KiB",
    "the same, counted by the system",
    "the same, with the system's page tables for it",
    "a strip per layer and KV head, pages of 64 KiB",
    "a strip per layer and KV head, pages of 2 MiB",
    "vAttention's two tensors per layer, pages of 64 KiB",
    "vAttention's two tensors per layer, pages of 2 MiB",
    "blocks of 16 tokens",
    "blocks of 32 tokens",
    "blocks of 64 tokens",
    "blocks of 16 tokens of a pool that is not given back",
    "the longest length for every request",
];

/// Blocks of a pool, and those that were given back to it.
struct Blocks {
    tokens: usize,
    free: Vec<u32>,
    made: u32,
}

impl Blocks {
    /// Makes a table long enough for `slots`, and no longer.
    fn fit(&mut self, table: &mut Vec<u32>, slots: usize) {
        let want = slots.div_ceil(self.tokens);
        self.free.extend(table.drain(want.min(table.len())..));
        while table.len() < want {
            table.push(self.free.pop().unwrap_or_else(|| {
                self.made += 1;
                self.made - 1
            }));
        }
    }
}

/// The strips of one layer are real; the other layers' would be of the same lengths.
struct Request {
    prompt: usize,
    answer: usize,
    cap: usize,
    strips: Vec<Strip>,
    tables: [Vec<u32>; BLOCKS.len()],
}

impl Request {
    fn new(shape: &Shape, random: &mut Random) -> Self {
        let prompt = (32.0 * 256f64.powf(random.unit())) as usize;
        let answer = 16 + random.below(497);
        let cap = if random.below(2) == 0 { BUDGET } else { LONGEST };
        let strip = |_| Strip::new(SLOT, cap.min(prompt + answer)).expect("address space");
        Self {
            prompt,
            answer,
            cap,
            strips: (0..shape.kv_heads).map(strip).collect(),
            tables: Default::default(),
        }
    }

    fn slots(&self) -> usize {
        self.strips[0].len()
    }

    /// Reads rows of the prompt or writes a token, within the budget. Blocks are given back as if survivors were
    /// moved together, as those of a strip are.
    fn step(&mut self, random: &mut Random, blocks: &mut [Blocks]) {
        let rows = self.prompt.clamp(1, ROWS);
        match self.prompt {
            0 => self.answer -= 1,
            _ => self.prompt -= rows,
        }
        let (len, step) = (self.slots(), (self.cap / 16).clamp(1, 64));
        let gone = match (len + rows).saturating_sub(self.cap) {
            0 => Vec::new(),
            over => random.some(over.max(step).min(len), len),
        };
        for strip in &mut self.strips {
            strip.evict(&gone);
            strip.append(rows).fill(1);
        }
        for (table, blocks) in self.tables.iter_mut().zip(blocks) {
            blocks.fit(table, len - gone.len());
            blocks.fit(table, len - gone.len() + rows);
        }
    }
}

/// Bytes of the page tables of this process.
fn page_tables() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:"))?;
    line.split_whitespace().next()?.parse::<usize>().ok().map(|kib| kib << 10)
}

/// Bytes that each way holds now; what is not counted at this step is `None`.
fn held(shape: &Shape, all: &[Request], blocks: &[Blocks], look: Option<usize>) -> [Option<f64>; WAYS.len()] {
    let all_strips = shape.layers * shape.kv_heads;
    let sum = |of: &dyn Fn(usize) -> usize| Some(all.iter().map(|r| of(r.slots())).sum::<usize>() as f64);
    let strips = |page: usize| sum(&|n| all_strips * (n * SLOT.bytes()).next_multiple_of(page));
    let tensors =
        |page: usize| sum(&|n| 2 * shape.layers * (n * shape.kv_heads * PAIR / 2).next_multiple_of(page));
    let pooled = |tokens: usize| Some((tokens * all_strips * PAIR) as f64);
    let of_layers = |bytes: usize| (shape.layers * bytes) as f64;
    let pages = |strip: &Strip| strip.resident_pages();
    let counted = look.and_then(|tables_before| {
        let pages: usize = all.iter().flat_map(|r| &r.strips).map(pages).sum::<Option<usize>>()?;
        let tables = page_tables()?.saturating_sub(tables_before);
        Some((of_layers(pages * page_bytes()), of_layers(tables)))
    });
    let block = |i: usize| pooled((blocks[i].made as usize - blocks[i].free.len()) * BLOCKS[i]);
    [
        sum(&|n| n * all_strips * PAIR),
        strips(4 << 10),
        counted.map(|c| c.0),
        counted.map(|c| c.0 + c.1),
        strips(64 << 10),
        strips(2 << 20),
        tensors(64 << 10),
        tensors(2 << 20),
        block(0),
        block(1),
        block(2),
        pooled(blocks[0].made as usize * BLOCKS[0]),
        pooled(all.len() * LONGEST),
    ]
}

/// Sum, most and count of each way over the steps until the last request has come.
fn run(shape: &Shape) -> [(f64, f64, usize); WAYS.len()] {
    let mut random = Random(7);
    let mut blocks = BLOCKS.map(|tokens| Blocks { tokens, free: Vec::new(), made: 0 });
    let (mut all, mut begun, mut step) = (Vec::<Request>::new(), 0, 0);
    let mut total = [(0.0, 0.0f64, 0); WAYS.len()];
    let before = page_tables();
    while begun < REQUESTS {
        while all.len() < AT_ONCE {
            all.push(Request::new(shape, &mut random));
            begun += 1;
        }
        all.iter_mut().for_each(|r| r.step(&mut random, &mut blocks));
        let now = held(shape, &all, &blocks, before.filter(|_| step % LOOK == 0));
        if let (Some(counted), 4096) = (now[2], page_bytes()) {
            assert_eq!(Some(counted), now[1], "bytes of all pages at step {step}");
        }
        for (total, now) in total.iter_mut().zip(now) {
            if let Some(now) = now {
                *total = (total.0 + now, total.1.max(now), total.2 + 1);
            }
        }
        for r in all.iter_mut().filter(|r| r.answer == 0) {
            r.tables.iter_mut().zip(&mut blocks).for_each(|(table, blocks)| blocks.fit(table, 0));
        }
        all.retain(|r| r.answer > 0);
        step += 1;
    }
    total
}

pub(crate) fn page(shapes: &[Shape]) {
    say(&format!(
        "## Bytes held over one trace\n\n{REQUESTS} requests, {AT_ONCE} at a time: prompts of 32 … 8192 tokens \
         (log-uniform), read {ROWS} rows at a time, answers of\n16 … 512. Half of them have a budget of {BUDGET} slots per \
         head and forget at random, a sixteenth at a time; a block of\nthe pool goes back as if the survivors were moved \
         together, as those of a strip are. Mean and peak until the last has\ncome, \
         and the mean over that of keys and values alone. The strips of one layer are real, counted by the system every\n\
         {LOOK} steps (each time as computed), and times the layers.\n\nA block of 16 tokens is as large as a page of 4 KiB, \
         so both waste as little; strips hold four bytes more per slot, its\nposition ({:.1} %), and page tables. Where pages are \
         larger than the smallest, blocks hold less. What strips give back, the\nsystem has again; a pool that is taken once \
         holds its peak.\n",
        100.0 * (SLOT.bytes() - PAIR) as f64 / PAIR as f64
    ));
    for shape in shapes {
        say(&format!(
            "| {}, {} layers, {} KV heads of 64, f16 | mean, MB | peak, MB | mean / keys and values |\n|---|---|---|---|",
            shape.name, shape.layers, shape.kv_heads
        ));
        let total = run(shape);
        let mean = |i: usize| total[i].0 / total[i].2 as f64;
        for (i, name) in WAYS.iter().enumerate().filter(|(i, _)| total[*i].2 > 0) {
            let most = total[i].1 / 1e6;
            say(&format!("| {name} | {:.1} | {most:.1} | {:.3} |", mean(i) / 1e6, mean(i) / mean(0)));
        }
        say("");
    }
}

/// The dossier's example, computed again.
pub(crate) fn example(shape: &Shape) {
    let (batch, long, short) = (16, 32 << 10, 1 << 10);
    let token = shape.layers * shape.kv_heads * PAIR;
    let tensors = |page: usize| 2 * shape.layers * (short * shape.kv_heads * PAIR / 2).next_multiple_of(page);
    let strips = |page: usize| shape.layers * shape.kv_heads * (short * SLOT.bytes()).next_multiple_of(page);
    let mb = |bytes: usize| (batch * bytes) as f64 / 1e6;
    say(&format!(
        "vAttention's own arithmetic for {} and {batch} requests: room for 32768 tokens each is {:.1} MB. With 1024 tokens \
         each,\nkeys and values are {:.1} MB; its tensors hold {:.1} MB with pages of 64 KiB (four pages each, exactly), blocks of \
         16 tokens\n{:.1} MB, our strips {:.1} MB with pages of 4 KiB and {:.1} MB with pages of 64 KiB: there the positions \
         just pass the\nfourth page.\n",
        shape.name,
        mb(long * token),
        mb(short * token),
        mb(tensors(64 << 10)),
        mb(short.next_multiple_of(16) * token),
        mb(strips(4 << 10)),
        mb(strips(64 << 10)),
    ));
}
