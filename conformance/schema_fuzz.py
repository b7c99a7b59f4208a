"""Requests made from the server's own description, right ones and wrong ones, and answers held against it.

    eunoe serve -m smollm2-135m --port 8000 --max-tokens 2 &
    python3 conformance/schema_fuzz.py --url http://127.0.0.1:8000

Needs `pip install schemathesis`. Every operation gets as many requests of each kind as `--examples` says. No answer may be a
server's error, a status that is not described, or of another schema; a request of another shape may not be answered. Answers are
kept to a few tokens. Prints a line per operation and kind, and fails where one does.
"""

import argparse
import sys

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
TOKENS = 2
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def shorten(body):
    """Asks for less of the same: what is fuzzed is what is read, not how long it takes."""
    if not isinstance(body, dict):
        return
    for name, most in (("max_tokens", TOKENS), ("max_completion_tokens", TOKENS), ("n", 2)):
        if type(body.get(name)) in (int, float) and body[name] > most and (name != "n" or body[name] <= 32):
            body[name] = most


def fuzz(operation, mode, examples):
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def one(case):
        shorten(case.body)
        response = case.call(timeout=120)
        assert response.status_code != 429, "more waits than may: fuzz a server of your own"
        case.validate_response(response, checks=CHECKS + ([negative_data_rejection] if mode is WRONG else []))
        seen[response.status_code] = seen.get(response.status_code, 0) + 1

    seen = {}
    one()
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--examples", type=int, default=60, help="requests per operation and kind (default: 60)")
    parser.add_argument("--only", default="", help="paths that contain this")
    args = parser.parse_args()
    schema = schemathesis.openapi.from_url(f"{args.url}/openapi.json")
    failures = 0
    for operation in (found.ok() for found in schema.get_all_operations()):
        if args.only not in operation.path:
            continue
        for mode in [RIGHT] + ([WRONG] if operation.body else []):
            name = f"{operation.method.upper()} {operation.path}, {'wrong' if mode is WRONG else 'right'} requests"
            try:
                seen = fuzz(operation, mode, args.examples)
                print(f"ok    {name}: {', '.join(f'{count} x {status}' for status, count in sorted(seen.items()))}", flush=True)
            except (Exception, BaseExceptionGroup) as e:  # what fails is told, and the rest is still fuzzed
                failures += 1
                print(f"FAILS {name}\n{e}\n", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
