//! `eunoe eval`: plans beside full memory on the same items, each difference with its interval.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::builder::NonEmptyStringValueParser;
use eunoe_engine::{Arithmetic, Engine, Length, Options, full_bytes, policy_shape};
use eunoe_kv::Plan;
use eunoe_report::{Machine, Manifest, ModelInfo, Row, SourceFile};
use eunoe_tasks::Sources;
use serde::Serialize;

use super::demo;
use crate::context::Context;
use crate::eval::{
    Answers, Asked, Endpoint, Folder, Grid, Work, Writer, is_address, plans, replace, tasks, under_budgets,
};
use crate::interrupt::Interrupt;
use crate::{memory, models, open, out, profiles, pull, units};

/// What lengths may be asked for.
const LENGTHS: RangeInclusive<usize> = 64..=16_777_216;
/// Most items per task and length.
const SAMPLES: usize = 100_000;

/// Measure what forgetting costs: plans beside full memory on the same items
///
/// Every plan answers the same items of every task at every length; `full` answers them too, as the ceiling. Each row has
/// the score, the paired difference to full memory with a 95 % interval, whether the ceiling is near blind guessing (such a
/// task ranks nothing), KV bytes, attended tokens and seconds.
///
/// Plans are compared at the same bytes: one that names no budget gets --budget. Methods that set their sizes themselves or
/// keep everything run as they are.
///
/// With --out, answers are kept as they come: a run that was stopped or killed goes on with the same command, and
/// `eunoe report DIR` makes a page of what is there. MODEL may also be the address of an OpenAI-compatible server
/// (`http://127.0.0.1:8080/v1`), so that others are measured by the same tasks.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe eval -m smollm2-135m --tasks needle,qa_1 --lengths 2048 --kv 'snapkv;h2o;streaming_llm' --samples 20
  eunoe eval -m smollm2-135m --tasks ruler_balanced --lengths 2048,4096 --kv 'a2sf' --budget 50%,25% --out results
  eunoe eval -m smollm2-135m --tasks qa_1 --lengths 4096 --kv 'snapkv @ 25%' --file squad.json --file novel.txt
  eunoe eval -m http://127.0.0.1:8080/v1 --tokenizer smollm2-135m --tasks needle --lengths 2048
  eunoe eval -m smollm2-135m --again results/manifest.json --out twice
`eunoe list tasks` has the tasks.")]
pub struct Args {
    /// A name from `eunoe list`, a `.gguf` file, a model's folder, or the address of an OpenAI-compatible server
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,

    /// Tasks or groups of tasks, such as `needle,qa_1` or `ruler`
    #[arg(long, value_name = "T,..", value_delimiter = ',', required_unless_present = "again")]
    tasks: Vec<String>,

    /// Most tokens of prompt and answer together
    #[arg(long, value_name = "N,..", value_delimiter = ',', required_unless_present = "again",
          value_parser = clap::value_parser!(u32).range(*LENGTHS.start() as i64..=*LENGTHS.end() as i64))]
    lengths: Vec<u32>,

    /// Memory plans, separated by `;`
    #[arg(long, value_name = "PLAN;..", value_delimiter = ';', value_parser = NonEmptyStringValueParser::new())]
    kv: Vec<String>,

    /// Budgets for plans that name none; each such plan runs under each
    #[arg(long, value_name = "B,..", value_delimiter = ',', default_value = "25%")]
    budget: Vec<String>,

    /// Items per task and length
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=SAMPLES as i64))]
    samples: u32,

    /// Texts and questions to make items from: plain text, SQuAD or HotpotQA JSON, JSON lines [default: built in]
    #[arg(long, value_name = "F")]
    file: Vec<PathBuf>,

    /// Seed of the items
    #[arg(long, value_name = "S", default_value = "0")]
    seed: u64,

    /// Audit every answer that is written to a single question, but those of `full` (several times slower)
    #[arg(long)]
    audit: bool,

    /// Compute exactly, with f32 keys and values unless a plan names a codec: slower, for comparisons with others
    #[arg(long)]
    exact: bool,

    /// Keep answers in this folder, and go on where it left off
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Take tasks, lengths, plans, samples and seed from the manifest of another run, and make it again
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["tasks", "lengths", "kv", "budget", "samples", "seed", "audit", "exact"])]
    again: Option<PathBuf>,

    /// Items at a time, each with its share of the threads [default: as many as there are threads and memory for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,

    /// Most bytes of KV memory over all items at a time [default: half of what is free]
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes)]
    memory: Option<u64>,

    /// Of a server: the model whose tokenizer and template make the prompts
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<PathBuf>,

    /// Of a server: what its rows are called
    #[arg(long, value_name = "NAME", default_value = "endpoint", value_parser = NonEmptyStringValueParser::new())]
    label: String,

    /// Of a server: which of its models [default: the first]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    served: Option<String>,
}

/// What `eval --json` prints.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    rows: Vec<Row>,
    out: Option<&'a Path>,
}

/// Runs the command.
///
/// # Errors
/// Unknown tasks, plans that do not hold the lengths, files that cannot be read, another evaluation in the folder, or an
/// interruption.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let asked = grid(args)?;
    let (sources, files) = sources(&args.file)?;
    if let Some(of) = asked.again.as_ref().map(|m| &m.sources).filter(|of| **of != files) {
        let names: Vec<&str> = of.iter().skip(1).map(|file| file.name.as_str()).collect();
        match names.is_empty() {
            true => bail!(
                "the manifest was made from what is built in, of this or another version: leave out --file"
            ),
            false => bail!("the manifest was made from other files (--file): {}", names.join(", ")),
        }
    }
    for task in &asked.tasks {
        let (id, samples) = (task.card().id, asked.samples);
        if let Some(most) = task.distinct(&sources).filter(|most| *most < samples) {
            bail!(
                "`{id}` has {most} different items, {samples} were asked for: give more with --file, or fewer --samples"
            );
        }
    }
    let interrupt = Interrupt::watch()?;
    match args.model.to_str().filter(|model| is_address(model)) {
        Some(base) => on_endpoint(args, ctx, base, &asked, &sources, files, &interrupt),
        None => on_engine(args, ctx, asked, &sources, files, &interrupt),
    }
}

/// What is asked for.
fn grid(args: &Args) -> Result<Grid> {
    let Some(path) = &args.again else {
        let mut lengths: Vec<usize> = args.lengths.iter().map(|n| *n as usize).collect();
        lengths.sort_unstable();
        lengths.dedup();
        return Ok(Grid {
            tasks: tasks(&args.tasks)?,
            lengths,
            plans: args.kv.iter().map(|plan| plan.trim().to_owned()).collect(),
            samples: args.samples as usize,
            seed: args.seed,
            audit: args.audit,
            exact: args.exact,
            again: None,
        });
    };
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let manifest: Manifest = serde_json::from_str(&text)
        .with_context(|| format!("`{}` is no manifest of `eunoe eval`", path.display()))?;
    let lengths = manifest.lengths.iter().all(|n| LENGTHS.contains(n));
    if !lengths || !(1..=SAMPLES).contains(&manifest.samples) || manifest.plans.is_empty() {
        bail!("`{}` asks for lengths, samples or plans that cannot be", path.display());
    }
    Ok(Grid {
        tasks: tasks(&manifest.tasks)?,
        lengths: manifest.lengths.clone(),
        plans: manifest.plans.clone(),
        samples: manifest.samples,
        seed: manifest.seed,
        audit: manifest.audit,
        exact: manifest.exact,
        again: Some(manifest),
    })
}

/// Texts and questions, and what they were made from.
fn sources(files: &[PathBuf]) -> Result<(Sources, Vec<SourceFile>)> {
    let mut read = Vec::new();
    for path in files {
        let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        read.push((name, bytes));
    }
    let named: Vec<(&str, &[u8])> =
        read.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let built_in = Sources::built_in(demo::TEXT)?;
    let sources = if named.is_empty() { built_in } else { built_in.replaced_by(Sources::read(&named)?) };
    let of = |(name, bytes): &(&str, &[u8])| SourceFile {
        name: (*name).into(),
        sha256: pull::sha256_of_bytes(bytes),
    };
    let built_in: String = eunoe_tasks::sources::built_in_files().iter().map(|(_, text)| *text).collect();
    let own = SourceFile {
        name: "built in".into(),
        sha256: pull::sha256_of_bytes((built_in + demo::TEXT).as_bytes()),
    };
    Ok((sources, [own].into_iter().chain(named.iter().map(of)).collect()))
}

fn on_endpoint(
    args: &Args,
    ctx: &Context,
    base: &str,
    grid: &Grid,
    sources: &Sources,
    files: Vec<SourceFile>,
    interrupt: &Interrupt,
) -> Result<()> {
    if !args.kv.is_empty() || grid.audit || grid.exact || args.jobs.is_some() || args.memory.is_some() {
        bail!("a server remembers as it likes: leave out --kv, --audit, --exact, --jobs and --memory");
    }
    let Some(of) = &args.tokenizer else {
        bail!("prompts for a server need a tokenizer and a template: give --tokenizer MODEL");
    };
    let gguf = open::header(of)?;
    let tokenizer = eunoe_model::tokenizer::Tokenizer::from_gguf(&gguf)?;
    let template = eunoe_model::chat::ChatTemplate::from_gguf(&gguf)?;
    let endpoint = Endpoint::connect(base, args.served.as_deref())?;
    let writer = Writer { tokenizer: &tokenizer, template: template.as_ref() };
    let asked = Asked { grid, sources, writer };
    let model = ModelInfo {
        name: format!("{base} ({})", endpoint.model),
        sha256: Some(open::sha256(&open::file(of)?)?),
        layers: 0,
        kv_heads: 0,
        token_bytes: 0,
        context: 0,
    };
    let plans = [(args.label.clone(), None)];
    let machine = machine("", 1, 0);
    finish(args, ctx, &asked, &plans, (model, files, machine), &Answers::Endpoint(&endpoint), interrupt)
}

fn on_engine(
    args: &Args,
    ctx: &Context,
    mut grid: Grid,
    sources: &Sources,
    files: Vec<SourceFile>,
    interrupt: &Interrupt,
) -> Result<()> {
    if args.tokenizer.is_some() || args.served.is_some() {
        bail!("--tokenizer and --served are for servers: the model brings its own");
    }
    let path = open::file(&args.model)?;
    let sha256 = open::sha256(&path)?;
    if grid.again.as_ref().is_some_and(|of| of.model.sha256.as_ref() != Some(&sha256)) {
        bail!("the manifest was made with another model than `{}`", args.model.display());
    }
    let config = eunoe_model::Config::from_gguf(&open::header(&args.model)?)?;
    let longest = grid.lengths.iter().copied().max().unwrap_or(0);
    if longest > config.context {
        let window = config.context;
        bail!(
            "a length of {longest} tokens exceeds the model's window of {window}: full memory has no ceiling there"
        );
    }
    if args.again.is_none() {
        grid.plans = under_budgets(&grid.plans, &args.budget)?;
    }
    let plans = plans(&grid.plans, &args.model)?;
    let needed = full_bytes(&config, longest as u32).saturating_mul(sessions(&grid));
    let jobs = jobs(args, ctx, &path, needed)?;
    let threads = (ctx.threads / jobs).max(1);
    let arithmetic = if grid.exact { Arithmetic::Exact } else { Arithmetic::Fast };
    let options = Options { threads, arithmetic, ..Options::default() };
    let engines = (0..jobs).map(|_| open_one(&path, options)).collect::<Result<Vec<_>>>()?;
    let Some(engine) = engines.first() else { bail!("no worker") };
    for (name, plan) in plans.iter().filter_map(|(name, plan)| Some((name, plan.as_ref()?))) {
        for length in &grid.lengths {
            let length = Length { prompt: *length as u32 - 1, longest: *length as u32 };
            engine.layout(plan, length).with_context(|| format!("`{name}` at {} tokens", length.longest))?;
        }
    }
    let shape = policy_shape(engine.config());
    let model = ModelInfo {
        name: models::name_of(&path, &sha256),
        sha256: Some(sha256),
        layers: shape.layers,
        kv_heads: shape.kv_heads,
        token_bytes: full_bytes(engine.config(), 1),
        context: engine.config().context,
    };
    let asked = Asked {
        grid: &grid,
        sources,
        writer: Writer { tokenizer: &engine.tokenizer, template: engine.template.as_ref() },
    };
    let machine = machine(&format!("{:?}", engine.model.backend.isa).to_lowercase(), jobs, threads);
    finish(args, ctx, &asked, &plans, (model, files, machine), &Answers::Engines(&engines), interrupt)
}

fn open_one(path: &Path, options: Options) -> Result<Engine> {
    Engine::open(path, options, &mut |_| {}).with_context(|| format!("cannot open `{}`", path.display()))
}

/// Answers what is missing, and prints the rows.
fn finish(
    args: &Args,
    ctx: &Context,
    asked: &Asked<'_>,
    plans: &[(String, Option<Plan>)],
    (model, sources, machine): (ModelInfo, Vec<SourceFile>, Machine),
    answers: &Answers<'_>,
    interrupt: &Interrupt,
) -> Result<()> {
    let grid = asked.grid;
    let heads = profiles::digest(plans.iter().filter_map(|(_, plan)| plan.as_ref()))?;
    // older manifests do not say
    if grid.again.as_ref().is_some_and(|of| of.heads.is_some() && of.heads != heads) {
        bail!(
            "the manifest was made with another profile of the model's heads (`eunoe probe retrieval_heads`)"
        );
    }
    let manifest = Manifest {
        eunoe: env!("CARGO_PKG_VERSION").into(),
        model,
        plans: plans.iter().map(|(name, _)| name.clone()).collect(),
        tasks: grid.tasks.iter().map(|t| t.card().id.into()).collect(),
        lengths: grid.lengths.clone(),
        samples: grid.samples,
        seed: grid.seed,
        audit: grid.audit,
        exact: grid.exact,
        sources,
        heads,
        machine,
        first: asked.first()?,
    };
    let folder = match &args.out {
        Some(dir) => Folder::open(dir, &manifest)?,
        None => Folder::nowhere(),
    };
    if folder.done() > 0 {
        let all = plans.len() * grid.tasks.len() * grid.lengths.len() * grid.samples;
        let rest = if folder.done() < all { ", the others follow" } else { ": nothing is left to do" };
        eprintln!("note: {} answers are there already{rest}", folder.done());
    }
    Work { asked, plans, folder: &folder, interrupt }.run(answers)?;
    let rows = eunoe_report::rows(&manifest, &folder.lines());
    if let Some(dir) = &args.out {
        replace(&dir.join("rows.json"), &(serde_json::to_string_pretty(&rows)? + "\n"))?;
    }
    if !ctx.json {
        return out::text(&render(&rows, args.out.as_deref()));
    }
    // the ceiling is in every row; rows of its own for scripts only where they asked for it
    let is_asked =
        |row: &Row| row.plan != "full" || grid.plans.is_empty() || grid.plans.iter().any(|p| p == "full");
    let rows: Vec<Row> = rows.into_iter().filter(is_asked).collect();
    out::json(&Printed { rows, out: args.out.as_deref() })
}

/// Most KV bytes that a worker holds, in units of full memory in f16: a sequence and a copy of it; under an audit a plan and
/// full memory besides; f32 takes twice as much.
fn sessions(grid: &Grid) -> u64 {
    (2 + 2 * u64::from(grid.audit)) * (1 + u64::from(grid.exact))
}

/// Items at a time: what was asked for, or as many as there are threads and memory for.
fn jobs(args: &Args, ctx: &Context, model: &Path, kv_bytes: u64) -> Result<usize> {
    let allowed = memory::allowed(args.memory)?;
    let most = (allowed / kv_bytes.max(1)) as usize;
    if most == 0 {
        let (needed, allowed) = (units::bytes(kv_bytes), units::bytes(allowed));
        bail!("an item and its copies take up to {needed} of KV memory, {allowed} may be used (--memory)");
    }
    if let Some(jobs) = args.jobs {
        let jobs = usize::from(jobs);
        if jobs > most {
            bail!(
                "{jobs} items at a time do not fit into {}: at most {most} (--jobs)",
                units::bytes(allowed)
            );
        }
        return Ok(jobs);
    }
    // each worker holds the weights, repacked
    let weights = open::bytes(model).unwrap_or(1).saturating_mul(3) / 2;
    let free = memory::allowed(None).unwrap_or(allowed);
    let fitting = (free / (weights + kv_bytes)).max(1) as usize;
    Ok(ctx.threads.min(fitting).min(most))
}

/// What answers depend on, and where they were made.
fn machine(isa: &str, jobs: usize, threads: usize) -> Machine {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cpu = name.map_or("unknown", |(_, name)| name.trim()).to_owned();
    Machine { cpu, isa: isa.into(), jobs, threads }
}

fn render(rows: &[Row], dir: Option<&Path>) -> String {
    let head =
        ["plan", "task", "length", "n", "score", "beside full", "95 %", "KV peak", "kept", "seconds", ""];
    let percent = |x: f64| format!("{:.1}", 100.0 * x);
    let line = |row: &Row| {
        let flag = match row.near_chance {
            Some(true) => "full memory is near chance: ranks nothing",
            _ => "",
        };
        let diff = row.diff.map_or_else(|| "-".into(), |d| format!("{:+.1}", 100.0 * d));
        let ci =
            row.ci.map_or_else(|| "-".into(), |[lo, hi]| format!("{:+.1} … {:+.1}", 100.0 * lo, 100.0 * hi));
        [
            row.plan.clone(),
            row.task.clone(),
            row.length.to_string(),
            row.n.to_string(),
            percent(row.score),
            diff,
            ci,
            if row.kv_bytes == 0 { "-".into() } else { units::bytes(row.kv_bytes) },
            row.kept.map_or_else(|| "-".into(), |kept| format!("{} %", percent(kept))),
            format!("{:.2}", row.prefill_s + row.decode_s),
            flag.into(),
        ]
    };
    let table: Vec<[String; 11]> =
        std::iter::once(head.map(String::from)).chain(rows.iter().map(line)).collect();
    let next = dir.map_or_else(
        || {
            "\nScores in percent. Keep answers with --out DIR; `eunoe report DIR` makes a page of them.\n"
                .into()
        },
        |dir| format!("\nScores in percent. `eunoe report {}` makes a page of this.\n", dir.display()),
    );
    out::columns(&table) + &next
}
