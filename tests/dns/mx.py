"""Mail by MX records: a real name server and next hops with addresses of their own, in a network namespace of ours; the relay, sandboxed, in
another. WAYPOST_BUILD says where it is. Needs to be root; says so where it may not."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "kit"))
from checks import check, done, until, whole_lines
from servers import Nsd

WAYPOST = os.path.abspath(os.path.join(os.environ.get("WAYPOST_BUILD", "build"), "waypost"))
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
A, B, C, RELAY, SECOND, OUTSIDE, NAMES = "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.53"


def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True, env=dict(os.environ, PATH=PATH), timeout=60)


may = run("unshare", "-n", "ip", "link", "set", "lo", "up")
if os.geteuid() != 0 or may.returncode:
    print("skipped: a network namespace of our own, since we may have none:", may.stderr.strip() or "not root")
    print("0 passed, 0 failed")
    sys.exit(0)
if "--inside" not in sys.argv:
    sys.exit(subprocess.run(["unshare", "-n", sys.executable, "-B", __file__, "--inside"]).returncode)

ZONES = {
    "one.test": "@ MX 10 a\n@ MX 20 b\na A %s\nb A %s\n" % (A, B),
    "equal.test": "@ MX 10 a.one.test.\n@ MX 10 b.one.test.\n",
    "same.test": "@ MX 20 B.one.test.\n@ MX 10 A.one.test.\n",
    "implicit.test": "@ A %s\n" % C,
    "null.test": "@ MX 0 .\n@ A %s\n" % C,
    "here.test": "@ TXT nothing\n",
    "self.test": "@ MX 10 mx.example.net.\n@ MX 20 a.one.test.\n",
    "byaddress.test": "@ MX 10 other\n@ MX 20 a.one.test.\nother A %s\n" % RELAY,
    "backup.test": "@ MX 10 a.one.test.\n@ MX 20 mx.example.net.\n@ MX 30 b.one.test.\n",
    "loop.test": "@ MX 10 lo\nlo A 127.0.0.1\nlo AAAA ::1\n",
    "linklocal.test": "@ MX 10 ll\n@ MX 20 c\nll A 169.254.7.7\nc A %s\n" % C,
    "by.test": "@ MX 10 a.one.test.\n",
    "alias.test": "really CNAME one.test.\n",
    "many.test": "".join("@ MX %d m%d\nm%d A %s\n" % (10 + i, i, i, C if i == 0 else A) for i in range(150)),
}


class Sink:
    def __init__(self, ip):
        self.ip = ip
        self.took = f"{relay.dir}/{ip}.took"
        self.start()

    def start(self):
        self.p = subprocess.Popen([WAYPOST, "sink", "-l", f"{self.ip}:25", "--json", "--hash", self.took], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.p.stderr.readline()

    def stop(self):
        self.p.terminate()
        self.p.communicate(timeout=20)


class Relay:
    def __init__(self, nsd, dead):
        self.dir = tempfile.mkdtemp(prefix="waypost-mx-")
        os.chmod(self.dir, 0o755)
        os.mkdir(f"{self.dir}/log")
        stubs = "; ".join(f"stub {zone} {NAMES}:{nsd.port}" for zone in ZONES)
        with open(f"{self.dir}/conf", "w") as f:
            f.write(f"""waypost 1
hostname mx.example.net
postmaster postmaster@one.test
listen smtp {RELAY}:25
spool {{ dir {self.dir}/spool; min_free 1MiB }}
control {self.dir}/run/control
log {{ form json; file {self.dir}/log/log }}
user nobody
dns {{ hosts off; resolv_conf off; server {NAMES}:{dead}; timeout 2s; {stubs}; stub dark.test {NAMES}:{dead}; stub gone.test {NAMES}:{nsd.port} }}
network outside {OUTSIDE} {{ relay_from sender.example implicit.test *.branch.example }}
relay_domain backup.test {{ via mx; recipients any }}
backend hub {{ server {C}:25 }}
route branch {{ from *.branch.example; network outside; via hub }}
route special {{ to user3@same.test; via hub }}
source second {SECOND} helo second.example.net
route sourced {{ to by.test; via mx; source second }}
route default {{ via mx }}
""")
        # It waits for its network before it becomes the relay.
        self.p = subprocess.Popen(["unshare", "-n", "sh", "-c", f'read go && exec "{WAYPOST}" serve -c "{self.dir}/conf"'], stdin=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        ours = os.readlink("/proc/self/ns/net")
        check(until(lambda: os.readlink(f"/proc/{self.p.pid}/ns/net") != ours), "a namespace of its own")
        for command in [f"ip link add outside type veth peer name inside netns {self.p.pid}", "ip link set outside up", *[f"ip addr add {ip}/24 dev outside" for ip in (OUTSIDE, A, B, C, NAMES)]]:
            r = run(*command.split())
            check(r.returncode == 0, command, r.stderr)
        for command in ["ip link set lo up", "ip link set inside up", f"ip addr add {RELAY}/24 dev inside", f"ip addr add {SECOND}/24 dev inside"]:
            r = run("nsenter", "-t", str(self.p.pid), "-n", *command.split())
            check(r.returncode == 0, command, r.stderr)

    def go(self):
        self.p.stdin.write("go\n")
        self.p.stdin.flush()
        check(until(lambda: self.ask("stats").returncode == 0), "the relay starts", self.events())

    def ask(self, *args):
        return run(WAYPOST, *args, "--socket", f"{self.dir}/run/control")

    def events(self, event=None, rcpt=""):
        try:
            lines = [json.loads(line) for line in whole_lines(f"{self.dir}/log/log")]
        except OSError:
            return []
        return [e for e in lines if (event is None or e["event"] == event) and rcpt in e.get("rcpt", "")]

    def queue(self, domain):
        return [json.loads(line) for line in self.ask("queue", "list", "--json", "--domain", domain).stdout.splitlines()]

    def send(self, domain, mails=10, sender="ann@sender.example"):
        r = run(WAYPOST, "blast", f"{RELAY}:25", "--mails", str(mails), "--sessions", "2", "--json", "--from", sender, "--to", f"user%d@{domain}")
        check(r.returncode == 0 and json.loads(r.stdout)["messages"] == mails, "taken", domain, r.stdout, r.stderr)

    def delivered(self, domain, mails=10):
        """By which next hops, once so many of that domain have gone out."""
        check(until(lambda: len(self.events("delivered", "@" + domain)) >= mails), "delivered", domain, self.queue(domain), self.events("failed", domain)[:1])
        by = {}
        for e in self.events("delivered", "@" + domain):
            ip = next((ip for ip in (A, B, C) if ip in e["remote"]), e["remote"])
            by[ip] = by.get(ip, 0) + 1
        return by

    def refused(self, domain, status, mails=1):
        self.send(domain, mails, "ann@implicit.test")
        check(until(lambda: len(self.events("failed", "@" + domain)) >= mails), "failed", domain, self.queue(domain), self.events("delivered", domain)[:1])
        check(until(lambda: any(status in e.get("detail", "") + e.get("reply", "") for e in self.events("failed", "@" + domain))), status, self.events("failed", "@" + domain)[:1])

    def end(self):
        self.p.terminate()
        check(self.p.wait(40) == 0, "it ends well", self.events()[-3:])
        shutil.rmtree(self.dir)


run("ip", "link", "set", "lo", "up")
relay = sinks = None
# The name server binds to an address that is there only when the relay's namespace is.
run("ip", "addr", "add", f"{NAMES}/32", "dev", "lo")
nsd = Nsd(ZONES, address=NAMES)
run("ip", "addr", "del", f"{NAMES}/32", "dev", "lo")
nsd.stop()
relay = Relay(nsd, nsd.port + 1 if nsd.port < 65000 else nsd.port - 1)
nsd.start()
try:
    a, b, c = Sink(A), Sink(B), Sink(C)
    relay.go()
    relay.send("one.test")
    check(relay.delivered("one.test") == {A: 10}, "the preferred host", relay.delivered("one.test"))
    relay.send("equal.test", 200)
    check(set(relay.delivered("equal.test", 200)) == {A, B}, "equals share", relay.delivered("equal.test", 200))
    relay.send("implicit.test")
    check(relay.delivered("implicit.test") == {C: 10}, "a domain without MX is its own host (RFC 5321 5.1)")
    relay.send("really.alias.test")
    check(relay.delivered("really.alias.test") == {A: 10}, "an alias is followed")
    relay.send("same.test")
    check(relay.delivered("same.test") == {A: 9, C: 1}, "the same hosts for another domain, but for a rule")
    lanes = [lane["name"] for lane in json.loads(relay.ask("stats", "--json").stdout)["lanes"]]
    sites = [n for n in lanes if n.startswith("mx:a.one.test+1")]
    check(len(sites) == 2, "one site for both domains, and one for the equals", lanes)
    relay.send("many.test")
    check(relay.delivered("many.test") == {C: 10}, "a hundred and fifty of them: the best one (attack class 51)")
    relay.send("by.test")
    check(relay.delivered("by.test") == {A: 10} and all(e.get("source") == "second" for e in relay.events("delivered", "@by.test")), "by a source", relay.events("delivered", "@by.test")[:1])
    came = [json.loads(line) for line in whole_lines(a.took)]
    check({(t["client"], t["ehlo"]) for t in came if t["to"][0].endswith("@by.test")} == {(SECOND, "second.example.net")}, "from its address, under its name", came[-1:])
    check({(t["client"], t["ehlo"]) for t in came if not t["to"][0].endswith("@by.test")} == {(RELAY, "mx.example.net")}, "all others as ever", came[:1])
    lanes = [lane["name"] for lane in json.loads(relay.ask("stats", "--json").stdout)["lanes"]]
    check("mx:a.one.test@second" in lanes and "domain:by.test@second" in lanes, "with lanes of its own", lanes)
    relay.send("linklocal.test")
    check(relay.delivered("linklocal.test") == {C: 10}, "what is nowhere is passed over (attack class 51)")

    # What has no way, for good: said at once, with its code.
    relay.refused("null.test", "RFC 7505", 3)
    relay.refused("nowhere.here.test", "no mail host")
    relay.refused("here.test", "no mail host")
    relay.refused("self.test", "this relay")
    relay.refused("byaddress.test", "this relay")
    relay.refused("loop.test", "this relay") # 127.0.0.1: attack class 51
    check(until(lambda: len(relay.events("delivered", "ann@implicit.test")) >= 6), "and reported", relay.events("report"))

    # Only hosts that are preferred to ourselves.
    relay.send("backup.test")
    check(relay.delivered("backup.test") == {A: 10}, "a backup MX passes it up")
    a.stop()
    relay.send("backup.test", 5)
    check(until(lambda: len(relay.queue("backup.test")) == 5 and all("192.0.2.11" in q["reason"] or "failed lately" in q["reason"] for q in relay.queue("backup.test"))),
          "and waits when that is down, rather than pass it down", relay.queue("backup.test"))
    relay.send("one.test")
    check(relay.delivered("one.test", 20) == {A: 10, B: 10}, "others go to the next host")
    a.start()
    check(relay.ask("queue", "retry", "--all").returncode == 0, "retry")
    check(relay.delivered("backup.test", 15) == {A: 15}, "until it is back")

    # Who cannot be looked up just now waits, with its reason and without an attempt.
    relay.send("dark.test", 3)
    check(until(lambda: len(relay.queue("dark.test")) == 3 and all("looking up" in q["reason"] and q["next"] for q in relay.queue("dark.test"))),
          "no answer: it waits (attack class 52)", relay.queue("dark.test"))
    check(not relay.events("failed", "dark.test") and not relay.events("deferred", "dark.test"), "and no attempt was made")
    # Rules of one's own: by sender and network, by recipient; and what waits follows them when they change.
    relay.send("one.test", 5, "ann@north.branch.example")
    check(relay.delivered("one.test", 25) == {A: 10, B: 10, C: 5}, "by its sender", relay.delivered("one.test", 25))
    check([e for e in relay.events("delivered", "user3@same.test") if C in e["remote"]], "by its recipient")
    c.stop()
    relay.send("one.test", 6, "ann@north.branch.example")
    check(until(lambda: [q["lane"] for q in relay.queue("one.test")] == ["hub"] * 6), "they wait for the hub", relay.queue("one.test"))
    with open(f"{relay.dir}/conf") as f:
        text = f.read()
    with open(f"{relay.dir}/conf", "w") as f:
        f.write(text.replace("route branch", "route other").replace("from *.branch.example; network", "from other.branch.example; network"))
    check(relay.ask("reload").returncode == 0, "a reload")
    check(relay.delivered("one.test", 31)[A] + relay.delivered("one.test", 31)[B] == 26, "and go the other way when the rule is gone", relay.queue("one.test"))
    c.start()
    relay.send("one.test")
    check(sum(relay.delivered("one.test", 41).values()) == 41, "and it goes on")
    check(not [e for e in relay.events() if e["event"] == "worker_crashed"], "it was well all the time")
finally:
    for sink in (a, b, c):
        if sink.p.poll() is None:
            sink.stop()
    relay.end()
    nsd.end()
done()
