"""Mail leaves by sources: weights, names, what is missing, rates and connections held to, and reloads while mail waits. The sinks record from where
each message came, under which name, and when. WAYPOST_BUILD says where the relay is. The IPv6 part needs a network namespace of its own."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "kit"))
from checks import PATIENCE, check, count, done, until, whole_lines  # noqa: E402

WAYPOST = os.path.abspath(os.path.join(os.environ.get("WAYPOST_BUILD", "build"), "waypost"))
SOURCES = "source a1 127.0.0.11 helo a1.esp.example\nsource a2 127.0.0.12\nsource a3 127.0.0.13\n"


def free_port(ip="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as s:
        s.bind((ip, 0))
        return s.getsockname()[1]


class Sink:
    def __init__(self, dir, name, ip="127.0.0.1", port=None, *options):
        self.file = f"{dir}/{name}.took"
        self.port = port or free_port(ip)
        at = f"[{ip}]:{self.port}" if ":" in ip else f"{ip}:{self.port}"
        open(self.file, "a").close()
        self.p = subprocess.Popen([WAYPOST, "sink", "-l", at, "--hash", self.file, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.p.stderr.readline()

    def took(self):
        return [json.loads(line) for line in whole_lines(self.file)]

    def clients(self):
        by = {}
        for t in self.took():
            by[t["client"]] = by.get(t["client"], 0) + 1
        return by

    def end(self):
        self.p.terminate()
        self.p.communicate(timeout=PATIENCE)


class Relay:
    def __init__(self, body, listen="127.0.0.1"):
        self.dir = tempfile.mkdtemp(prefix="waypost-sources-")
        self.port, self.http, self.listen = free_port(), free_port(), listen
        self.write(body)
        self.p = subprocess.Popen([WAYPOST, "serve", "--as-is", "-c", f"{self.dir}/conf"], stderr=subprocess.PIPE, text=True)
        check(until(lambda: self.ask("stats").returncode == 0), "the relay starts", self.events()[-3:])

    def write(self, body):
        with open(f"{self.dir}/conf", "w") as f:
            f.write(f"waypost 1\nhostname mx.example.net\npostmaster postmaster@example.com\nlisten smtp 127.0.0.1:{self.port}\n"
                    f"listen http 127.0.0.1:{self.http}\nspool {{ dir {self.dir}/spool; min_free 1MiB }}\ncontrol {self.dir}/control\nthreads 2\n"
                    f"log {{ form json; file {self.dir}/log }}\nretry [ 1s 2s ] for 1d\n"
                    "backend own { server 127.0.0.1:9 }\nrelay_domain example.com { backend own; recipients any }\n" + body)

    def reload(self, body):
        self.write(body)
        r = self.ask("reload")
        check(r.returncode == 0, "reloaded", r.stdout, r.stderr)

    def ask(self, *args):
        return subprocess.run([WAYPOST, *args, "--socket", f"{self.dir}/control"], capture_output=True, text=True, timeout=PATIENCE)

    def json(self, *args):
        return [json.loads(line) for line in self.ask(*args, "--json").stdout.splitlines()]

    def events(self, event=None):
        try:
            return [e for e in map(json.loads, whole_lines(f"{self.dir}/log")) if event is None or e["event"] == event]
        except OSError:
            return []

    def metric(self, name):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=PATIENCE).read().decode()
        return {line[len(name):].split("}")[0] + "}": float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{")}

    def send(self, domain, mails, sessions=2, sender="ann@there.example"):
        r = subprocess.run([WAYPOST, "blast", f"127.0.0.1:{self.port}", "--mails", str(mails), "--sessions", str(sessions), "--json", "--from", sender,
                            "--to", f"user%d@{domain}"], capture_output=True, text=True, timeout=PATIENCE)
        check(r.returncode == 0 and json.loads(r.stdout)["messages"] == mails, "taken", domain, r.stdout, r.stderr)

    def end(self):
        self.p.terminate()
        check(self.p.wait(PATIENCE) == 0, "it ends well", self.events()[-3:])
        self.p.stderr.close()
        shutil.rmtree(self.dir)


def domain(name, backend):
    return f"relay_domain {name} {{ backend {backend}; recipients any }}\n"


def weights():
    relay = Relay(SOURCES + "pool shared { use a1 weight 2; use a2; use a3 fallback }\nbackend b { server 127.0.0.1:9; pool shared }\n" + domain("x.example", "b"))
    sink = Sink(relay.dir, "hop")
    conf = SOURCES + (f"pool shared {{ use a1 weight 2; use a2; use a3 fallback }}\nbackend b {{ server 127.0.0.1:{sink.port}; pool shared }}\n"
                      f"backend plain {{ server 127.0.0.1:{sink.port} }}\n") + domain("x.example", "b") + domain("plain.example", "plain") + \
        "route rule { to special@x.example; via b; source a3 }\n"
    relay.reload(conf)
    relay.send("x.example", 90)
    check(until(lambda: len(sink.took()) >= 90), "all arrive", relay.json("queue", "list"))
    by = sink.clients()
    check(set(by) == {"127.0.0.11", "127.0.0.12"} and 55 <= by["127.0.0.11"] <= 65, "two thirds by the source of weight 2, none by the fallback", by)
    names = {(t["client"], t["ehlo"]) for t in sink.took()}
    check(names == {("127.0.0.11", "a1.esp.example"), ("127.0.0.12", "mx.example.net")}, "each says its own name, or the hostname", names)
    until(lambda: len(relay.events("delivered")) >= 90)
    told = [e.get("source") for e in relay.events("delivered")]
    check(told.count("a1") == by["127.0.0.11"] and told.count("a2") == by["127.0.0.12"], "the log says the source", told[:5])
    one = relay.events("delivered")[0]
    story = relay.json("trace", one["id"])
    check(any(e.get("source") == one["source"] for e in story), "so does the trace", story)
    check(f"from source {one['source']}" in relay.ask("trace", one["id"]).stdout, "in words", relay.ask("trace", one["id"]).stdout)
    lanes = {lane["name"] for lane in relay.json("stats")[0]["lanes"]}
    check({"b@a1", "b@a2"} <= lanes and "b@a3" not in lanes, "a lane for each source and destination", lanes)
    text = relay.ask("explain", "rcpt", "u@x.example").stdout
    check("a1 (weight 2): from 127.0.0.11 as a1.esp.example" in text and "a3 (fallback): from 127.0.0.13 as mx.example.net" in text, "explain names them", text)
    text = relay.ask("explain", "rcpt", "special@x.example").stdout
    check("a3: from 127.0.0.13" in text and "a1" not in text, "a rule's source goes first", text)
    relay.send("plain.example", 3)
    check(until(lambda: len(sink.took()) >= 93) and sink.clients().get("127.0.0.1") == 3, "without a source as ever", sink.clients())
    until(lambda: len(relay.events("delivered")) >= 93)
    check("plain" in {lane["name"] for lane in relay.json("stats")[0]["lanes"]} and not any("source" in e for e in relay.events("delivered")[90:]), "and named as ever")
    check(relay.metric("waypost_source_deliveries_total").get('{source="a1",outcome="delivered"}') == by["127.0.0.11"], "counted by source",
          relay.metric("waypost_source_deliveries_total"))
    sink.end()
    relay.end()


def missing():
    """An address that is none of this machine's: others of the pool take over; alone, mail waits and is not tried."""
    relay = Relay("")
    sink = Sink(relay.dir, "hop")
    gone = SOURCES + "source gone 192.0.2.211\n"
    base = f"backend b {{ server 127.0.0.1:{sink.port}; %s }}\n" + domain("x.example", "b")
    conf = gone + "pool p { use gone weight 3; use a1 }\n" + base % "pool p"
    relay.reload(conf)
    r = subprocess.run([WAYPOST, "check", "-c", f"{relay.dir}/conf"], capture_output=True, text=True, timeout=PATIENCE)
    check(r.returncode == 0 and "this machine has no address 192.0.2.211" in " ".join((r.stdout + r.stderr).split()), "check warns", r.stdout, r.stderr)
    relay.send("x.example", 40)
    check(until(lambda: len(sink.took()) >= 40), "all arrive by the other", relay.json("queue", "list")[:2])
    check(sink.clients() == {"127.0.0.11": 40}, "by that one alone", sink.clients())
    check(until(lambda: len(relay.events("delivered")) >= 40) and all(e["attempt"] == 1 for e in relay.events("delivered")) and not relay.events("deferred"), "no attempt was spent")
    check(any("192.0.2.211 is no address of this machine" in e["reason"] for e in relay.events("source_failed")), "and the log says why", relay.events("source_failed"))

    relay.reload(gone + base % "source gone")
    relay.send("x.example", 5)
    waits = until(lambda: [t for t in relay.json("queue", "list") if "is no address of this machine" in t["reason"]])
    check(waits and all(t["attempts"] == 0 and t["next"] and t["source"] == "gone" and t["lane"] == "b@gone" for t in waits), "it waits with its reason, not tried", relay.json("queue", "list")[:2])
    relay.reload(gone.replace("192.0.2.211", "127.0.0.14") + base % "source gone")
    check(until(lambda: sink.clients().get("127.0.0.14") == 5), "the address is there: it goes", sink.clients(), relay.json("queue", "list")[:2])
    sink.end()
    relay.end()


def moved():
    """The source is taken away, or the pool, while mail waits for a server that is down."""
    relay = Relay("")
    port = free_port()
    base = f"backend b {{ server 127.0.0.1:{port}; %s }}\n" + domain("x.example", "b")
    relay.reload(SOURCES + base % "source a1")
    relay.send("x.example", 10)
    check(until(lambda: [t["lane"] for t in relay.json("queue", "list")] == ["b@a1"] * 10), "ten wait for a1", relay.json("queue", "list")[:2])
    relay.reload(SOURCES + "pool p { use a2; use a3 }\n" + base % "pool p")
    lanes = sorted(t["lane"] for t in relay.json("queue", "list"))
    # Not to the letter: by the one that found the server down first fewer go.
    check(len(lanes) == 10 and 3 <= lanes.count("b@a2") <= 7 and lanes.count("b@a2") + lanes.count("b@a3") == 10, "they share the new ones", lanes)
    relay.reload(SOURCES + "pool p { use a3; use a1 }\n" + base % "pool p")
    lanes = sorted(t["lane"] for t in relay.json("queue", "list"))
    check(lanes.count("b@a3") >= 3 and "b@a2" not in lanes, "of sources that are gone nothing is left", lanes)
    relay.reload(SOURCES + base % "")
    check(until(lambda: [t["lane"] for t in relay.json("queue", "list")] == ["b"] * 10), "and without any", relay.json("queue", "list")[:2])
    relay.reload(SOURCES + base % "source a2")
    sink = Sink(relay.dir, "hop", port=port)
    check(until(lambda: sink.clients() == {"127.0.0.12": 10}), "all leave by the last one named", sink.clients(), relay.json("queue", "list")[:2])
    sink.end()
    relay.end()


def within(took, rate, burst):
    """Is no stretch of time fuller than a rate allows? The worst excess over it."""
    at = sorted(t["at_us"] / 1e6 for t in took)
    return max((j - i + 1) - (burst + rate * (at[j] - at[i])) for i in range(len(at)) for j in range(i, len(at)))


def rates():
    relay = Relay("")
    sink = Sink(relay.dir, "hop")
    base = f"backend b {{ server 127.0.0.1:{sink.port}; %s }}\n" + domain("x.example", "b") + domain("y.example", "b")
    relay.reload(base % "rate 600/min")
    relay.send("x.example", 25, 4)
    waits = until(lambda: [t for t in relay.json("queue", "list") if t["reason"] == "rate of backend b: 600/min"])
    check(waits and all(t["attempts"] == 0 and t["next"] for t in waits), "it waits for its turn, and says so", relay.json("queue", "list")[:2])
    text = relay.ask("explain", "rcpt", "u@x.example").stdout
    check("rate of backend b: 600/min" in text, "explain says it", text)
    check(until(lambda: len(sink.took()) >= 25), "all arrive")
    # Turns are given ten a second; a message may come later than its turn by what a connection takes, one a connection.
    over = within(sink.took(), 10, 10 + 4)
    check(over <= 0, "no stretch has more than the rate", over, [t["at_us"] for t in sink.took()])
    check(until(lambda: len(relay.events("delivered")) >= 25) and all(e["attempt"] == 1 for e in relay.events("delivered")), "no attempt was spent")
    check(relay.metric("waypost_backend_rate_limit").get('{backend="b"}') == 10, "configured, a second", relay.metric("waypost_backend_rate_limit"))
    waited = relay.metric("waypost_backend_rate_waits_total").get('{backend="b"}', 0)
    # One wait a turn and thread at most: nobody polls.
    check(5 <= waited <= 25 + 2, "how often a lane waited", waited)

    relay.reload(base % "rate 4/hour")
    relay.send("x.example", 20, 4)
    check(until(lambda: len([t for t in relay.json("queue", "list") if t["reason"] == "rate of backend b: 4/hour"]) >= 18), "a slow rate", relay.json("queue", "list")[:2])
    check(len(sink.took()) <= 27, "hardly any goes", len(sink.took()))
    relay.reload(base % "rate 6000/min")
    check(until(lambda: len(sink.took()) >= 45, 20), "a new rate holds at once", len(sink.took()), relay.json("queue", "list")[:2])
    relay.reload(base % "rate 4/hour")
    relay.send("x.example", 10)
    check(until(lambda: len(relay.json("queue", "list")) >= 8), "slow again")
    relay.reload(base % "")
    check(until(lambda: len(sink.took()) >= 55, 20), "and none at all", len(sink.took()), relay.json("queue", "list")[:2])
    sink.end()
    relay.end()


def shared():
    """A source's rate and connections are shared by all that leaves by it."""
    relay = Relay("")
    busy, calm = Sink(relay.dir, "busy", "127.0.0.1", None, "--delay", "dot:20ms"), Sink(relay.dir, "calm")
    conf = (f"source a1 127.0.0.11 {{ connections 1 }}\nbackend busy {{ server 127.0.0.1:{busy.port}; source a1 }}\n"
            f"backend calm {{ server 127.0.0.1:{calm.port}; source a1 }}\n") + domain("busy.example", "busy") + domain("calm.example", "calm")
    relay.reload(conf)
    relay.send("busy.example", 200, 4)
    relay.send("calm.example", 3)
    check(until(lambda: len(busy.took()) >= 200 and len(calm.took()) >= 3), "all arrive", len(busy.took()), len(calm.took()), relay.json("queue", "list")[:2])
    last, first = max(t["at_us"] for t in busy.took()), min(t["at_us"] for t in calm.took())
    check(first < last, "who has much to send leaves room for who has little", first - last)
    held = relay.metric("waypost_source_connection_limit")
    check(held.get('{source="a1"}') == 1 and relay.metric("waypost_source_connections").get('{source="a1"}', 9) <= 1, "one connection at most", held)
    relay.reload(conf.replace("connections 1", "rate 600/min"))
    relay.send("calm.example", 12)
    relay.send("busy.example", 12)
    check(until(lambda: len(busy.took()) >= 212 and len(calm.took()) >= 15), "all arrive")
    over = within([t for t in busy.took() + calm.took() if t["at_us"] > last], 10, 10 + 4)
    check(over <= 0, "both together keep to the source's rate", over)
    busy.end()
    calm.end()
    relay.end()


def networks():
    relay = Relay("")
    sink = Sink(relay.dir, "hop")
    relay.reload(f"backend b {{ server 127.0.0.1:{sink.port} }}\n" + domain("x.example", "b") +
                 "network here 127.0.0.0/8 { relay_from there.example; rate 5/hour; connections 2 }\n")

    def line():
        s = socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE)
        f = s.makefile("rw", newline="\r\n")
        return s, f, f.readline()

    def say(f, text):
        f.write(text + "\n") # becomes CRLF
        f.flush()
        reply = f.readline()
        while reply[3:4] == "-":
            reply = f.readline()
        return reply

    one, two, three = line(), line(), line()
    check(one[2].startswith("220") and two[2].startswith("220"), "two sessions", one[2], two[2])
    check(three[2].startswith("421") and "network here" in three[2], "not a third", three[2])
    f = one[1]
    say(f, "EHLO there.example")
    got = []
    for _ in range(6):
        got.append(say(f, "MAIL FROM:<ann@there.example>"))
        say(f, "RSET")
    check([g[:3] for g in got] == ["250"] * 5 + ["450"], "five messages", got)
    check(got[5].startswith("450 4.7.1 network here may send 5/hour") and "come again in 12m" in got[5], "and when to come again", got[5])
    for s, f, _ in (one, two, three):
        f.close()
        s.close()
    check(until(lambda: relay.metric("waypost_network_connections").get('{network="here"}') == 0), "sessions are counted out", relay.metric("waypost_network_connections"))
    s, f, greeting = line()
    check(greeting.startswith("220"), "another may come", greeting)
    f.close()
    s.close()
    sink.end()
    relay.end()


def families():
    """Inside a namespace: addresses of both families."""
    for ip in ("2001:db8::1", "2001:db8::11", "2001:db8::12"):
        subprocess.run(["ip", "addr", "add", f"{ip}/128", "dev", "lo", "nodad"], check=True)
    relay = Relay("")
    six = Sink(relay.dir, "six", "2001:db8::1")
    four = Sink(relay.dir, "four")
    relay.reload("source both 127.0.0.11 [2001:db8::11] helo both.esp.example\nsource v6 2001:db8::12 helo v6.esp.example\nsource v4 127.0.0.13\n"
                 f"pool p {{ use both; use v6; use v4 }}\nbackend six {{ server [2001:db8::1]:{six.port}; pool p }}\nbackend four {{ server 127.0.0.1:{four.port}; pool p }}\n"
                 f"backend mixed {{ server host.test:{six.port}; pool p }}\ndns {{ hosts {relay.dir}/hosts }}\n" +
                 domain("six.example", "six") + domain("four.example", "four") + domain("mixed.example", "mixed")
                 if open(f"{relay.dir}/hosts", "w").write("2001:db8::1 host.test\n") else "")
    relay.send("six.example", 20)
    relay.send("four.example", 20)
    check(until(lambda: len(six.took()) >= 20 and len(four.took()) >= 20), "all arrive", relay.json("queue", "list")[:2])
    check(six.clients() == {"2001:db8::11": 10, "2001:db8::12": 10}, "IPv6 by those that have it", six.clients())
    check(four.clients() == {"127.0.0.11": 10, "127.0.0.13": 10}, "IPv4 by those that have it", four.clients())
    check({t["ehlo"] for t in six.took()} == {"both.esp.example", "v6.esp.example"}, "names", six.took()[0])
    relay.send("mixed.example", 12)
    check(until(lambda: len(six.took()) >= 32), "a host that turns out to have IPv6 only", relay.json("queue", "list")[:2], relay.events("source_failed")[:2])
    check(until(lambda: len(relay.events("delivered")) >= 52), "logged")
    check("127.0.0.13" not in six.clients() and not relay.events("deferred"), "the source without waits no longer than the others", six.clients())
    for s in (six, four):
        s.end()
    relay.end()


if "--inside" in sys.argv:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    families()
    done()
for test in (weights, missing, moved, rates, shared, networks):
    test()
may = subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
if os.geteuid() != 0 or may.returncode:
    print("skipped: sources with IPv6 addresses, since we may have no network namespace of our own:", may.stderr.strip() or "not root")
else:
    r = subprocess.run(["unshare", "-n", sys.executable, "-B", __file__, "--inside"], stdout=subprocess.PIPE, text=True, timeout=3 * PATIENCE)
    print(r.stdout, end="")
    words = r.stdout.splitlines()[-1].split() if r.stdout else ["0", "passed,", "1"]
    count(int(words[0]), int(words[2]))
done()
