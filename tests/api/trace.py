"""`waypost trace` from the store: long delivered mail, over restarts, with a purge, with a disk that is full. WAYPOST_BUILD says where the relay is.

   trace.py [SCENARIO ...]"""
import os
import re
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))
from lab import PATIENCE, WAYPOST, Relay, Sink, blast, check, children, run, say, stop, until  # noqa: E402

INSIDE = "TRACE_MOUNTS"     # set when we run where we may mount


def send(relay, to, message_id, sender="ann@there.example"):
    """The id that the relay gave it."""
    with socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE) as s, s.makefile("rb") as f:
        line = b""
        for say_ in (None, "HELO a.example", "MAIL FROM:<%s>" % sender, "RCPT TO:<%s>" % to, "DATA",
                     "From: a\r\nMessage-ID:\r\n %s\r\nSubject: x\r\n\r\nx\r\n." % message_id):
            if say_:
                s.sendall(say_.encode() + b"\r\n")
            line = f.readline()
    m = re.match(rb"250 (?:2.0.0 )?queued as (\w+)", line)
    return m.group(1).decode() if m else line.decode()


def counters(relay, key):
    return relay.stats()["counters"][key]


def stories(dir):
    sink = Sink(dir)
    relay = Relay(dir, sink.at, extra="trace { retention 30d; max_bytes 64MiB }\n").start()
    id = send(relay, "bob@example.com", "<one@there.example>")
    check(len(id) == 26, "mail is taken", id)
    refused = send(relay, "x@elsewhere.example", "<two@there.example>", "eve@nowhere.example")
    check(until(lambda: counters(relay, "delivered") == 1), "and delivered")
    def told(*keys):
        for key in keys:
            got = relay.ask("trace", key) or ""
            check(id in got and "accepted" in got and "delivered" in got and "<one@there.example>" in got and "250 " in got, "the whole story", key, got)
    keys = (id, "one@there.example", "<one@there.example>", "bob@example.com", "BOB@EXAMPLE.COM")
    told(*keys[:4])
    told("@example.com")
    check(os.path.exists(dir + "/spool.trace/trace.db"), "where the store is")
    check(os.stat(dir + "/spool.trace").st_mode & 0o777 == 0o700, "for its owner only")
    (worker,) = children(relay.p.pid)
    os.kill(worker, signal.SIGKILL)     # what was told above is on disk; another worker has it
    check(until(lambda: relay.ask("stats") is not None), "another worker")
    told(*keys)
    check(relay.stop() == 0, "it stops", relay.tail())
    relay.start()
    told(*keys)
    check(relay.ask("trace", "carl@example.com") is None, "nothing is known of others")
    check(relay.ask("trace", "nobody' OR '1'='1") is None, "an attempt at SQL (class 20)")

    # Ten thousand more, and what is told of one of them; not a single one is held up by the store.
    b = blast(relay.at, "--mails", "10000", "--size", "1k", "--sessions", "20")
    check(b.wait(120) == 0 and until(lambda: counters(relay, "delivered") == 10000, 60), "ten thousand", relay.tail())
    got = relay.ask("trace", "user7777@example.com")
    dropped = "trace_not_stored" in open(relay.log).read()
    check(not dropped and got and got.count("delivered") == 1 and got.count("accepted") == 1, "one of them", got)
    told(*keys)
    listed = relay.ask("trace", "@example.com", "--json")
    check(300 <= listed.count('"event":"delivered"') + listed.count('"event":"accepted"') <= 400, "of many, the newest 200", listed.count('"event"'))
    check(relay.stop() == 0, "it stops", relay.tail())

    # What is older than it may be goes.
    with open(relay.conf) as f:
        text = f.read()
    with open(relay.conf, "w") as f:
        f.write(text.replace("retention 30d", "retention 1s"))
    relay.start()
    check(until(lambda: relay.ask("trace", id) is None), "forgotten")
    check(until(lambda: relay.ask("trace", "user7777@example.com") is None), "all of it")
    check(relay.stop() == 0, "it stops", relay.tail())

    # Without a store there is the memory.
    with open(relay.conf, "w") as f:
        f.write(text.replace("trace { retention 30d; max_bytes 64MiB }\n", ""))
    relay.start()
    id = send(relay, "dora@example.com", "<three@there.example>")
    check(until(lambda: counters(relay, "delivered") == 1), "delivered")
    told_now = relay.ask("trace", "three@there.ex") or ""
    check(id in told_now and "delivered" in told_now, "by a part of the Message-ID, from memory", told_now)
    check(relay.stop() == 0, "it stops", relay.tail())
    sink.end()


def attack_60_full_disk(dir):
    """A disk for the store that is full: mail goes on."""
    os.mkdir(dir + "/trace", 0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "small", dir + "/trace"], check=True)
    sink = Sink(dir)
    relay = Relay(dir, sink.at, spool="min_free 0", extra="trace { retention 30d; max_bytes 64MiB; dir %s/trace }\n" % dir).start()
    b = blast(relay.at, "--mails", "20000", "--size", "1k", "--sessions", "20")
    check(b.wait(120) == 0, "all are taken")
    check(until(lambda: counters(relay, "delivered") == 20000, 60), "all are delivered", relay.tail())
    with open(relay.log) as f:
        log = f.read()
    check(log.count('"event":"trace_not_stored"') >= 1 or "trace_store_unusable" in log, "and the log says what is not stored")
    check(log.count('"event":"worker_started"') == 1, "by one worker")
    id = send(relay, "last@example.com", "<last@there.example>")
    check(until(lambda: counters(relay, "delivered") == 20001), "the last one")
    got = relay.ask("trace", id) or ""
    check("delivered" in got, "what is in memory is told", got)
    check(relay.stop() == 0, "it stops", relay.tail())
    subprocess.run(["umount", dir + "/trace"], check=True)
    sink.end()


def main(dir):
    for test in (stories, attack_60_full_disk):
        if len(sys.argv) > 1 and test.__name__ not in sys.argv[1:] or test is attack_60_full_disk and INSIDE not in os.environ:
            continue
        own = dir + "/" + test.__name__
        os.mkdir(own)
        os.chmod(own, 0o755)
        test(own)


private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
if INSIDE not in os.environ:
    may = subprocess.run([*private, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    if may.returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp(private[0], [*private, sys.executable, "-B", *sys.argv])
    say("skipped: a file system of our own, since we may not mount one: " + may.stderr.strip())
run(main)
