"""Incidents with the real relay: a cut-over in which the backend refuses everybody, soft_bounce, hold_max on loopback; then a resolver that is down, a
port that is closed everywhere and a dead address family, in network namespaces. WAYPOST_BUILD says where the relay is."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "kit"), os.path.join(HERE, "..", "dns")]
from checks import PATIENCE, check, count, done, until, whole_lines  # noqa: E402
from servers import Nsd  # noqa: E402

WAYPOST = os.path.abspath(os.path.join(os.environ.get("WAYPOST_BUILD", "build"), "waypost"))
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True, env=dict(os.environ, PATH=PATH), timeout=60)


class Sink:
    def __init__(self, listen, *options):
        self.p = subprocess.Popen([WAYPOST, "sink", "-l", listen, "--json", "--unique", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.at = self.p.stderr.readline().split("listening on ")[1].split()[0]

    def end(self):
        if self.p.poll() is None:
            self.p.terminate()
            out = self.p.communicate(timeout=PATIENCE)[0].strip().splitlines()
            return json.loads(out[-1]) if out else {}
        return {}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Relay:
    """With two threads, so that what one of them finds out must reach the other."""

    def __init__(self, text, listen="127.0.0.1", inside=None):
        self.dir = tempfile.mkdtemp(prefix="waypost-incidents-")
        self.port = free_port() if not inside else 25
        self.listen = listen
        with open(f"{self.dir}/known", "w") as f:
            f.writelines(f"user{i}@{domain}\n" for i in range(1000) for domain in ("example.com", "ours.test"))
        self.configure(text)
        command = [WAYPOST, "serve", "--as-is", "-c", f"{self.dir}/conf"]
        if inside:
            command = ["unshare", "-n", "sh", "-c", 'read go && exec "$@"', "sh", *command]
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if inside:
            ours = os.readlink("/proc/self/ns/net")
            check(until(lambda: os.readlink(f"/proc/{self.p.pid}/ns/net") != ours), "a namespace of its own")
            inside(self.p.pid)
            self.p.stdin.write("go\n")
            self.p.stdin.flush()
        check(until(lambda: self.ask("stats").returncode == 0), "the relay starts", self.events()[-3:])

    def configure(self, text):
        with open(f"{self.dir}/conf", "w") as f:
            f.write(f"waypost 1\nhostname mx.example.net\npostmaster postmaster@example.com\nlisten smtp {self.listen}:{self.port}\n"
                    f"spool {{ dir {self.dir}/spool; min_free 1MiB }}\ncontrol {self.dir}/control\nthreads 2\n"
                    f"log {{ form json; file {self.dir}/log }}\n" + text.replace("KNOWN", f"{self.dir}/known"))

    def ask(self, *args):
        return run(WAYPOST, *args, "--socket", f"{self.dir}/control")

    def stats(self):
        return json.loads(self.ask("stats", "--json").stdout)

    def counter(self, name):
        return self.stats()["counters"][name]

    def incidents(self):
        return [json.loads(line) for line in self.ask("incidents", "--json").stdout.splitlines()]

    def events(self, event=None):
        try:
            lines = [json.loads(line) for line in whole_lines(f"{self.dir}/log")]
        except OSError:
            return []
        return [e for e in lines if event is None or e["event"] == event]

    def send(self, mails=10, to="user%d@example.com", sender=""):
        r = run(WAYPOST, "blast", f"{self.listen}:{self.port}", "--mails", str(mails), "--sessions", "4", "--json", "--from", sender, "--to", to)
        check(r.returncode == 0 and json.loads(r.stdout)["messages"] == mails, "taken", to, r.stdout, r.stderr)

    def settled(self, **counts):
        """Once the counters say so."""
        now = {}

        def look():
            now.update({k: self.counter(k) for k in counts})
            return now == counts

        return until(look) or check(False, "counters", counts, "but", now, self.incidents(), self.ask("queue", "list").stdout)

    def end(self):
        check(not self.events("worker_crashed"), "it was well all the time")
        self.p.terminate()
        check(self.p.wait(40) == 0, "it ends well", self.events()[-3:])
        shutil.rmtree(self.dir)


def nothing_returned(relay, what):
    s = relay.stats()["counters"]
    check(not s["failed"] and not s["expired"] and not s["reports"] and not s["reports_dropped"], what, "nothing is returned", s)


# ---- the cut-over: a backend that answers 5xx to everybody ----

CUT = "backend old {{ server {at}; bounce_brake 20 within {window} }}\nrelay_domain example.com {{ backend old; recipients {{ file KNOWN }} }}\n"


def cut_over(reject, mails=500):
    bad = Sink("127.0.0.1:0", "--reject", reject)
    relay = Relay(CUT.format(at=bad.at, window="5s"))
    relay.send(mails)
    check(until(lambda: relay.incidents()), reject, "an incident", relay.stats()["counters"])
    one = relay.incidents()
    check(len(one) == 1 and one[0]["kind"] == "backend_refuses" and one[0]["subject"] == "old" and reject.split(":")[1] in one[0]["reason"], reject, one)
    # Those that were refused before wait for a moment, and then in the lane like all others.
    check(until(lambda: relay.incidents()[0]["waiting"] >= mails - 2), reject, "all mail waits", relay.incidents())
    nothing_returned(relay, reject)
    tried = relay.counter("attempts")
    check(tried < mails / 2, reject, "and is not tried", tried)
    listed = [json.loads(line) for line in relay.ask("queue", "list", "--json", "--limit", "1000").stdout.splitlines()]
    check(len(listed) == mails and any("may be in error" in q["reason"] for q in listed), reject, len(listed), listed[:1])
    shown = relay.ask("queue", "show", next(q["id"] for q in listed if "may be in error" in q["reason"])).stdout
    check("may be in error" in shown and "our own lists know" in shown, "queue show", shown)
    lane = [lane for lane in relay.stats()["lanes"] if lane["name"] == "old"][0]
    check(lane["state"] == "frozen" and "may be in error" in lane["reason"], reject, lane)
    for words, verb in (("INCIDENT", ("stats",)), ("INCIDENT backend_refuses old", ("top", "--once")), ("backend_refuses", ("incidents",)),
                        ("incident", ("explain", "rcpt", "user1@example.com"))):
        check(words in relay.ask(*verb).stdout, verb, relay.ask(*verb).stdout)
    bad.end()
    good = Sink(bad.at)
    relay.settled(delivered=mails)
    check(until(lambda: not relay.incidents()), reject, "it is over", relay.incidents())
    nothing_returned(relay, reject)
    check(until(lambda: len(relay.events("incident_opened")) == 1 and len(relay.events("incident_closed")) == 1), reject, "one incident", relay.events("incident_opened"))
    relay.end()
    took = good.end()
    check(took.get("messages") == mails and not took.get("duplicates"), reject, "each once", took)


def believed():
    """A backend that is well and refuses one whom we know: he is tried again, and then believed refused."""
    sink = Sink("127.0.0.1:0", "--fail-rcpt", "user7@example.com:550")
    relay = Relay(CUT.format(at=sink.at, window="5s"))
    relay.send(30)
    check(until(lambda: relay.counter("kept") == 1), "kept for a moment", relay.stats()["counters"])
    relay.send(30, to="user9@example.com") # it works: it takes others
    relay.settled(failed=1, delivered=59)
    check(not relay.events("incident_opened"), "that is no incident", relay.events("incident_opened"))
    # One whom we do not know any more is believed refused at once.
    relay.end()
    sink.end()


def by_an_operator():
    bad = Sink("127.0.0.1:0", "--reject", "rcpt:550")
    relay = Relay(CUT.format(at=bad.at, window="1h"))
    relay.send(30)
    check(until(lambda: relay.incidents()), "an incident")
    bad.end()
    good = Sink(bad.at)
    check(relay.ask("incidents", "close", str(relay.incidents()[0]["id"])).returncode == 0, "closed by an operator")
    check(relay.ask("incidents", "close", "4711").returncode == 1, "there is no such incident")
    check(until(lambda: relay.counter("delivered") >= 10), "what waited goes", relay.stats()["counters"])
    check(relay.ask("queue", "retry", "--all").returncode == 0, "retry")
    relay.settled(delivered=30)
    nothing_returned(relay, "by an operator")
    relay.end()
    good.end()


# ---- soft_bounce, hold_max ----

def soft_bounce():
    sink = Sink("127.0.0.1:0", "--reject", "rcpt:550")
    soft = "backend old {{ server {at} {more} }}\nrelay_domain example.com {{ backend old; recipients any }}\nretry [ 1s ] for 1h\n"
    relay = Relay("soft_bounce on\n" + soft.format(at=sink.at, more=""))
    check("soft_bounce is on" in run(WAYPOST, "check", "-c", f"{relay.dir}/conf").stderr + run(WAYPOST, "check", "-c", f"{relay.dir}/conf").stdout, "check tells it")
    check([i["kind"] for i in relay.incidents()] == ["soft_bounce"], "it is told as an incident", relay.incidents())
    relay.send(3)
    check(until(lambda: relay.counter("deferred") >= 6), "they are tried again", relay.stats()["counters"])
    nothing_returned(relay, "soft_bounce")
    relay.configure(soft.format(at=sink.at, more="; soft_bounce on"))
    check(relay.ask("reload").returncode == 0, "reload")
    check([i["subject"] for i in relay.incidents()] == ["old"], "of one backend", relay.incidents())
    before = relay.counter("deferred")
    check(until(lambda: relay.counter("deferred") >= before + 6), "they are still tried")
    nothing_returned(relay, "soft_bounce of a backend")
    relay.configure(soft.format(at=sink.at, more=""))
    check(relay.ask("reload").returncode == 0 and not relay.incidents(), "it is over", relay.incidents())
    relay.settled(failed=3)
    relay.end()
    sink.end()


def hold_max():
    """Time in which a lane was suspended is not counted, up to hold_max."""
    for most, expired in (("1h", 0), ("0s", 1)):
        sink = Sink("127.0.0.1:0", "--reject", "rcpt:451")
        relay = Relay(f"backend old {{ server {sink.at} }}\nrelay_domain example.com {{ backend old; recipients any }}\nretry [ 1s ] for 3s\nhold_max {most}\n")
        check(relay.ask("queue", "suspend", "--lane", "old").returncode == 0, "suspended")
        relay.send(1)
        end = time.monotonic() + 4 # longer than its lifetime; there is nothing to wait for but that
        check(until(lambda: time.monotonic() > end), "time goes by")
        check(relay.counter("attempts") == 0 and relay.counter("expired") == 0, "a lifetime does not end without an attempt", relay.stats()["counters"])
        check(relay.ask("queue", "resume", "--lane", "old").returncode == 0, "resumed")
        check(until(lambda: relay.counter("attempts") >= 1 and relay.counter("deferred") + relay.counter("expired") >= 1), "an attempt")
        first = until(lambda: relay.events("deferred") + relay.events("expired"))
        check(first and (first[0]["event"] == "expired") == bool(expired), "hold_max", most, first[:1])
        relay.settled(expired=1, reports_dropped=1)
        relay.end()
        sink.end()


# ---- our own faults, in network namespaces ----

N = 6
RELAY, OUTSIDE, NAMES = "192.0.2.2", "192.0.2.1", "192.0.2.53"
ZONES = {"arpa": "@ TXT nothing\n"}
ZONES.update({f"d{i}.test": f"@ MX 10 m\nm A 192.0.2.{100 + i}\n" for i in range(N)})
ZONES.update({f"six{i}.test": f"@ MX 10 m\nm A 192.0.2.{100 + i}\nm AAAA 2001:db8::{i + 1}\n" for i in range(N)})
ZONES.update({domain: "@ MX 10 m.d0.test.\n" for domain in ("ours.test", "shared.test")})
ZONES.update({f"gone{i}.test": f"@ MX 10 m\nm A 198.51.100.{1 + i}\n" for i in range(N)})


def network(pid):
    for command in [f"ip link add outside type veth peer name inside netns {pid}", "ip link set outside up",
                    *[f"ip addr add {ip}/24 dev outside" for ip in (OUTSIDE, NAMES, *[f"192.0.2.{100 + i}" for i in range(N)])]]:
        r = run(*command.split())
        check(r.returncode == 0, command, r.stderr)
    for command in ["ip link set lo up", "ip link set inside up", f"ip addr add {RELAY}/24 dev inside"]:
        r = run("nsenter", "-t", str(pid), "-n", *command.split())
        check(r.returncode == 0, command, r.stderr)


def mx_cut_over(relay, sink, configuration):
    """The same for a relay domain whose mail goes by MX: its site refuses everybody. Another domain's mail goes to that host, too."""
    def refuses():
        return [i for i in relay.incidents() if i["kind"] == "backend_refuses"]

    def lane(name):
        return next((lane["state"] for lane in relay.stats()["lanes"] if lane["name"] == name), None)

    before, mails = relay.stats()["counters"], 100
    at = sink.at
    sink.end()
    bad = Sink(at, "--reject", "rcpt:550")
    relay.send(mails, to="user%d@ours.test")
    check(until(refuses), "an incident", relay.stats()["counters"])
    one = refuses()
    check(len(one) == 1 and one[0]["subject"] == "mx:m.d0.test" and "our own lists know" in one[0]["reason"] and "550" in one[0]["reason"], one)
    check(until(lambda: refuses()[0]["waiting"] >= mails - 2), "all its mail waits", relay.incidents())
    check(lane("mx:m.d0.test:relay") == "frozen", "its lane is frozen", relay.stats()["lanes"])
    check(relay.counter("failed") == before["failed"], "nothing is returned", relay.stats()["counters"])
    told = {to: "backend_refuses mx:m.d0.test" in relay.ask("explain", "rcpt", to, "--from", "ann@sender.example", "--client", OUTSIDE).stdout
            for to in ("user1@ours.test", "u1@shared.test")}
    check(told == {"user1@ours.test": True, "u1@shared.test": False}, "explain", told)
    tried = relay.counter("attempts") - before["attempts"]
    check(tried < mails / 2, "and it is not tried", tried)
    relay.send(3, to="u%d@shared.test")
    relay.settled(failed=before["failed"] + 3)
    check(lane("mx:m.d0.test") == "open", "who is none of our recipients is refused as ever", relay.stats()["lanes"])
    bad.end()
    good = Sink(at)
    relay.settled(delivered=before["delivered"] + mails, failed=before["failed"] + 3)
    check(until(lambda: not refuses()), "it is over", relay.incidents())
    took = good.end()
    check(took.get("messages") == mails and not took.get("duplicates"), "each once", took)
    # By an operator, who says the site; then by a configuration that wants no brake.
    bad = Sink(at, "--reject", "rcpt:550")
    relay.send(mails, to="user%d@ours.test")
    check(until(refuses), "an incident again", relay.stats()["counters"])
    check(relay.ask("queue", "resume", "--lane", "mx:m.d0.test").returncode == 0, "resumed")
    check(until(lambda: any(e["subject"] == "mx:m.d0.test" and e["why"] == "by an operator" for e in relay.events("incident_closed"))), "ended by an operator",
          relay.events("incident_closed"))
    check(relay.ask("queue", "retry", "--all").returncode == 0 and until(refuses), "it begins anew, for the trouble is still there", relay.stats()["lanes"])
    check(relay.counter("failed") == before["failed"] + 3, "nothing is returned")
    relay.configure(configuration.replace("20 within 5s", "off"))
    check(relay.ask("reload").returncode == 0 and until(lambda: not refuses()), "no brake any more", relay.incidents())
    check(relay.ask("queue", "retry", "--all").returncode == 0, "retry")
    relay.settled(failed=before["failed"] + 3 + mails)
    bad.end()


def local_faults():
    run("ip", "link", "set", "lo", "up")
    run("ip", "addr", "add", f"{NAMES}/32", "dev", "lo")
    nsd = Nsd(ZONES, address=NAMES)
    run("ip", "addr", "del", f"{NAMES}/32", "dev", "lo")
    stubs = "; ".join(f"stub {zone} {NAMES}:{nsd.port}" for zone in ZONES)
    nsd.stop()
    inside = Sink("127.0.0.1:0") # not reached from there: the relay's own loopback is another
    configuration = (f"dns {{ hosts off; resolv_conf off; dnssec off; server {NAMES}:{nsd.port}; timeout 2s; {stubs} }}\n"
                     f"network outside {OUTSIDE} {{ relay_from sender.example; null_rate 10000/min }}\nbackend mx {{ idle_timeout 0s; bounce_brake 20 within 5s }}\n"
                     "relay_domain ours.test { via mx; recipients { file KNOWN } }\nroute default { via mx }\n")
    relay = Relay(configuration, RELAY, network)
    sinks = []
    try:
        # The resolver is down: one incident, no attempt.
        for i in range(N):
            relay.send(2, to=f"u%d@d{i}.test", sender="ann@sender.example")
        check(until(lambda: [i["kind"] for i in relay.incidents()] == ["no_names"]), "no names", relay.incidents())
        check(until(lambda: len([lane for lane in relay.stats()["lanes"] if lane["state"] == "frozen"]) >= 1), "frozen", relay.stats()["lanes"])
        check(relay.counter("attempts") == 0, "no attempt is burnt")
        nothing_returned(relay, "no names")
        nsd.start()
        # It is back, but nobody listens anywhere.
        check(until(lambda: not [i for i in relay.incidents() if i["kind"] == "no_names"]), "names again", relay.incidents())
        check(until(lambda: [(i["kind"], i["subject"]) for i in relay.incidents()] == [("no_way_out", "mail hosts")]), "no way out", relay.incidents(), relay.stats()["lanes"])
        check(relay.counter("attempts") == 0, "no attempt is burnt")
        nothing_returned(relay, "no way out")
        sinks = [Sink(f"192.0.2.{100 + i}:25") for i in range(N)]
        relay.settled(delivered=2 * N)
        check(until(lambda: not relay.incidents()), "it is over", relay.incidents())
        # A family without a way out: found out once, and passed over.
        for i in range(N):
            relay.send(2, to=f"u%d@six{i}.test", sender="ann@sender.example")
        relay.settled(delivered=4 * N)
        for k in range(20): # which of its addresses comes first is chance
            if "family_dead" not in [i["kind"] for i in relay.incidents()]:
                for i in range(N):
                    relay.send(1, to=f"u%d@six{i}.test", sender="ann@sender.example")
                check(until(lambda: relay.stats()["queue"]["messages"] == 0), "all goes by the other family")
        check([(i["kind"], i["subject"]) for i in relay.incidents()] == [("family_dead", "IPv6")], "a dead family", relay.incidents())
        check(until(lambda: len([e for e in relay.events("incident_opened") if e["kind"] == "family_dead"]) == 1), "told once")
        # Where the kernel has no route that is our fault, and the others' mail goes on.
        for i in range(N):
            relay.send(1, to=f"u%d@gone{i}.test", sender="ann@sender.example")
        check(until(lambda: len([lane for lane in relay.stats()["lanes"] if lane["state"] == "frozen"]) == N), "no route", relay.stats()["lanes"])
        delivered = relay.counter("delivered")
        relay.send(5, to="u%d@d0.test", sender="ann@sender.example")
        check(until(lambda: relay.counter("delivered") == delivered + 5), "who can be reached is", relay.incidents())
        nothing_returned(relay, "no route")
        mx_cut_over(relay, sinks[0], configuration)
    finally:
        for sink in [inside, *sinks]:
            sink.end()
        relay.end()
        nsd.end()


if "--inside" in sys.argv:
    local_faults()
    done()
cut_over("rcpt:550")
cut_over("mail:554", 100)
cut_over("dot:554", 100)
believed()
by_an_operator()
soft_bounce()
hold_max()
may = run("unshare", "-n", "ip", "link", "set", "lo", "up")
if os.geteuid() != 0 or may.returncode:
    print("skipped: a network namespace of our own, since we may have none:", may.stderr.strip() or "not root")
else:
    r = subprocess.run(["unshare", "-n", sys.executable, "-B", __file__, "--inside"], stdout=subprocess.PIPE, text=True)
    *words, last = (r.stdout.strip().splitlines() or ["0 passed, 1 failed"])
    print("\n".join(words)) if words else None
    good, _, bad, _ = last.replace(",", "").split()
    count(int(good), int(bad))
done()
