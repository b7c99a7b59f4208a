"""LangChain's standard tests of chat models against the server, unchanged, through `ChatOpenAI`.

    eunoe serve -m qwen2.5-coder-0.5b --port 8000 &
    python3 conformance/langchain_chat.py --url http://127.0.0.1:8000 [--no-tools] [-k NAME]

Needs `pip install -r conformance/requirements-langchain.txt`. Prints a line per test, and fails where one does. `--no-tools` is for a
model whose chat template has no place for tools; it is said, not asked of the server, so that a server that forgets its tools fails.
"""

import argparse
import json
import os
import sys
import urllib.request
from importlib.metadata import version

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

URL = os.environ.get("EUNOE_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("EUNOE_MODEL", "")
HAS_TOOLS = os.environ.get("EUNOE_TOOLS", "1") == "1"
OWN_SNAPSHOT = "compares with a snapshot that stands in the package's own repository; no server is asked"


class Settings:
    """What both suites are told."""

    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        # `stream_usage` is on by itself only for OpenAI's own address; without a penalty, a small model's likeliest
        # words go round in a string that never ends
        return {
            "model": MODEL, "base_url": URL + "/v1", "api_key": "none", "max_retries": 0, "stream_usage": True,
            "frequency_penalty": 1.0,
        }

    @property
    def standard_chat_model_params(self):
        return {"temperature": 0, "max_tokens": 256, "timeout": 300}

    @property
    def has_tool_calling(self):
        return HAS_TOOLS

    @property
    def has_tool_choice(self):
        return HAS_TOOLS

    @property
    def supports_json_mode(self):
        return True

    @property
    def structured_output_kwargs(self):
        return {"method": "json_schema"}


class TestUnit(Settings, ChatModelUnitTests):
    @property
    def init_from_env_params(self):
        env = {"OPENAI_API_KEY": "a key", "OPENAI_API_BASE": "http://127.0.0.1:1/v1"}
        return env, {"model": "some"}, {"openai_api_key": "a key", "openai_api_base": env["OPENAI_API_BASE"]}


class TestIntegration(Settings, ChatModelIntegrationTests):
    @property
    def supports_anthropic_inputs(self):
        return False

    @property
    def model_override_value(self):
        return MODEL

    @property
    def enable_vcr_tests(self):
        return False


class Lines:
    """Prints what became of each test."""

    def __init__(self):
        self.passed = self.asked = 0

    def pytest_collection_modifyitems(self, items):
        for item in items:
            if item.originalname == "test_serdes":
                item.add_marker(pytest.mark.skip(OWN_SNAPSHOT))

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.passed:
            return
        name = report.nodeid.split("::", 1)[1].replace("::", ".")
        if report.skipped:
            print(f"skip   {name}: {report.longrepr[-1].removeprefix('Skipped: ')}", flush=True)
        elif report.when == "call" or report.failed:
            self.asked += 1
            self.passed += report.passed
            print(f"FAILED {name}: {reason(report)}" if report.failed else f"ok     {name}", flush=True)


def reason(report):
    """What was said; of a bare assertion, the line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    said = str(crash.message if crash else report.longrepr)
    entries = getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", [])
    lines = [line for entry in entries[-1:] for line in entry.lines if line.startswith(">")]
    where = lines[-1].lstrip("> ") if lines and said.strip() == "AssertionError" else ""
    return " ".join(f"{said} {where}".split())[:600]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=URL)
    parser.add_argument("--no-tools", action="store_true")
    parser.add_argument("-k", default="", help="only tests with this in their name")
    args = parser.parse_args()
    with urllib.request.urlopen(args.url + "/v1/models") as answer:
        model = json.load(answer)["data"][0]["id"]
    # pytest imports this file anew, which reads these
    os.environ |= {"EUNOE_URL": args.url, "EUNOE_MODEL": model, "EUNOE_TOOLS": "0" if args.no_tools else "1"}
    lines = Lines()
    off = ["terminal", "cacheprovider", "warnings"]
    # one event loop: the client keeps connections between tests, and a connection belongs to its loop
    loop = ["--asyncio-mode=auto", "-o", "asyncio_default_test_loop_scope=session"]
    quiet = [word for name in off for word in ("-p", "no:" + name)] + ["--benchmark-disable", "-c", os.devnull]
    status = pytest.main([__file__, *quiet, *loop, "-k", args.k], plugins=[lines])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        print(f"pytest ended with {status!r}")
        return 1
    versions = f"langchain-openai {version('langchain-openai')}, langchain-tests {version('langchain-tests')}"
    print(f"{versions}, {model}: {lines.passed} of {lines.asked}")
    return lines.passed < lines.asked


if __name__ == "__main__":
    sys.exit(main())
