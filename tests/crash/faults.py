"""A disk that fails while the relay works, once and for good, at every kind of call: what was acknowledged is not lost, clients are told
451 or 452, and when the fault ends all goes on without a restart. A sync that fails loses half of what it covered (fault.c).

   faults.py [SEED [SCENARIO ...]]"""
import errno
import mmap
import os
import random
import shutil
import struct
import sys
import time

from lab import Probe, Relay, Sink, acked, blast, check, preload, run, say, stop, until

SEED = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(1 << 30)
THREADS = 2
LATE = THREADS * 256 + 64       # outcomes that one crash may bring back
RULES = ["data_write", "data_short", "data_sync", "new_open", "new_write", "new_sync", "rename", "dir_sync", "read", "index_open", "free", "unlink"]
ALWAYS = -1


class Plan:
    def __init__(self, path):
        self.path = path
        with open(path, "w+b") as f:
            f.truncate(4096)
            self.map = mmap.mmap(f.fileno(), 4096)
        os.chmod(path, 0o666)

    def set(self, rule, number, times):
        at = 16 * RULES.index(rule)
        self.map[at:at + 12] = struct.pack("iiI", number, times, 0)

    def hits(self, rule):
        return struct.unpack_from("I", self.map, 16 * RULES.index(rule) + 8)[0]

    def end(self, rule):
        self.set(rule, 0, 0)


def twice(sink):
    return sum(n - 1 for n in sink.taken().values())


class Bench:
    """A relay under a steady load, whose disk fails as told."""

    def __init__(self, dir, spool="", server=None):
        self.dir, self.starts = dir, 1
        os.mkdir(dir)
        os.chmod(dir, 0o755)
        self.plan = Plan(dir + "/plan")
        self.sink = Sink(dir)
        self.relay = Relay(dir, server or self.sink.at, spool=spool, env=preload("fault", FAULT_PLAN=dir + "/plan", FAULT_SPOOL=dir + "/spool"),
                           extra="backend nowhere { server 127.0.0.1:1 }\nrelay_domain later.example { backend nowhere; recipients any }\n").start()
        self.log = dir + "/acked"
        open(self.log, "w").close()
        self.blasts = []
        self.probe = Probe(self.relay.port)

    def load(self, size, sessions, to="user%d@example.com", rate="1000/s"):
        b = blast(self.relay.at, "--verify-log", self.log, "--time", "600s", "--to", to, "--size", size, "--sessions", str(sessions), "--rate", rate)
        self.blasts.append(b)
        return b

    def unload(self, b):
        stop(b)
        self.blasts.remove(b)

    def acked(self):
        return len(acked(self.log))

    def goes_on(self, what):
        check(until(lambda: self.probe.said().startswith("250")), what, "takes mail again", self.probe.said(), self.relay.tail())
        now = self.acked()
        check(until(lambda: self.acked() > now + 10), what, "goes on under load", now, self.acked())

    def fault(self, rule, number, times, answers, load):
        what = "%s %s %s" % (rule, errno.errorcode[number] if number else "", "once" if times == 1 else "lasting")
        b = self.load(*load)
        now = self.acked()
        check(until(lambda: self.acked() > now + 10), what, "there is load", self.relay.tail())
        self.plan.set(rule, number, times)
        check(until(lambda: self.plan.hits(rule) > 0), what, "is met", self.relay.tail())
        if times != 1:
            got = set()
            check(until(lambda: got.add(self.probe.said()[:3]) or got & answers), what, "clients are told", answers, got, self.relay.tail())
            check(not got - answers - {"250"}, what, "nothing else is said", got)
        self.plan.end(rule)
        self.goes_on(what)
        self.unload(b)

    def end(self, known=0):
        """The power goes: what is there is what is on the disk."""
        for b in list(self.blasts):
            self.unload(b)
        check(until(lambda: self.relay.waiting("--domain", "example.com") == 0), "all that has a way goes out", self.relay.waiting())
        before = twice(self.sink)
        check(before == known, "nothing came twice without a crash", before, known)
        with open(self.relay.log, errors="replace") as f:
            check(f.read().count('"event":"worker_started"') == self.starts, "no restart was needed")
        self.relay.kill()
        self.relay.env = dict(os.environ)
        with open(self.relay.conf) as f:
            text = f.read()
        with open(self.relay.conf, "w") as f:
            f.write(text.replace("server 127.0.0.1:1 ", "server %s " % self.sink.at))
        self.relay.start()
        check(self.relay.drained(), "all drains", self.relay.waiting())
        promised, taken = acked(self.log) | self.probe.promised, self.sink.taken()
        lost = sorted(promised - taken.keys())
        check(not lost, "lost", len(lost), "of", len(promised), lost[:5])
        extra = twice(self.sink)
        check(extra <= known + LATE, "no more seconds than promised", extra)
        check(self.relay.stop() == 0, "it stops")
        self.sink.end()
        with open(self.relay.log, errors="replace") as f:
            bad = [line for line in f if any('"event":"%s"' % w in line for w in ("spool_damage", "spool_segment_set_aside", "worker_crashed", "spool_notes_lost"))]
        check(not bad, "no damage is reported", bad[:5])
        shutil.rmtree(self.dir)
        return len(promised), extra


def data(dir, to="user%d@example.com"):
    b = Bench(dir)
    b.load("4k", 8, to)
    for times in 1, ALWAYS:
        for rule, number in ("data_write", errno.EIO), ("data_sync", errno.EIO), ("data_write", errno.ENOSPC), ("data_write", errno.EDQUOT):
            b.fault(rule, number, times, {"451", "452"}, ("20k", 4, to))
    b.plan.set("data_short", 0, ALWAYS)
    b.goes_on("short writes")
    b.plan.end("data_short")
    return b.end()


def held(dir):
    """The same with mail that waits, so that all of it is read back from the disk in the end."""
    return data(dir, "user%d@later.example")


def new(dir):
    """Segments that cannot be made: anew, while mail waits in all there are, and out of old ones, while all goes out."""
    b = Bench(dir, "min_free 16MiB; reserve 2")
    for rule, number, times in (("new_open", errno.ENOSPC, 1), ("new_open", errno.EMFILE, ALWAYS), ("new_write", errno.ENOSPC, ALWAYS), ("free", 0, ALWAYS)):
        b.fault(rule, number, times, {"452"}, ("1M", 8, "user%d@later.example"))
    for times in 1, ALWAYS:
        for rule, number in ("new_write", errno.EIO), ("new_sync", errno.EIO), ("rename", errno.EIO), ("dir_sync", errno.EIO):
            b.fault(rule, number, times, {"452"}, ("1M", 8))
    return b.end()


def reads(dir):
    """Mail that waits in the spool, which cannot be read: at the start, and when it is its turn."""
    b = Bench(dir, "min_free 16MiB", server="127.0.0.1:1")
    for size, n in ("4k", 400), ("300k", 40), ("1M", 100):
        p = blast(b.relay.at, "--verify-log", b.log, "--mails", str(n), "--size", size, "--sessions", "4")
        check(until(lambda: p.poll() is not None), "the blast ends")
    all = b.acked()
    check(all == 540, "all is taken", all)
    for rule, times, hits in ("read", 1, 1), ("read", 5, 5), ("read", ALWAYS, 8), ("index_open", 1, 1), ("index_open", ALWAYS, 3):
        b.relay.kill()
        b.plan.set(rule, errno.EIO, times)
        b.relay.start(wait=False)
        b.starts += 1
        if not check(until(lambda: b.plan.hits(rule) >= hits), rule, "is met at the start", b.plan.hits(rule), b.relay.tail()):
            return b.acked(), 0
        b.plan.end(rule)
        check(until(b.relay.up), rule, "it is up", b.relay.tail())
        if not check(until(lambda: b.relay.waiting() == all), rule, times, "all that waits is found", b.relay.waiting(), all, b.relay.tail()):
            return b.acked(), 0
    b.plan.set("read", errno.EIO, ALWAYS)
    b.relay.change("server 127.0.0.1:1;", "server %s;" % b.sink.at)
    check(until(lambda: b.plan.hits("read") > 50), "reading for delivery fails", b.relay.tail())
    check(until(lambda: (b.relay.ask("queue", "list", "--json") or "").count("cannot be read") > 20), "and the queue says so", b.relay.ask("queue", "list")[:500])
    check(b.probe.said().startswith("250"), "new mail is taken meanwhile")
    b.plan.end("read")
    check(b.relay.ask("queue", "retry", "--all") is not None, "an operator has them tried again")
    return b.end()


def late(dir):
    """Outcomes that cannot be noted: no more goes out than a crash may bring back."""
    b = Bench(dir, server="127.0.0.1:1")
    p = blast(b.relay.at, "--verify-log", b.log, "--mails", "3000", "--size", "1k")
    check(until(lambda: p.poll() is not None) is not None and b.acked() == 3000, "all is taken", b.acked())
    b.plan.set("data_sync", errno.EIO, ALWAYS)
    b.relay.change("server 127.0.0.1:1;", "server %s;" % b.sink.at)
    check(until(lambda: len(b.sink.taken()) > THREADS * 128), "some goes out", len(b.sink.taken()))
    check(until(lambda: b.plan.hits("data_sync") > 3), "what became of it cannot be noted", b.plan.hits("data_sync"))
    check(len(b.sink.taken()) <= LATE, "no more goes out", len(b.sink.taken()))
    b.relay.kill()
    b.plan.end("data_sync")
    b.relay.start()
    b.starts += 1
    check(b.relay.drained(), "all goes out", b.relay.waiting())
    extra = twice(b.sink)
    check(0 < extra <= LATE, "what was not noted comes again, and no more", extra)
    return b.end(extra)


SCENARIOS = data, held, new, reads, late


def faults(dir):
    for scenario in SCENARIOS:
        if len(sys.argv) > 2 and scenario.__name__ not in sys.argv[2:]:
            continue
        began = time.monotonic()
        n, extra = scenario("%s/%s" % (dir, scenario.__name__))
        say("%-10s %6d acknowledged, %d came twice, %.1f s" % (scenario.__name__, n, extra, time.monotonic() - began))


run(faults)
