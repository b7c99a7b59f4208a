//! `eunoe serve`: an OpenAI-compatible server whose memory is bounded and visible.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::builder::NonEmptyStringValueParser;
use eunoe_engine::{Arithmetic, Engine, Options};
use eunoe_kv::Plan;
use eunoe_server::{Settings, Store};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use super::options::{MemoryOption, ModelOption, PlanOption};
use crate::context::Context;
use crate::{memory, models, open, out, profiles, units};

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
Paths: /v1/chat/completions /v1/completions /v1/embeddings /v1/models /tokenize /detokenize /tokenizer_info /health
/metrics /openapi.json /eunoe/sessions")]
pub struct Args {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    plan: PlanOption,
    #[command(flatten)]
    memory: MemoryOption,

    /// Most of --memory for what is kept of earlier requests, so that a text that begins as theirs is not read again; 0 keeps
    /// nothing. It makes room first [default: half of --memory]
    #[arg(long, value_name = "BYTES", value_parser = bytes_or_none)]
    prefix_cache: Option<u64>,

    /// File in which named conversations are kept, made where it is missing: a request with `"memory": {"session": "NAME"}` brings
    /// only what is new, and goes on where the last one ended, after a crash too
    #[arg(long, value_name = "FILE")]
    sessions: Option<PathBuf>,

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

    /// Seconds that a request may take to arrive, and that a client may keep an answer waiting
    #[arg(long, value_name = "S", default_value = "30", value_parser = clap::value_parser!(u32).range(1..))]
    arrival: u32,

    /// Seconds that an answer may take
    #[arg(long, value_name = "S", default_value = "600", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

/// Rows of a forward pass: answers that are being written wait for one pass of prompts at most.
const ROWS: usize = 256;
/// Connections that wait to be taken.
const BACKLOG: i32 = 4096;
/// File handles for what is no connection: the model, sequences that wait on disk, the system's own.
const HANDLES: u64 = 128;

/// What `serve --json` prints once it listens.
#[derive(Debug, Serialize)]
struct Listening<'a> {
    url: String,
    model: &'a str,
    memory_bytes: u64,
}

/// Bytes, of which there may be none.
fn bytes_or_none(text: &str) -> std::result::Result<u64, String> {
    if text.trim() == "0" { Ok(0) } else { units::parse_bytes(text) }
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
        args.name.clone().map_or_else(|| Ok(models::name_of(&path, &open::sha256(&path)?)), anyhow::Ok)?;
    let connections = connections(args.connections);
    let sessions = match &args.sessions {
        Some(file) => Some((Store::open(file)?, open::identity(&path, args.plan.exact)?)),
        None => None,
    };
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}: is something else there? give another --port")
    })?;
    // the standard library's 128 would make clients of a crowd wait for a second, or three
    rustix::net::listen(&listener, BACKLOG).context("cannot listen")?;
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
    let mut settings = Settings { connections, ..settings(args, name, plan, allowed)? };
    settings.sessions = sessions;
    let open = Box::new(move || Engine::open(&path, options, &mut |_| {}));
    eunoe_server::run(listener, settings, open).map_err(|e| anyhow!(e))
}

/// So many connections as there may be file handles for, once as many of those are had as the system gives.
fn connections(asked: u32) -> usize {
    let others = HANDLES + eunoe_server::REFUSED as u64;
    let mut limit = getrlimit(Resource::Nofile);
    let needed = u64::from(asked) + others;
    let most = limit.maximum.unwrap_or(u64::MAX).min(needed);
    if limit.current.is_some_and(|now| now < most) {
        limit.current = Some(most);
        setrlimit(Resource::Nofile, limit).ok();
    }
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if have < needed {
        let room = have.saturating_sub(others).max(1);
        eprintln!("note: at most {room} connections, since the system gives {have} file handles (ulimit -n)");
        return room as usize;
    }
    asked as usize
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
        prefixes: args.prefix_cache.unwrap_or(memory / 2).min(memory),
        max_tokens: args.max_tokens as usize,
        running: args.running.into(),
        waiting: args.queue as usize,
        rows: ROWS,
        max_body: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        connections: args.connections as usize,
        arrival: Duration::from_secs(args.arrival.into()),
        timeout: Duration::from_secs(args.timeout.into()),
        sessions: None,
        keys: args.api_key.clone(),
    })
}
