"""A full disk: clients are told 452 4.3.1, what was taken stays and goes out without help, and then mail is taken again. Once by the limit
that the configuration sets, once on a small file system of our own that somebody else has filled to the last octet.

   full.py"""
import os
import subprocess
import sys

from lab import Probe, Relay, Sink, acked, blast, check, free_port, run, say, stop, until

INSIDE = "CRASH_MOUNTS"     # set when we run where we may mount


def attack_60_disk_full(dir, spool, ballast=None):
    os.mkdir(dir)
    os.chmod(dir, 0o755)
    if ballast:
        os.mkdir(dir + "/spool", 0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640m,mode=0700", "small", dir + "/spool"], check=True)
    hop = free_port()
    relay = Relay(dir, "127.0.0.1:%d" % hop, spool=spool).start()
    probe, log = Probe(relay.port), dir + "/acked"
    open(log, "w").close()
    b = blast(relay.at, "--verify-log", log, "--time", "600s", "--size", "1M", "--sessions", "8")
    check(until(lambda: probe.said().startswith("452 4.3.1")), "clients are told that it is full", probe.said(), relay.tail())
    if ballast:
        with open(dir + "/spool/ballast", "wb") as f:
            try:
                while f.write(b"x" * (1 << 20)):
                    f.flush()
            except OSError:
                pass
        check(os.statvfs(dir + "/spool").f_bavail == 0, "the disk is full to the last octet")
    before = len(acked(log))
    check(before > 100, "there was room for something", before)
    check(all(probe.said(size).startswith("452 4.3.1") for size in (100, 100000, 1000000)), "small and large", probe.said())
    check(len(acked(log)) <= before + 8 and relay.waiting() >= before, "all of it waits", relay.waiting(), before)

    sink = Sink(dir, listen="127.0.0.1:%d" % hop)
    check(until(lambda: probe.said().startswith("250"), 60), "mail is taken again without help", probe.said(), relay.tail())
    check(until(lambda: len(acked(log)) > before + 200, 60), "and goes on being taken", len(acked(log)), before)
    stop(b)
    check(relay.drained(60), "all goes out", relay.waiting())
    extra = sum(n - 1 for n in sink.taken().values())
    check(not extra, "nothing came twice", extra)
    with open(relay.log, errors="replace") as f:
        check(f.read().count('"event":"worker_started"') == 1, "no restart was needed")
    check(relay.stop() == 0, "it stops", relay.tail())
    lost = (acked(log) | probe.promised) - sink.taken().keys()
    check(not lost, "lost", len(lost), sorted(lost)[:5])
    sink.end()
    if ballast:
        subprocess.run(["umount", dir + "/spool"], check=True)
    return len(acked(log))


def full(dir):
    say("max_bytes: %d acknowledged" % attack_60_disk_full(dir + "/limit", "min_free 16MiB; reserve 2; max_bytes 640MiB"))
    if INSIDE in os.environ:
        say("a full file system: %d acknowledged" % attack_60_disk_full(dir + "/small", "min_free 16MiB; reserve 2", ballast=True))


private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
if INSIDE not in os.environ:
    may = subprocess.run([*private, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    if may.returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp(private[0], [*private, sys.executable, "-B", *sys.argv])
    say("skipped: a file system of our own, since we may not mount one: " + may.stderr.strip())
run(full)
