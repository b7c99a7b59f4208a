// Chat with the model of this server, and what its memory holds meanwhile.

const $ = (id) => document.getElementById(id);
const LONG = 1200; // characters from which a message scrolls by itself
const CHARS_PER_TOKEN = 4;
const POLL_MS = 2000;
// bytes of a stored value beside those of f16, the codec that a plan has unless it names one
const CODECS = { f32: 2, f16: 1, q8: 34 / 64, q4: 20 / 64 };
const BUDGET = /\s*@\s*([\d.]+)\s*([A-Za-z%]+)\s*$/;

const state = {
  model: null, // `model` of /eunoe/plans
  id: null, // name for requests
  plans: [],
  defaultPlan: "",
  turns: [], // answered, oldest first: { user, answer, bill }
  files: [], // { name, text }
  running: null, // the turn being answered
};

const allTurns = () => (state.running ? [...state.turns, state.running] : state.turns);

// --- words ---

const count = (n) => Math.round(n).toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const decimals = (x) => (x === 0 || x >= 0.001 ? x.toFixed(4) : x.toExponential(1));
const counted = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;

function bytes(n) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = n < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(n) / 10));
  return `${(n / 1024 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// --- talking to the server ---

class ServerError extends Error {
  constructor({ message, code, param }) {
    super(message);
    Object.assign(this, { code, param });
  }
}

async function getJson(path) {
  const response = await fetch(path);
  if (!response.ok) throw await refusal(response);
  return response.json();
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  return new ServerError(body?.error ?? { message: `the server answered ${response.status} ${response.statusText}` });
}

// The data of each event of a stream, parsed, until `[DONE]`.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ServerError({ message: "the answer broke off before its end" });
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function* chat(request, signal) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify(request);
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body, signal });
  if (!response.ok) throw await refusal(response);
  for await (const event of events(response)) {
    if (event.error) throw new ServerError(event.error);
    yield event;
  }
}

function advice(error) {
  if (!(error instanceof ServerError)) return "Is `eunoe serve` still running? Start it if not, then send again.";
  if (error.code === "context_length_exceeded") {
    return "Shorten the text, or choose a plan that reads past the model's window, such as `streaming_llm @ 512tok`.";
  }
  if (error.code === "memory_budget_exceeded") {
    return "Choose a plan that forgets more or another budget, or shorten the text.";
  }
  if (/plan/.test(error.param ?? "")) return "Choose a plan from the list, or correct its text.";
  return "Change the question or the plan and send again.";
}

// --- the plan ---

function budgetOf(plan) {
  const [, amount, unit] = plan.match(BUDGET) ?? [null, "", ""];
  return { name: plan.replace(BUDGET, "").trim(), amount, unit };
}

const policyOf = (plan) => plan.trim().match(/^\w*/)[0];

function showPlan() {
  const plan = $("plan-text").value.trim();
  const same = state.plans.find((p) => p.plan === plan);
  const akin = same ?? state.plans.find((p) => policyOf(p.plan) === policyOf(plan));
  const { amount, unit } = budgetOf(plan);
  $("plan-select").value = same ? plan : "";
  $("about").textContent = akin ? `${akin.about}.` : plan ? "A plan of your own." : "The server's default plan.";
  const units = [...$("unit").options].map((option) => option.value);
  if (!units.includes(unit)) $("unit").append(new Option(unit, unit));
  $("unit").value = unit;
  $("amount").value = amount;
  $("amount").disabled = !unit;
  $("plan-link").textContent = `Plan: ${plan || state.defaultPlan}`;
  showEstimate();
}

// What a budget of this unit starts with where the plan had another.
const STARTS = { "%": 25, tok: 512, MiB: 16 };

function writeBudget() {
  const { name, amount: before, unit: unitBefore } = budgetOf($("plan-text").value);
  const unit = $("unit").value;
  const amount = unit === unitBefore || !unitBefore ? $("amount").value || STARTS[unit] : (STARTS[unit] ?? before);
  $("plan-text").value = unit ? `${name || policyOf(state.defaultPlan)} @ ${amount}${unit}` : name;
  showPlan();
}

function conversationChars() {
  const said = allTurns().flatMap((turn) => [turn.user.content, turn.answer.content]);
  const next = [...state.files.map((file) => file.text), $("question").value];
  return [...said, ...next].reduce((sum, text) => sum + text.length, 0);
}

function capBytes({ amount, unit }, full) {
  const scale = { "%": full / 100, B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }[unit];
  return scale === undefined ? null : Number(amount) * scale;
}

function showEstimate() {
  if (!state.model) return;
  const { token_bytes: tokenBytes, context } = state.model;
  const plan = $("plan-text").value.trim() || state.defaultPlan;
  const chars = conversationChars();
  const tokens = chars ? Math.ceil(chars / CHARS_PER_TOKEN) : 1000;
  const full = tokens * tokenBytes;
  const codec = CODECS[plan.match(/\|\s*(\w+)\s*(?=@|$)/)?.[1]] ?? 1;
  const budget = budgetOf(plan);
  const cap = budget.unit === "tok" ? budget.amount * tokenBytes * codec : capBytes(budget, full);
  const words = [
    chars
      ? `Estimate: the text has about ${counted(tokens, "token")} (a quarter of its characters), ${bytes(full)} under ` +
        "full memory."
      : `For example, 1,000 tokens take ${bytes(full)} under full memory.`,
  ];
  if (cap !== null) {
    const room = cap / (tokenBytes * codec);
    const keepsAll = policyOf(plan) === "full";
    const short = keepsAll ? "too little to keep everything" : `room for about ${count(room)} tokens in each head`;
    words.push(`This plan may take ${bytes(cap)}: ${room >= tokens ? "all of it fits" : short}.`);
  }
  if (tokens > context) words.push(`The model's window is ${count(context)} tokens.`);
  $("estimate").textContent = words.join(" ");
  $("estimate").classList.toggle("over", tokens > context);
}

// --- the map, the bar and the numbers ---

const cells = [];

function buildMap({ layers, kv_heads: heads }) {
  $("map").style.gridTemplateColumns = `repeat(${layers}, minmax(0, 1fr))`;
  for (let strip = 0; strip < layers * heads; strip++) cells.push(element("i"));
  // heads run downwards, strips come layer by layer
  for (let h = 0; h < heads; h++) for (let l = 0; l < layers; l++) $("map").append(cells[l * heads + h]);
  for (let q = 0; q < 10; q++) $("scale").lastElementChild.before(element("i", { className: `q${q}` }));
}

const nameOf = (strip) => `layer ${Math.floor(strip / state.model.kv_heads)}, head ${strip % state.model.kv_heads}`;
const colour = (share) => `q${Math.min(9, Math.floor(10 * Math.sqrt(share)))}`;

// `strips`: what each holds and has seen, layer by layer.
function drawMap(strips) {
  strips.forEach(({ kept, seen }, strip) => {
    if (!cells[strip]) return;
    cells[strip].className = seen ? colour(Math.min(1, kept / seen)) : "";
    const held = seen ? `: ${count(kept)} of ${count(seen)}, ${percent(kept / seen)}` : "";
    cells[strip].title = nameOf(strip) + held;
  });
}

function summary(strips) {
  const shares = strips.map(({ kept, seen }) => (seen ? kept / seen : 1));
  const mean = shares.reduce((a, b) => a + b, 0) / shares.length;
  const [least, most] = [Math.min(...shares), Math.max(...shares)];
  if (least >= 1) return `Every head holds all ${counted(strips[0].seen, "token")}.`;
  const at = (share) => nameOf(shares.indexOf(share));
  return `The heads hold ${percent(mean)} of ${counted(strips[0].seen, "token")} on average: least in ${at(least)} ` +
    `(${percent(least)}), most in ${at(most)} (${percent(most)}).`;
}

function drawBar(live, budget, full, when = "") {
  const of = budget ?? Math.max(full, live);
  const share = of ? Math.min(1, live / of) : 0;
  $("fill").style.transform = `scaleX(${share})`;
  $("bar").setAttribute("aria-valuenow", Math.round(100 * share));
  const against = budget === null ? "no budget" : `${percent(share)} of the budget of ${bytes(budget)}`;
  $("bar").setAttribute("aria-valuetext", `${bytes(live)}, ${against}`);
  const whole = full ? `Full memory takes about ${bytes(full)} for what was read.` : "";
  $("bytes").replaceChildren(`${bytes(live)} held${when}, ${against}`, element("small", { textContent: whole }));
}

function clearMemory(words) {
  $("fill").style.transform = "";
  $("bar").setAttribute("aria-valuenow", 0);
  $("bar").setAttribute("aria-valuetext", "nothing");
  $("bytes").textContent = "Nothing is held.";
  $("map").setAttribute("aria-label", "Nothing is held");
  $("summary").textContent = words;
  $("numbers").hidden = true;
  drawMap(cells.map(() => ({ kept: 0, seen: 0 })));
  showAudit(null);
}

let liveToDraw = null;

// Redraws at most once a frame, however fast records come.
function drawLive(live) {
  if (!liveToDraw) requestAnimationFrame(() => {
    const { live_bytes: held, budget_bytes: budget, seen, heads } = liveToDraw;
    liveToDraw = null;
    if (!state.running) return;
    drawBar(held, budget, seen * state.model.token_bytes);
    drawMap(heads.map((kept) => ({ kept, seen })));
  });
  liveToDraw = live;
}

function phrase({ phase, read, prompt_tokens: prompt }) {
  if (phase === "waiting") return "Waiting for its turn";
  if (phase === "reading") return `Reading: ${count(read)} of ${counted(prompt, "token")}`;
  return "Answering";
}

function showBill(turn) {
  const { bill, usage } = turn;
  const tokens = usage?.total_tokens ?? bill.heads[0]?.seen ?? 0;
  drawBar(bill.live_bytes, bill.budget_bytes, tokens * state.model.token_bytes, " at the end");
  drawMap(bill.heads);
  const words = summary(bill.heads);
  $("summary").textContent = words;
  $("map").setAttribute("aria-label", `Map of the memory. ${words}`);
  const asked = bill.plan_asked && bill.plan_asked !== bill.plan_used ? ` (asked: ${bill.plan_asked})` : "";
  $("facts").replaceChildren(...facts([
    ["Plan", `${bill.plan_used}${asked}`],
    ["Mode", bill.mode],
    ["Bytes", `${bytes(bill.live_bytes)} held, ${bytes(bill.peak_bytes)} at most`],
    ["Slots", `${count(bill.kept)} kept, ${count(bill.evicted)} evicted, of ${count(bill.seen)} seen`],
  ]));
  fillTable(bill.heads);
  $("numbers").hidden = false;
  fade(turn, bill.tokens ?? [], bill.audit?.passages ?? []);
  showAudit(bill.audit);
}

const facts = (pairs) =>
  pairs.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]);

function fillTable(strips) {
  const heads = state.model.kv_heads;
  const cell = (tag, text, scope = "") => element(tag, { textContent: text, scope });
  const names = Array.from({ length: heads }, (_, h) => cell("th", `head ${h}`, "col"));
  const rows = [];
  for (let at = 0; at < strips.length; at += heads) {
    const shares = strips.slice(at, at + heads).map(({ kept, seen, sliding }) =>
      element("td", { textContent: `${percent(seen ? kept / seen : 1)}${sliding ? " (window)" : ""}` }));
    rows.push(element("tr", {}, cell("th", `layer ${at / heads}`, "row"), ...shares));
  }
  const head = element("thead", {}, element("tr", {}, element("td"), ...names));
  $("table").replaceChildren(head, element("tbody", {}, ...rows));
}

// --- the text as it is remembered ---

// Spans of the part [from, to) of the prompt's characters; neighbours that are held alike share one.
function remembered(tokens, starts, from, to, passages) {
  const spans = [];
  tokens.forEach(({ text, kept }, i) => {
    const part = text.slice(Math.max(0, from - starts[i]), Math.max(0, to - starts[i]));
    if (!part) return;
    const share = kept < 1 ? Math.min(0.95, Math.round(20 * kept) / 20) : 1;
    const passage = passages.findIndex((p) => p.from <= i && i < p.to);
    const last = spans.at(-1);
    if (last && last.share === share && last.passage === passage) last.text += part;
    else spans.push({ text: part, share, passage });
  });
  return spans.map(({ text, share, passage }) => {
    if (share === 1 && passage < 0) return text;
    const span = element("span", { textContent: text, title: `held by ${Math.round(100 * share)} % of the heads` });
    span.dataset.kept = share;
    span.style.setProperty("--kept", share);
    if (passage >= 0) span.dataset.passage = passage;
    return span;
  });
}

// Where a message stands in the prompt before `end`: at the start of a token if it can, for a short message may also
// be a part of a word.
function place(prompt, text, starts, end) {
  const begins = new Set(starts);
  const last = prompt.lastIndexOf(text, end - text.length);
  for (let at = last; at >= 0; at = at ? prompt.lastIndexOf(text, at - 1) : -1) if (begins.has(at)) return at;
  return last;
}

// `turn` is that whose prompt the tokens are; its answer is not among them.
function fade(turn, tokens, passages) {
  const starts = [];
  let prompt = "";
  for (const { text } of tokens) {
    starts.push(prompt.length);
    prompt += text;
  }
  let end = prompt.length;
  const whole = $("as-read");
  whole.hidden = !tokens.length;
  const all = allTurns();
  for (const { user, answer } of all) for (const { content, body } of [user, answer]) body.textContent = content;
  const said = all.slice(0, all.indexOf(turn) + 1).flatMap(({ user, answer }) => [user, answer]).slice(0, -1);
  for (const { content, body } of said.reverse()) {
    const text = content.trim(); // templates trim
    const at = text && end >= text.length ? place(prompt, text, starts, end) : -1;
    if (at >= 0) {
      body.replaceChildren(...remembered(tokens, starts, at, at + text.length, passages));
      end = at;
    } else if (text && tokens.length) whole.open = true;
  }
  whole.lastElementChild.replaceChildren(...remembered(tokens, starts, 0, prompt.length, passages));
}

function showPassage(index) {
  for (const span of document.querySelectorAll(".shown")) span.classList.remove("shown");
  const said = $("turns").querySelectorAll(`[data-passage="${index}"]`);
  if (!said.length) $("as-read").open = true;
  const spans = said.length ? said : $("as-read").querySelectorAll(`[data-passage="${index}"]`);
  for (const span of spans) span.classList.add("shown");
  spans[0]?.scrollIntoView({ block: "center" });
}

// --- the audit ---

function whisker([low, high], mean) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "whisker");
  svg.setAttribute("aria-hidden", "true");
  const line = (name, x1, y1, x2, y2) => {
    const made = document.createElementNS(svg.namespaceURI, "line");
    Object.entries({ class: name, x1, y1, x2, y2 }).forEach(([key, value]) => made.setAttribute(key, value));
    svg.append(made);
  };
  line("axis", "0%", 6, "100%", 6);
  line("range", `${100 * low}%`, 6, `${100 * high}%`, 6);
  line("mean", `${100 * mean}%`, 0, `${100 * mean}%`, 12);
  return svg;
}

function measure(text, detail, ...more) {
  return element("p", { className: "measure" }, text, ...more, element("small", { textContent: detail }));
}

function planted({ canaries, canaries_note: why }) {
  if (!canaries) return measure("No sentences planted", why ?? "");
  const { planted: all, plan, full } = canaries;
  return measure(`${plan} of ${counted(all, "planted sentence")} survived`, `${full} under full memory`);
}

function missedPassage({ text, mass, from, to }, index) {
  const show = element("button", { type: "button", className: "plain", textContent: "Show in the text" });
  show.addEventListener("click", () => showPassage(index));
  const where = `${percent(mass)} of the attention, tokens ${count(from)} to ${count(to)}`;
  return element("blockquote", {}, text.replace(/\s+/g, " ").trim(), element("footer", {}, where, show));
}

function showAudit(audit, note = "Tick Audit the answer to learn, beside the answer, what forgetting cost.") {
  if (!audit) {
    $("findings").replaceChildren(element("p", { className: "note", textContent: note }));
    return;
  }
  const [word, ...rest] = audit.words.split(": ");
  const verdict = [
    element("strong", { textContent: word }),
    element("span", { textContent: `${rest.join(": ")}.` }),
  ];
  const [low, high] = audit.kl_ci;
  const [least, most] = audit.top1_ci;
  const found = [
    element("p", { className: `verdict ${audit.verdict}` }, ...verdict),
    measure(
      `${decimals(audit.kl_mean)} nats a token from full memory`,
      `KL, 95 %: ${decimals(low)} … ${decimals(high)}; ${count(audit.sampled)} of ${counted(audit.rows, "row")} compared`,
    ),
    measure(
      `Same likeliest token in ${percent(audit.top1_agreement)}`,
      `95 %: ${percent(least)} … ${percent(most)}`,
      whisker(audit.top1_ci, audit.top1_agreement),
    ),
    measure(
      `In the answer: ${decimals(audit.answer.kl_mean)} nats a token`,
      `same likeliest token in ${percent(audit.answer.top1_agreement)}`,
    ),
    planted(audit),
    measure(
      `${percent(audit.forgotten_mass)} of the answer's attention missed`,
      "under full memory it went to tokens that the plan no longer held",
    ),
  ];
  const title = element("h3", { textContent: "Forgotten, though the answer would have looked there" });
  if (audit.passages.length) found.push(title);
  $("findings").replaceChildren(...found, ...audit.passages.map(missedPassage));
}

// --- what is said aloud ---

let unsaid = "";

function announce(text) {
  $("announcer").append(element("p", { textContent: text }));
  while ($("announcer").childElementCount > 30) $("announcer").firstElementChild.remove();
}

// Whole sentences only; the rest waits for its end.
function speak(text) {
  unsaid += text;
  const sentences = unsaid.match(/^[^]*(?:[.!?…]["'”’»)\]]*\s|\n)/)?.[0] ?? "";
  unsaid = unsaid.slice(sentences.length);
  if (sentences.trim()) announce(sentences.trim());
}

function finishSpeaking() {
  if (unsaid.trim()) announce(unsaid.trim());
  unsaid = "";
}

// --- the conversation ---

const bottom = (node) => node.getBoundingClientRect().bottom;
const atEnd = () => bottom($("turns").lastElementChild) < innerHeight;
const scrollToEnd = () => $("turns").lastElementChild.scrollIntoView({ block: "end" });

function message(role, content, title) {
  const body = element("div", { className: "body", textContent: content });
  if (content.length > LONG) {
    Object.assign(body, { tabIndex: 0, role: "region", ariaLabel: "Long message" });
    body.classList.add("long");
  }
  const article = element("article", { className: role }, element("h3", { textContent: title }), body);
  $("turns").append(article);
  return { role, content, body, article };
}

function foot(turn, ...parts) {
  const follow = atEnd();
  turn.answer.article.querySelector(".foot")?.remove();
  const spans = parts.filter(Boolean).map((part) => (part.nodeType ? part : element("span", { textContent: part })));
  turn.answer.article.append(element("div", { className: "foot" }, ...spans));
  if (follow) scrollToEnd();
}

function setRunning(turn) {
  state.running = turn;
  $("send").hidden = Boolean(turn);
  $("stop").hidden = !turn;
  turn?.answer.article.classList.add("running");
}

function requestOf(turn) {
  const said = [...state.turns, turn].flatMap(({ user, answer }) => [user, answer]).slice(0, -1);
  const plan = $("plan-text").value.trim();
  return {
    model: state.id,
    messages: said.map(({ role, content }) => ({ role, content })),
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: Number($("most").value) || 256,
    temperature: Number($("temperature").value) || 0,
    memory: { ...(plan && { plan }), audit: $("audited").checked, live: true },
  };
}

function take(turn, event, audited) {
  const [choice] = event.choices ?? [];
  if (choice?.delta?.content) {
    const follow = atEnd();
    turn.answer.content += choice.delta.content;
    turn.answer.body.append(choice.delta.content);
    speak(choice.delta.content);
    if (follow) scrollToEnd();
  }
  if (choice?.finish_reason) {
    turn.finish = choice.finish_reason;
    if (audited) auditing();
  }
  const live = event.memory?.live;
  if (live) {
    drawLive(live);
    if (!turn.finish) $("status").textContent = phrase(live);
    if (live.phase !== turn.phase) announce(phrase(live));
    turn.phase = live.phase;
  } else if (event.memory) Object.assign(turn, { bill: event.memory, usage: event.usage });
}

function auditing() {
  $("status").textContent = "Auditing: the text is read again under full memory";
  showAudit(null, "The text is being read again under full memory.");
}

async function answer(turn) {
  const request = requestOf(turn);
  $("status").textContent = "Sent";
  $("summary").textContent = "";
  showAudit(null, request.memory.audit ? "Comes after the answer." : undefined);
  for await (const event of chat(request, turn.abort.signal)) take(turn, event, request.memory.audit);
}

function done(turn) {
  const { bill, usage } = turn;
  if (!bill) return foot(turn, "The server sent no record of its memory.");
  const again = element("button", { type: "button", className: "plain", textContent: "Show its memory" });
  again.addEventListener("click", () => showBill(turn));
  const cut = turn.finish === "length" && "Cut at the most tokens.";
  const verdict = bill.audit && element("a", { href: "#audit", textContent: `Audit: ${bill.audit.verdict}` });
  verdict?.addEventListener("click", () => showBill(turn));
  const read = usage && `${count(usage.prompt_tokens)} tokens read, ${count(usage.completion_tokens)} written`;
  foot(turn, cut, bill.plan_used, `${bytes(bill.peak_bytes)} at most`, read, verdict, again);
  showBill(turn);
  announce(`Done. ${summary(bill.heads)} ${bill.audit?.words ?? ""}`);
}

// Gives the question back, for a conversation of two questions in a row is none.
function giveBack(turn) {
  turn.user.article.remove();
  turn.answer.article.remove();
  if (turn.dropped) return;
  if (!$("question").value) $("question").value = turn.question;
  if (!state.files.length) state.files = turn.files;
  showFiles();
}

function stopped(turn) {
  clearMemory("Stopped; what this answer held is free again.");
  announce("Stopped.");
  if (turn.answer.content) foot(turn, "Stopped.");
  else giveBack(turn);
}

function failed(turn, error) {
  clearMemory("");
  if (turn.answer.content) foot(turn, "Broke off.");
  else giveBack(turn);
  const why = error instanceof ServerError ? `${error.message}.` : `The connection failed (${error.message}).`;
  const paragraphs = [why, advice(error)].map((text) => element("p", { textContent: text }));
  const title = element("h3", { textContent: "That did not work" });
  $("turns").append(element("section", { className: "error", role: "alert" }, title, ...paragraphs));
}

async function ask() {
  const question = $("question").value.trim();
  if (state.running || (!question && !state.files.length)) return;
  const files = state.files;
  const content = [...files.map((file) => file.text.trim()), question].filter(Boolean).join("\n\n");
  $("empty").hidden = true;
  for (const old of document.querySelectorAll(".error")) old.remove();
  const user = message("user", content, ["You", ...files.map((file) => file.name)].join(", "));
  const turn = { user, answer: message("assistant", "", state.id), question, files, abort: new AbortController() };
  $("question").value = "";
  state.files = [];
  setRunning(turn);
  showFiles();
  scrollToEnd();
  try {
    await answer(turn);
    finishSpeaking();
    done(turn);
  } catch (error) {
    finishSpeaking();
    if (error.name === "AbortError") stopped(turn);
    else failed(turn, error);
  }
  if (turn.answer.content && !turn.dropped) state.turns.push(turn);
  turn.answer.article.classList.remove("running");
  setRunning(null);
  $("status").textContent = "";
  $("empty").hidden = state.turns.length > 0 || Boolean(document.querySelector(".error"));
  if (atEnd() || document.querySelector(".error")) scrollToEnd();
  showEstimate();
  pollMemory();
}

const stop = () => state.running?.abort.abort();

function startAfresh() {
  if (state.running) state.running.dropped = true;
  stop();
  clearMemory("");
  $("as-read").hidden = true;
  state.turns = [];
  for (const old of $("turns").querySelectorAll("article, .error")) old.remove();
  $("empty").hidden = false;
  $("question").focus();
  showEstimate();
}

// --- files ---

function showFiles() {
  $("files").replaceChildren(...state.files.map((file) => {
    const remove = element("button", { type: "button", textContent: "✕", ariaLabel: `Remove ${file.name}` });
    remove.addEventListener("click", () => {
      state.files = state.files.filter((other) => other !== file);
      showFiles();
      $("question").focus();
    });
    return element("li", {}, `${file.name}, ${count(file.text.length)} characters`, remove);
  }));
  showEstimate();
}

async function addFiles(files) {
  for (const file of files) {
    const text = await file.text();
    // a byte 0 does not occur in text
    if (text.includes("\0")) $("status").textContent = `${file.name} is not a text file; save it as .txt first.`;
    else state.files.push({ name: file.name, text });
  }
  showFiles();
  $("question").focus();
}

function logBook() {
  const ships = ["Heron", "Marigold", "Old Tom", "Saint Brendan", "Swallow", "Three Sisters"];
  const goods = ["crates of lemons", "barrels of tar", "bales of wool", "sacks of salt", "casks of cider"];
  const winds = ["north", "south-west", "east", "west"];
  const day = (n) =>
    `Day ${n}: wind from the ${winds[(n * 7) % 4]}. The ${ships[(n * 5) % 6]} came in with ${10 + ((n * 37) % 83)} ` +
    `${goods[(n * 3) % 5]}.`;
  return Array.from({ length: 80 }, (_, n) => day(n + 1)).join("\n");
}

function tryLogBook() {
  state.files = [{ name: "log book", text: logBook() }];
  $("question").value = "Which ship came in on day 40, and with what?";
  const forgetting = state.plans.find((p) => BUDGET.test(p.plan));
  if (forgetting && !BUDGET.test($("plan-text").value)) $("plan-text").value = forgetting.plan;
  showFiles();
  showPlan();
  $("question").focus();
}

// --- starting ---

async function pollMemory() {
  if (document.visibilityState !== "visible") return;
  const line = $("process");
  try {
    const { live_bytes: live, cap_bytes: cap, running, waiting } = await getJson("/eunoe/memory");
    line.textContent = `${bytes(live)} of ${bytes(cap)} in use, ${running} running, ${waiting} waiting`;
    line.classList.remove("lost");
  } catch {
    line.textContent = "The server does not answer";
    line.classList.add("lost");
  }
}

function listen() {
  $("composer").addEventListener("submit", (event) => (event.preventDefault(), ask()));
  $("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  $("question").addEventListener("input", showEstimate);
  addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && stop());
  $("stop").addEventListener("click", () => (stop(), $("question").focus()));
  $("fresh").addEventListener("click", startAfresh);
  $("try").addEventListener("click", tryLogBook);
  $("plan-select").addEventListener("change", () => {
    if ($("plan-select").value) $("plan-text").value = $("plan-select").value;
    else $("plan-text").select();
    showPlan();
  });
  $("plan-text").addEventListener("input", showPlan);
  for (const id of ["amount", "unit"]) $(id).addEventListener("change", writeBudget);
  $("faded").addEventListener("change", () => document.body.classList.toggle("fading", $("faded").checked));
  $("chooser").addEventListener("change", async () => {
    await addFiles($("chooser").files);
    $("chooser").value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    addFiles(event.dataTransfer.files);
  });
  document.addEventListener("visibilitychange", pollMemory);
}

async function start() {
  listen();
  document.body.classList.add("fading");
  showAudit(null);
  pollMemory();
  setInterval(pollMemory, POLL_MS);
  const [models, plans] = await Promise.all([getJson("/v1/models"), getJson("/eunoe/plans")]);
  Object.assign(state, { model: plans.model, plans: plans.plans, defaultPlan: plans.default_plan });
  state.id = models.data[0].id;
  const window = element("span", { textContent: `, window of ${count(state.model.context)} tokens` });
  $("model").replaceChildren(state.model.name, window);
  const options = state.plans.map(({ plan }) => new Option(plan, plan));
  $("plan-select").append(...options, new Option("a plan of your own", ""));
  $("plan-text").value = state.defaultPlan;
  buildMap(state.model);
  showPlan();
}

start().catch((error) => {
  $("status").textContent = `The page cannot start: ${error.message}. Reload it when the server runs.`;
});
