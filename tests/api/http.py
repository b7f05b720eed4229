"""Metrics and probes on the built relay in its sandbox: every line of /metrics read, the dashboard and the alert rules checked against it,
probes that change with what they ask for, and clients that mean harm. WAYPOST_BUILD says where the relay is.

   http.py [SCENARIO ...]"""
import ctypes
import errno
import json
import mmap
import os
import re
import socket
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))
from lab import PATIENCE, WAYPOST, Probe, Relay, Sink, blast, check, children, free_port, preload, run, say, stop, until  # noqa: E402

OPEN = "application/openmetrics-text; version=1.0.0"


class Http:
    def __init__(self, dir):
        self.port, self.path = free_port(), dir + "/http.sock"
        self.conf = "listen http 127.0.0.1:%d unix:%s\n" % (self.port, self.path)

    def connect(self, unix=False):
        if not unix:
            return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(PATIENCE)
        s.connect(self.path)
        return s

    def get(self, path, head="Host: 127.0.0.1\r\n", method="GET", unix=False):
        """(status, header, body); (0, "", "") when nobody answers."""
        try:
            with self.connect(unix) as s:
                s.sendall(("%s %s HTTP/1.1\r\n%s\r\n" % (method, path, head)).encode())
                got = b""
                while True:
                    more = s.recv(65536)
                    if not more:
                        break
                    got += more
        except OSError:
            return 0, "", ""
        header, _, body = got.decode().partition("\r\n\r\n")
        m = re.match(r"HTTP/1.1 (\d+) ", header)
        return int(m.group(1)) if m else 0, header, body

    def status(self, path):
        return self.get(path)[0]

    def why(self, path="/readyz"):
        """What a probe misses."""
        status, _, body = self.get(path)
        missing = {m["check"]: m["why"] for m in json.loads(body)["missing"]} if body else {}
        check(status == (503 if missing else 200), "the status says what the body says", path, status, body)
        return missing

    def metrics(self, accept=""):
        status, header, body = self.get("/metrics", "Host: localhost\r\n" + ("Accept: %s\r\n" % accept if accept else ""))
        check(status == 200, "/metrics", status, header)
        return Metrics(header, body, bool(accept))


LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(%s(?:,%s)*)\})? (\S+)$" % (LABEL, LABEL))


class Metrics:
    """Both forms, read line by line and not forgivingly."""

    def __init__(self, header, text, is_open):
        self.value, self.names, types, family, seen, wrong = {}, set(), {}, None, set(), []
        def fine(ok, *what):
            if not ok:
                wrong.append(what)
            return ok
        fine(("openmetrics-text; version=1.0.0" if is_open else "text/plain; version=0.0.4") in header, "the media type", header)
        fine(text.endswith("\n"), "the last line ends")
        lines = text.split("\n")[:-1]
        if is_open:
            fine(lines and lines.pop() == "# EOF", "OpenMetrics ends in EOF")
        fine(not any(line == "# EOF" for line in lines), "and nowhere else")
        help_of = None
        for line in lines:
            if line.startswith("# HELP "):
                help_of = line.split(" ", 3)[2]
                fine(len(line.split(" ", 3)[3]) > 4 and help_of not in types, "a help, once a family", line)
            elif line.startswith("# TYPE "):
                family, kind = line.split(" ")[2:]
                fine(kind in ("counter", "gauge", "histogram") and family == help_of and family not in types, "a type behind its help, once", line)
                types[family] = kind
            else:
                m = SAMPLE.match(line)
                if not fine(m, "a sample", line):
                    continue
                name, labels, value = m.groups()
                value = float(value)
                fine((name, labels) not in seen, "a sample stands once", line)
                seen.add((name, labels))
                base = name
                if types[family] == "histogram":
                    base = re.sub("_(bucket|sum|count)$", "", name)
                elif types[family] == "counter":
                    fine(name.endswith("_total") and value >= 0, "a counter", line)
                    if is_open:
                        base = name[:-6]
                fine(base == family, "a sample is in its family", line, family)
                fine(not re.search(r'@[^",]*\.', labels or ""), "no address is a label", line)
                fine(value == value, "a number", line)
                self.value[name, labels or ""] = value
                self.names.add(name)
        for family, kind in types.items():
            if kind != "histogram":
                continue
            of = {}
            for (n, labels), v in self.value.items():
                if n == family + "_bucket":
                    rest, le = re.fullmatch('(.*?),?le="(.*)"', labels).groups()
                    of.setdefault(rest, []).append((float(le), v))
            fine(of or family == "waypost_stream_time_to_deliver_seconds", "a histogram has buckets", family)
            for rest, buckets in of.items():
                fine([v for _, v in buckets] == sorted(v for _, v in buckets), "buckets grow", family, rest)
                les = [le for le, _ in buckets]
                fine(les == sorted(set(les)) and les[-1] == float("inf"), "up to +Inf", family, rest, les)
                fine(buckets[-1][1] == self.value[family + "_count", rest], "which is the count", family, rest)
        check(not wrong, "every line of /metrics", wrong[:5])

    def one(self, name, labels=""):
        return self.value.get((name, labels))


WANTED = """waypost_smtp_sessions_total waypost_messages_received_total waypost_deliveries_total waypost_queue_messages waypost_queue_oldest_seconds
waypost_time_to_deliver_seconds_bucket waypost_accept_seconds_bucket waypost_backend_up waypost_store_fsync_seconds_bucket
waypost_disk_free_bytes waypost_config_epoch waypost_build_info process_resident_memory_bytes process_open_fds process_cpu_seconds_total
waypost_dns_questions_total waypost_spool_segments waypost_thread_up waypost_incidents_total""".split()


def all_well(dir):
    http, sink = Http(dir), Sink(dir)
    relay = Relay(dir, sink.at, extra=http.conf + "backend gone { server 127.0.0.1:1 }\nrelay_domain gone.example { backend gone; recipients any }\n"
                  "source home 127.0.0.1\nstream quick { from quick.example }\n"
                  f"backend far {{ server {sink.at}; source home; soft_bounce on }}\nrelay_domain far.example {{ backend far; recipients any }}\n").start()
    b = blast(relay.at, "--mails", "200", "--size", "2k")
    b.wait(PATIENCE)
    check(until(lambda: relay.stats()["counters"]["delivered"] == 200), "mail goes through")
    blast(relay.at, "--mails", "5", "--to", "user%d@gone.example").wait(PATIENCE)
    check(until(lambda: http.metrics().one("waypost_backend_up", 'backend="gone",server="127.0.0.1:1"') == 0), "a dead server is down")
    for accept in ("", OPEN):
        m = http.metrics(accept)
        for name in WANTED:
            check(name in m.names, "there is", name)
        check(m.one("waypost_deliveries_total", 'backend="inside",outcome="delivered"') == 200, "deliveries")
        check(sum(v for (n, labels), v in m.value.items() if n == "waypost_messages_received_total" and 'listener="smtp"' in labels) == 205, "messages")
        check(m.one("waypost_smtp_sessions_total", 'listener="smtp",result="ended"') >= 10, "sessions")
        check(m.one("waypost_time_to_deliver_seconds_count") == 200, "times")
        check(sum(v for (n, labels), v in m.value.items() if n == "waypost_queue_messages" and 'lane="gone"' in labels) == 5, "what waits")
        check(m.one("waypost_queue_total_messages") == 5 and m.one("waypost_queue_oldest_seconds") > 0, "in all, and since when")
        check(m.one("waypost_backend_up", 'backend="inside",server="%s"' % sink.at) == 1, "a server that works is up")
        check(m.one("waypost_store_fsync_seconds_count") == m.one("waypost_store_fsync_seconds_bucket", 'le="+Inf"') > 0, "syncs")
        check(m.one("waypost_incident", 'kind="soft_bounce",subject="far"') == 1, "one incident for a backend, whatever its sources")
        check(m.one("waypost_config_epoch") == 1 and m.one("waypost_config_reload_failed") == 0, "the configuration")
        check(m.one("process_open_fds") > 10 and m.one("process_resident_memory_bytes") > 1e6, "the process, from within the sandbox")
    for path in ("/livez", "/readyz", "/startupz"):
        check(http.why(path) == {}, "all is well", path)
        check(http.get(path, unix=True)[0] == 200, "by the Unix socket too", path)
    blast(relay.at, "--mails", "2", "--from", "ann@quick.example", "--to", "user%d@far.example").wait(PATIENCE)
    check(until(lambda: relay.stats()["counters"]["delivered"] == 202), "mail of a stream, by a source")
    assets(http.metrics())

    # A reload that fails, one that takes the socket away, one that brings it back.
    check(relay.ask("reload") is not None, "a reload")
    with open(relay.conf) as f:
        text = f.read()
    with open(relay.conf, "a") as f:
        f.write("nonsense\n")
    check(relay.ask("reload") is None, "a reload that fails")
    m = http.metrics()
    check(m.one("waypost_config_reload_failed") == 1 and m.one("waypost_config_reloads_failed_total") == 1 and m.one("waypost_config_epoch") == 2,
          "is told", m.one("waypost_config_epoch"))
    with open(relay.conf, "w") as f:
        f.write(text.replace(http.conf, ""))
    check(relay.ask("reload") is not None and http.status("/livez") == 0, "a listener that is no more")
    with open(relay.conf, "w") as f:
        f.write(text)
    check(relay.ask("reload") is not None and http.status("/readyz") == 200, "and again", relay.tail())
    check(http.metrics().one("waypost_config_reload_failed") == 0, "well again")
    # Another worker has the same socket: the parent held it.
    (worker,) = children(relay.p.pid)
    os.kill(worker, 9)
    check(until(lambda: http.status("/readyz") == 200), "after a crash", relay.tail())
    refusals(relay, http)
    check(relay.stop() == 0, "it stops", relay.tail())
    sink.end()


def refusals(relay, http):
    """What may not be listened on, and what is not answered."""
    for address, words in (("0.0.0.0:8080", "loopback"), ("[::]:8080", "loopback"), ("192.0.2.1:8080", "loopback"), ("127.0.0.1", "no ADDRESS:PORT")):
        with open(relay.conf) as f:
            text = f.read()
        with open(relay.conf + ".bad", "w") as f:
            f.write(text.replace(http.conf, "listen http %s\n" % address))
        got = subprocess.run([WAYPOST, "check", "-c", relay.conf + ".bad"], capture_output=True, text=True, timeout=PATIENCE)
        check(got.returncode == 2 and words in " ".join(got.stdout.split()), "the configuration refuses", address, got.stdout)
    check(http.status("/nothing") == 404 and http.status("/") == 404, "404")
    check(http.get("/metrics", method="POST")[0] == 405, "405")
    check(http.get("/livez", method="HEAD")[::2] == (200, ""), "HEAD")
    check(http.get("/livez?verbose=1")[0] == 200, "what is behind a ? is ignored")
    check(http.get("/livez", "Host: rebound.example\r\n")[0] == 421, "a name that was made to mean us (class 58)")
    check(http.get("/livez", "")[0] == 400, "HTTP/1.1 wants a Host")


def assets(m):
    """Every metric that the dashboard and the alert rules name is there."""
    named = lambda text: set(re.findall(r"\b(?:waypost|process)_[a-z_]+[a-z]\b", text))
    with open("packaging/grafana/waypost.json") as f:
        board = json.load(f)
    exprs = [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
    check(board["title"] and board["uid"] and len(board["panels"]) >= 12 and len(exprs) >= 20, "a dashboard with panels")
    covered = set()
    ids = [p["id"] for p in board["panels"]]
    check(len(ids) == len(set(ids)), "whose numbers are its own")
    for p in board["panels"]:
        check({"title", "type", "gridPos", "id"} <= p.keys(), "a panel", p.get("title"))
        check(p["type"] == "row" or p["datasource"]["uid"] == "${datasource}", "a panel's source can be chosen", p.get("title"))
        at = p["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        check(at["x"] + at["w"] <= 24 and not cells & covered, "within the grid, and not on another", p["title"])
        covered |= cells
    with open("packaging/prometheus/alerts.yml") as f:
        rules = f.read()
    alerts = re.findall(r"^ *- alert: (\w+)$", rules, re.M)
    exprs += re.findall(r"^ *expr: (.+)$", rules, re.M)
    check(len(alerts) >= 10 and len(alerts) == len(set(alerts)) == len(re.findall(r"^ *expr: ", rules, re.M)), "alerts, each with its condition", alerts)
    check(len(re.findall(r"^ *summary: ", rules, re.M)) == len(alerts), "and a sentence")
    for expr in exprs:
        check(expr.count("(") == expr.count(")") and expr.count("{") == expr.count("}"), "brackets", expr)
        for name in named(expr):
            check(name in m.names, "a metric that there is", name, expr)
    variables = [v.get("query") for v in board["templating"]["list"]]
    for v in variables:
        for name in named(str(v)):
            check(name in m.names, "of a variable", name)


def draining(dir):
    http = Http(dir)
    relay = Relay(dir, "127.0.0.1:1", extra=http.conf).start()
    # A session in the middle of a message keeps the relay from ending.
    s = socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE)
    f = s.makefile("rb")
    for line in (None, "HELO a.example", "MAIL FROM:<a@a.example>", "RCPT TO:<bob@example.com>", "DATA"):
        if line:
            s.sendall(line.encode() + b"\r\n")
        f.readline()
    check(until(lambda: http.why() == {}), "ready", http.why())
    check(relay.ask("drain") is not None, "drain")
    check(until(lambda: "draining" in http.why()), "it is draining", http.why())
    check(http.why("/livez") == {} and http.why("/startupz") == {}, "and alive: nobody shall cut it short")
    m = http.metrics()
    check(m.one("waypost_draining") == 1 and "waypost_queue_total_messages" not in m.names, "metrics meanwhile, without what the threads do not tell any more")
    s.sendall(b"Subject: last\r\n\r\nx\r\n.\r\n")
    check(f.readline().startswith(b"250"), "the last message is taken")
    s.close()
    check(relay.p.wait(PATIENCE) == 0, "and it ends", relay.tail())
    check(http.status("/livez") == 0, "with its socket")


def attack_60_full(dir):
    """A full spool: not ready, with the reason; ready again when there is room."""
    http, hop = Http(dir), free_port()
    relay = Relay(dir, "127.0.0.1:%d" % hop, spool="min_free 16MiB; reserve 2; max_bytes 448MiB", extra=http.conf).start()
    check(until(lambda: http.why() == {}), "ready", http.why())
    b = blast(relay.at, "--time", "600s", "--size", "1M", "--sessions", "4")
    check(until(lambda: "spool" in http.why()), "it is full")
    stop(b)
    check("full" in http.why().get("spool", "full"), "and says so", http.why())
    check(http.why("/livez") == {}, "a full disk is no reason to restart")
    sink = Sink(dir, listen="127.0.0.1:%d" % hop)
    check(until(lambda: http.why() == {}, 60), "ready again", http.why())
    m = http.metrics()
    check(m.one("waypost_spool_writable") == 1 and m.one("waypost_spool_intake_stopped") == 0, "metrics say the same")
    stop(relay.p)
    sink.end()


def attack_60_dead_store(dir):
    """A disk that fails every write and sync."""
    http = Http(dir)
    with open(dir + "/plan", "w+b") as f:
        f.truncate(4096)
        plan = mmap.mmap(f.fileno(), 4096)
    os.chmod(dir + "/plan", 0o666)
    def fails(times):
        for rule in (0, 2, 4, 5):   # DATA_WRITE, DATA_SYNC, NEW_WRITE, NEW_SYNC of tests/crash/fault.c
            plan[16 * rule:16 * rule + 8] = struct.pack("ii", errno.EIO, times)
    relay = Relay(dir, "127.0.0.1:1", extra=http.conf, env=preload("fault", FAULT_PLAN=dir + "/plan", FAULT_SPOOL=dir + "/spool")).start()
    probe = Probe(relay.port)
    check(probe.said().startswith("250"), "mail first")
    check(until(lambda: http.why() == {}), "ready", http.why())
    fails(-1)
    check(until(lambda: not probe.said().startswith("250") and "spool" in http.why()), "the store is dead", http.why())
    check(http.metrics().one("waypost_spool_writable") == 0, "metrics say the same")
    check(http.why("/livez") == {}, "alive all the same")
    fails(0)
    check(until(lambda: probe.said().startswith("250") and http.why() == {}), "it recovers by itself", http.why())
    check(http.metrics().one("waypost_spool_condemned_total") > 0, "what was given up is counted")
    check(relay.stop() == 0, "it stops", relay.tail())


def stuck_thread(dir):
    """A worker thread that stands still: not alive, and the question is answered all the same."""
    http = Http(dir)
    relay = Relay(dir, "127.0.0.1:1", extra=http.conf).start()
    (worker,) = children(relay.p.pid)
    tid = next(int(t) for t in os.listdir("/proc/%d/task" % worker) if open("/proc/%d/task/%s/comm" % (worker, t)).read() == "worker-1\n")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def stop():
        """Where it waits for events: there it holds no lock that others want. None: it may not be stopped."""
        if libc.ptrace(16, tid, None, None) != 0:       # PTRACE_ATTACH: stops this thread and no other
            return None
        os.waitpid(tid, 0x40000000)                     # __WALL
        with open("/proc/%d/task/%d/syscall" % (worker, tid)) as f:
            waits = f.read().split()[0] in ("232", "281", "441", "20", "22")    # epoll_wait, epoll_pwait, epoll_pwait2 of x86-64; of arm64
        if not waits:
            libc.ptrace(17, tid, None, None)            # PTRACE_DETACH: it goes on
        return waits
    # A thread that stands still before all have started would be a start that never ends.
    check(until(lambda: http.status("/readyz") == 200, 60), "it is up")
    stopped = []
    if not until(lambda: stopped.append(stop()) or stopped[-1] in (True, None)) or stopped[-1] is None:
        say("skipped: we may not stop a thread: " + os.strerror(ctypes.get_errno()))
    else:
        check("worker-1" in http.why("/livez").get("thread", ""), "it is missed", http.why("/livez"))
        check("thread" in http.why(), "not ready either")
        m = http.metrics()
        check(m.one("waypost_thread_up", 'thread="1"') == 0 and m.one("waypost_thread_up", 'thread="0"') == 1, "metrics say which")
        libc.ptrace(17, tid, None, None)        # PTRACE_DETACH: it goes on
        check(until(lambda: http.why("/livez") == {}), "alive again")
    check(relay.stop() == 0, "it stops", relay.tail())


def attack_12_slow(dir):
    """Classes 12 and 13 on this port: octets one by one, headers without end, a thousand connections, requests without answers read."""
    http = Http(dir)
    relay = Relay(dir, "127.0.0.1:1", extra=http.conf).start()
    fds = lambda: http.metrics().one("process_open_fds")
    before = fds()
    idle = [http.connect() for _ in range(1000)]
    check(until(lambda: http.status("/readyz") == 200, 60), "a thousand that say nothing do not shut others out for long")
    slow = [http.connect() for _ in range(100)]
    def drip():
        for s in slow:
            try:
                s.send(b"G")
            except OSError:
                pass
        return all(gone(s) for s in slow)
    check(until(drip, 60), "who drips is cut off")
    check(until(lambda: all(gone(s) for s in idle), 60), "and who says nothing")
    for s in idle + slow:
        s.close()
    for header in ("X-Long: " + "x" * 100000, "\r\n".join("X-%d: y" % i for i in range(5000)), "Host: " + "h" * 100000):
        check(http.get("/livez", header + "\r\n")[0] in (0, 413, 431), "a huge header")
    check(http.get("/" + "x" * 100000)[0] in (0, 414, 431), "a huge path")
    for junk in (b"\0" * 5000, b"EHLO there\r\nMAIL FROM:<>\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\0\x01", b"GET /livez HTTP/1.1\r\nHost:\0\r\n\r\n",
                 b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n" + b"x" * 100000,
                 b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n"):
        with http.connect() as s:
            try:
                s.sendall(junk)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except OSError:
                pass
    unread = [http.connect() for _ in range(50)]
    for s in unread:
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
    check(until(lambda: http.status("/livez") == 200, 60), "who does not read holds nobody up")
    for s in unread:
        s.close()
    check(until(lambda: fds() < before + 20), "no descriptor is lost", fds(), before)
    with open(relay.log) as f:
        check(f.read().count('"worker_started"') == 1, "all this in one worker", relay.tail())
    check(relay.stop() == 0, "it stops", relay.tail())


def gone(s):
    """Has the other side ended?"""
    try:
        s.setblocking(False)
        return s.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def main(dir):
    for test in (all_well, draining, attack_60_full, attack_60_dead_store, stuck_thread, attack_12_slow):
        if len(sys.argv) < 2 or test.__name__ in sys.argv[1:]:
            own = dir + "/" + test.__name__
            os.mkdir(own)
            os.chmod(own, 0o755)
            test(own)


run(main)
