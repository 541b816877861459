"""Starting a program in several processes: python -m lampion.distributed.run --nproc-per-node=2
train.py --args.

Each process finds RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment, and
runs the program as `lampion run` does, so that it may import torch. If one fails, the others are
ended. Options are named as torchrun's. Floor 7; imports the standard library.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence


def get_args_parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(prog="lampion.distributed.run", description=__doc__)
    add = parser.add_argument
    add("--nnodes", default="1", help="machines")
    add("--nproc-per-node", "--nproc_per_node", default="1", help="processes of each machine")
    add("--node-rank", "--node_rank", type=int, default=0, help="which machine this is")
    add("--master-addr", "--master_addr", default="127.0.0.1", help="where rank 0 runs")
    add("--master-port", "--master_port", type=int, default=0, help="0: a free one")
    add("--standalone", action="store_true", help="one machine")
    add("-m", "--module", action="store_true", help="the program is a module")
    add("--no-python", "--no_python", action="store_true", help="the program is a command")
    add("training_script")
    add("training_script_args", nargs=argparse.REMAINDER)
    return parser


def _command(args: argparse.Namespace) -> list[str]:
    rest = [args.training_script, *args.training_script_args]
    if args.no_python:
        return rest
    if args.module:
        return [sys.executable, "-m", *rest]
    return [sys.executable, "-m", "lampion", "run", *rest]


def run(args: argparse.Namespace) -> int:
    """Start all processes of this machine and wait for them; the first status that is not 0."""
    here = os.cpu_count() if args.nproc_per_node in ("cpu", "auto") else int(args.nproc_per_node)
    nodes = int(args.nnodes.rpartition(":")[2])
    if nodes > 1 and not args.master_port:
        raise ValueError("run: several machines need --master-port")
    port = args.master_port or _free_port()
    running: list[subprocess.Popen[bytes]] = []
    for local in range(here or 1):
        rank = args.node_rank * (here or 1) + local
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(local),
                       "WORLD_SIZE": str(nodes * (here or 1)), "LOCAL_WORLD_SIZE": str(here),
                       "GROUP_RANK": str(args.node_rank), "MASTER_ADDR": args.master_addr,
                       "MASTER_PORT": str(port)}
        running.append(subprocess.Popen(_command(args), env=environment))
    return _wait(running)


def _wait(running: list[subprocess.Popen[bytes]]) -> int:
    try:
        while True:
            status = [p.poll() for p in running]
            failed = next((s for s in status if s), 0)
            if failed or None not in status:
                return failed
            time.sleep(0.05)
    finally:
        for p in running:
            if p.poll() is None:
                p.terminate()
        for p in running:
            p.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(args: Sequence[str] | None = None) -> None:
    """The command; SystemExit with the status if a process failed."""
    status = run(get_args_parser().parse_args(args))
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
