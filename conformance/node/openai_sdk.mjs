// The official `openai` package for Node against the server, unchanged: what its users do, and what they must be told.
//
//     eunoe serve -m qwen2.5-coder-0.5b --port 8000 &
//     cd conformance/node && npm install && npm run check -- --url http://127.0.0.1:8000
//
// Prints a line per check, and fails where one does. A model whose chat template has no place for tools is only asked to say so.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import OpenAI from 'openai';
import { VERSION } from 'openai/version';

const SCHEMA = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 30 }, people: { type: 'integer', minimum: 0, maximum: 99999999 } },
  required: ['city', 'people'],
  additionalProperties: false,
};
const WEATHER = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather of a city',
    parameters: { type: 'object', properties: { city: { type: 'string', maxLength: 30 } }, required: ['city'] },
  },
};
// Time for the memory of an answer that nobody waits for to be given back.
const GIVEN_BACK_MS = 10_000;

const { values: args } = parseArgs({ options: { url: { type: 'string', default: 'http://127.0.0.1:8080' } } });
const client = new OpenAI({ baseURL: args.url + '/v1', apiKey: 'none', maxRetries: 0, timeout: 300_000 });
const model = (await client.models.list()).data[0].id;

const ask = (content) => [{ role: 'user', content }];
const chat = (more = {}, text = 'Say hello.') =>
  client.chat.completions.create({ model, messages: ask(text), max_tokens: 24, temperature: 0, ...more });
const said = async (more, text) => (await chat(more, text)).choices[0].message.content;
const all = async (stream) => {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
};

// What running `doing` is refused with.
async function refusal(doing) {
  try {
    await doing();
  } catch (e) {
    assert(e instanceof OpenAI.APIError, e);
    return e;
  }
  assert.fail('it was not refused');
}

const memory = async () => (await fetch(args.url + '/eunoe/memory')).json();

async function models() {
  assert.equal((await client.models.retrieve(model)).id, model);
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert.deepEqual(ids, [model]);
  assert((await refusal(() => client.models.retrieve('other'))) instanceof OpenAI.NotFoundError);
}

async function answers() {
  const answer = await chat();
  const [choice] = answer.choices;
  assert(choice.message.content && ['stop', 'length'].includes(choice.finish_reason));
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert(prompt_tokens > 0 && completion_tokens > 0 && total_tokens === prompt_tokens + completion_tokens);
  assert.equal(await said(), choice.message.content);
  const parts = [{ type: 'text', text: 'Say ' }, { type: 'text', text: 'hello.' }];
  assert.equal(await said({}, parts), choice.message.content, 'the same text in parts');
}

async function streams() {
  const chunks = await all(await chat({ stream: true, stream_options: { include_usage: true } }));
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
  const whole = await chat();
  assert.equal(text, whole.choices[0].message.content);
  const usage = ({ prompt_tokens, completion_tokens, total_tokens }) => [prompt_tokens, completion_tokens, total_tokens];
  assert.equal(chunks.at(-1).choices.length, 0);
  assert.deepEqual(usage(chunks.at(-1).usage), usage(whole.usage));
  assert(chunks.every((chunk) => chunk.id === chunks[0].id && chunk.object === 'chat.completion.chunk'));
}

async function gathers() {
  const stream = client.chat.completions.stream({ model, messages: ask('Say hello.'), max_tokens: 24, temperature: 0 });
  let heard = '';
  stream.on('content', (delta) => (heard += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.content, await said());
  assert.equal(heard, final.choices[0].message.content);
}

async function aborts() {
  const stream = await chat({ stream: true, max_tokens: 2000 }, 'Tell a very long story.');
  let seen = 0;
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content && ++seen === 3) {
      assert.equal((await memory()).running, 1, 'it is not running');
      stream.controller.abort();
    }
  }
  assert(seen >= 3 && seen < 1000, `${seen} pieces`);
  const start = Date.now();
  while ((await memory()).running > 0) {
    assert(Date.now() - start < GIVEN_BACK_MS, 'an answer that nobody waits for goes on');
    await sleep(50);
  }
  // one that is not streamed, too
  const controller = new AbortController();
  const request = { model, messages: ask('Tell a very long story.'), max_tokens: 2000 };
  const waiting = client.chat.completions.create(request, { signal: controller.signal });
  waiting.catch(() => {});
  await sleep(500);
  controller.abort();
  assert((await refusal(() => waiting)) instanceof OpenAI.APIUserAbortError);
  assert(await said(), 'the next is answered');
}

async function many() {
  const names = async (seed) => {
    const answer = await chat({ n: 3, temperature: 1, seed }, 'Invent a name for a ship.');
    assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
    return answer.choices.map((choice) => choice.message.content);
  };
  const first = await names(1);
  assert(new Set(first).size > 1, 'all are the same');
  assert.deepEqual(await names(1), first);
  assert.notDeepEqual(await names(2), first);
  const streamed = ['', '', ''];
  for await (const chunk of await chat({ n: 3, temperature: 1, seed: 1, stream: true }, 'Invent a name for a ship.'))
    for (const choice of chunk.choices) streamed[choice.index] += choice.delta.content ?? '';
  assert.deepEqual(streamed, first);
}

async function log_probs() {
  const answer = await chat({ logprobs: true, top_logprobs: 3, max_tokens: 4 });
  const steps = answer.choices[0].logprobs.content;
  assert.equal(steps.length, answer.usage.completion_tokens);
  for (const step of steps) {
    assert.equal(step.top_logprobs.length, 3);
    assert(step.logprob <= 0 && step.top_logprobs[0].logprob >= step.top_logprobs[1].logprob);
    assert.equal(step.token, step.top_logprobs[0].token, 'the likeliest was not taken');
    assert.equal(new TextDecoder().decode(Uint8Array.from(step.bytes)), step.token);
  }
  const chunks = await all(await chat({ logprobs: true, top_logprobs: 3, max_tokens: 4, stream: true }));
  assert.deepEqual(chunks.flatMap((chunk) => chunk.choices[0]?.logprobs?.content ?? []), steps);
}

async function stops() {
  const stop = (await said()).split(/\s+/)[1];
  for (const given of [stop, ['never this', stop]]) {
    const { message, finish_reason } = (await chat({ stop: given })).choices[0];
    assert(!message.content.includes(stop) && finish_reason === 'stop', message.content);
  }
}

async function completions() {
  const complete = (prompt, more) => client.completions.create({ model, prompt, max_tokens: 3, temperature: 0, ...more });
  const texts = (answer) => answer.choices.map((choice) => choice.text);
  const post = (path, body) => client.post('/../' + path, { body });
  const one = texts(await complete('One two three'))[0];
  assert(one);
  const { tokens } = await post('tokenize', { prompt: 'One two three' });
  assert.equal((await post('detokenize', { tokens })).prompt, 'One two three');
  assert.deepEqual(texts(await complete(tokens)), [one], 'token ids');
  const two = await complete(['One two three', 'Four five']);
  assert.deepEqual(two.choices.map((choice) => choice.index), [0, 1]);
  assert.equal(texts(two)[0], one, 'company changes nothing');
  assert.deepEqual(texts(await complete([tokens, tokens])), [one, one], 'lists of token ids');
  const echo = (await complete('One two three', { logprobs: 1, echo: true })).choices[0];
  assert.equal(echo.text, 'One two three' + one);
  assert.equal(echo.logprobs.token_logprobs[0], null);
  assert.equal(echo.logprobs.tokens.length, echo.logprobs.token_logprobs.length);
  assert.equal(echo.logprobs.tokens.join(''), echo.text);
  const streamed = await all(await complete('One two three', { stream: true }));
  assert.equal(streamed.map((chunk) => chunk.choices[0]?.text ?? '').join(''), one);
}

async function embeddings() {
  const embed = async (input, more) => (await client.embeddings.create({ model, input, ...more })).data.map((one) => one.embedding);
  const floats = await embed(['a cat', 'a dog'], { encoding_format: 'float' });
  const packed = await embed(['a cat', 'a dog']); // the SDK asks for base64
  assert(packed.length === 2 && packed[0].length === floats[0].length && packed[0].length > 1);
  for (const [i, vector] of packed.entries())
    for (const [j, x] of vector.entries()) assert(Math.abs(x - floats[i][j]) < 1e-6);
  const raw = await embed('a cat', { encoding_format: 'base64' });
  assert.equal(typeof raw[0], 'string', 'who asks for base64 gets it');
  assert.notDeepEqual(floats[0], floats[1]);
}

async function json_schema() {
  const response_format = { type: 'json_schema', json_schema: { name: 'city', schema: SCHEMA, strict: true } };
  const more = { max_tokens: 600, response_format };
  const value = JSON.parse(await said(more, 'Describe Paris.'));
  assert.deepEqual(Object.keys(value).sort(), ['city', 'people']);
  assert(typeof value.city === 'string' && Number.isInteger(value.people));
  const parsed = await client.chat.completions.parse({ model, messages: ask('Describe Paris.'), temperature: 0, ...more });
  assert.deepEqual(parsed.choices[0].message.parsed, value);
}

async function tools() {
  const question = 'What is the weather in Paris?';
  const more = { tools: [WEATHER], tool_choice: 'required', max_tokens: 100 };
  let answer;
  try {
    answer = await chat(more, question);
  } catch (e) {
    assert(e instanceof OpenAI.BadRequestError && e.param === 'tools' && e.message.includes('no place for tools'), e);
    return 'the model has none';
  }
  const [choice] = answer.choices;
  const [call] = choice.message.tool_calls;
  assert(choice.finish_reason === 'tool_calls' && call.function.name === 'get_weather');
  assert('city' in JSON.parse(call.function.arguments));
  const chunks = await all(await chat({ ...more, stream: true }, question));
  const calls = chunks.flatMap((chunk) => chunk.choices[0]?.delta.tool_calls ?? []);
  assert.equal(calls.map((part) => part.function.arguments ?? '').join(''), call.function.arguments);
  const messages = [...ask(question), choice.message, { role: 'tool', tool_call_id: call.id, content: '18 degrees, rain' }];
  const last = await client.chat.completions.create({ model, messages, tools: [WEATHER], tool_choice: 'none', max_tokens: 40, temperature: 0 });
  assert(last.choices[0].message.content);
}

async function refusals() {
  const wrong = [
    ['nonsense', null, { nonsense: 1 }],
    ['temperature', null, { temperature: -1 }],
    ['n', null, { n: 1000 }],
    ['messages', 'context_length_exceeded', { max_tokens: 10_000_000 }],
    ['memory.plan', null, { memory: { plan: 'nonsense' } }],
  ];
  for (const [param, code, more] of wrong)
    for (const stream of [false, true]) {
      const e = await refusal(() => chat({ ...more, stream }));
      assert(e instanceof OpenAI.BadRequestError, e);
      assert.deepEqual([e.status, e.param, e.code ?? null, e.type], [400, param, code, 'invalid_request_error']);
      assert(e.requestID, 'no request id');
    }
  const long = await refusal(() => chat({}, 'the quick brown fox '.repeat(20_000)));
  assert.deepEqual([long.status, long.code], [400, 'context_length_exceeded']);
  const other = await refusal(() => chat({ model: 'other' }));
  assert.deepEqual([other.status, other.code], [404, 'model_not_found']);
}

const CHECKS = [
  models, answers, streams, gathers, aborts, many, log_probs, stops, completions, embeddings, json_schema, tools, refusals,
];

let failed = 0;
for (const check of CHECKS) {
  try {
    const note = await check();
    console.log(`ok     ${check.name}` + (note ? ` (${note})` : ''));
  } catch (e) {
    failed += 1;
    console.log(`FAILED ${check.name}: ${e.name}: ${e.message.replaceAll(/\s+/g, ' ')}`);
  }
}
console.log(`openai ${VERSION}, ${model}: ${CHECKS.length - failed} of ${CHECKS.length}`);
process.exitCode = failed > 0 ? 1 : 0;
