//! `eunoe bench`: tokens per second of reading and writing, at several depths and under several plans.

use std::fs;
use std::io::{self, BufRead as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use eunoe_core::Error;
use eunoe_engine::{Bench, Engine, Event, Layout, Length, Limits, Point, Row};
use eunoe_kv::Plan;
use indicatif::ProgressBar;
use serde::Serialize;

use super::options::ModelOption;
use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::{memory, open, out, profiles, progress, units};

/// Measure tokens per second: reading a prompt and writing an answer, at several depths, under several plans
///
/// Each row stands beside a limit of this machine, measured in the same process: decode beside the rate of plain reads
/// (weights and KV memory are read once per token), prefill beside the peak of multiply-adds. Where a plan forgets
/// nothing, a depth is filled once for all rows and repetitions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe bench -m smollm2-135m
  eunoe bench -m smollm2-135m --prompt 512 --depth 0,4096 --gen 64 --kv full --kv 'a2sf @ 1024tok' --threads 1

With --step, another program can be measured in turn with this one: two JSON lines per repetition,
  {\"ready\":{\"kind\":\"decode\",\"prompt\":64,\"depth\":0,\"plan\":\"full\",\"repetition\":1}}
  {\"measured\":{\"kind\":\"decode\", .. ,\"repetition\":1},\"seconds\":0.5,\"tokens_per_s\":128.0}
and between them it waits for a line on standard input. The document of --json is the last line.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,

    /// Tokens read in one go, separated by commas; 0 measures writing only
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "512")]
    pub(crate) prompt: Vec<u32>,

    /// Tokens already in memory before measuring starts, separated by commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "0")]
    pub(crate) depth: Vec<u32>,

    /// Tokens written; 0 measures reading only
    #[arg(long = "gen", value_name = "N", default_value = "64")]
    pub(crate) generate: u32,

    /// Memory plan; may be repeated [default: full]
    #[arg(long, value_name = "PLAN")]
    pub(crate) kv: Vec<Plan>,

    /// Times that each row is measured; the median is told
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,

    /// Wait for a line on standard input before each repetition, and print JSON lines
    #[arg(long)]
    pub(crate) step: bool,

    /// Compute exactly, with f32 keys and values unless the plan names a codec
    #[arg(long)]
    pub(crate) exact: bool,
}

/// What `bench --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// One per kind, prompt, depth and plan.
    pub rows: Vec<Row>,
    /// What the machine could do at best.
    pub limits: Limits,
    /// What opening the model took.
    pub load: Load,
}

/// What opening the model took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    /// Seconds from the start of the command to a model that is ready.
    pub seconds: f64,
    /// Seconds from the start of the command to the logits of a first prompt.
    pub first_token_seconds: f64,
    /// Tokens of that prompt.
    pub first_prompt: usize,
    /// Bytes of the model's files.
    pub file_bytes: u64,
    /// Resident bytes of the process with the model ready; null where the system does not tell.
    pub resident_bytes: Option<u64>,
    /// Most resident bytes up to then.
    pub peak_resident_bytes: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// A plan that cannot hold a row, or standard input that ends before a `--step` bench does.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    // A row cannot be asked to stop: Ctrl-C ends the process, and the bar's line is cleared.
    let _watched = Interrupt::watch()?;
    let start = Instant::now();
    let engine = open::engine(&args.model.model, args.exact, ctx)?;
    let load = Load::measure(&engine, start, &open::file(&args.model.model)?)?;
    let plans = if args.kv.is_empty() { vec![Plan::parse("full")?] } else { args.kv.clone() };
    let plans = plans
        .into_iter()
        .map(|plan| profiles::attach(plan, &args.model.model))
        .collect::<Result<Vec<_>>>()?;
    let whole = |sizes: &[u32]| sizes.iter().map(|n| *n as usize).collect::<Vec<_>>();
    let bench = Bench {
        prompts: whole(&args.prompt).into_iter().filter(|n| *n > 0).collect(),
        depths: whole(&args.depth),
        gen_tokens: args.generate as usize,
        repeat: args.repeat as usize,
    };
    let longest =
        bench.depths.iter().max().unwrap_or(&0) + bench.prompts.iter().max().unwrap_or(&0) + bench.gen_tokens;
    let length = Length { prompt: u32::try_from(longest)?, longest: u32::try_from(longest)? };
    // speed can be measured at positions that the model was not trained on
    let mut config = engine.config().clone();
    config.context = usize::MAX;
    for plan in &plans {
        if let Some(sizes) = plan.make_policy(u32::MAX)?.needs().recall
            && !bench.prompts.is_empty()
            && let Some(depth) = args.depth.iter().find(|depth| !depth.is_multiple_of(sizes.pass))
        {
            let (text, pass) = (&plan.text, sizes.pass);
            bail!(
                "`{text}` reads in passes of {pass} tokens: a --depth of {depth} is no multiple of it, and leaves no whole one for --prompt"
            );
        }
        let layout = Layout::new(&config, plan, length, engine.default_codec())?;
        let (needed, free) = (memory::taken(&layout), memory::allowed(None)?);
        if needed > free {
            let (needed, free) = (units::bytes(needed), units::bytes(free));
            bail!(
                "`{}` at {longest} tokens needs {needed} of KV memory, half of what is free is {free}",
                plan.text
            );
        }
    }
    let per_depth = bench.prompts.len() + usize::from(bench.gen_tokens > 0);
    let bar = progress::bar("measuring", (plans.len() * bench.depths.len() * per_depth) as u64, "rows");
    bar.tick();
    let mut limits = engine.limits();
    let mut rows = Vec::new();
    for plan in &plans {
        engine.bench(plan, &bench, &mut |event| hear(event, args.step, &mut rows, &bar))?;
        // a busy neighbour may have left meanwhile
        limits = limits.or_better(engine.limits());
    }
    bar.finish_and_clear();
    rows.iter_mut().for_each(|row| engine.judge(row, limits));
    if ctx.json || args.step {
        return out::json(&Report { rows, limits, load });
    }
    out::text(&format!("{}\n{}{}", render(&rows), limits_text(&limits), load.render()))
}

#[derive(Serialize)]
struct Ready<'a> {
    ready: &'a Point,
}

#[derive(Serialize)]
struct Measured<'a> {
    measured: &'a Point,
    seconds: f64,
    tokens_per_s: f64,
}

/// Books rows; with `step`, tells each repetition and waits for its turn.
fn hear(event: Event<'_>, step: bool, rows: &mut Vec<Row>, bar: &ProgressBar) -> eunoe_core::Result<()> {
    let say = |told: Result<()>| told.map_err(|e| Error::Invalid(format!("{e:#}")));
    match event {
        Event::Row(row) => {
            rows.push(row);
            bar.inc(1);
        }
        Event::Ready(ready) if step => {
            say(out::json(&Ready { ready }))?;
            let read = io::stdin().lock().read_line(&mut String::new());
            if !read.is_ok_and(|bytes| bytes > 0) {
                let why =
                    "standard input ended before the bench: `--step` reads a line before each repetition";
                return Err(Error::Invalid(why.into()));
            }
        }
        Event::Measured(measured, seconds) if step => {
            let tokens_per_s = measured.prompt as f64 / seconds;
            say(out::json(&Measured { measured, seconds, tokens_per_s }))?;
        }
        Event::Ready(_) | Event::Measured(..) => {}
    }
    Ok(())
}

impl Load {
    /// Reads a first prompt with a model that has just been opened.
    fn measure(engine: &Engine, start: Instant, file: &Path) -> Result<Self> {
        const PROMPT: u32 = 16;
        let seconds = start.elapsed().as_secs_f64();
        let (resident_bytes, peak_resident_bytes) = (status("VmRSS:"), status("VmHWM:"));
        let mut session =
            engine.session(&Plan::parse("full")?, Length { prompt: PROMPT, longest: PROMPT })?;
        let prompt: Vec<u32> = (0..PROMPT).collect();
        engine.read(&mut session, &prompt, &mut |_| true)?;
        Ok(Self {
            seconds,
            first_token_seconds: start.elapsed().as_secs_f64(),
            first_prompt: prompt.len(),
            file_bytes: open::bytes(file)?,
            resident_bytes,
            peak_resident_bytes,
        })
    }

    fn render(&self) -> String {
        let resident = self.resident_bytes.map_or_else(String::new, |bytes| {
            let share = bytes as f64 / self.file_bytes as f64;
            format!("; {} resident, {share:.2} of the file", units::bytes(bytes))
        });
        format!(
            "loading: {:.2} s{resident}; {:.2} s from the start to the logits of a prompt of {}\n",
            self.seconds, self.first_token_seconds, self.first_prompt
        )
    }
}

/// A line of what the system says of this process, in bytes.
fn status(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn limits_text(limits: &Limits) -> String {
    let bf16 = limits.bf16_gop_per_s.map_or_else(String::new, |rate| format!(", {rate:.0} Gop/s in bf16"));
    format!(
        "this machine: {:.1} GB/s of plain reads, {:.0} GMAC/s of 8-bit integers, {:.0} Gop/s in f32{bf16}\n",
        limits.read_gb_per_s, limits.int8_gmac_per_s, limits.f32_gop_per_s
    )
}

/// The rows as text, one a line.
pub fn render(rows: &[Row]) -> String {
    let head = [
        "kind",
        "tokens",
        "depth",
        "tokens/s",
        "slowest to fastest",
        "work",
        "of the limit",
        "peak KV",
        "plan",
    ];
    let line = |r: &Row| {
        let rate = format!("{:.1}", r.tokens_per_s);
        let spread = format!("{:.1} to {:.1}", r.spread[0], r.spread[1]);
        let percent = |share: Option<f64>, of: &str| {
            share.map_or_else(String::new, |share| format!("{:.0} % of {of}", 100.0 * share))
        };
        let (work, share) = match (r.gb_per_s, r.gmac_per_s) {
            (Some(gb), _) => (format!("{gb:.1} GB/s"), percent(r.share_of_read_rate, "reads")),
            (_, Some(gmac)) => (format!("{gmac:.0} GMAC/s"), percent(r.share_of_peak, "peak")),
            _ => Default::default(),
        };
        let [prompt, depth] = [r.prompt.to_string(), r.depth.to_string()];
        [r.kind.into(), prompt, depth, rate, spread, work, share, units::bytes(r.peak_bytes), r.plan.clone()]
    };
    out::columns(&std::iter::once(head.map(String::from)).chain(rows.iter().map(line)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_table_with_a_head() {
        let decode = Row {
            kind: "decode",
            prompt: 64,
            depth: 0,
            plan: "full | f16".into(),
            threads: 1,
            tokens_per_s: 12.34,
            spread: [12.0, 13.0],
            gb_per_s: Some(1.0),
            share_of_read_rate: Some(0.5),
            gmac_per_s: None,
            share_of_peak: None,
            peak_bytes: 1 << 20,
        };
        let prefill = Row {
            kind: "prefill",
            gb_per_s: None,
            gmac_per_s: Some(99.6),
            share_of_peak: Some(0.25),
            ..decode.clone()
        };
        let table = "\
kind     tokens  depth  tokens/s  slowest to fastest  work        of the limit   peak KV  plan
decode   64      0      12.3      12.0 to 13.0        1.0 GB/s    50 % of reads  1.0 MiB  full | f16
prefill  64      0      12.3      12.0 to 13.0        100 GMAC/s  25 % of peak   1.0 MiB  full | f16
";
        assert_eq!(render(&[decode, prefill]), table);
    }

    #[test]
    fn this_process_is_resident_somewhere() {
        if cfg!(target_os = "linux") {
            assert!(status("VmRSS:").is_some_and(|bytes| bytes > 100 << 10));
        }
        assert_eq!(status("NoSuch:"), None);
    }
}
