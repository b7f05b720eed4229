"""A relay on the built program and a next hop that lies, for the scripts NN_name.py beside this file. WAYPOST_BUILD says where it is."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kit"))
from checks import PATIENCE, check, done, until  # noqa: E402

WAYPOST = os.path.abspath(os.path.join(os.environ.get("WAYPOST_BUILD", "build"), "waypost"))
CONF = """waypost 1
hostname mx.example.net
postmaster postmaster@example.com
listen smtp 127.0.0.1:{port}
spool {{ dir {dir}/spool; min_free 1MiB }}
control {dir}/control.sock
log {{ form text; file {dir}/relay.log }}
threads 1
retry [ {retry} ] for 1h
backend inside {{ server 127.0.0.1:{hop}; max_connections 1; idle_timeout 1s }}
relay_domain example.com {{ backend inside; recipients any }}
{extra}
"""


def free_port():
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Hop:
    """A next hop. `answer(self, session, stage, line)` gives the octets to say, or None to close without a word; stages are greeting, ehlo,
    mail, rcpt, data, dot, rset, quit. The octets of each DATA, as they were sent, lie in `bodies`; all command lines in `lines`."""

    def __init__(self, answer=None, offers=("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")):
        self.offers = offers
        self.answer = answer or (lambda hop, stage, line: hop.usual(stage))
        self.lines, self.bodies, self.sessions = [], [], 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def usual(self, stage):
        if stage == "ehlo":
            words = ["hop.example", *self.offers]
            return "".join(f"250{'-' if i + 1 < len(words) else ' '}{w}\r\n" for i, w in enumerate(words)).encode()
        return {"greeting": b"220 hop.example\r\n", "data": b"354 go on\r\n", "quit": b"221 bye\r\n"}.get(stage, b"250 fine\r\n")

    def accept(self):
        while True:
            try:
                s, _ = self.socket.accept()
            except OSError:
                return
            self.sessions += 1
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        try:
            with s, s.makefile("rb") as f:
                self.talk(s, f)
        except OSError:
            pass

    def say(self, s, stage, line=b""):
        octets = self.answer(self, stage, line)
        self.goes_on = (octets or b"").startswith(b"354")
        if octets is None:
            return False
        s.sendall(octets)
        return stage != self.leaves_at

    def talk(self, s, f):
        going = self.say(s, "greeting")
        while going:
            line = f.readline()
            if not line:
                return
            self.lines.append(line)
            verb = line[:4].upper().strip().lower().decode("latin-1")
            stage = {"helo": "ehlo"}.get(verb, verb)
            going = self.say(s, stage, line)
            if stage == "quit":
                return
            if stage == "data" and going and self.goes_on:
                body = b""
                while not body.endswith(b"\r\n.\r\n") and body != b".\r\n":
                    more = f.readline()
                    if not more:
                        return
                    body += more
                if body != b".\r\n": # for nobody
                    self.bodies.append(body)
                going = self.say(s, "dot", body)

    leaves_at = None    # hangs up behind its answer to this

    def said(self, verb):
        return [line for line in self.lines if line.upper().startswith(verb)]

    def close(self):
        """Its thread has ended before the number of its descriptor is free: else it might accept for whoever gets that number next."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.accepting.join()
        self.socket.close()


class Relay:
    def __init__(self, hop, extra="", retry="1s", start=True, before=(), **more):
        self.dir = tempfile.mkdtemp(prefix="waypost-attack-")
        os.chmod(self.dir, 0o755)
        self.port = free_port()
        self.conf = self.dir + "/relay.conf"
        with open(self.conf, "w") as f:
            f.write(CONF.format(port=self.port, hop=hop.port if hop else free_port(), dir=self.dir, retry=retry, extra=extra))
        self.process = None
        if start:
            self.start(**more)

    def start(self, wait=True, **more):
        self.process = subprocess.Popen([WAYPOST, "serve", "-c", self.conf], stderr=subprocess.PIPE, text=True, **more)
        if wait:
            up = until(lambda: self.process.poll() is not None or self.greets())
            check(up and self.process.poll() is None, "the relay starts", self.log(), self.process.stderr.read() if self.process.poll() is not None else "")
        return self

    def greets(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as s:
                return s.recv(4) == b"220 "
        except OSError:
            return False

    def log(self):
        try:
            with open(self.dir + "/relay.log") as f:
                return f.read()
        except OSError:
            return ""

    def count(self):
        r = subprocess.run([WAYPOST, "stats", "--json", "--socket", self.dir + "/control.sock"], capture_output=True, text=True, timeout=20)
        return json.loads(r.stdout)["counters"] if r.returncode == 0 else {}

    def waits(self):
        r = subprocess.run([WAYPOST, "queue", "list", "--socket", self.dir + "/control.sock"], capture_output=True, text=True, timeout=20)
        return r.stdout

    def send(self, body=b"Subject: test\r\n\r\nhello\r\n", sender="ann@there.example", to=("bob@example.com",), params="", rcpt_params=" NOTIFY=NEVER", bdat=False):
        """Send one message; the last reply. Octets of `body` go as they are, dot-stuffed by the caller if need be."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as s, s.makefile("rb") as f:
            def reply():
                while True:
                    line = f.readline()
                    if line[3:4] != b"-":
                        return line.decode("latin-1").rstrip()
            reply()
            s.sendall(b"EHLO there.example\r\n")
            reply()
            s.sendall(f"MAIL FROM:<{sender}>{params}\r\n".encode())
            said = reply()
            if said[:1] != "2":
                return said
            for r in to:
                s.sendall(f"RCPT TO:<{r}>{rcpt_params}\r\n".encode())
                said = reply()
                if said[:1] != "2":
                    return said
            if bdat:
                s.sendall(b"BDAT %d LAST\r\n" % len(body) + body)
            else:
                s.sendall(b"DATA\r\n")
                reply()
                s.sendall(body + b".\r\n")
            return reply()

    def settled(self, **want):
        """Wait until the counters are at least so; the counters."""
        got = {}

        def enough():
            nonlocal got
            got = self.count()
            return got and all(got.get(k, 0) >= v for k, v in want.items())
        check(until(enough), f"the counters reach {want}", got, self.log()[-3000:])
        return got

    def alive(self):
        return check(self.process.poll() is None and "crash" not in self.log() and "worker_ended" not in self.log(), "no crash", self.log()[-3000:])

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                check(False, "the relay ends")
        if self.process:
            self.process.stderr.close()
        return self

    def killed(self):
        """By SIGKILL, and its worker with it."""
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        check(until(lambda: not self.greets()), "parent and worker are gone")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.end()
        shutil.rmtree(self.dir)
        return False
