"""What an operator does, on the built relay: check, start, reload, restart, ask, stop. WAYPOST_BUILD says where it is."""
import glob
import json
import os
import pwd
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kit"))
from checks import PATIENCE, check, done, until, whole_lines  # noqa: E402

BUILD = os.environ.get("WAYPOST_BUILD", "build")
WAYPOST = os.path.abspath(os.path.join(BUILD, "waypost"))
ROOT = os.geteuid() == 0
USER = "nobody"


def run(*args, **kw):
    return subprocess.run([WAYPOST, *args], capture_output=True, text=True, timeout=60, **kw)


def free_ports(n):
    socks = [socket.socket() for _ in range(n)]
    for s in socks:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


def greeting(port):
    """The relay's first words, '' when nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as s:
            return s.makefile("r", encoding="latin-1").readline()
    except OSError:
        return ""


def children(pid):
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.split("/")[2]))
    return found


def status_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


class Relay:
    """One relay in a directory of its own."""

    def __init__(self, **settings):
        self.dir = tempfile.mkdtemp(prefix="waypost-ops-")
        os.chmod(self.dir, 0o755)
        os.mkdir(f"{self.dir}/etc")
        os.mkdir(f"{self.dir}/log")
        self.conf = f"{self.dir}/etc/relay.conf"
        self.log = f"{self.dir}/log/relay.log"
        self.control = f"{self.dir}/run/control.sock"
        self.process = None
        self.env = dict(os.environ)
        self.write(**settings)

    def write(self, listen=(), extra="", hostname="mx.example.net"):
        self.listen = list(listen)
        addresses = " ".join(a if isinstance(a, str) else f"127.0.0.1:{a}" for a in self.listen)
        with open(f"{self.dir}/etc/users", "w") as f:
            f.write("bob@example.com\n")
        with open(self.conf, "w") as f:
            f.write(
                f"waypost 1\nhostname {hostname}\npostmaster postmaster@example.com\nlisten smtp {addresses}\n"
                f"spool {{ dir {self.dir}/spool; min_free 1MiB }}\ncontrol {self.control}\n"
                f"log {{ form text; file {self.log} }}\nthreads 2\n"
                + (f"user {USER}\n" if ROOT else "")
                + "backend inside { server 127.0.0.1:1 }\n"
                "relay_domain example.com { backend inside; recipients { file users } }\n" + extra
            )

    def start(self, *how, wait=True):
        self.process = subprocess.Popen([*how, WAYPOST, "serve", "-c", self.conf], env=self.env, stderr=subprocess.PIPE, text=True)
        if wait:
            up = until(lambda: greeting(self.listen[0]).startswith("220 ") or self.process.poll() is not None)
            check(up and self.process.poll() is None, "the relay starts", self.said())
        return self

    def worker(self, other_than=0):
        """Its worker's pid; another one than that, if one was just killed."""
        found = until(lambda: [pid for pid in children(self.process.pid) if pid != other_than])
        if len(found) != 1 or found[0] <= 1:
            raise RuntimeError(f"{len(found)} workers: {self.said()}")
        return found[0]

    def ask(self, *args, **kw):
        return run(*args, "--socket", self.control, **kw)

    def said(self):
        try:
            with open(self.log) as f:
                return f.read()
        except OSError:
            return ""

    def end(self, number=signal.SIGTERM):
        """The exit code of the parent, its worker being gone too."""
        worker = self.worker() if self.process.poll() is None else 0
        self.process.send_signal(number)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stderr.close()
        if worker:
            check(until(lambda: not os.path.exists(f"/proc/{worker}")), "the worker is gone")
        return code

    def remove(self):
        if self.process and self.process.poll() is None:
            self.end()
        shutil.rmtree(self.dir)


# ---- without a relay ----


def test_usage():
    r = run()
    check(r.returncode == 0 and "serve" in r.stdout, "no verb: the list")
    r = run("qeue")
    check(r.returncode == 2 and 'did you mean "queue"' in r.stderr, "a suggestion", r.stderr)
    for verb in ("serve", "check", "reload", "drain", "queue", "trace", "stats", "config", "dns"):
        r = run(verb, "--help")
        check(r.returncode == 0 and r.stdout.startswith(verb + ":"), verb + " --help")
    check(run("--version").stdout.startswith("waypost "), "--version")
    check(run("stats", "--jsno").returncode == 2, "an unknown option")
    check(run("queue", "retry").returncode == 2, "queue retry of nothing")
    r = run("stats", "--socket", "/nonexistent/control.sock")
    check(r.returncode == 3 and "is it running" in r.stderr, "not reachable", r.stderr)
    check(run("stats", "-c", "/nonexistent/waypost.conf").returncode == 2, "no configuration to ask by")
    with open("/dev/full", "w") as full:
        r = subprocess.run([WAYPOST, "help"], stdout=full, stderr=subprocess.PIPE, text=True)
    check(r.returncode == 1, "what could not be written was not done")


def test_completion():
    """What a shell offers: each option there is one that its verb knows."""
    bash = "source /dev/stdin; COMP_WORDS=(waypost {words}); COMP_CWORD={at}; _waypost; echo ${{COMPREPLY[@]}}"
    script = run("completion", "bash").stdout

    def offered(*words):
        r = subprocess.run(["bash", "-c", bash.format(words=" ".join(f"'{w}'" for w in words), at=len(words))], input=script, capture_output=True, text=True)
        check(r.returncode == 0, "bash reads it", r.stderr)
        return r.stdout.split()
    check("queue" in offered("") and offered("confi") == ["config"], "verbs", offered(""))
    check(set(offered("queue", "re")) == {"retry", "release", "reroute", "resume"}, "verbs of verbs", offered("queue", "re"))
    check(set(offered("config", "")) == {"show", "diff", "manual"}, "of config", offered("config", ""))
    check(offered("queue", "list", "--dom") == ["--domain"], "options", offered("queue", "list", "--dom"))
    for verb in offered(""):
        for option in [] if verb in ("help", "version", "sendmail", "completion") else set(offered(verb, "--")) - {"--help"}:
            r = run(verb, option + "=1", "--no-such-option") # whichever is told first
            check("there is no option " + option + ";" not in r.stderr and f"there is no option {option} " not in r.stderr, verb, option, r.stderr)
    check(run("completion", "fish").stdout.count("complete -c waypost") > 50, "for fish")
    check(run("completion", "zsh").stdout.startswith("#compdef waypost\n"), "for zsh")
    check(run("completion", "tcsh").returncode == 2, "no others")


def test_configuration():
    r = run("check", "-c", "examples/relay.conf")
    check(r.returncode == 0, "the example is good", r.stdout)
    with tempfile.TemporaryDirectory() as d:
        strip = lambda text: [line.split(" #")[0].rstrip() for line in text.splitlines()]
        for how in ([], ["--effective"]):
            shown = run("config", "show", *how, "-c", "examples/relay.conf").stdout
            with open(f"{d}/again.conf", "w") as f:
                f.write(shown)
            r = run("check", "-c", f"{d}/again.conf")
            check(r.returncode == 0, "what `config show` prints can be loaded", *how, r.stdout)
            again = run("config", "show", *how, f"{d}/again.conf").stdout
            check(len(shown) > 1000 and strip(shown) == strip(again), "and says the same", *how)
            check(("# default" in shown) == bool(how), "defaults are shown when they are asked for", *how)
        told = [json.loads(line) for line in run("config", "show", "--effective", "--json", "examples/relay.conf").stdout.splitlines()]
        check({"where": "limits: ", "setting": "hops 50", "origin": "default"} in told, "as JSON", told[:5])
        check(run("config", "diff", "examples/relay.conf", "examples/relay.conf").returncode == 0, "a file is like itself")
        with open("examples/relay.conf") as f, open(f"{d}/other.conf", "w") as g:
            g.write(f.read().replace("threads 0", "threads 3").replace("message_size        50MiB", "message_size 51200KiB").replace("20 per server", "30 per server"))
        r = run("config", "diff", "examples/relay.conf", f"{d}/other.conf")
        check(r.returncode == 1 and r.stdout == "- backend exchange: max_connections 20 per server  # examples/relay.conf:49\n"
              f"+ backend exchange: max_connections 30 per server  # {d}/other.conf:49\n- threads 0  # examples/relay.conf:19; at the next start\n"
              f"+ threads 3  # {d}/other.conf:19; at the next start\n", "two files", r.stdout, r.stderr)
        r = run("config", "diff", "--json", "examples/relay.conf", f"{d}/other.conf")
        check([json.loads(line)["is_line"] for line in r.stdout.splitlines()] == [49, 19], "as JSON", r.stdout)
        check(run("config", "diff", "--socket", f"{d}/none.sock", "-c", "examples/relay.conf").returncode == 3, "no relay to ask")
        check(run("config", "diff", "examples/relay.conf").returncode == 2, "one file is none")
        with open(f"{d}/bad.conf", "w") as f:
            f.write("waypost 1\nhostnmae x.example\nrelay_domain example.com { backend b }\n")
        r = run("check", "-c", f"{d}/bad.conf")
        check(r.returncode == 2 and 'did you mean "hostname"' in r.stdout, "check tells what is wrong", r.stdout)
        r = run("check", "--json", f"{d}/bad.conf")
        check(r.returncode == 2 and len(json.loads(r.stdout)) >= 2, "and as JSON", r.stdout)
        r = run("serve", "-c", f"{d}/bad.conf")
        check(r.returncode == 2, "serve does not start on it")
    pages = [("waypost.conf.5", run("config", "manual").stdout)]
    with open("man/waypost.8") as f:
        pages.append(("waypost.8", f.read()))
    for name, text in pages:
        check(text.startswith(".Dd "), name)
        if shutil.which("mandoc"):
            r = subprocess.run(["mandoc", "-T", "lint", "-W", "warning"], input=text, capture_output=True, text=True)
            check(r.returncode == 0, name + " is good mdoc", r.stdout)


# ---- with one ----


def test_life():
    a, b, c = free_ports(3)
    relay = Relay(listen=[a])
    try:
        relay.start()
        worker = relay.worker()
        st = status_of(worker)
        check(st["NoNewPrivs"] == "1" and st["Seccomp"] == "2", "the worker is locked in", st["NoNewPrivs"], st["Seccomp"])
        check(st["CapEff"].strip("0") == "", "without capabilities", st["CapEff"])
        if ROOT:
            uid = str(pwd.getpwnam(USER).pw_uid)
            check(set(st["Uid"].split()) == {uid}, "as another user", st["Uid"])
            check(os.stat(f"{relay.dir}/spool").st_uid == int(uid), "who owns the spool")
        check(os.stat(relay.control).st_mode & 0o777 == 0o660, "the control socket's mode")
        r = relay.ask("stats")
        check(r.returncode == 0 and "messages wait" in r.stdout, "stats", r.stdout, r.stderr)
        told = json.loads(relay.ask("stats", "--json").stdout)
        check(told["epoch"] == 1, "stats --json")
        check(told["threads"] and all(t["posts"] > 0 and 0 < t["tasks"] <= t["tasks_peak"] <= t["switches"] for t in told["threads"]), "of each thread", told)
        check(run("stats", "-c", relay.conf).returncode == 0, "asked by its configuration")
        check("open_relay_test result=passed" in relay.said(), "a stranger's mail to a stranger was refused, before anybody came", relay.said())
        check(relay.ask("queue", "list").stdout == "nothing waits\n", "queue list")
        check(relay.ask("queue", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV").returncode == 1, "queue show of nothing")
        check(relay.ask("queue", "retry", "x").returncode == 2, "queue retry of nonsense")
        check(relay.ask("trace", "nobody@nowhere.example").returncode == 1, "trace of nothing")
        check(run("serve", "-c", relay.conf).returncode == 1, "a second one does not start")

        # A reload brings an address and takes one away. What it will do is told before.
        diff = lambda *how: relay.ask("config", "diff", "-c", relay.conf, *how)
        check(diff().returncode == 0 and diff().stdout == "", "the file is what is in force", diff().stdout, diff().stderr)
        relay.write(listen=[a, b], extra="backend more { server 127.0.0.1:2 }\n")
        with open(relay.conf) as f:
            text = f.read()
        with open(relay.conf, "w") as f:
            f.write(text.replace("threads 2", "threads 3; limits { hops ${WAYPOST_TEST_HOPS:-40} }"))
        r = diff()
        check(r.returncode == 1 and r.stdout.splitlines() == [
            f"- listen smtp 127.0.0.1:{a}  # {relay.conf}:4", f"+ listen smtp 127.0.0.1:{a} 127.0.0.1:{b}  # {relay.conf}:4",
            "- limits: hops 50  # default", f"+ limits: hops 40  # {relay.conf}:8 and the environment",
            f"+ backend more {{ ... }}  # {relay.conf}:12", f"+ backend more: server 127.0.0.1:2  # {relay.conf}:12",
            f"- threads 2  # {relay.conf}:8; at the next start", f"+ threads 3  # {relay.conf}:8; at the next start"], "config diff", r.stdout, r.stderr)
        with open(relay.conf, "a") as f:
            f.write("nonsense\n")
        r = diff()
        check(r.returncode == 2 and "a reload would change nothing" in r.stderr, "with errors nothing would change", r.stdout, r.stderr)
        relay.write(listen=[a, b])
        r = relay.ask("reload")
        check(r.returncode == 0 and "epoch 2" in r.stdout and f"+ listen smtp 127.0.0.1:{a} 127.0.0.1:{b}  # {relay.conf}:4\n" in r.stdout, "reload", r.stdout, r.stderr)
        check(until(lambda: "config_changed what=" in relay.said()), "what it changed is in the log", relay.said())
        check(greeting(b).startswith("220 "), "a new address", relay.said())
        relay.write(listen=[b, c], hostname="other.example.net")
        relay.process.send_signal(signal.SIGHUP)
        check(until(lambda: greeting(c).startswith("220 other.example.net")), "another one by SIGHUP", relay.said())
        check(until(lambda: greeting(a) == "", 5), "the old address is closed", relay.said())
        check(greeting(b).startswith("220 other"), "the kept one is kept")

        # Errors leave the old one in force.
        relay.write(listen=[b], extra="network all 0.0.0.0/0 { relay_from example.com }\n")
        r = relay.ask("reload")
        check(r.returncode == 2 and "open relay" in r.stderr, "reload of an open relay", r.stderr)
        check(greeting(c).startswith("220 other"), "what was in force stays")
        check(relay.worker() == worker, "all this in one worker")

        # The log file is moved away.
        os.rename(relay.log, relay.log + ".1")
        relay.process.send_signal(signal.SIGUSR1)
        check(until(lambda: os.path.exists(relay.log)), "SIGUSR1: a new log file")

        r = relay.ask("drain")
        check(r.returncode == 0, "drain", r.stderr)
        check(relay.process.wait(PATIENCE) == 0, "and it ends")
        check(not os.path.exists(relay.control), "its socket is gone")
        check(relay.ask("stats").returncode == 3, "not reachable any more")
    finally:
        relay.remove()


def test_crash():
    (port,) = free_ports(1)
    relay = Relay(listen=[port]).start()
    try:
        worker = relay.worker()
        for _ in range(3):
            os.kill(worker, signal.SIGSEGV)
            check(greeting(port).startswith("220 "), "no client is refused while another worker starts", relay.said())
            worker = relay.worker(other_than=worker)
        check(relay.said().count("worker_crashed") == 3, "each is in the log", relay.said())
        check(until(lambda: relay.ask("stats").returncode == 0), "the control socket is there")
        # A configuration that was broken meanwhile: the next worker has the last good one.
        with open(relay.conf, "a") as f:
            f.write("nonsense here\n")
        os.kill(worker, signal.SIGSEGV)
        relay.worker(other_than=worker)
        check(greeting(port).startswith("220 "), "the last good configuration", relay.said())
        check("config_bad" in relay.said(), "and it says so")
        check(relay.end() == 0, "it ends well")
    finally:
        relay.remove()


def test_compaction():
    """Mail that waits for long in the midst of much that does not: its segments come free, and none of it is lost or sent twice."""
    port, dead, live = free_ports(3)
    relay = Relay()
    relay.write(listen=[port], extra=f"backend gone {{ server 127.0.0.1:{dead} }}\nrelay_domain gone.example {{ backend gone; recipients any }}\n"
                f"backend there {{ server 127.0.0.1:{live} }}\nrelay_domain there.example {{ backend there; recipients any }}\n")
    with open(relay.conf) as f:
        text = f.read()
    with open(relay.conf, "w") as f:
        f.write(text.replace("min_free 1MiB", "min_free 1MiB; compact_after 1s"))
    def blast(mails, size, to):
        sent = run("blast", f"127.0.0.1:{port}", "--mails", str(mails), "--size", size, "--sessions", "10", "--to", to, "--json")
        check(sent.returncode == 0, "blast", sent.stderr, sent.stdout)
    def spool(key):
        return json.loads(relay.ask("stats", "--json").stdout)["spool"][key]
    def sink(at):
        p = subprocess.Popen([WAYPOST, "sink", "-l", f"127.0.0.1:{at}", "--json", "--unique"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        p.stderr.readline()
        return p
    def sink_end(p):
        p.terminate()
        got = json.loads(p.communicate(timeout=PATIENCE)[0].strip().splitlines()[-1])
        return got["messages"], got["duplicates"]
    there = sink(live)
    gone = None
    try:
        relay.start()
        for _ in range(10):
            blast(20, "2k", "user%d@gone.example")
            blast(1, "600k", "user%d@gone.example")
            blast(1100, "64k", "user%d@there.example")
        check(until(lambda: spool("compacted") >= 100), "what waits was copied forward", relay.ask("stats").stdout)
        check("worker_crashed" not in relay.said(), "by a relay that is well")
        check(until(lambda: spool("segments") - spool("ready") <= 6), "and its segments came free", relay.ask("stats").stdout)
        check(sink_end(there) == (11000, 0), "the others went out once")
        relay.end(signal.SIGKILL)
        relay.start()
        queued = lambda: json.loads(relay.ask("stats", "--json").stdout)["queue"]["messages"]
        check(until(lambda: queued() == 210), "all that waited is there after a kill", queued())
        gone = sink(dead)
        check(until(lambda: relay.ask("queue", "retry", "--all").returncode == 0 and queued() == 0), "and goes out", queued())
        check(sink_end(gone) == (210, 0), "once")
        gone = None
        check(relay.end() == 0, "it ends")
        verified = run("spool", "verify", f"{relay.dir}/spool")
        check(verified.returncode == 0 and ", 0 of them waiting" in verified.stdout, "the spool is in order, and empty", verified.stdout)
    finally:
        there.kill()
        if gone:
            gone.kill()
        relay.remove()


def test_queue():
    """What an operator does to mail that waits: which of it, hold, release, return, send another way, suspend a lane; over a restart."""
    port, dead, live = free_ports(3)
    relay = Relay()
    relay.write(listen=[port], extra=f"backend gone {{ server 127.0.0.1:{dead} }}\nrelay_domain gone.example *.gone.example {{ backend gone; recipients any }}\n"
                f"backend there {{ server 127.0.0.1:{live} }}\nrelay_domain there.example own.example {{ backend there; recipients any }}\n")
    sink = subprocess.Popen([WAYPOST, "sink", "-l", f"127.0.0.1:{live}", "--json", "--hash", f"{relay.dir}/took"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sink.stderr.readline()

    def blast(mails, sender, to):
        sent = run("blast", f"127.0.0.1:{port}", "--mails", str(mails), "--from", sender, "--to", to, "--sessions", "3")
        check(sent.returncode == 0, "blast", sent.stderr, sent.stdout)

    def listed(*which):
        got = relay.ask("queue", "list", "--limit", "1000", "--json", *which)
        check(got.returncode == 0, "queue list", *which, got.stderr)
        return [json.loads(line) for line in got.stdout.splitlines()]

    def change(count, *args):
        got = relay.ask("queue", *args)
        check(got.returncode == 0 and got.stdout.startswith(f"{count} deliver"), "queue", *args, got.stdout, got.stderr)

    def took():
        try:
            return [json.loads(line) for line in whole_lines(f"{relay.dir}/took")]
        except OSError:
            return []
    try:
        relay.start()
        blast(30, "ann@own.example", "user%d@gone.example")
        blast(20, "eve@other.example", "user%d@a.gone.example")
        blast(10, "", "user%d@gone.example")
        check(until(lambda: len(listed()) == 60), "all wait", len(listed()))
        for which, n in [(["--domain", "gone.example"], 40), (["--domain", "*.gone.example"], 20), (["--sender", "ann@own.example"], 30),
                         (["--sender", "other.example"], 20), (["--sender", "<>"], 10), (["--sender", "nobody@own.example"], 0),
                         (["--recipient", "user7@gone.example"], 2), (["--match", "recipient=user7@gone.example", "--match", "sender=own.example"], 1),
                         (["--lane", "gone"], 60), (["--lane", "there"], 0), (["--older", "1h"], 0), (["--why", "failed"], 60), (["--why", "no such reason"], 0),
                         (["--tenant", "acme"], 0)]:
            if which[0] == "--why" and n: # also of a thread that did not see it itself
                check(len(listed("--why", "refused")) == n, "by reason", listed()[:2])
            else:
                check(len(listed(*which)) == n, "listed", which, len(listed(*which)))
        # Who was not the first of a message's recipients is found while it waits, too.
        with smtplib.SMTP("127.0.0.1", port) as s:
            check(s.sendmail("sue@own.example", ["first@gone.example", "second@gone.example"], "Subject: two\r\n\r\n") == {}, "one for two")
        got = relay.ask("trace", "second@gone.example")
        check(got.returncode == 0 and "accepted" in got.stdout and "second@gone.example" in got.stdout, "trace finds it by its second recipient", got.stdout, got.stderr)
        check(relay.ask("trace", "third@gone.example").returncode == 1, "and nobody else")
        change(1, "delete", "--sender", "sue@own.example")
        # Hold, over a restart; nothing of it goes out meanwhile.
        change(20, "hold", "--sender", "other.example", "--dry-run")
        check(not listed("--held"), "a dry run does nothing")
        change(20, "hold", "--sender", "other.example", "--reason", "who is that?")
        check(all("who is that?" in q["reason"] and q["state"] == "held" for q in listed("--held")) and len(listed("--held")) == 20, "held", listed("--held")[:1])
        change(0, "hold", "--sender", "other.example")
        # An unset variable of a shell is not all mail; ids fit too; what was done can be read by programs, and in the story.
        for which in ("--domain", "--sender", "--recipient", "--lane", "--why", "--stream", "--tenant"):
            got = relay.ask("queue", "delete", which, "", "--lane" if which != "--lane" else "--domain", "gone", "--dry-run")
            check(got.returncode == 2 and "empty" in got.stderr, "an empty", which, got)
        one = listed("--held")[0]["id"]
        check([q["id"] for q in listed("--match", f"id={one}")] == [one], "by id")
        got = relay.ask("queue", "release", one, "--dry-run", "--json")
        check(json.loads(got.stdout) == {"action": "release", "dry_run": True, "count": 1}, "as JSON", got)
        got = relay.ask("queue", "suspend", "--match", "lane=gone", "--dry-run")
        check(got.returncode == 0 and got.stdout == "60 deliveries would wait\n", "what waits there", got)
        check(relay.ask("queue", "hold", "--all", "--for", "0s").returncode == 2, "for no time")
        got = relay.ask("queue", "holdd", one), relay.ask("queue", "hold", one, "--no-such")
        check("waypost queue: " in got[0].stderr and "waypost queue hold: " in got[1].stderr and "waypost queue --help" in got[1].stderr, "whose usage it is", got)
        check("held" in relay.ask("trace", one).stdout and "who is that?" in relay.ask("trace", one).stdout, "the story knows", relay.ask("trace", one).stdout)
        check(relay.end() == 0, "it ends")
        relay.start()
        check(until(lambda: len(listed("--held")) == 20), "held after a restart", len(listed("--held")), len(listed()))
        # Another way; a suspended lane waits for its end.
        check(relay.ask("queue", "suspend", "--lane", "there", "--reason", "a walk").returncode == 0, "suspend")
        change(30, "reroute", "--sender", "ann@own.example", "--via", "there")
        check(until(lambda: len(listed("--why", "a walk")) == 30), "suspended", listed()[:1])
        check(took() == [], "and nothing goes out by it")
        check(relay.ask("queue", "resume", "--lane", "there").returncode == 0, "resume")
        check(until(lambda: len(took()) == 30), "then it does", len(took()))
        check(relay.ask("queue", "resume", "--lane", "there").returncode == 1, "only once")
        change(20, "release", "--held")
        check(until(lambda: not listed("--held")), "released")
        change(20, "reroute", "--domain", "*.gone.example", "--via", "there")
        check(until(lambda: len(took()) == 50), "and goes out", len(took()))
        # Returned: its sender hears of it; deleted: nobody does.
        blast(3, "ann@own.example", "user%d@gone.example")
        check(until(lambda: len(listed("--sender", "own.example")) == 3), "three more")
        change(3, "bounce", "--sender", "own.example", "--reason", "no use")
        check(until(lambda: sum(t["to"] == ["ann@own.example"] for t in took()) == 3), "reports of what was returned", took()[-1:])
        change(10, "delete", "--sender", "<>")
        check(until(lambda: not listed()), "nothing is left", listed()[:2])
        check(relay.ask("queue", "retry").returncode == 2 and relay.ask("queue", "hold", "--match", "colour=red").returncode == 2, "usage")
        check(relay.ask("queue", "reroute", "--all", "--via", "nowhere").returncode != 0, "no such backend")
        check(relay.end() == 0, "it ends")
    finally:
        sink.kill()
        relay.remove()


def test_unreadable():
    """What cannot be read cannot be returned or deleted either, and is found once: not again and again as long as it waits."""
    (port,) = free_ports(1)
    relay = Relay()
    relay.write([port], extra="backend gone { server 127.0.0.1:1 }\nrelay_domain gone.example { backend gone; recipients any }\n")
    try:
        relay.start()
        sent = run("blast", f"127.0.0.1:{port}", "--mails", "5", "--from", "", "--to", "user%d@gone.example")
        check(sent.returncode == 0, "blast", sent.stderr)
        check(relay.end() == 0, "it ends")
        relay.start()   # from here on none of them is in memory
        check(until(lambda: len(relay.ask("queue", "list", "--json").stdout.splitlines()) == 5), "they wait", relay.said())
        for root, _, names in os.walk(relay.dir):
            for name in names:
                file = os.path.join(root, name)
                if "/spool" not in root or os.path.getsize(file) < 4096:
                    continue
                with open(file, "r+b") as f:
                    head = f.read(1 << 20)
                    at = head.find(b"user2@gone.example")
                    while at >= 0:
                        f.seek(at)
                        f.write(b"USER")
                        at = head.find(b"user2@gone.example", at + 1)
        for verb in ("bounce", "delete"):
            got = relay.ask("queue", verb, "--lane", "gone")
            want = 4 if verb == "bounce" else 0
            check(got.returncode == 0 and f"{want} " in got.stdout, verb, "is done for those that can be read", got.stdout, got.stderr)
        check(2 <= relay.said().count("unreadable") <= 8, "the other is told once each time", relay.said()[-2000:])
        check(relay.end() == 0, "it ends")
    finally:
        relay.remove()


def test_standing():
    """What an operator said of lanes and servers holds in the next process, whether this one ends or is killed."""
    port, one, two = free_ports(3)
    relay = Relay()
    relay.write(listen=[port], extra=f"backend pair {{ server 127.0.0.1:{one}; server 127.0.0.1:{two} }}\nbackend late {{ server 127.0.0.1:{two} }}\n"
                "relay_domain pair.example { backend pair; recipients any }\nrelay_domain late.example { backend late; recipients any }\n")
    sinks = [subprocess.Popen([WAYPOST, "sink", "-l", f"127.0.0.1:{p}", "--hash", f"{relay.dir}/{p}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
             for p in (one, two)]
    for sink in sinks:
        sink.stderr.readline()
    file = f"{relay.dir}/spool/standing"

    def took(port):
        try:
            return sum(len(json.loads(line)["to"]) for line in whole_lines(f"{relay.dir}/{port}"))
        except OSError:
            return 0

    def waiting():
        return [json.loads(line) for line in relay.ask("queue", "list", "--limit", "1000", "--json").stdout.splitlines()]

    def states():
        got = [json.loads(line) for line in relay.ask("backend", "list", "--json").stdout.splitlines()]
        return {s["server"]: s["state"] for s in got if s["backend"] == "pair"}

    def send(to):
        sent = run("blast", f"127.0.0.1:{port}", "--mails", "10", "--from", "", "--to", to)
        check(sent.returncode == 0, "blast", sent.stderr)

    def killed():
        before = relay.worker()
        os.kill(before, signal.SIGKILL)
        relay.worker(other_than=before)
        check(until(lambda: relay.ask("stats").returncode == 0), "it is there again", relay.said())
    try:
        relay.start()
        check(relay.ask("backend", "drain", "pair", f"127.0.0.1:{one}").returncode == 0, "drain")
        check(relay.ask("queue", "suspend", "--lane", "late", "--reason", "a walk").returncode == 0, "suspend")
        send("user%d@late.example")
        killed()
        check(states() == {f"127.0.0.1:{one}": "drained", f"127.0.0.1:{two}": "in"}, "drained after a kill", states())
        check(until(lambda: len(waiting()) == 10 and all("a walk" in q["reason"] for q in waiting())), "suspended after a kill", waiting()[:1])
        check("late is suspended by an operator: a walk; it ends in " in relay.ask("stats").stdout, "stats says so", relay.ask("stats").stdout)
        got = relay.ask("queue", "suspend", "--lane", "lite")
        check(got.returncode == 1 and "lite is no backend" in got.stderr, "one that does not exist", got.stderr)
        send("user%d@pair.example")
        check(until(lambda: took(two) == 10) and took(one) == 0, "and what is drained gets nothing", took(one), took(two))
        check(relay.end() == 0, "it ends")
        with open(file) as f:
            lines = [json.loads(line) for line in f]
        check(lines[0]["waypost"] == "standing" and {"drained": "pair", "server": f"127.0.0.1:{one}"} in lines, "the file", lines)
        rested = [x for x in lines if x.get("lane") == "late"]
        check(len(rested) == 1 and rested[0]["paused"][0][1] is None, "it rests", lines)
        relay.start()
        check(until(lambda: len(waiting()) == 10), "it waits", relay.said())
        check("lane_suspended" in relay.said() and "server_drained" in relay.said(), "and that is told at the start")
        check(relay.ask("queue", "resume", "--lane", "late").returncode == 0 and until(lambda: took(two) == 20), "resumed", took(two))
        check(relay.ask("backend", "undrain", "pair", f"127.0.0.1:{one}").returncode == 0, "undrained")
        killed()
        check(states() == {f"127.0.0.1:{one}": "in", f"127.0.0.1:{two}": "in"}, "that holds, too", states())
        check(relay.end() == 0, "it ends")
        with open(file) as f:
            check(len(f.readlines()) == 1, "nothing stands any more")
        # A file that is damaged, or another version's, is no reason not to start.
        for text, good in [("", 0), ("\0\0\0", 0), ('{"waypost":"standing","version":7,"as_of":1}\n{"suspended":"late","until":99999999999,"reason":"x"}\n', 0),
                           ('{"waypost":"standing","version":1,"as_of":1}\n{"lane":"late","paused":[[1],"x"]}\n{"lane":"late","paused":[[5,1],[-1,9223372036854775807]]}\nrubbish\n'
                            '{"suspended":"late","until":99999999999,"reason":"x"}\n{"suspended":"pair","until":1,"reason":"over"}\n{"drained":"pair","server":"nobody:1"}\n'
                            '{"suspended":"trun', 1)]:
            with open(file, "w") as f:
                f.write(text)
            relay.start()
            check(relay.ask("queue", "resume", "--lane", "late").returncode == (0 if good else 1), "what can be read of it", text)
            check(relay.ask("queue", "resume", "--lane", "pair").returncode == 1, "what is over is over")
            check(relay.end() == 0, "it ends")
        check(relay.said().count("standing_damaged") == 3, "and that is told", relay.said().count("standing_damaged"))
        # Where it cannot be written the operator hears so, and it is done nonetheless.
        os.remove(file)
        os.mkdir(file)
        relay.start()
        got = relay.ask("queue", "suspend", "--lane", "late")
        check(got.returncode == 0 and "a restart will undo it" in got.stderr, "not written", got.stderr)
        check(relay.ask("queue", "resume", "--lane", "late").returncode == 0, "but done")
        check(relay.end() == 0, "it ends")
    finally:
        for sink in sinks:
            sink.kill()
            sink.stderr.close()
        relay.remove()


def test_aliases():
    """Addresses that stand for others, an archive, and mail that is thrown away: who gets what, once."""
    port, inside, outside, vault = free_ports(4)
    relay = Relay()
    relay.write(listen=[port], extra=f"backend in {{ server 127.0.0.1:{inside} }}\nbackend out {{ server 127.0.0.1:{outside} }}\nbackend vault {{ server 127.0.0.1:{vault} }}\n"
                "relay_domain in.example old.example { backend in; recipients { file in }; copy_to archive@vault.example }\n"
                "relay_domain vault.example { backend vault; recipients { file vault } }\n"
                "alias { file aliases }\nroute noise { to noise@in.example; via discard }\nroute default { via out }\n")
    for name, text in [("in", "ann@in.example\nbob@in.example\nnoise@in.example\n"), ("vault", "archive@vault.example\n"),
                       ("aliases", "team@in.example ann@in.example, bob@in.example, friend@far.example\n@old.example @in.example\n"
                                   "ghost@in.example nobody@in.example\nboth@in.example team@in.example, ann@in.example\nround@in.example round2@in.example\nround2@in.example round@in.example\n"
                                   "closed@in.example bounce:gone for good\nleft@in.example closed@in.example ann@in.example\nfriends@in.example friend@far.example\n")]:
        with open(f"{relay.dir}/etc/{name}", "w") as f:
            f.write(text)
    sinks = {name: subprocess.Popen([WAYPOST, "sink", "-l", f"127.0.0.1:{p}", "--hash", f"{relay.dir}/{name}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
             for name, p in (("in", inside), ("out", outside), ("vault", vault))}
    for sink in sinks.values():
        sink.stderr.readline()

    def took(name):
        try:
            return sorted(to for line in whole_lines(f"{relay.dir}/{name}") for to in json.loads(line)["to"])
        except OSError:
            return []

    def send(to):
        code = {}
        with smtplib.SMTP("127.0.0.1", port) as s:
            try:
                code = s.sendmail("someone@else.example", to, "Subject: x\r\n\r\nhello\r\n")
            except smtplib.SMTPRecipientsRefused as e:
                code = e.recipients
        return {k: v[0] for k, v in code.items()}
    try:
        relay.start()
        check(send(["team@in.example", "ann@in.example"]) == {}, "a team")
        check(until(lambda: took("in") == ["ann@in.example", "bob@in.example"] and took("out") == ["friend@far.example"] and took("vault") == ["archive@vault.example"]),
              "each once, and the archive", took("in"), took("out"), took("vault"))
        check(send(["bob@old.example", "both@in.example"]) == {}, "a domain that stands for another")
        check(until(lambda: took("in") == ["ann@in.example"] * 2 + ["bob@in.example"] * 2 and len(took("vault")) == 2), "each once", took("in"), took("vault"))
        check(send(["ghost@in.example"]) == {"ghost@in.example": 550}, "one that leads to nobody")
        check(send(["round@in.example"]) == {"round@in.example": 451}, "one that leads round")
        check(send(["eve@old.example"]) == {"eve@old.example": 550}, "nobody there")
        check(send(["x@far.example"]) == {"x@far.example": 550}, "no relaying through it")
        check(send(["noise@in.example"]) == {}, "what is thrown away is taken")
        check(until(lambda: "remote=discard" in relay.said()), "and told")
        check("noise@in.example" not in took("in"), "and nobody has it")
        check(send(["closed@in.example", "left@in.example"]) == {"closed@in.example": 550}, "one that is closed, and one that leads there too")
        check(until(lambda: took("in").count("ann@in.example") == 3), "whose other half gets it", took("in"))
        # What was taken before is returned when its way is closed.
        sinks["out"].kill()
        sinks["out"].wait()
        check(send(["friends@in.example"]) == {}, "a mail that waits")
        check(until(lambda: json.loads(relay.ask("stats", "--json").stdout)["queue"]["messages"] == 1), "it does")
        with open(relay.conf, "a") as f:
            f.write('route shut { to friend@far.example; via bounce "5.7.1 we part" }\nroute back { to someone@else.example; via in }\n')
        check(relay.ask("reload").returncode == 0, "reload", relay.said())
        check(until(lambda: took("in").count("someone@else.example") == 1), "its sender hears of it", relay.said())
        check(until(lambda: "we part" in relay.said()), "and so does the log", relay.said())
        code, said = (lambda p: (p.returncode, p.stdout))(relay.ask("explain", "rcpt", "friends@in.example"))
        check(code == 1 and "550 5.7.1" in said and "we part" in said, "explained", said)
        check(relay.end() == 0, "it ends")
    finally:
        for sink in sinks.values():
            sink.kill()
        relay.remove()


def test_spool_in_use():
    """Two relays cannot have one spool; whoever starts the second is told, and not its log file alone."""
    one, two = free_ports(2)
    relay, other = Relay(), Relay()
    try:
        relay.write(listen=[one])
        relay.start()
        other.write(listen=[two])
        with open(other.conf) as f:
            text = f.read().replace(f"{other.dir}/spool", f"{relay.dir}/spool")
        with open(other.conf, "w") as f:
            f.write(text)
        got = run("serve", "-c", other.conf)
        check(got.returncode == 1 and "in use by another process" in got.stderr, "told", got)
        check("in use by another process" in other.said(), "and logged", other.said())
    finally:
        relay.remove()
        other.remove()


def test_rules_by_listener():
    """A rule and a stream that ask for a listener; however its address is written; and one that is none."""
    one, two, here, there = free_ports(4)
    relay = Relay()
    text = (f"backend in {{ server 127.0.0.1:{here} }}\nbackend out {{ server 127.0.0.1:{there} }}\nrelay_domain in.example {{ backend in; recipients any }}\n"
            f"stream second {{ listener 127.0.0.1:{two} }}\nroute first {{ to x@in.example; via out }}\nroute second {{ listener [::1]:{two} 127.0.0.1:{two}; via out }}\n")
    relay.write(listen=[one, two], extra=text)
    got = run("check", "-c", relay.conf)
    check(got.returncode == 2 and f"is at [::1]:{two}" in " ".join(got.stdout.split()), "no such listener", got.stdout)
    relay.write(listen=[one, two], extra=text.replace(f"[::1]:{two} ", ""))
    try:
        relay.start()
        for port, lane, stream in ((one, "in", ""), (two, "out", "second")):
            with smtplib.SMTP("127.0.0.1", port) as s:
                s.sendmail("a@else.example", ["ann@in.example"], f"Subject: {port}\r\n\r\nx\r\n")
            got = until(lambda: [w for w in map(json.loads, relay.ask("queue", "list", "--json").stdout.splitlines()) if w["lane"] == lane])
            check(got and got[0]["stream"] == stream, "it goes by its listener", lane, relay.ask("queue", "list").stdout)
            said = relay.ask("explain", "rcpt", "ann@in.example", "--listener", f"127.0.0.1:{port}").stdout
            check(f"via {lane}\n" in said and '"first" (' in said and 'does not fit: its "to"' in said, "and explain says so", said)
    finally:
        relay.remove()


def test_explain():
    """Why a recipient is taken or refused, without a mail: the words and codes are those a session would get."""
    port, inside, outside = free_ports(3)
    relay = Relay()
    relay.write(listen=[port], extra=f"backend in {{ server 127.0.0.1:{inside} }}\nbackend out {{ server 127.0.0.1:{outside} }}\n"
                "relay_domain in.example { backend in; recipients { file in } }\nalias { file aliases }\n"
                "network office 10.1.0.0/24 { relay_from in.example }\nroute default { via out }\n")
    for name, text in [("in", "ann@in.example\n"), ("aliases", "team@in.example ann@in.example\n")]:
        with open(f"{relay.dir}/etc/{name}", "w") as f:
            f.write(text)

    def explain(*words):
        p = relay.ask("explain", "rcpt", *words)
        return p.returncode, p.stdout
    try:
        relay.start()
        code, said = explain("ann@in.example")
        check(code == 0 and "via in\n" in said and "answer      250" in said, "known", code, said)
        code, said = explain("eve@in.example")
        check(code == 1 and "answer      550 5.1.1" in said, "unknown", code, said)
        code, said = explain("team@in.example")
        check(code == 0 and "ann@in.example" in said, "an alias", code, said)
        code, said = explain("x@far.example")
        check(code == 1 and "answer      550 5.7.1" in said, "a stranger", code, said)
        code, said = explain("x@far.example", "--client", "10.1.0.9", "--from", "ann@in.example")
        check(code == 0 and "office" in said and "via out\n" in said, "a network of ours", code, said)
        code, said = explain("x@far.example", "--client", "10.1.0.9", "--from", "ann@else.example")
        check(code == 1, "with a sender it may not use", code, said)
        code, said = explain("ann@in.example", "--json")
        lines = [json.loads(line) for line in said.splitlines()]
        check(code == 0 and lines[-1]["what"] == "answer" and lines[-1]["text"].startswith("250"), "for programs", code, said)
        check(said.count(f"file {relay.dir}/etc/in") == 1, "the source is named", said)
        for words in (("<ann@in.example>", "--from", "<>"), ("ann@in.example", "--client", "2001:db8::1"), ("ann@in.example", "--client", "[2001:db8::1]"),
                      ("ann@in.example", "--user", "joe")):
            code, said = explain(*words)
            check(code == 0 and "answer      250" in said, "as people write it", words, code, said)
        check(relay.ask("explain", "rcpt").returncode == 2 and relay.ask("explain", "rcpt", "ann@in.example", "--client", "here").returncode == 2, "usage")
        with smtplib.SMTP("127.0.0.1", port) as s:
            s.ehlo()
            s.mail("a@else.example")
            real = s.rcpt("eve@in.example")
        check(real[0] == 550, "and a session says the same", real)
        check(relay.end() == 0, "it ends")
    finally:
        relay.remove()


def test_parent_killed():
    (port,) = free_ports(1)
    relay = Relay(listen=[port]).start()
    try:
        check(relay.end(signal.SIGKILL) == -signal.SIGKILL, "killed")
        relay.start()
        check(relay.end(signal.SIGINT) == 0, "another one takes over port, spool and control socket")
    finally:
        relay.remove()


def test_service_manager():
    """Readiness, status and stop are told; sockets that were bound for us are used."""
    (port,) = free_ports(1)
    relay = Relay(listen=[port])
    try:
        path = f"{relay.dir}/notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            os.chmod(path, 0o666)
            manager.settimeout(PATIENCE)
            relay.env.update(NOTIFY_SOCKET=path, WATCHDOG_USEC="200000")
            relay.start()
            heard = [manager.recv(4096).decode()]
            while heard[-1].startswith("FDSTORE=1") and len(heard) < 50:
                heard.append(manager.recv(4096).decode())
            check(len(heard) > 1 and "READY=1" in heard[-1], "its sockets, and READY=1", heard)
            check(manager.recv(4096) == b"WATCHDOG=1", "WATCHDOG=1")
            relay.process.send_signal(signal.SIGHUP)
            while not heard[-1].startswith("RELOADING=1") and len(heard) < 50:
                heard.append(manager.recv(4096).decode())
            check(heard[-1].startswith("RELOADING=1"), "RELOADING=1", heard)
            check(relay.end() == 0, "it ends")
            while not heard[-1].startswith("STOPPING=1") and len(heard) < 100:
                heard.append(manager.recv(4096).decode())
            check(heard[-1].startswith("STOPPING=1"), "STOPPING=1", heard)
        del relay.env["NOTIFY_SOCKET"], relay.env["WATCHDOG_USEC"]

        with socket.socket() as inherited:
            inherited.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            inherited.bind(("127.0.0.1", port))
            inherited.listen()
            if inherited.fileno() != 3:
                os.dup2(inherited.fileno(), 3)
            relay.process = subprocess.Popen(
                ["/bin/sh", "-c", f'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=smtp exec "{WAYPOST}" serve -c "{relay.conf}"'],
                pass_fds=[3], stderr=subprocess.PIPE, text=True)
        check(until(lambda: greeting(port).startswith("220 ")), "an inherited socket", relay.said())
        check(relay.end() == 0, "it ends")
    finally:
        relay.remove()


def main():
    began = time.monotonic()
    for name, test in sorted(globals().items()):
        if name.startswith("test_") and (len(sys.argv) < 2 or sys.argv[1] in name):
            try:
                test()
            except Exception as e:  # noqa: BLE001: what breaks a test is a failure of it
                check(False, name, repr(e))
    print(f"{time.monotonic() - began:.1f} s")
    done()


main()
