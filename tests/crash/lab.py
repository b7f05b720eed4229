"""What the crash tests share: a relay of the shipped binary, a sink behind it, blasts before it. WAYPOST_BUILD says where they are."""
import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kit"))
from checks import PATIENCE, any_failed, check, count, done, until, whole_lines  # noqa: E402

BUILD = os.path.abspath(os.environ.get("WAYPOST_BUILD", "build"))
WAYPOST = os.path.join(BUILD, "waypost")
SHIM = os.path.join(BUILD, "libcrash_%s.so")

PR_SET_CHILD_SUBREAPER = 36
running = []
# The worker of a killed relay becomes our child, so that we can wait until the last of it is gone.
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def say(*words):
    print(*words, flush=True)


def free_port():
    """Below those that the system gives to clients: one of them could take it while the relay is dead, the blast by connecting to itself."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def start(argv, **kw):
    p = subprocess.Popen(argv, **kw)
    running.append(p)
    return p


def stop(p):
    """Kill a process that we started and its children, and wait until they are gone."""
    pids = children(p.pid)
    for pid in [p.pid] + pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    p.wait()
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:   # the parent had waited for it already
            pass


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name) as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(name))
    return found


class Sink:
    """A next hop that writes down every message before it says 250."""

    def __init__(self, dir, *options, env=None, listen="127.0.0.1:0"):
        self.hash = dir + "/taken"
        open(self.hash, "a").close()
        self.p = start([WAYPOST, "sink", "-l", listen, "--unique", "--json", "--hash", self.hash, *options], env=env,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.at = re.search(r"listening on (\S+)", self.p.stderr.readline()).group(1)

    def taken(self):
        """How often each id came."""
        times = {}
        for line in whole_lines(self.hash):
            id = json.loads(line)["id"]
            times[id] = times.get(id, 0) + 1
        return times

    def end(self):
        self.p.terminate()
        check(self.p.wait(PATIENCE) == 0, "the sink ends well")


class Relay:
    def __init__(self, dir, server, spool="", retry="[ 1s 1s 1s 1s 2s ] for 1h", env=None, extra=""):
        self.dir, self.env, self.p = dir, env or dict(os.environ), None
        self.port = free_port()
        self.at = "127.0.0.1:%d" % self.port
        self.spool = dir + "/spool"
        self.control = dir + "/control.sock"
        self.log = dir + "/relay.log"
        self.conf = dir + "/relay.conf"
        with open(self.conf, "w") as f:
            f.write("waypost 1\nhostname mx.example.net\npostmaster postmaster@example.com\nlisten smtp %s\n"
                    "spool { dir %s; %s }\ncontrol %s\nthreads 2\n"
                    "backend inside { server %s; }\nrelay_domain example.com { backend inside; recipients any }\n"
                    "network here 127.0.0.0/8 { relay_from any }\nretry %s\n%s"
                    % (self.at, self.spool, spool or "min_free 16MiB", self.control, server, retry, extra))

    def start(self, wait=True):
        with open(self.log, "a") as log:
            self.p = start([WAYPOST, "serve", "-c", self.conf], env=self.env, stdout=log, stderr=log)
        if wait:
            check(until(self.up), "the relay is up", self.tail())
        return self

    def up(self):
        if self.p.poll() is not None:
            return True
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as s:
                return s.recv(4).startswith(b"220")
        except OSError:
            return False

    def tail(self):
        with open(self.log, errors="replace") as f:
            lines = f.readlines()
        return "".join(line for line in lines if line.startswith(("{", "waypost")) and '"info"' not in line)[-1500:]

    def kill(self):
        """As a crash of both: the parent first, since it would start another worker."""
        stop(self.p)

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        try:
            return self.p.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            return -1

    def ask(self, *words):
        got = subprocess.run([WAYPOST, *words, "--socket", self.control], capture_output=True, text=True, timeout=PATIENCE)
        return got.stdout if got.returncode == 0 else None

    def change(self, old, new):
        """Change the configuration under the running relay."""
        with open(self.conf) as f:
            text = f.read()
        check(old in text, "the configuration has", old)
        with open(self.conf, "w") as f:
            f.write(text.replace(old, new))
        check(self.ask("reload") is not None, "it reloads", self.tail())

    def stats(self):
        got = self.ask("stats", "--json")
        return json.loads(got) if got else None

    def waiting(self, *which):
        """Messages in the queue, or None when it does not answer."""
        got = self.ask("queue", "list", "--json", "--limit", "1000000", *which)
        return None if got is None else got.count('"id"')

    def drained(self, patience=PATIENCE):
        return until(lambda: self.waiting() == 0, patience, 0.1)


class Probe:
    """A client that asks how things are, by sending a message."""

    def __init__(self, port):
        self.port, self.n, self.promised = port, 0, set()

    def said(self, size=200):
        """The relay's last word about a message of ours."""
        self.n += 1
        id = "probe-%d" % self.n
        text = "X-Blast-Id: %s\r\n\r\n%s.\r\n" % (id, ("x" * 78 + "\r\n") * (size // 80))
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as s, s.makefile("rb") as f:
                for say in [None, "EHLO probe.example\r\n", "MAIL FROM:<ann@there.example>\r\n", "RCPT TO:<bob@example.com>\r\n", "DATA\r\n", text]:
                    if say:
                        s.sendall(say.encode())
                    line = "-" * 4
                    while line[3:4] == "-":
                        line = f.readline().decode("latin-1")
                    if line[:1] not in ("2", "3"):
                        return line.strip() or "closed"
        except OSError as e:
            return str(e)
        self.promised.add(id)
        return line.strip()


def blast(at, *options):
    return start([WAYPOST, "blast", at, "--json", "--keep-going", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def acked(path):
    return {line.split()[0] for line in whole_lines(path)}


def preload(name, **variables):
    return dict(os.environ, LD_PRELOAD=SHIM % name, **variables)


def make_dir():
    dir = tempfile.mkdtemp(prefix="crash-", dir=BUILD)
    os.chmod(dir, 0o755)
    return dir


def end():
    for p in running:
        if p.poll() is None:
            stop(p)
    done()


def run(test):
    """Run test(dir) in a directory of its own, which stays when something failed and CRASH_KEEP is set."""
    dir = make_dir()
    try:
        test(dir)
    except Exception as e:  # what was not foreseen is a failure, told like the others
        import traceback
        traceback.print_exc(file=sys.stdout)
        check(False, "no exception", e)
    finally:
        if not any_failed() or "CRASH_KEEP" not in os.environ:
            for p in running:
                if p.poll() is None:
                    stop(p)
            shutil.rmtree(dir, ignore_errors=True)
        else:
            say("kept:", os.path.basename(dir))
    end()
