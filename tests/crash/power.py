"""The power cut: records a loaded relay, with segments made, filled, given back and used again and two kills in between, then cuts
the power at many places of the record.

   power.py [CUTS] [SUBSETS] [SEED]"""
import os
import random
import re
import subprocess
import sys
import time

from lab import BUILD, Relay, Sink, acked, blast, check, count, preload, run, say, until

CUTS, SUBSETS = (sys.argv[1:] + ["500", "4"])[:2] if len(sys.argv) < 3 else sys.argv[1:3]
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
LOG_BYTES = 6 << 30
SEGMENTS = 9            # so many segments' worth of mail: the first ones come round again
FASTER = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000" # each recovery reads whole segments


def load(relay, log, mails, size, sessions, rcpts=1):
    return blast(relay.at, "--verify-log", log, "--mails", str(mails), "--size", size, "--sessions", str(sessions), "--rcpt", str(rcpts))


def compacted(relay):
    got = re.search(r'"compacted": *(\d+)', relay.ask("stats", "--json") or "")
    return int(got.group(1)) if got else 0


def record(dir):
    with open(dir + "/log", "wb") as f:
        f.truncate(LOG_BYTES)       # sparse
    shim = dict(CRASH_LOG=dir + "/log")
    sink = Sink(dir, "--reject", "rcpt:451:later:2%", "--seed", str(SEED), env=preload("record", **shim))
    os.mkdir(dir + "/later")
    later = Sink(dir + "/later", "--reject", "rcpt:451:not yet")
    relay = Relay(dir, sink.at, spool="min_free 16MiB; compact_after 1s", env=preload("record", CRASH_SPOOL=dir + "/spool", **shim),
                  extra="backend later { server %s }\nrelay_domain later.example { backend later; recipients any }\n" % later.at).start()
    log = dir + "/acked"
    open(log, "w").close()
    dice = random.Random(SEED)
    # These wait all the time, are tried every second or two, and hold the segments they lie in.
    waiting = blast(relay.at, "--verify-log", log, "--mails", "200", "--to", "user%d@later.example", "--size", "20k", "--sessions", "1", "--rate", "20/s")
    for round in range(3):
        blasts = [load(relay, log, SEGMENTS * 64 * 1024 // 32 // 4, "32k", 16), load(relay, log, 800, "1500", 4, 3), load(relay, log, 30, "600k", 2)]
        if round < 2:
            time.sleep(dice.uniform(1, 3))
            until(lambda: len(acked(log)) > 1000 * (round + 1), 60)
            relay.kill()
            relay.start()
        for b in blasts:
            check(until(lambda: b.poll() is not None, 90), "a blast ends")
    check(until(lambda: waiting.poll() is not None, 90), "the slow blast ends")
    check(until(lambda: (relay.waiting() or 0) >= 150), "the others wait", relay.waiting())
    # More mail, until what waits in the old segments has been copied out of them.
    for more in range(8):
        if until(lambda: compacted(relay) > 0, 3):
            break
        for b in [load(relay, log, 1500, "32k", 16), blast(relay.at, "--verify-log", log, "--mails", "10", "--to", "user%d@later.example")]:
            check(until(lambda: b.poll() is not None, 90), "a blast ends")
    relay.change(later.at, sink.at)
    check(relay.drained(60), "all drains", relay.stats())
    later.end()
    relay.stop()
    sink.end()
    lost = acked(log) - sink.taken().keys()
    check(not lost, "lost without any power cut", sorted(lost)[:5])
    with open(relay.log, errors="replace") as f:
        bad = [line for line in f if "dies of" in line or "spool_damage" in line]
    check(not bad, "the relay was well", bad[:3])
    say("recorded: %d acknowledged" % len(acked(log)))


def power(dir):
    record(dir)
    p = subprocess.run([os.path.join(BUILD, "crash_replay"), dir + "/log", "--cuts", CUTS, "--subsets", SUBSETS, "--seed", str(SEED)],
                       stdout=subprocess.PIPE, text=True, env=dict(os.environ, GLIBC_TUNABLES=FASTER))
    lines = p.stdout.splitlines()
    say("\n".join(lines[:-1]))
    copied = re.search(r"(\d+) copied forward", p.stdout)
    check(copied and int(copied.group(1)) > 0, "compaction was at work while it was recorded", p.returncode)
    words = lines[-1].split() if lines else ["0", "", "1"]
    count(int(words[0]), int(words[2]))


run(power)
