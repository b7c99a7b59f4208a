//! `cargo xtask proof`: what needs real models, rivals or minutes. Prints every figure that the docs quote.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// What `cargo xtask proof` takes.
pub(crate) const USAGE: &str = "cargo xtask proof --books DIR [PART]...   parts: parity tokens quality recall laws long speed flat serve policies evaluations \
                         (default: all); DIR holds UTF-8 .txt books; EUNOE_PYTHON names a Python that has \
                         bench/peers/requirements.txt installed (default: a virtual environment under target/); \
                         LLAMA_SERVER names llama.cpp's server, which `serve` is measured beside";

const MODELS: [&str; 4] = ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "gemma3-270m"];
const PARTS: [&str; 11] = [
    "parity",
    "tokens",
    "quality",
    "recall",
    "laws",
    "long",
    "speed",
    "flat",
    "serve",
    "policies",
    "evaluations",
];
/// The book that parts which need one read.
const BOOK: &str = "leo-tolstoy_war-and-peace_louise-maude_aylmer-maude.txt";

struct Proof {
    root: PathBuf,
    books: PathBuf,
    python: PathBuf,
    models: PathBuf,
}

/// Runs the parts that `args` name, or all.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<()> {
    let ["--books", books, parts @ ..] = args else { bail!("usage: {USAGE}") };
    if let Some(bad) = parts.iter().find(|p| !PARTS.contains(p)) {
        bail!("`{bad}` is not a part; usage: {USAGE}");
    }
    let root = root.canonicalize()?;
    let books = Path::new(books).canonicalize().with_context(|| format!("`{books}`"))?;
    let build = ["build", "--release", "-p", "eunoe", "-p", "eunoe-engine", "--bins", "--examples"];
    call(Command::new("cargo").current_dir(&root).args(build))?;
    let python = python(&root)?;
    let home = eunoe::home::Home::from_env()?;
    let proof = Proof { models: home.model("any").with_file_name(""), books, python, root };
    for model in MODELS {
        if !proof.model(model).is_file() {
            call(Command::new(proof.release("eunoe")).args(["pull", model, "--accept-terms"]))?;
        }
    }
    let mut failed = Vec::new();
    for part in PARTS.into_iter().filter(|p| parts.is_empty() || parts.contains(p)) {
        println!("\n## {part}\n");
        if let Err(error) = proof.part(part) {
            println!("FAILED: {error:#}");
            failed.push(part);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

impl Proof {
    fn release(&self, name: &str) -> PathBuf {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        target.join("release").join(name)
    }

    fn example(&self, name: &str) -> Command {
        Command::new(self.release("examples").join(name))
    }

    fn model(&self, name: &str) -> PathBuf {
        self.models.join(format!("{name}.gguf"))
    }

    /// A script with the folders that all of them take.
    fn script(&self, path: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.root.join(path)).arg("--models-dir").arg(&self.models);
        command
    }

    /// Where a part leaves its figures.
    fn measured(&self, part: &str) -> PathBuf {
        self.release("..").join(format!("{part}.json"))
    }

    /// Writes `docs/performance.md`, once both of its parts have been measured.
    fn performance_page(&self) -> Result<()> {
        let files = ["speed", "flat"].map(|part| self.measured(part));
        if !files.iter().all(|file| file.is_file()) {
            println!("`docs/performance.md` is written when the part `speed` has been measured too");
            return Ok(());
        }
        let script = self.root.join("bench/peers/performance.py");
        self.page("performance", Command::new(&self.python).arg(script).args(files))
    }

    /// Writes `docs/{name}.md` with what a script prints.
    fn page(&self, name: &str, script: &mut Command) -> Result<()> {
        let page = script.output()?;
        ensure!(page.status.success(), "{}", String::from_utf8_lossy(&page.stderr));
        Ok(std::fs::write(self.root.join("docs").join(name).with_extension("md"), page.stdout)?)
    }

    /// What policies keep and cost, measured anew (over an hour), and the page of it.
    fn policies(&self) -> Result<()> {
        let path = self.root.join("bench/policies.py");
        let kinds = ["quality", "cost"];
        let files = kinds.map(|kind| self.measured(&format!("policies-{kind}")));
        for (kind, file) in kinds.iter().zip(&files) {
            if file.is_file() {
                std::fs::remove_file(file)?; // it would be gone on with
            }
            let mut script = Command::new(&self.python);
            script.arg(&path).arg(kind).arg("--models-dir").arg(&self.models).arg("--books").arg(&self.books);
            call(script.arg("--eunoe").arg(self.release("eunoe")).arg("--json").arg(file))?;
        }
        self.page("policies", Command::new(&self.python).arg(path).arg("page").args(files))
    }

    /// The evaluations of `docs/reports` and `docs/evaluation.md`, resumed where they were (hours), and `docs/audit.md`.
    fn evaluations(&self) -> Result<()> {
        let script = || {
            let mut script = Command::new(&self.python);
            script.current_dir(&self.root).arg("bench/evaluations.py");
            script
        };
        let eunoe = self.release("eunoe").canonicalize()?;
        call(script().arg("run").arg("--books").arg(&self.books).arg("--eunoe").arg(&eunoe))?;
        call(script().arg("page").arg("--eunoe").arg(&eunoe).arg("--python").arg(&self.python))
    }

    /// The server under load, beside llama.cpp's own, and killed while it talks; then the page of what has been measured.
    fn serve(&self) -> Result<()> {
        let parts = [
            ("load", "bench/serve_load.py"),
            ("rival", "bench/peers/llama_cpp_serve.py"),
            ("prefix", "bench/warm_prefix.py"),
            ("kill", "bench/serve_kill.py"),
        ];
        let files = parts.map(|(what, _)| self.measured(&format!("serve-{what}")));
        let mut failed = Vec::new();
        for ((what, path), file) in parts.into_iter().zip(&files) {
            if what == "rival" && std::env::var_os("LLAMA_SERVER").is_none() {
                println!(
                    "not measured beside llama.cpp: LLAMA_SERVER names no server (bench/peers/README.md)"
                );
                continue;
            }
            let mut script = Command::new(&self.python);
            script.env("EUNOE_MODELS", &self.models).env("EUNOE_BOOKS", &self.books);
            script.arg(self.root.join(path)).arg("--eunoe").arg(self.release("eunoe"));
            // one that fails has written what it saw
            failed.extend(call(script.arg("--json").arg(file)).err());
        }
        self.page(
            "serving",
            Command::new(&self.python).arg(self.root.join("bench/serving.py")).args(&files),
        )?;
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn part(&self, part: &str) -> Result<()> {
        let eunoe = self.release("eunoe");
        let book = self.books.join(BOOK);
        match part {
            // mean KL of exact, fast and llama.cpp to the float reference, 4,088 positions a model
            "parity" => call(
                self.script("scripts/parity.py")
                    .arg("--books")
                    .arg(&self.books)
                    .arg("--program")
                    .arg(self.release("examples").join("dump_logits")),
            ),
            // the same token ids as llama.cpp on 1.7 MB of mixed text
            "tokens" => {
                let mut command = Command::new(&self.python);
                command.arg(self.root.join("bench/peers/tokens.py")).arg("--eunoe").arg(&eunoe);
                call(command.arg("--books").arg(&self.books).args(MODELS.map(|m| self.model(m))))
            }
            // perplexity of a book beside llama.cpp
            "quality" => call(
                self.script("bench/peers/llama_cpp_quality.py")
                    .arg("--books")
                    .arg(&self.books)
                    .arg("--eunoe")
                    .arg(&eunoe),
            ),
            // attention mass of the next queries on what A2SF, H2O and baselines keep
            "recall" => call(self.script("scripts/mass_recall.py").arg("--books").arg(&self.books)),
            // one row, one answer, under every policy
            "laws" => {
                call(self.example("one_answer").arg(self.model(MODELS[0])).arg(&book).args(["600", "128"]))
            }
            // flat memory over 100,000 tokens
            "long" => call(self.example("long_text").arg(self.model(MODELS[0])).arg(&book).args([
                "100000",
                "streaming_llm @ 1024tok",
                "a2sf(pos=rank) @ 1024tok",
            ])),
            // tokens per second beside llama.cpp
            "speed" => call(
                self.script("bench/peers/llama_cpp_speed.py")
                    .arg("--eunoe")
                    .arg(&eunoe)
                    .arg("--json")
                    .arg(self.measured("speed")),
            ),
            // many clients, people who hang up, kill -9, and llama.cpp's server
            "serve" => self.serve(),
            // quality, bytes, seconds and slopes of every policy
            "policies" => self.policies(),
            // what forgetting costs, and what the audit is worth
            "evaluations" => self.evaluations(),
            // bounded memory, bounded time; then the page of all that `speed` and `flat` measured
            _ => {
                let mut flat = self.script("bench/flat_memory.py");
                flat.arg("--books").arg(&self.books).arg("--eunoe").arg(&eunoe);
                call(flat.arg("--json").arg(self.measured("flat")))?;
                self.performance_page()
            }
        }
    }
}

/// The Python of `EUNOE_PYTHON`, or of a virtual environment with the rivals, made on first use.
fn python(root: &Path) -> Result<PathBuf> {
    if let Some(python) = std::env::var_os("EUNOE_PYTHON") {
        return Ok(python.into());
    }
    let venv = root.join("target/peers");
    let python = venv.join("bin/python");
    let ready = venv.join("ready");
    if !ready.is_file() {
        call(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let requirements = root.join("bench/peers/requirements.txt");
        let mut pip = Command::new(&python);
        pip.env("CMAKE_ARGS", "-DGGML_NATIVE=ON").args(["-m", "pip", "install", "-r"]).arg(requirements);
        call(&mut pip)?;
        std::fs::write(ready, "")?;
    }
    Ok(python)
}

fn call(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
