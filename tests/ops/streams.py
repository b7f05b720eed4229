"""Streams in the built relay: which mail is of which, whose turn it is, what a restart and a reload leave of it. WAYPOST_BUILD says where it is."""
import json
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kit"))
from checks import PATIENCE, check, done, until, whole_lines  # noqa: E402

WAYPOST = os.path.abspath(os.path.join(os.environ.get("WAYPOST_BUILD", "build"), "waypost"))
BULK, URGENT, PLAIN = "news@news.example", "reset@app.example", "people@office.example"


def free_ports(n):
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


class Relay:
    """One thread and one connection to the next hop, so that there is one order."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="waypost-streams-")
        self.port, self.hop = free_ports(2)
        self.p = None
        self.configure("weight 10", "weight 1")
        self.start()

    def configure(self, urgent, bulk):
        with open(f"{self.dir}/conf", "w") as f:
            f.write(f"waypost 1\nhostname mx.example.net\npostmaster postmaster@example.com\nlisten smtp 127.0.0.1:{self.port}\n"
                    f"spool {{ dir {self.dir}/spool; min_free 1MiB }}\ncontrol {self.dir}/control\nthreads 1\nlog {{ file {self.dir}/log }}\n"
                    f"backend one {{ server 127.0.0.1:{self.hop}; max_connections 1 }}\nrelay_domain example.com {{ backend one; recipients any }}\n"
                    "network here 127.0.0.0/8 { relay_from app.example news.example office.example }\n"
                    f"stream urgent {{ from app.example; {urgent} }}\n"
                    f"stream bulk {{ from news.example; {bulk} }}\n"
                    "stream lists { field Precedence bulk list; network here }\n")

    def start(self):
        self.p = subprocess.Popen([WAYPOST, "serve", "--as-is", "-c", f"{self.dir}/conf"], stderr=subprocess.PIPE, text=True)
        check(until(lambda: self.ask("stats").returncode == 0), "the relay starts")

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        check(self.p.wait(PATIENCE) == 0, "the relay ends well")
        self.p.stderr.close()

    def ask(self, *args):
        return subprocess.run([WAYPOST, *args, "--socket", f"{self.dir}/control"], capture_output=True, text=True, timeout=60)

    def waiting(self, *which):
        return [json.loads(line) for line in self.ask("queue", "list", *which, "--json").stdout.splitlines()]

    def send(self, n, sender):
        out = subprocess.run([WAYPOST, "blast", f"127.0.0.1:{self.port}", "--mails", str(n), "--from", sender, "--json", "--size", "1k"],
                             capture_output=True, text=True, timeout=120).stdout
        check(json.loads(out)["messages"] == n, "taken", sender, out)

    def deliver(self, n):
        """Senders in the order in which they reach the next hop, which starts now and ends with the n-th."""
        log = f"{self.dir}/order-{self.hop}-{n}"
        if os.path.exists(log):
            os.unlink(log)
        hop = subprocess.Popen([WAYPOST, "sink", "-l", f"127.0.0.1:{self.hop}", "--hash", log], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        hop.stderr.readline()
        self.ask("queue", "retry", "--all")
        check(until(lambda: os.path.exists(log) and len(whole_lines(log)) == n), "all arrive")
        order = [json.loads(line)["from"] for line in whole_lines(log)]
        hop.terminate()
        hop.communicate(timeout=PATIENCE)
        return order


def places(order, sender):
    return [i for i, who in enumerate(order) if who == sender]


def main():
    r = Relay()
    r.send(60, BULK)
    r.send(20, URGENT)
    r.send(20, PLAIN)
    check(until(lambda: len(r.waiting()) == 100), "they wait")
    check(len(r.waiting("--stream", "bulk")) == 60 and len(r.waiting("--match", "stream=urgent")) == 20, "each of its stream")
    check({w["stream"] for w in r.waiting("--sender", "office.example")} == {""}, "or of none")
    stats = {s["name"]: s for s in json.loads(r.ask("stats", "--json").stdout)["streams"]}
    check(stats["bulk"]["tickets"] == 60 and stats["urgent"]["weight"] == 10, "stats tell", stats)
    check("STREAM" in r.ask("stats").stdout, "and for people")

    r.stop()
    r.start()
    check(until(lambda: len(r.waiting("--stream", "bulk")) == 60 and len(r.waiting("--stream", "urgent")) == 20), "after a restart too")

    # A round: ten that are urgent, ten of no stream (10 is their weight), one of bulk. The first connection may have taken one before all were ready.
    order = r.deliver(100)
    check(max(places(order, URGENT)) < 50, "what came last and is urgent is over first", order)
    check(max(places(order, PLAIN)) < 50, "what has no stream has its share", order)
    check(min(places(order, BULK)) < 25, "and nobody is starved", order)
    stats = {s["name"]: s for s in json.loads(r.ask("stats", "--json").stdout)["streams"]}
    check(stats["urgent"]["deliver_us"]["n"] == 20 and stats["bulk"]["tickets"] == 0, "delivered", stats)

    # The other way round, by a reload, with what waits already.
    r.send(60, URGENT)
    r.send(20, BULK)
    check(until(lambda: len(r.waiting()) == 80), "they wait")
    r.configure("weight 1; retry [ 3m ] for 30m", "weight 10")
    check(r.ask("reload").returncode == 0, "reload")
    order = r.deliver(80)
    check(max(places(order, BULK)) < 30, "now bulk is over first", order)

    # By a field of the header, and only for whom it is meant.
    with smtplib.SMTP("127.0.0.1", r.port, timeout=PATIENCE) as s:
        s.sendmail(PLAIN, ["a@example.com"], b"From: x\r\nprecedence:  List \r\n\r\nhello\r\n")
        s.sendmail(PLAIN, ["b@example.com"], b"From: x\r\nPrecedence: special-delivery\r\n\r\nhello\r\n")
        s.sendmail("a@strange.example", ["c@example.com"], b"From: x\r\nPrecedence: bulk\r\n\r\nhello\r\n")
    check(until(lambda: len(r.waiting()) == 3), "they wait")
    check([w["sender_domain"] for w in r.waiting("--stream", "lists")].count("office.example") == 1, "one by its field", r.waiting())
    check(len(r.waiting("--stream", "lists")) == 2, "whatever its sender", r.waiting())
    listed = r.waiting("--stream", "lists")[0]["id"]
    check(json.loads(r.ask("queue", "show", listed, "--json").stdout)["stream"] == "lists", "queue show says it")

    told = r.ask("explain", "rcpt", "a@example.com", "--from", URGENT, "--client", "127.0.0.1").stdout
    check("urgent (" in told and "tried for 30m" in told, "explain says it, and its own schedule", told)
    told = r.ask("explain", "rcpt", "a@example.com", "--from", PLAIN, "--client", "127.0.0.1").stdout
    check("unless a field" in told, "explain says what it cannot know", told)
    r.deliver(3)
    r.stop()
    shutil.rmtree(r.dir)
    done()


main()
