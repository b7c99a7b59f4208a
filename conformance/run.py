"""Every client against a server of its own, with real models, and the page that tells what came of it.

    cargo build && python3 conformance/run.py --eunoe target/debug/eunoe

Makes an environment per client under `target/conformance` (pip and npm fetch the pinned versions), starts the server, runs the
suites one after another, and writes `docs/conformance.md`. Every failure and every skip needs an explanation below; one without,
and an explanation that nothing needs any more, stands in the page and makes the command fail. A run with `--clients` or `--models`
prints the page instead of writing it.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / "target" / "conformance"
PAGE = ROOT / "docs" / "conformance.md"
MEMORY = "512MiB"
# Models, and whether their chat templates have a place for tools.
MODELS = {"qwen2.5-coder-0.5b": True, "smollm2-135m": False}
# Time for a server to read its model, and for a suite on a slow machine.
OPENS_S, SUITE_S = 300, 3600
NO_TOOLS = "the model has none"
LINE = re.compile(r"(ok|FAILED|skip) +([^\s:(]+)(?:: (.*)| \((.*)\))?$")
LAST = re.compile(r"(.+), (\S+): (\d+) of (\d+)$")

CLIENTS = {
    "openai": "OpenAI's Python SDK",
    "node": "OpenAI's Node SDK",
    "langchain": "LangChain, standard tests of `ChatOpenAI`",
    "lm_eval": "lm-evaluation-harness",
}

# Client, model, test and words of what was said, each a pattern; and why it is so.
TEXT_ONLY = "The server reads text only, and these models do too."
LISTENS = "The chat template of this model has no place for tools; the server refuses them by name instead of leaving them out."
EXPLAINED = [
    ("openai", "smollm2-135m", "tools", NO_TOOLS, LISTENS),
    ("node", "smollm2-135m", "tools", NO_TOOLS, LISTENS),
    ("langchain", "smollm2-135m", "*", "Test requires tool *", LISTENS),
    ("langchain", "*", "*inputs", "Model does not support *", TEXT_ONLY),
    ("langchain", "*", "*tool_message", "Model does not support *", TEXT_ONLY),
    ("langchain", "*", "*test_anthropic_inputs", "*", "Content in the form of another company's API, which `ChatOpenAI` does not claim to take."),
    ("langchain", "*", "*test_stream_time", "VCR not set up.", "A measurement of the client over recorded answers: no server is asked."),
    ("langchain", "*", "*test_serdes", "compares with a snapshot*", "The snapshot comes with the package's sources, not with what is installed."),
    (
        "langchain", "smollm2-135m", "*test_structured_output_pydantic_2_v1", "*no place for tools*",
        "For classes of pydantic 1 LangChain asks for a call of a tool, whatever method it is told. " + LISTENS,
    ),
    (
        "langchain", "smollm2-135m", "*test_json_mode", "*Failed to parse Joke from completion {*",
        "`json_object` promises a JSON object, and this is one; its keys are the model's, and one of 135M parameters does not "
        "follow the question's. With `json_schema` it passes.",
    ),
    (
        "langchain", "qwen2.5-coder-0.5b", "*test_agent_loop*", "*tool_call*",
        "With `tool_choice` left to the model, this one writes the right call in a fence of Markdown instead of the tags that its "
        "template asks for. Such text is an answer, not a call; where a call is required, it is one.",
    ),
]


@dataclasses.dataclass
class Outcome:
    client: str
    model: str
    test: str
    status: str
    said: str
    why: str | None = None

    def explain(self):
        """The number of the explanation that it needs."""
        if self.status == "ok":
            return None
        own = (self.client, self.model, self.test, self.said)
        for number, (*patterns, why) in enumerate(EXPLAINED):
            if all(fnmatch.fnmatchcase(text, pattern) for text, pattern in zip(own, patterns, strict=True)):
                self.why = why
                return number
        return None


@dataclasses.dataclass
class Suite:
    client: str
    model: str
    version: str
    outcomes: list

    def count(self, status):
        return sum(outcome.status == status for outcome in self.outcomes)


def python(client):
    """The Python of a client's environment, made where it is not there as it is pinned."""
    folder, asked = WORK / client, HERE / f"requirements-{client}.txt"
    stamp = folder / "asked"
    if not stamp.exists() or stamp.read_text() != asked.read_text():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "-r", asked], check=True)
        stamp.write_text(asked.read_text())
    return str(folder / "bin" / "python")


def node():
    """A folder with the Node suite and what it imports."""
    folder, asked = WORK / "node", (HERE / "node" / "package.json").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "asked"
    for name in ("package.json", ".npmrc", "openai_sdk.mjs"):
        shutil.copy(HERE / "node" / name, folder / name)
    if not stamp.exists() or stamp.read_text() != asked:
        subprocess.run(["npm", "install", "--silent"], cwd=folder, check=True)
        stamp.write_text(asked)
    return str(folder)


def command(client, url, model, eunoe):
    match client:
        case "openai":
            return [python(client), HERE / "openai_sdk.py", "--url", url]
        case "node":
            return ["npm", "run", "--silent", "--prefix", node(), "check", "--", "--url", url]
        case "langchain":
            more = [] if MODELS[model] else ["--no-tools"]
            return [python(client), HERE / "langchain_chat.py", "--url", url, *more]
        case "lm_eval":
            more = ["--eunoe", eunoe, "--model", model, "--work", WORK / "lm_eval-logs"]
            return [python(client), HERE / "lm_eval_harness.py", "--url", url, *more]


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


@contextlib.contextmanager
def server(eunoe, model):
    run = [eunoe, "serve", "-m", model, "--port", "0", "--json", "--offline", "--memory", MEMORY]
    child = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
    try:
        url = json.loads(child.stdout.readline())["url"]
        threading.Thread(target=child.stdout.read, daemon=True).start()
        start = time.monotonic()
        while True:
            try:
                get(url + "/health")
                break
            except urllib.error.HTTPError:
                assert time.monotonic() - start < OPENS_S and child.poll() is None, "the server does not come up"
                time.sleep(0.2)
        yield url
        assert child.poll() is None, "the server ended by itself"
    finally:
        child.terminate()
        child.wait(60)


def read(client, model, text):
    """Outcomes of the lines that a suite printed."""
    outcomes, version, claimed = [], "", None
    for line in text.splitlines():
        if found := LINE.match(line):
            status, test, said, note = found.groups()
            status = "skip" if note == NO_TOOLS else status
            outcomes.append(Outcome(client, model, test, status, said or note or ""))
        elif found := LAST.match(line):
            version, claimed = found.group(1), int(found.group(3))
    passed = sum(outcome.status == "ok" or outcome.said == NO_TOOLS for outcome in outcomes)
    if claimed != passed:
        last = " ".join(text.split())[-300:]
        outcomes.append(Outcome(client, model, "suite", "FAILED", f"it did not run to its end: {last}"))
    return Suite(client, model, version, outcomes)


def ask(client, url, model, eunoe):
    print(f"== {client}, {model}", flush=True)
    run = [str(word) for word in command(client, url, model, eunoe)]
    child = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=WORK)
    late = threading.Timer(SUITE_S, child.kill)
    late.start()
    lines = []
    for line in child.stdout:
        lines.append(line)
        print(line, end="", flush=True)
    child.wait()
    late.cancel()
    suite = read(client, model, "".join(lines))
    running = get(url + "/eunoe/memory")["running"]
    if running:
        suite.outcomes.append(Outcome(client, model, "server", "FAILED", f"{running} answers go on after the client is gone"))
    return suite


def short(text):
    """For a cell of a table."""
    text = text if len(text) <= 200 else text[:200] + "…"
    return text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


def section(title, outcomes):
    """A table of outcomes; those with the same explanation share a row."""
    groups = {}
    for outcome in outcomes:
        groups.setdefault((outcome.client, outcome.model, outcome.why or outcome.said), []).append(outcome)
    lines = [f"## {title}", ""]
    if not groups:
        return [*lines, "None.", ""]
    lines += ["| client | model | tests | said | why |", "| --- | --- | --- | --- | --- |"]
    for (client, model, _), same in groups.items():
        tests = ", ".join(f"`{outcome.test}`" for outcome in same)
        said = "<br>".join(dict.fromkeys(short(outcome.said) for outcome in same))
        lines.append(f"| {client} | {model} | {tests} | {said} | {same[0].why or '**not explained**'} |")
    return [*lines, ""]


def page(suites, version, stale):
    outcomes = [outcome for suite in suites for outcome in suite.outcomes]
    lines = [
        "# Real clients against the server",
        "",
        f"Clients of OpenAI's API as their authors publish them, against `eunoe serve` ({version}) with real models and {MEMORY} of",
        "KV memory. This page is what the command printed:",
        "",
        "```sh",
        "python3 conformance/run.py --eunoe target/debug/eunoe",
        "```",
        "",
        "A failure or a skip that nobody explained makes the command fail.",
        "",
        "| client | version | model | passed | failed | skipped |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for suite in suites:
        counts = " | ".join(str(suite.count(status)) for status in ("ok", "FAILED", "skip"))
        lines.append(f"| {CLIENTS[suite.client]} | {suite.version} | {suite.model} | {counts} |")
    lines.append("")
    lines += section("Failures", [outcome for outcome in outcomes if outcome.status == "FAILED"])
    lines += section("Skips", [outcome for outcome in outcomes if outcome.status == "skip"])
    if stale:
        lines += ["## Explanations that nothing needs", ""]
        lines += [f"- {', '.join(f'`{pattern}`' for pattern in entry[:4])}: {entry[4]}" for entry in stale] + [""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eunoe", default=str(ROOT / "target" / "debug" / "eunoe"), help="the program")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS), metavar="CLIENT")
    args = parser.parse_args()
    eunoe = str(pathlib.Path(shutil.which(args.eunoe) or args.eunoe).resolve())
    WORK.mkdir(parents=True, exist_ok=True)
    suites = []
    for model in args.models:
        with server(eunoe, model) as url:
            suites += [ask(client, url, model, eunoe) for client in args.clients]
    suites.sort(key=lambda suite: list(CLIENTS).index(suite.client))
    outcomes = [outcome for suite in suites for outcome in suite.outcomes]
    used = {outcome.explain() for outcome in outcomes}
    is_whole = args.models == list(MODELS) and args.clients == list(CLIENTS)
    stale = [entry for number, entry in enumerate(EXPLAINED) if is_whole and number not in used]
    version = subprocess.run([eunoe, "--version"], capture_output=True, check=True, text=True).stdout.strip()
    text = page(suites, version, stale)
    if is_whole:
        PAGE.write_text(text)
    else:
        print(text)
    open_ = [outcome for outcome in outcomes if outcome.status != "ok" and outcome.why is None]
    for outcome in open_:
        print(f"not explained: {outcome.client}, {outcome.model}, {outcome.test}: {outcome.said[:200]}")
    for entry in stale:
        print(f"nothing needs this explanation: {', '.join(entry[:4])}")
    return bool(open_ or stale)


if __name__ == "__main__":
    sys.exit(main())
