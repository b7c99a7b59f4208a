"""How long does a training step take in PyTorch? The model of `cargo run --release -p eunoe-lab --example step_speed`.

    python bench/peers/torch_step.py [--threads N] [--steps N] [--lab target/release/examples/step_speed]

With --lab both run in turns, each in a process of its own, and the ratio of the medians is printed. Needs torch.
"""

import argparse
import re
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, WIDTH, LAYERS, HEADS, D_FF, T, BATCH = 256, 256, 4, 4, 704, 256, 4


def rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.RMSNorm(WIDTH, eps=1e-5) for _ in range(2)])
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate_up = nn.Linear(WIDTH, 2 * D_FF, bias=False)
        self.down = nn.Linear(D_FF, WIDTH, bias=False)

    def forward(self, x, cos, sin):
        q, k, v = self.qkv(self.norms[0](x)).view(BATCH, T, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(rotated(q, cos, sin), rotated(k, cos, sin), v, is_causal=True)
        x = x + self.out(o.transpose(1, 2).reshape(BATCH, T, WIDTH))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        half = WIDTH // HEADS // 2
        angles = torch.outer(torch.arange(T), 10000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.norm(x) @ self.embed.weight.t()


def steps_of(count):
    """Milliseconds of each of `count` steps, after three that do not count."""
    torch.manual_seed(0)
    model = Decoder()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else nn.init.ones_(parameter)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    data = torch.tensor([i * 7919 % 251 for i in range(BATCH * (T + 1))]).view(BATCH, T + 1)
    times = []
    for turn in range(count + 3):
        start = time.perf_counter()
        loss = F.cross_entropy(model(data[:, :-1]).reshape(-1, VOCAB), data[:, 1:].reshape(-1))
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        times.append(1e3 * (time.perf_counter() - start))
    return times[3:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="with --lab: turns of each side")
    parser.add_argument("--lab", help="the built example")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    theirs, ours, text = [], [], ""
    for _ in range(args.rounds if args.lab else 1):
        theirs += steps_of(args.steps)
        if args.lab:
            argv = [args.lab, "--threads", str(args.threads), "--steps", str(args.steps), "--rounds", "1"]
            text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
            ours.append(float(re.search(r"our kernels \| ([0-9.]+)", text).group(1)))
    their = statistics.median(theirs)
    print(f"| PyTorch {torch.__version__} | {their:.1f} | | | | {BATCH * T / their * 1e3:.0f} |")
    if ours:
        print(text)
        our = statistics.median(ours)
        print(f"ours {our:.1f} ms, PyTorch {their:.1f} ms: {our / their:.2f} times its time")


if __name__ == "__main__":
    main()
