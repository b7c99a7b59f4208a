"""lm-evaluation-harness against the server, unchanged, and its numbers beside those of other commands of `eunoe`.

    eunoe serve -m smollm2-135m --port 8000 &
    python3 conformance/lm_eval_harness.py --url http://127.0.0.1:8000 --eunoe target/debug/eunoe --model smollm2-135m

Needs `pip install -r conformance/requirements-lm_eval.txt`. The tasks are small and local (`lm_eval_tasks`): no data is fetched, and
the tokenizer is the server's. What the harness logs of each item is compared with `eunoe score` (loglikelihoods), with
`eunoe logits` one token at a time (rolling loglikelihoods, what is greedy) and with `eunoe run` (texts).
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version

HERE = pathlib.Path(__file__).resolve().parent
# Of a loglikelihood, in nats. Passes of other lengths add up in another order.
TOLERANCE = 0.01
CAPITALS, ROLLING, SUMS = "eunoe_capitals", "eunoe_rolling", "eunoe_sums"


class Bench:
    """A server, the command that started it, and what the harness made of them."""

    def __init__(self, args):
        self.url, self.program, self.model, self.work = args.url, args.eunoe, args.model, pathlib.Path(args.work)
        self.served = self.get("/v1/models")["data"][0]["id"]

    def get(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=300) as answer:
            return json.load(answer)

    def eunoe(self, command, *args):
        run = [self.program, command, "-m", self.model, "--json", "--offline", *args]
        return json.loads(subprocess.run(run, capture_output=True, check=True, text=True, timeout=300).stdout)

    @functools.cache
    def harness(self, label, kind, path, tasks, more="", *flags):
        """Samples and metrics of each task, and what the harness said."""
        folder = self.work / self.served / label
        given = f"model={self.served},base_url={self.url}{path},max_retries=1,{more}".rstrip(",")
        run = ["lm_eval", "run", "--model", kind, "--model_args", given, "--tasks", *tasks, "--include_path", "lm_eval_tasks"]
        run[0] = str(pathlib.Path(sys.executable).parent / run[0])
        run += ["--output_path", str(folder), "--log_samples", *flags]
        # nothing is looked for on a hub
        off = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.work / "hf"), "LMEVAL_LOG_LEVEL": "INFO"}
        done = subprocess.run(run, cwd=HERE, env=os.environ | off, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"the harness failed: {done.stderr[-1500:]}"
        results = json.loads(newest(folder, "results_*.json").read_text())["results"]
        samples = {}
        for task in tasks:
            lines = newest(folder, f"samples_{task}_*.jsonl").read_text().splitlines()
            samples[task] = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
        return samples, results, done.stderr + done.stdout

    def plain(self):
        return self.harness("plain", "local-completions", "/v1/completions", (CAPITALS, ROLLING, SUMS))

    def next(self, tokens):
        """Log probability of each token that could follow."""
        ids = ",".join(map(str, tokens))
        return {one["token"]: one["logprob"] for one in self.eunoe("logits", "--tokens", ids, "--top", "1000000")["top"]}

    def nlls(self, text):
        """Position and negative log probability of each token of a text but the first, and how many tokens there are."""
        with tempfile.TemporaryDirectory() as folder:
            file, out = pathlib.Path(folder, "text"), pathlib.Path(folder, "nll.jsonl")
            file.write_text(text)
            said = self.eunoe("score", "--file", str(file), "--per-position", str(out))
            lines = [json.loads(line) for line in out.read_text().splitlines()]
            return {line["pos"]: line["nll"] for line in lines}, said["text_tokens"]


def newest(folder, pattern):
    return max(folder.rglob(pattern), key=lambda path: path.stat().st_mtime)


def near(got, want, what):
    assert abs(got - want) < TOLERANCE, f"{what}: the harness got {got}, by hand it is {want}"


def loglikelihoods(sample):
    """Of each choice: its value, and whether it is what greedy decoding would write."""
    return [(float(value), str(greedy) == "True") for [[value, greedy]] in sample["resps"]]


def generated(sample):
    return sample["resps"][0][0]


def tokenizer(bench):
    said = bench.plain()[2]
    assert "Auto-detected remote tokenizer" in said, "the harness did not take the server's tokenizer"
    info = bench.get("/tokenizer_info")
    for name in filter(None, (info["bos_token"], info["eos_token"])):
        tokens = bench.get("/tokenize", {"prompt": name, "add_special_tokens": False})["tokens"]
        assert len(tokens) == 1, f"{name} is read as {tokens}"
    text = "Größe ≠ Güte.\n\tfn main() {}"
    tokens = bench.get("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
    assert tokens == bench.eunoe("tokenize", text)["tokens"]


def multiple_choice(bench):
    samples, results, _ = bench.plain()
    right = 0
    for sample in samples[CAPITALS]:
        context = f"The capital of {sample['doc']['country']} is"
        _, read = bench.nlls(context)
        values = []
        for city, (got, _) in zip(sample["doc"]["cities"], loglikelihoods(sample), strict=True):
            nlls, _ = bench.nlls(f"{context} {city}")
            values.append(-sum(nll for at, nll in nlls.items() if at >= read))
            near(got, values[-1], f"{context} {city}")
        right += values.index(max(values)) == sample["doc"]["answer"]
    assert results[CAPITALS]["acc,none"] == right / len(samples[CAPITALS]), "another accuracy"


def is_greedy(bench):
    sample = bench.plain()[0][CAPITALS][0]
    context = bench.eunoe("tokenize", f"The capital of {sample['doc']['country']} is")["tokens"]
    for city, (_, greedy) in zip(sample["doc"]["cities"], loglikelihoods(sample), strict=True):
        tokens, likeliest = bench.eunoe("tokenize", f" {city}")["tokens"], True
        for at, token in enumerate(tokens):
            after = bench.next(context + tokens[:at])
            likeliest = likeliest and max(after, key=after.get) == token
        assert greedy == likeliest, f"{city}: the harness says {greedy}, by hand it is {likeliest}"


def rolling(bench):
    samples, results, _ = bench.plain()
    info = bench.get("/tokenizer_info")
    name = info["bos_token"] or info["eos_token"]  # what the harness puts in front
    [prefix] = bench.get("/tokenize", {"prompt": name, "add_special_tokens": False})["tokens"]
    total = size = 0
    for sample in samples[ROLLING]:
        text = sample["doc"]["text"]
        tokens = bench.eunoe("tokenize", text)["tokens"]
        by_hand = sum(bench.next([prefix, *tokens[:at]])[token] for at, token in enumerate(tokens))
        near(float(generated(sample)), by_hand, text)
        total, size = total + by_hand, size + len(text.encode())
    near(results[ROLLING]["bits_per_byte,none"], -total / size / 0.6931471805599453, "bits per byte")


def generate_until(bench):
    samples, results, _ = bench.plain()
    right = 0
    for sample in samples[SUMS]:
        want = bench.eunoe("run", "--raw", "-n", "16", "--stop", "\n", prompt(sample))["text"]
        assert generated(sample) == want, f"the harness got {generated(sample)!r}, `eunoe run` writes {want!r}"
        right += want.removeprefix(" ") == str(sample["doc"]["a"] + sample["doc"]["b"])
    assert results[SUMS]["exact_match,none"] == right / len(samples[SUMS]), "another score"


def prompt(sample):
    return f"2 + 3 = 5\n4 + 4 = 8\n{sample['doc']['a']} + {sample['doc']['b']} ="


def same(bench, label, more, tasks, *flags):
    """Another way to ask gives the same."""
    samples, results, _ = bench.harness(label, "local-completions", "/v1/completions", tasks, more, *flags)
    plain, plain_results, _ = bench.plain()
    for task in tasks:
        for sample, other in zip(samples[task], plain[task], strict=True):
            if task == SUMS:
                assert generated(sample) == generated(other), f"{generated(sample)!r}, before it was {generated(other)!r}"
            else:
                for (got, greedy), (want, other_greedy) in zip(loglikelihoods(sample), loglikelihoods(other), strict=True):
                    near(got, want, f"item {sample['doc_id']}")
                    assert greedy == other_greedy
        names = [name for name in results[task] if name.endswith(",none") and "stderr" not in name]
        assert names and all(results[task][name] == plain_results[task][name] for name in names)


def batched(bench):
    """Several prompts in a request, and several requests at a time."""
    same(bench, "batched", "num_concurrent=2", (CAPITALS, SUMS), "--batch_size", "3")


def text_prompts(bench):
    same(bench, "text", "tokenizer_backend=None", (SUMS,))


def chat_generate_until(bench):
    path = "/v1/chat/completions"
    samples, _, _ = bench.harness("chat", "local-chat-completions", path, (SUMS,), "", "--apply_chat_template")
    for sample in samples[SUMS]:
        want = bench.eunoe("run", "-n", "16", "--stop", "\n", prompt(sample))["text"]
        assert generated(sample) == want, f"the harness got {generated(sample)!r}, `eunoe run` writes {want!r}"


CHECKS = [
    tokenizer, multiple_choice, is_greedy, rolling, generate_until, batched, text_prompts, chat_generate_until,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--eunoe", default="eunoe", help="the program that serves")
    parser.add_argument("--model", required=True, help="what it serves: a name or a file")
    parser.add_argument("--work", default=HERE.parent / "target" / "conformance" / "lm_eval", help="folder for the harness's logs")
    bench, failed = Bench(parser.parse_args()), 0
    for check in CHECKS:
        try:
            check(bench)
        except Exception as e:  # noqa: BLE001: whatever it is, it is a failed check
            failed += 1
            print(f"FAILED {check.__name__}: {type(e).__name__}: {' '.join(str(e).split())}", flush=True)
        else:
            print(f"ok     {check.__name__}", flush=True)
    print(f"lm_eval {version('lm_eval')}, {bench.served}: {len(CHECKS) - failed} of {len(CHECKS)}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
