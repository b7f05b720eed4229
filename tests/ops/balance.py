"""Three servers of a backend, under load: how they share the mail in each way of balancing, and what happens when one is killed, drained or
silent. WAYPOST_BUILD says where the relay is."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kit"))
from checks import PATIENCE, check, done, until, whole_lines  # noqa: E402

BUILD = os.environ.get("WAYPOST_BUILD", "build")
WAYPOST = os.path.abspath(os.path.join(BUILD, "waypost"))


class Sink:
    def __init__(self, listen="127.0.0.1:0", *options):
        self.p = subprocess.Popen([WAYPOST, "sink", "-l", listen, "--json", "--unique", *options], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        self.at = self.p.stderr.readline().split("listening on ")[1].split()[0]
        self.took = 0

    def end(self, kill=False):
        if self.p.poll() is None:
            if kill:
                self.p.kill()
            else:
                self.p.terminate()
        out = self.p.communicate(timeout=PATIENCE)[0].strip().splitlines()
        return json.loads(out[-1]) if out else {}


class World:
    """A relay in front of three sinks."""

    def __init__(self, backend="", weights=("", "", ""), sinks=None):
        self.dir = tempfile.mkdtemp(prefix="waypost-balance-")
        self.sink = sinks or [Sink() for _ in range(3)]
        self.hash = []
        servers = "\n".join(f"    server {s.at} {w}" for s, w in zip(self.sink, weights))
        with open(f"{self.dir}/conf", "w") as f:
            f.write(f"waypost 1\nhostname mx.example.net\npostmaster postmaster@example.com\nlisten smtp 127.0.0.1:0\n"
                    f"spool {{ dir {self.dir}/spool; min_free 1MiB }}\ncontrol {self.dir}/control\nthreads 2\n"
                    f"log {{ form json; file {self.dir}/log }}\n"
                    f"backend three {{\n{servers}\n    {backend}\n}}\n"
                    "relay_domain example.com *.example.com { backend three; recipients any }\n")
        # Port 0 is nobody's: take one that is free.
        import socket
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        with open(f"{self.dir}/conf") as f:
            text = f.read().replace("127.0.0.1:0\nspool", f"127.0.0.1:{self.port}\nspool")
        with open(f"{self.dir}/conf", "w") as f:
            f.write(text)
        self.p = subprocess.Popen([WAYPOST, "serve", "--as-is", "-c", f"{self.dir}/conf"], stderr=subprocess.PIPE, text=True)
        check(until(lambda: self.ask("stats").returncode == 0), "the relay starts", self.log()[-3:])

    def ask(self, *args):
        return subprocess.run([WAYPOST, *args, "--socket", f"{self.dir}/control"], capture_output=True, text=True, timeout=60)

    def log(self):
        try:
            return [json.loads(line) for line in whole_lines(f"{self.dir}/log")]
        except OSError:
            return []

    def servers(self):
        lines = [json.loads(line) for line in self.ask("backend", "list", "--json").stdout.splitlines()]
        return {s["server"]: s for s in lines}

    def state(self, n):
        return self.servers()[self.sink[n].at]["state"]

    def delivered(self):
        by = self.servers()
        return [by[s.at]["delivered"] for s in self.sink]

    def blast(self, mails, *options):
        return subprocess.Popen([WAYPOST, "blast", f"127.0.0.1:{self.port}", "--mails", str(mails), "--sessions", "20", "--json",
                                 "--to", "user%d@example.com", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def send(self, mails, *options):
        self.all_well(self.blast(mails, *options), mails)

    def all_well(self, blast, mails):
        out, err = blast.communicate(timeout=120)
        sent = json.loads(out)
        check(sent["messages"] == mails and sent["failed"] == 0, "no client sees an error", sent, err)

    def empty(self):
        return until(lambda: json.loads(self.ask("stats", "--json").stdout)["queue"]["messages"] == 0)

    def end(self):
        self.p.terminate()
        check(self.p.wait(PATIENCE) == 0, "the relay ends well")
        self.p.stderr.close()
        ends = [s.end() for s in self.sink]
        shutil.rmtree(self.dir)
        return ends


def shares(before, after):
    took = [b - a for a, b in zip(before, after)]
    return took, [n / max(sum(took), 1) for n in took]


def near(got, want, within=0.1):
    return all(abs(g - w) <= within * w for g, w in zip(got, want))


def test_in_turn():
    for backend, weights, want in [("balance round_robin", ("weight 1", "weight 50", ""), (1 / 3, 1 / 3, 1 / 3)),
                                   ("balance weighted", ("weight 10", "weight 20", "weight 30"), (1 / 6, 2 / 6, 3 / 6))]:
        w = World(backend, weights)
        w.send(3000)
        check(w.empty(), "all goes out")
        took, share = shares([0, 0, 0], w.delivered())
        check(near(share, want), backend, took)
        ends = w.end()
        check(sum(e["messages"] for e in ends) == 3000 and not any(e["duplicates"] for e in ends), "each once", ends)


def test_a_slow_one_in_turn():
    """Who takes nothing for a second is not waited for."""
    slow = Sink("127.0.0.1:0", "--delay", "dot:5s")
    w = World("balance round_robin\n    max_connections 2", sinks=[slow, Sink(), Sink()])
    began = time.monotonic()
    w.send(600)
    check(until(lambda: sum(w.delivered()) >= 590), "the others go on", w.delivered())
    check(time.monotonic() - began < 20, "and soon")
    check(w.empty(), "all goes out")
    w.end()


def test_a_tarpit_holds_few_connections():
    """Who has answered nothing yet gets no more connections than one a thread, however much waits for it and however long."""
    w = World("connect_timeout 120s", sinks=[Sink("127.0.0.1:0", "--delay", "ehlo:6s")])
    w.send(200)
    most, first = 0, None

    def answered():
        nonlocal most, first
        [s] = w.servers().values()
        most = max(most, s["connections"] if not s["delivered"] else 0)
        first = first or (s["connections"] and time.monotonic())
        return s["delivered"] > 0 or (first and time.monotonic() - first > 5)
    check(until(answered), "it is tried")
    check(1 <= most <= 2, "by one connection a thread", most)
    check(w.empty(), "and when it answers, all goes out")
    w.end()


def test_one_that_hangs():
    """What is left to a busy connection for a moment does not wait for it when it hangs."""
    w = World("max_connections 2; idle_timeout 60s", sinks=[Sink("127.0.0.1:0", "--delay", "dot:25s"), Sink()])
    for n in range(1, 11):
        w.send(1, "--sessions", "1")
        check(until(lambda: sum(s["delivered"] + s["busy"] for s in w.servers().values()) >= n, 10), "it goes on its way, to one or the other", n, w.servers())
    check(w.delivered()[1] >= 6, "the other took the rest", w.delivered())
    w.end()


def test_one_long_session():
    """All mail comes by one session, to one thread; the connections of the other are not idle for that."""
    w = World("max_connections 4", sinks=[Sink("127.0.0.1:0", "--delay", "dot:20ms")])
    w.send(600, "--sessions", "1")
    check(w.empty(), "all goes out")
    counters = json.loads(w.ask("stats", "--json").stdout)["counters"]
    check(counters["taken_over"] >= 100, "the other thread took a good part of it", counters)
    check(counters["delivered"] == 600 and counters["unknown"] == 0, "each once", counters)
    [got] = w.end()
    check(got["messages"] == got["unique"] == 600, "nothing is lost or doubled", got)


def test_least_busy():
    """The default: a server that takes twenty times as long gets much less."""
    w = World(sinks=[Sink("127.0.0.1:0", "--delay", "dot:20ms"), Sink("127.0.0.1:0", "--delay", "dot:1ms"), Sink("127.0.0.1:0", "--delay", "dot:1ms")])
    w.send(3000)
    check(w.empty(), "all goes out")
    took = w.delivered()
    check(took[0] * 3 < min(took[1:]), "the slow one gets less", took)
    w.end()


def test_sticky():
    files = [tempfile.mktemp(prefix="waypost-sticky-") for _ in range(3)]
    sinks = [Sink("127.0.0.1:0", "--hash", f) for f in files]
    w = World("balance sticky", sinks=sinks)

    def homes():
        found = {}
        for i, name in enumerate(files):
            for line in whole_lines(name):
                found.setdefault(json.loads(line)["to"][0].split("@")[1].rstrip(">"), set()).add(i)
        return found
    for d in range(40):
        w.send(15, "--to", f"user%d@d{d}.example.com", "--sessions", "3")
    check(w.empty(), "all goes out")
    before = homes()
    check(len(before) == 40 and all(len(h) == 1 for h in before.values()), "a domain has one server", before)
    check({next(iter(h)) for h in before.values()} == {0, 1, 2}, "and all servers have some")
    # One is drained: its domains go elsewhere, the others stay.
    check(w.ask("backend", "drain", "three", sinks[0].at).returncode == 0 and w.state(0) == "drained", "drained")
    for d in range(40):
        w.send(3, "--to", f"user%d@d{d}.example.com", "--sessions", "1")
    check(w.empty(), "all goes out")
    after = homes()
    check(all(after[d] == before[d] or (0 in before[d] and len(after[d]) == 2) for d in before), "only its own moved", before, after)
    w.end()
    for f in files:
        os.unlink(f)


def only_unknown(w):
    """What waits is what the victim had in hand: it may have been delivered, so it is tried late (promise 1)."""
    lines = [json.loads(line) for line in w.ask("queue", "list", "--json").stdout.splitlines()]
    return all("may have been delivered" in line["reason"] for line in lines) and [len(lines)]


def test_killed_under_load():
    """Any one of three is killed under load, and comes back: nothing lost, no error to clients, then the shares of before."""
    for victim, balance, weights, want, within in [(0, "weighted", (1, 2, 3), (1 / 6, 2 / 6, 3 / 6), 0.1), (1, "least_busy", (1, 1, 1), (1 / 3,) * 3, 0),
                                                   (2, "round_robin", (1, 1, 1), (1 / 3,) * 3, 0.1)]:
        w = World(f"balance {balance}\n    health ehlo every 1s down_after 1 up_after 1", ["weight %d" % n for n in weights])
        blast = w.blast(20000, "--rate", "4000/s")
        check(until(lambda: min(w.delivered()) > 300), "all three take mail")
        at = w.sink[victim].at
        w.sink[victim].end(kill=True)
        check(until(lambda: w.state(victim) in ("out", "down")), "it is seen to be gone")
        at_kill = w.delivered()
        check(until(lambda: sum(w.delivered()) > sum(at_kill) + 2000), "the others go on")
        w.sink[victim] = Sink(at)
        check(until(lambda: w.state(victim) == "in"), "it is seen to be back")
        w.all_well(blast, 20000)
        check(until(lambda: only_unknown(w)), "all goes out but what it had in hand", w.ask("queue", "list").stdout[-500:])
        took = [r.get("took_us", 0) for r in w.log() if r["event"] == "delivered"]
        check(max(took) < 2e6, "nothing is held up by it for long", max(took))
        check(w.ask("queue", "retry", "--all").returncode in (0, 1) and w.empty(), "nothing is lost")
        before = w.delivered()
        w.send(6000)
        check(w.empty(), "all goes out")
        took, share = shares(before, w.delivered())
        # By least_busy its share still grows from a tenth, ten seconds long.
        check(near(share, want, within) if within else min(share) > 0.03, balance, took)
        w.end()


def test_probes():
    """A server that takes connections and says nothing is out by its probes alone, and comes back by them; so is one that is drained by hand."""
    import socket
    mute = socket.socket()
    mute.bind(("127.0.0.1", 0))
    mute.listen(50)
    at = "127.0.0.1:%d" % mute.getsockname()[1]
    third = Sink()
    third.at, real = at, third.at
    w = World("health ehlo every 1s down_after 2 up_after 2", sinks=[Sink(), Sink(), third])
    check(until(lambda: w.state(2) == "down"), "it is down", w.servers())
    w.send(300)
    check(w.empty() and w.delivered()[2] == 0, "and gets no mail")
    check(any(r["event"] == "server_down" for r in w.log()), "that is told")
    mute.close()
    back = Sink(at)
    check(until(lambda: w.state(2) == "in"), "it comes back", w.servers())
    check(w.ask("backend", "drain", "three", w.sink[0].at).returncode == 0, "drain")
    before = w.delivered()
    w.send(300)
    check(w.empty() and w.delivered()[0] == before[0] and w.state(0) == "drained", "a drained one gets none")
    check(until(lambda: w.servers()[w.sink[0].at]["connections"] == 0), "and has no connection")
    check(w.ask("backend", "undrain", "three", w.sink[0].at).returncode == 0 and w.state(0) == "in", "undrain")
    w.send(600)
    check(w.empty() and w.delivered()[0] > before[0], "and again gets some")
    check(w.ask("backend", "drain", "three", "nobody:25").returncode == 1, "an unknown one")
    w.end()
    back.end()


def main():
    for name, test in sorted(globals().items()):
        if name.startswith("test_") and (len(sys.argv) < 2 or sys.argv[1].startswith("--") or sys.argv[1] in name):
            try:
                test()
            except Exception as e:  # noqa: BLE001: what breaks a test is a failure of it
                check(False, name, repr(e))
    done()


main()
