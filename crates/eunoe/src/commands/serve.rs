//! `eunoe serve`: an OpenAI-compatible server whose memory is bounded and visible.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::builder::NonEmptyStringValueParser;
use eunoe_engine::{Arithmetic, Engine, Options};
use eunoe_kv::Plan;
use eunoe_server::Settings;
use serde::Serialize;

use super::options::{MemoryOption, ModelOption, PlanOption};
use crate::context::Context;
use crate::{memory, models, open, out, profiles, pull, units};

/// Serve a model to OpenAI-compatible clients, inside a memory that you set
///
/// All requests share --memory: what cannot fit is refused with both numbers before an answer begins (never cut), what must
/// wait waits, and whoever hangs up gives the memory back at once. Every answer carries the record of what was kept and
/// forgotten, as `run --json` prints it. A request may bring its own plan: `"memory": {"plan": "a2sf @ 25%"}`.
///
/// A page to chat with stands at `/`; it shows the memory as it fills. Ctrl-C lets running answers end (at most 30 s).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe serve -m smollm2-135m
  eunoe serve -m smollm2-135m --memory 256MiB --kv 'a2sf @ 25%' --port 9000
  curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'
Paths: /v1/chat/completions /v1/completions /v1/embeddings /v1/models /tokenize /detokenize /tokenizer_info /health /metrics")]
pub struct Args {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    plan: PlanOption,
    #[command(flatten)]
    memory: MemoryOption,

    /// Port to listen on; 0 takes any that is free
    #[arg(short, long, value_name = "P", default_value = "8080")]
    port: u16,

    /// Address to listen on; `0.0.0.0` lets other machines in (give --api-key then)
    #[arg(long, value_name = "A", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,

    /// The model's name in requests [default: the name or file stem of MODEL]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,

    /// Key that clients must send (`Authorization: Bearer KEY`); may be repeated
    #[arg(long, value_name = "KEY", env = "EUNOE_API_KEY", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    api_key: Vec<String>,

    /// Most tokens of an answer where a request names no number
    #[arg(long, value_name = "N", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,

    /// Most requests that are answered at a time; memory may allow fewer
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u16).range(1..=1024))]
    running: u16,

    /// Most requests that wait; others are told to come back (429)
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,

    /// Most bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = units::parse_bytes)]
    max_body: u64,

    /// Most connections at a time
    #[arg(long, value_name = "N", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,

    /// Seconds that an answer may take
    #[arg(long, value_name = "S", default_value = "600", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

/// Rows of a forward pass: answers that are being written wait for one pass of prompts at most.
const ROWS: usize = 256;
/// Time for a request to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// What `serve --json` prints once it listens.
#[derive(Debug, Serialize)]
struct Listening<'a> {
    url: String,
    model: &'a str,
    memory_bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// A model that cannot be opened, a plan that is not for it, or an address that cannot be had.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let path = open::file(&args.model.model)?;
    open::header(&args.model.model)?;
    let plan = args.plan.asked(&args.model)?.map_or_else(|| Plan::parse("full"), Ok)?;
    let allowed = memory::allowed(args.memory.memory)?;
    let name =
        args.name.clone().map_or_else(|| Ok(models::name_of(&path, &pull::sha256(&path)?)), anyhow::Ok)?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}: is something else there? give another --port")
    })?;
    let url = format!("http://{}", listener.local_addr()?);
    match ctx.json {
        true => out::json(&Listening { url, model: &name, memory_bytes: allowed })?,
        false => {
            let memory = units::bytes(allowed);
            out::text(&format!(
                "{name} at {url} (API under {url}/v1), {memory} of KV memory for all requests\n"
            ))?;
        }
    }
    let arithmetic = if args.plan.exact { Arithmetic::Exact } else { Arithmetic::Fast };
    let options = Options { threads: ctx.threads, arithmetic, ..Options::default() };
    let settings = settings(args, name, plan, allowed)?;
    let open = Box::new(move || Engine::open(&path, options, &mut |_| {}));
    eunoe_server::run(listener, settings, open).map_err(|e| anyhow!(e))
}

fn settings(args: &Args, model: String, plan: Plan, memory: u64) -> Result<Settings> {
    let of = args.model.model.clone();
    // found once: it is found by the checksum of the whole file
    let profile = profiles::find(&of)?.map(Arc::new);
    Ok(Settings {
        model,
        plan,
        attach: Box::new(move |plan| {
            let found = || Ok(profile.clone());
            profiles::attach_with(plan, &of, found).map_err(|e| format!("{e:#}"))
        }),
        memory,
        max_tokens: args.max_tokens as usize,
        running: args.running.into(),
        waiting: args.queue as usize,
        rows: ROWS,
        max_body: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        connections: args.connections as usize,
        arrival: ARRIVAL,
        timeout: Duration::from_secs(args.timeout.into()),
        keys: args.api_key.clone(),
    })
}
