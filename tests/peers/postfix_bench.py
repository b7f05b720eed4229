#!/usr/bin/python3
"""Postfix as a pure relay, to measure beside: runs until SIGTERM or until its standard input ends.

  postfix_bench.py --next PORT [--port PORT] [--plain]

Says "ready PORT" when it takes mail on 127.0.0.1:PORT; all of it goes on to 127.0.0.1:NEXT. Tuned for speed, or with
--plain as Debian ships it; either way a mail is on stable storage before it is acknowledged."""

import argparse
import os
import pathlib
import select
import signal
import sys
import tempfile

import servers


def start(folder, port, next_port, plain=False):
    """A Postfix in a folder made anew: has pids(), and stop() ends it."""
    if not servers.peers_ready() or os.geteuid() != 0:
        raise RuntimeError("postfix_bench: wants packaging/peers.sh to have run, and root")
    servers.remove(folder)
    kind = servers.PlainPostfix if plain else servers.TunedPostfix
    postfix = kind(folder, next_port, port)
    try:
        postfix.start()
    except BaseException:
        postfix.stop()
        raise
    return postfix


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--next", type=int, required=True)
    parse.add_argument("--port", type=int)
    parse.add_argument("--plain", action="store_true")
    args = parse.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=servers.ROOTS))
    folder.chmod(0o755)
    postfix = None
    try:
        postfix = start(folder / "postfix", args.port, args.next, args.plain)
        print(f"ready {postfix.port}", flush=True)
        while True:
            select.select([sys.stdin], [], [])
            if not sys.stdin.buffer.raw.read(4096):
                return 0
    finally:
        if postfix:
            postfix.stop()
        servers.remove(folder)


if __name__ == "__main__":
    sys.exit(main())
