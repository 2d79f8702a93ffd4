"""Starts a run as several processes on this machine, to try it before a cluster.

    python examples/mnist/launch.py --processes=2 -- --cpu_devices=2

The arguments after the two dashes are passed to `main.py`.
"""

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Starts the processes and waits; returns the exit code of the first that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, help="how many")
    parser.add_argument("arguments", nargs="*", help="arguments of main.py, after --")
    options = parser.parse_args()
    if options.processes < 1:
        parser.error(f"--processes must be at least 1; it is {options.processes}")

    script = Path(__file__).with_name("main.py")
    command = [
        sys.executable,
        str(script),
        *options.arguments,
        f"--coordinator_address=127.0.0.1:{_free_port()}",
        f"--num_processes={options.processes}",
    ]
    children = [
        subprocess.Popen([*command, f"--process_id={process}"])
        for process in range(options.processes)
    ]
    # Ctrl-C also reaches the children; SIGTERM reaches only this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: _terminate(children))
    codes = [child.wait() for child in children]
    return next((code for code in codes if code), 0)


def _terminate(children: list[subprocess.Popen]) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
