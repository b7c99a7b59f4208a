"""What a measurement ran on: processor, system, versions."""

import os
import platform
import subprocess
from pathlib import Path

# Of all flags, those that kernels choose by.
FLAGS = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8"]


def machine():
    info = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split(maxsplit=2)[1]
    return {
        "cpu": f"{info['model name']} (family {info['cpu family']}, model {info['model']})",
        "flags": [f for f in FLAGS if f in info["flags"].split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory) / 2**20, 1),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def program_version(program):
    """Of our program, with the commit of this checkout; `+` where files differ from it."""
    said = subprocess.run([program, "--version"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    commit = subprocess.run(git, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
    return f"{said} ({commit})" if commit else said
