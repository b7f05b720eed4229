"""Mail that comes round: two relays that are each other's backend, another mail system that hides where mail has been, a reply address in the loop itself;
and what only looks like a loop, because it comes in and goes out through one relay. WAYPOST_BUILD says where the relay is."""
import atexit
import json
import os
import re
import shutil
import smtplib
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [os.path.join(HERE, "..", "kit"), os.path.join(HERE, "..", "inlets")]
from checks import PATIENCE, check, done, until, whole_lines  # noqa: E402
from kit import Sink, WAYPOST, free_port  # noqa: E402


class Relay:
    def __init__(self, name, port, text):
        self.dir = tempfile.mkdtemp(prefix=f"waypost-loops-{name}-")
        self.port = port
        with open(f"{self.dir}/conf", "w") as f:
            f.write(f"waypost 1\nhostname {name}.test\npostmaster postmaster@safe.test\nlisten smtp 127.0.0.1:{port}\nspool {{ dir {self.dir}/spool; min_free 1MiB }}\n"
                    f"control {self.dir}/control\nthreads 1\nlog {{ form json; file {self.dir}/log }}\n{text}")
        self.p = subprocess.Popen([WAYPOST, "serve", "--as-is", "-c", f"{self.dir}/conf"], stderr=subprocess.PIPE)
        atexit.register(self.p.kill)
        check(until(lambda: self.ask("stats").returncode == 0 or self.p.poll() is not None) and self.p.poll() is None, "the relay starts", name)

    def ask(self, *args):
        return subprocess.run([WAYPOST, *args, "-c", f"{self.dir}/conf"], capture_output=True, text=True, timeout=PATIENCE)

    def stats(self):
        return json.loads(self.ask("stats", "--json").stdout)

    def idle(self):
        s = self.stats()
        return s["queue"]["messages"] == 0 and s["sessions"] == 0

    def logged(self, event):
        return [e for e in map(json.loads, filter(None, whole_lines(f"{self.dir}/log"))) if e.get("event") == event]

    def end(self):
        self.p.terminate()
        check(self.p.wait(PATIENCE) == 0, "the relay ends well", self.p.stderr.read()[-1000:])
        shutil.rmtree(self.dir)


class Forwarder(Sink):
    """A mail system that hands each message on at once, changed as `change` says: (sender, recipients, octets). A refusal of its next hop is its own matter:
    those are kept in `refused`. With `answer` it refuses mail itself, by (code, text) or None."""

    def __init__(self, port, change):
        self.onto, self.change, self.refused = port, change, []
        super().__init__()
        self.mail = self

    def append(self, mail):
        self.got = getattr(self, "got", 0) + 1
        sender, rcpts, text = self.change(*mail)
        try:
            with smtplib.SMTP("127.0.0.1", self.onto, timeout=PATIENCE) as s:
                s.sendmail(sender, rcpts, text)
        except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused) as e:
            self.refused.append(e)


def send(port, sender, to, text=b"Subject: round\r\n\r\nand round\r\n"):
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as s:
        s.sendmail(sender, [to], text)


def two(sink, more=""):
    a, b = free_port(), free_port()
    text = ("backend other {{ server 127.0.0.1:{other} }}\nbackend sink {{ server 127.0.0.1:{sink} }}\nroute default {{ via sink }}\n"
            "relay_domain safe.test {{ backend sink; recipients any }}\nrelay_domain loop.test {{ backend other; recipients any }}\nretry [ 1s ] for 1h\n" + more)
    return Relay("a", a, text.format(other=b, sink=sink.port)), Relay("b", b, text.format(other=a, sink=sink.port))


def quiet(*relays):
    """Nothing is under way any more."""
    return until(lambda: all(r.idle() for r in relays) and all(r.idle() for r in relays))


def reports(sink):
    return [m for m in sink.mail if b"multipart/report" in m[2]]


def test_each_others_backend():
    sink = Sink()
    a, b = two(sink)
    send(a.port, "ann@out.test", "x@loop.test")
    check(until(lambda: reports(sink)), "a report comes", a.logged("failed"), b.logged("failed"))
    check(quiet(a, b), "and then nothing is left", a.stats()["queue"], b.stats()["queue"])
    got = reports(sink)
    check(len(got) == 1 and got[0][0] == "" and got[0][1] == ["ann@out.test"], "one, to its sender", len(got), got[:1])
    check(b"5.4.6" in got[0][2], "which says that it is a loop", got[0][2])
    passes = a.stats()["counters"]["accepted"] + b.stats()["counters"]["accepted"] - 1
    check(2 <= passes <= 12, "after few rounds", passes)
    check(a.stats()["counters"]["loops"] + b.stats()["counters"]["loops"] == 1, "counted once")
    # A sender in the loop: his report goes round too, as mail from nobody, and ends as failed in the log. From nobody, the same.
    for n, sender in ((1, "eve@loop.test"), (2, "")):
        send(b.port, sender, "x@loop.test")
        lost = lambda: [e for e in a.logged("failed") + b.logged("failed") if e["from"] == ""]
        check(until(lambda: len(lost()) == n), "it ends", sender, lost())
        check(quiet(a, b), "and then nothing is left", a.stats()["queue"], b.stats()["queue"])
        check(len(reports(sink)) == 1, "and nobody else hears of it", sender, len(reports(sink)))
    a.end()
    b.end()
    sink.listener.close()


def hidden(sender, rcpts, text):
    """Where it has been stays in it, but not by whose installation."""
    return sender, rcpts, re.sub(rb" \(waypost [0-9a-f]{16}\)", b"", text)


def test_hop_count():
    sink = Sink()
    port = free_port()
    other = Forwarder(port, hidden)
    a = Relay("a", port, f"backend other {{ server 127.0.0.1:{other.port} }}\nbackend sink {{ server 127.0.0.1:{sink.port} }}\nroute default {{ via sink }}\n"
              "relay_domain loop.test { backend other; recipients any }\nlimits { hops 10 }\nrelay_domain safe.test { backend sink; recipients any }\n")
    send(port, "ann@out.test", "x@loop.test")
    check(until(lambda: other.refused), "it ends", other.__dict__)
    check(quiet(a), "and nothing is left")
    check(len(other.refused) == 1 and b"5.4.6" in str(other.refused[0]).encode(), "who brought it too often is refused", other.refused)
    check(other.got == 11, "at the limit", other.got)
    check(not reports(sink), "and reports it himself: we do not", len(reports(sink)))
    a.end()
    sink.listener.close()
    other.listener.close()


def test_in_and_out():
    """In from outside, to a server inside, whose user forwards it; out through the same relay, and even in again for another user."""
    sink = Sink()
    port = free_port()
    onward = {"fwd@in.test": "friend@far.test", "chain@in.test": "fwd@in.test", "ann@in.test": "ann@sink.test"}
    inside = Forwarder(port, lambda sender, rcpts, text: ("bounces@in.test", [onward[r] for r in rcpts],
                                                          b"Received: from a.test by inside.in.test; Fri, 27 Nov 2026 12:00:00 +0000\r\n" + text))
    a = Relay("a", port, f"backend inside {{ server 127.0.0.1:{inside.port} }}\nbackend sink {{ server 127.0.0.1:{sink.port} }}\nroute default {{ via sink }}\n"
              "relay_domain in.test { backend inside; recipients any }\nrelay_domain safe.test { backend sink; recipients any }\n"
              "network inside 127.0.0.0/8 { relay_from in.test }\n")
    for to, times in (("fwd@in.test", 1), ("chain@in.test", 2)):
        send(port, "ann@out.test", to, f"Subject: {to}\r\n\r\nx\r\n".encode())
        check(until(lambda: sink.find(to.encode())), "it arrives", to, inside.refused)
        m = sink.find(to.encode())
        check(len(m) == 1 and m[0][1] == ["friend@far.test"] and m[0][2].count(b"(waypost ") == times + 1, "once", to, m)
    check(quiet(a) and not inside.refused and not reports(sink), "and nobody complains", inside.refused)
    a.end()
    sink.listener.close()
    inside.listener.close()


for name, test in sorted(globals().items()):
    if name.startswith("test_") and (len(sys.argv) < 2 or sys.argv[1] in name):
        try:
            test()
        except Exception as e:  # noqa: BLE001: what breaks a test is a failure of it
            check(False, name, repr(e))
done()
