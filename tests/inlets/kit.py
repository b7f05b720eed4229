"""What the tests of this folder share: a relay in front of a sink that keeps mail, on loopback, in a directory of its own.
WAYPOST_BUILD says where the relay is."""
import atexit
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kit"))
from checks import PATIENCE, check, done, until, whole_lines  # noqa: E402

WAYPOST = os.path.abspath(os.path.join(os.environ.get("WAYPOST_BUILD", "build"), "waypost"))
ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Sink:
    """Takes all mail and keeps it: (sender, [recipients], octets)."""

    def __init__(self):
        self.mail = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def close(self):
        """Its thread has ended before the number of its descriptor is free: else it might accept for whoever gets that number next."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join()
        self.listener.close()

    def accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        f = conn.makefile("rwb")

        def say(text):
            f.write(text.encode() + b"\r\n")
            f.flush()

        try:
            say("220 sink")
            sender, rcpts = b"", []
            for line in f:
                verb = line[:4].upper()
                if verb == b"EHLO":
                    say("250-sink\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES")
                elif verb == b"MAIL":
                    sender, rcpts = line.split(b"<")[1].split(b">")[0], []
                    say("250 2.1.0 ok")
                elif verb == b"RCPT":
                    rcpts.append(line.split(b"<")[1].split(b">")[0].decode())
                    say("250 2.1.5 ok")
                elif verb == b"DATA":
                    say("354 go")
                    text = b""
                    for line in f:
                        if line == b".\r\n":
                            break
                        text += line[1:] if line.startswith(b"..") else line
                    self.mail.append((sender.decode(), rcpts, text))
                    say("250 2.0.0 ok")
                elif verb == b"QUIT":
                    say("221 bye")
                    return
                else:
                    say("250 2.0.0 ok")
        except OSError:
            pass
        finally:
            conn.close()

    def find(self, part):
        return [m for m in self.mail if part in m[2]]


class Relay:
    def __init__(self, more="", listen="", relay_domain="recipients any"):
        self.dir = tempfile.mkdtemp(prefix="waypost-inlets-")
        os.chmod(self.dir, 0o755)
        self.sink = Sink()
        self.port = free_port()
        self.conf = f"{self.dir}/conf"
        self.drop, self.socket = f"{self.dir}/drop", f"{self.dir}/local.sock"
        self.write(more, listen, relay_domain)
        self.p = None
        atexit.register(self.abandon)
        for name in ("sendmail", "mailq", "newaliases"):
            os.symlink(WAYPOST, f"{self.dir}/{name}")

    def write(self, more="", listen="", relay_domain="recipients any"):
        with open(self.conf, "w") as f:
            f.write(f"waypost 1\nhostname mx.example.net\npostmaster postmaster@example.com\nlisten smtp 127.0.0.1:{self.port} {listen}\n"
                    f"spool {{ dir {self.dir}/spool; min_free 1MiB }}\ncontrol {self.dir}/control\nthreads 2\n"
                    f"log {{ form json; file {self.dir}/log }}\n"
                    f"backend sink {{ server 127.0.0.1:{self.sink.port} }}\n"
                    f"relay_domain example.com {{ backend sink; {relay_domain} }}\nroute default {{ via sink }}\n{more}\n")
        os.chmod(self.conf, 0o644)

    def start(self, options=("--as-is",), **more):
        self.p = subprocess.Popen([WAYPOST, "serve", *options, "-c", self.conf], stderr=subprocess.PIPE, **more)
        if not check(until(lambda: self.ask("stats").returncode == 0 or self.p.poll() is not None) and self.p.poll() is None, "the relay starts"):
            print(self.p.stderr.read(4000))
            done()
        return self

    def abandon(self):
        """However a test ends, no relay is left."""
        if self.p and self.p.poll() is None:
            self.p.kill()

    def kill(self):
        self.p.kill()
        self.p.wait()

    def stop(self):
        if self.p.poll() is None:
            self.p.terminate()
        check(self.p.wait(PATIENCE) == 0, "the relay ends well", self.p.stderr.read()[-2000:])

    def end(self):
        if self.p and self.p.poll() is None:
            self.stop()
        self.sink.close()
        shutil.rmtree(self.dir)

    def ask(self, *args):
        return subprocess.run([WAYPOST, *args, "-c", self.conf], capture_output=True, text=True, timeout=PATIENCE)

    def log(self):
        return [json.loads(line) for line in whole_lines(f"{self.dir}/log") if line.startswith("{")]

    def logged(self, event, **fields):
        return [e for e in self.log() if e.get("event") == event and all(str(v) in str(e.get(k)) for k, v in fields.items())]

    def sendmail(self, *args, text=b"", name="sendmail", user=None, **more):
        return subprocess.run([f"{self.dir}/{name}", "-C", self.conf, *args], input=text, capture_output=True, timeout=PATIENCE, user=user, **more)

    def dropped(self):
        return sorted(n for n in os.listdir(self.drop) if n.endswith(".ready"))
