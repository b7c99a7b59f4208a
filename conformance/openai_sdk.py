"""The official `openai` package against the server, unchanged: what its users do, and what they must be told.

    eunoe serve -m qwen2.5-coder-0.5b --port 8000 &
    python3 conformance/openai_sdk.py --url http://127.0.0.1:8000

Needs `pip install openai`. Prints a line per check, and fails where one does. A model whose chat template has no place for tools
is only asked to say so.
"""

import argparse
import json
import sys

import openai

PLAN = "a2sf @ 64tok"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 30}, "people": {"type": "integer", "minimum": 0, "maximum": 99999999}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 30}}, "required": ["city"]},
    },
}


def ask(text):
    return [{"role": "user", "content": text}]


def chat(client, model, text="Say hello.", **more):
    more = {"max_tokens": 24, "temperature": 0, **more}
    return client.chat.completions.create(model=model, messages=ask(text), **more)


def models(client, model):
    assert client.models.retrieve(model).id == model
    try:
        client.models.retrieve("other")
    except openai.NotFoundError:
        return
    raise AssertionError("a model that is not served was found")


def answers(client, model):
    answer = chat(client, model)
    assert answer.choices[0].message.content and answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = chat(client, model)
    assert again.choices[0].message.content == answer.choices[0].message.content


def streams(client, model):
    whole = chat(client, model).choices[0].message.content
    chunks = list(chat(client, model, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens > 0


def many(client, model):
    ask_for = lambda: chat(client, model, "Invent a name for a ship.", n=3, temperature=1, seed=1)
    answer = ask_for()
    assert [c.index for c in answer.choices] == [0, 1, 2] and len({c.message.content for c in answer.choices}) > 1
    again = ask_for()
    assert [c.message.content for c in answer.choices] == [c.message.content for c in again.choices]


def log_probs(client, model):
    answer = chat(client, model, logprobs=True, top_logprobs=3, max_tokens=4)
    for step in answer.choices[0].logprobs.content:
        assert len(step.top_logprobs) == 3 and step.top_logprobs[0].logprob >= step.logprob
        assert bytes(step.bytes).decode(errors="replace") == step.token


def stops(client, model):
    whole = chat(client, model).choices[0].message.content
    stop = whole.split()[1]
    cut = chat(client, model, stop=[stop])
    assert stop not in cut.choices[0].message.content and cut.choices[0].finish_reason == "stop"


def biases(client, model):
    first = chat(client, model, logprobs=True, max_tokens=1).choices[0].logprobs.content[0].token
    token = client.post("/../tokenize", cast_to=dict, body={"prompt": first, "add_special_tokens": False})["tokens"][0]
    other = chat(client, model, max_tokens=1, logit_bias={str(token): -100})
    assert other.choices[0].message.content != first


def completions(client, model):
    answer = client.completions.create(model=model, prompt=["One two three", "Four five"], max_tokens=3, logprobs=1, echo=True)
    assert len(answer.choices) == 2 and answer.choices[0].text.startswith("One two three")
    assert answer.choices[0].logprobs.token_logprobs[0] is None


def embeddings(client, model):
    floats = client.embeddings.create(model=model, input=["a cat", "a dog"], encoding_format="float").data
    packed = client.embeddings.create(model=model, input=["a cat", "a dog"]).data  # the SDK asks for base64
    assert max(abs(a - b) for x, y in zip(floats, packed) for a, b in zip(x.embedding, y.embedding)) < 1e-6


def memory(client, model):
    text = "Remember: " + "the quick brown fox jumps over the lazy dog. " * 30
    answer = chat(client, model, text, extra_body={"memory": {"plan": PLAN, "audit": True}})
    record = answer.memory
    assert record["plan_asked"] == PLAN and record["evicted"] > 0 and record["peak_bytes"] <= record["budget_bytes"], record
    assert record["audit"]["kl_mean"] > 0 and record["audit"]["words"], record["audit"]


def json_answers(client, model):
    question = "Write the capital of France as JSON with one key."
    choice = chat(client, model, question, max_tokens=300, response_format={"type": "json_object"}).choices[0]
    # a small model may go on inside an object until its tokens are spent, and the answer says so
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    value = json.loads(chat(client, model, "Describe Paris.", max_tokens=600, response_format=form).choices[0].message.content)
    assert set(value) == {"city", "people"} and isinstance(value["people"], int)


def tools(client, model):
    more = {"tools": [WEATHER], "max_tokens": 100}
    try:
        answer = chat(client, model, "What is the weather in Paris?", tool_choice="required", **more)
    except openai.BadRequestError as e:
        assert e.param == "tools" and "no place for tools" in e.message, e
        return "the model has none"
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather"
    assert "city" in json.loads(call.function.arguments)
    chunks = chat(client, model, "What is the weather in Paris?", tool_choice="required", stream=True, **more)
    calls = [c for chunk in chunks if chunk.choices for c in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].function.arguments == call.function.arguments
    history = ask("What is the weather in Paris?") + [answer.choices[0].message]
    history.append({"role": "tool", "tool_call_id": call.id, "content": "18 degrees, rain"})
    last = client.chat.completions.create(model=model, messages=history, tools=[WEATHER], tool_choice="none", max_tokens=40, temperature=0)
    assert last.choices[0].message.content


def refusals(client, model):
    for code, more in [
        (None, {"extra_body": {"nonsense": 1}}),
        (None, {"temperature": -1}),
        ("context_length_exceeded", {"max_tokens": 10_000_000}),
        (None, {"extra_body": {"memory": {"plan": "nonsense"}}}),
    ]:
        for stream in (False, True):
            try:
                chat(client, model, stream=stream, **more)
            except openai.BadRequestError as e:
                assert e.code == code and e.param and e.request_id, e
            else:
                raise AssertionError(f"{more} was not refused")


CHECKS = [models, answers, streams, many, log_probs, stops, biases, completions, embeddings, memory, json_answers, tools, refusals]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url + "/v1", api_key="none", max_retries=0, timeout=300)
    model = client.models.list().data[0].id
    failed = 0
    for check in CHECKS:
        try:
            note = check(client, model)
        except Exception as e:  # noqa: BLE001: whatever it is, it is a failed check
            failed += 1
            print(f"FAILED {check.__name__}: {type(e).__name__}: {e}", flush=True)
        else:
            print(f"ok     {check.__name__}" + (f" ({note})" if note else ""), flush=True)
    print(f"openai {openai.__version__}, {model}: {len(CHECKS) - failed} of {len(CHECKS)}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
