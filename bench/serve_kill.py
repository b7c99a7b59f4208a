"""Kill -9 under load: what a server acknowledged is there when it starts again, and goes on bit for bit.

    python bench/serve_kill.py --books DIR --eunoe target/release/eunoe --json serve-kill.json

Clients talk in named sessions, turn by turn, at temperature 0 or with seeds. The server gets SIGKILL at a random moment and
starts again on the same file, --kills times. A turn counts as acknowledged once its answer has come with
`memory.session.saved`; the server counts one for each request in `turns` of GET /eunoe/sessions/NAME. Exits with 1 unless
after each start every session holds all of its acknowledged turns and at most the one beyond them that was under way, and
unless all turns that are there, said again to a fresh server with an empty file, get the same texts. Python's standard
library is enough.
"""

import asyncio
import random
import sys
import tempfile
import time
import urllib.error
from pathlib import Path

from serve_client import Answer, Broken, EunoeServer, Texts, ask, parser_of, percentile, record_of, stop_well, table, write_json
import books

CHAT = "/v1/chat/completions"
KEPT_FAILURES = 50


class Talk:
    """One session as its client knows it."""

    def __init__(self, name):
        self.name = name
        # bodies, each with its answer, or None where the server stored a turn that nobody was told of
        self.turns = []
        self.tokens = 0
        # a body that was sent and not answered: it may or may not be there after the next start
        self.open = None
        self.is_over = False


class Run:
    def __init__(self, args, texts):
        self.args, self.texts = args, texts
        self.talks, self.failures = [], []
        self.counts = dict.fromkeys(["acknowledged", "lost_in_time", "stored_unheard", "refused", "looked_up"], 0)
        self.starts = []

    def fail(self, why):
        self.failures.append(why)
        if len(self.failures) <= KEPT_FAILURES:
            print(f"FAILED: {why}", file=sys.stderr, flush=True)

    def new_talk(self, number):
        talk = Talk(f"talk-{number}-{sum(t.name.startswith(f'talk-{number}-') for t in self.talks)}")
        self.talks.append(talk)
        return talk

    def body(self, talk, rng):
        """Only what is new: the server has the rest."""
        text = self.texts.of(rng, rng.randint(8, self.args.turn))
        messages = [{"role": "user", "content": text}]
        if not talk.turns and rng.random() < 0.5:
            messages.insert(0, {"role": "system", "content": "Answer in a few words."})
        body = {"messages": messages, "max_tokens": rng.randint(1, self.args.answer), "temperature": 0}
        if rng.random() < 0.5:
            body |= {"temperature": 0.8, "seed": rng.randrange(1 << 31)}
        if rng.random() < 0.5:
            body |= {"stream": True}
        return body | {"memory": {"session": talk.name}}

    async def client(self, server, number, life):
        """Talks until the connection breaks."""
        rng = random.Random(f"{self.args.seed} {number} {life}")
        mine = [talk for talk in self.talks if talk.name.startswith(f"talk-{number}-") and not talk.is_over]
        talk = mine[-1] if mine else self.new_talk(number)
        while True:
            if talk.is_over or len(talk.turns) >= self.args.turns:
                talk.is_over = True
                talk = self.new_talk(number)
            talk.open, answer = self.body(talk, rng), Answer()
            try:
                await ask(server.port, CHAT, talk.open, answer)
            except (Broken, OSError):
                # what came before the end may still acknowledge it
                if answer.status == 200 and talk.open.get("stream"):
                    self.heard(talk, answer.read())
                return
            self.heard(talk, answer.read())
            await asyncio.sleep(rng.random() * 0.05)

    def heard(self, talk, answer):
        """An answer, or the beginning of one."""
        if answer.status in (429, 503):
            talk.open = None
            return
        session = (answer.memory or {}).get("session") or {}
        if answer.status != 200 or answer.error:
            self.counts["refused"] += 1
            self.fail(f"{talk.name}: status {answer.status}: {answer.error}")
            talk.is_over, talk.open = True, None
        elif session.get("saved") is True:
            self.acknowledged(talk, answer, session)
        elif answer.is_whole:
            self.fail(f"{talk.name}: a whole answer without `memory.session.saved`: {session}")

    def acknowledged(self, talk, answer, session):
        if session.get("name") != talk.name or not session.get("tokens", 0) > talk.tokens:
            self.fail(f"{talk.name}: {talk.tokens} tokens before the turn, and then {session}")
        talk.turns.append((talk.open, {"text": answer.text, "finish": answer.finish, "tokens": session.get("tokens", 0)}))
        talk.tokens, talk.open = session.get("tokens", 0), None
        self.counts["acknowledged"] += 1

    def look(self, server):
        """Whether all that was acknowledged is there."""
        for talk in self.talks:
            try:
                told = server.get(f"/eunoe/sessions/{talk.name}")
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    self.fail(f"{talk.name}: status {error.code}")
                told = {"tokens": 0, "turns": 0}
            self.counts["looked_up"] += 1
            turns = len(told["turns"]) if isinstance(told["turns"], list) else told["turns"]
            known, tokens = len(talk.turns), told["tokens"]
            if turns == known and tokens >= talk.tokens:
                self.counts["lost_in_time"] += talk.open is not None
            elif turns == known + 1 and tokens > talk.tokens and talk.open is not None:
                talk.turns.append((talk.open, None))
                talk.tokens = tokens
                self.counts["stored_unheard"] += 1
            else:
                self.fail(f"{talk.name}: {known} turns of {talk.tokens} tokens acknowledged, {turns} of {tokens} are there")
                talk.is_over = True
            talk.open = None

    async def until_killed(self, server, life, after):
        clients = [asyncio.create_task(self.client(server, number, life)) for number in range(self.args.clients)]
        await asyncio.sleep(after)
        ended = server.process.poll()
        if ended is not None:
            self.fail(f"the server ended by itself with status {ended}: {server.tail()}")
        server.kill()
        await asyncio.wait(clients, timeout=30)
        for task in clients:
            if task.done() and task.exception():
                raise task.exception()
            task.cancel()

    def again(self, server):
        """All turns once more, one at a time, on a server that was never killed."""
        same = 0
        for talk in self.talks:
            for number, (body, first) in enumerate(talk.turns):
                body = {key: value for key, value in body.items() if key != "stream"}
                second = asyncio.run(ask(server.port, CHAT, body)).read()
                tokens = ((second.memory or {}).get("session") or {}).get("tokens")
                told = {"text": second.text, "finish": second.finish, "tokens": tokens}
                if second.status != 200 or (first and told != first):
                    self.fail(f"{talk.name}, turn {number + 1}: {first} before, {told} ({second.status}) said again")
                    break
                same += first is not None
        return same


def parse():
    parser = parser_of(__doc__, "256MiB")
    parser.add_argument("--kv", help="plan of all sessions (default: the server's own)")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--life", type=float, nargs=2, default=[1.0, 6.0], metavar=("LEAST", "MOST"), help="seconds until a kill (default: 1 6)")
    parser.add_argument("--turn", type=int, default=60, help="most tokens of a turn (default: 60)")
    parser.add_argument("--answer", type=int, default=24, help="most tokens of an answer (default: 24)")
    parser.add_argument("--turns", type=int, default=12, help="of a session; then another one begins (default: 12)")
    parser.add_argument("--threads", type=int, help="of the server (default: its own choice)")
    return parser.parse_args()


def main():
    args = parse()
    stop_well()
    flags = (["--kv", args.kv] if args.kv else []) + (["--threads", args.threads] if args.threads else [])
    record = record_of("serve-kill", args)
    run, rng = Run(args, Texts(books.book_paths(args.books))), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        store = lambda name: ["--sessions", Path(folder) / name]
        for life in range(args.kills + 1):
            start = time.monotonic()
            with EunoeServer(args.eunoe, args.model, args.memory, [*flags, *store("sessions")], folder=folder) as server:
                run.starts.append(time.monotonic() - start)
                run.look(server)
                if life < args.kills:
                    asyncio.run(run.until_killed(server, life, rng.uniform(*args.life)))
                elif server.end() != 0:
                    run.fail("asked to end, the server did not end well")
        stored = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        with EunoeServer(args.eunoe, args.model, args.memory, [*flags, *store("fresh")], folder=folder) as server:
            same = run.again(server)
    if run.counts["acknowledged"] < args.kills:
        run.fail(f"only {run.counts['acknowledged']} turns were acknowledged: the run was too small to show anything")
    figures = {
        "kills": args.kills, "sessions": sum(bool(talk.turns) for talk in run.talks), **run.counts, "same": same,
        "most_turns": max((len(talk.turns) for talk in run.talks), default=0), "most_tokens": max((talk.tokens for talk in run.talks), default=0),
        "stored_bytes": stored, "start_s": percentile(run.starts, 0.5), "failed": len(run.failures),
    }  # fmt: skip
    write_json(args.json, record | {"figures": figures, "failures": run.failures[:KEPT_FAILURES]})
    print(table(["", ""], [
        ["kills", figures["kills"]],
        ["sessions, turns that were acknowledged", f"{figures['sessions']}, {figures['acknowledged']}"],
        ["unanswered turns that were there, that were not", f"{figures['stored_unheard']}, {figures['lost_in_time']}"],
        ["longest session", f"{figures['most_turns']} turns, {figures['most_tokens']} tokens"],
        ["the same when said again", f"{figures['same']} of {figures['acknowledged']}"],
        ["stored", f"{stored / 2**20:.1f} MiB"],
        ["failures", figures["failed"]],
    ]))  # fmt: skip
    sys.exit(bool(run.failures))


if __name__ == "__main__":
    main()
