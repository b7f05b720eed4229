"""What the import's tests speak SMTP with: a next hop that notes what it is told, and a client that comes from where it is told."""
import os
import pathlib
import re
import socket
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "kit"), str(HERE.parent / "peers")]

PATIENCE = 60


class NextHop:
    """Listens on a loopback address and port; takes all mail, or answers RCPT as `answer` says. `lmtp`: an answer a recipient."""

    def __init__(self, name="", host="127.0.0.1", port=0, path=None, lmtp=False, answer=None):
        self.name, self.lmtp, self.answer = name, lmtp, answer or (lambda rcpt: "250 2.1.5 ok")
        self.mails, self.lock = [], threading.Lock()
        if path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            os.chmod(path, 0o666)
            self.listener.listen(64)
            self.port = None
        else:
            self.listener = socket.create_server((host, port), backlog=64)
            self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock, peer[0] if peer else "unix"), daemon=True).start()

    def close(self):
        self.listener.close()

    def serve(self, sock, peer):
        sock.settimeout(PATIENCE)
        with sock, sock.makefile("rwb") as f:
            try:
                self.talk(f, peer)
            except OSError:
                pass

    def talk(self, f, peer):
        def say(text):
            f.write(text.encode() + b"\r\n")
            f.flush()
        say("220 sink.example ready")
        sender, rcpts = None, []
        while True:
            line = f.readline()
            if not line:
                return
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            verb = text[:4].upper()
            if verb in ("EHLO", "LHLO", "HELO"):
                if (verb == "LHLO") != self.lmtp:
                    say("500 5.5.1 the other protocol")
                    continue
                say("250-sink.example\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES")
            elif verb == "MAIL":
                sender, rcpts = text[10:], []
                say("250 2.1.0 ok")
            elif verb == "RCPT":
                said = self.answer(text[8:])
                if said[0] == "2":
                    rcpts.append(text[8:])
                say(said)
            elif verb == "DATA":
                if not rcpts:
                    say("554 5.5.1 nobody")
                    continue
                say("354 go")
                data = b""
                while True:
                    line = f.readline()
                    if not line:
                        return
                    if line == b".\r\n":
                        break
                    data += line[1:] if line[:1] == b"." else line
                with self.lock:
                    self.mails.append((sender, rcpts, data, peer))
                for _ in rcpts if self.lmtp else [0]:
                    say("250 2.0.0 noted")
            elif verb == "QUIT":
                say("221 2.0.0 bye")
                return
            else:
                say("250 2.0.0 ok")

    def got(self, about=b""):
        with self.lock:
            return [m for m in self.mails if about in m[2]]


class Session:
    """A client, from a source address."""

    def __init__(self, port, source="127.0.0.1", host="127.0.0.1"):
        self.sock = socket.create_connection((host, port), timeout=PATIENCE, source_address=(source, 0))
        self.f = self.sock.makefile("rwb")
        self.read()

    def read(self):
        while True:
            line = self.f.readline().decode("utf-8", "replace")
            if line[3:4] != "-":
                return line.rstrip()

    def say(self, line):
        self.f.write(line.encode("utf-8", "surrogateescape") + b"\r\n")
        self.f.flush()
        return self.read()

    def mail(self, sender, rcpts, data):
        """Parameters may follow the addresses; the answers to all."""
        said = [self.say("MAIL FROM:" + sender)] + [self.say("RCPT TO:" + r) for r in rcpts] + [self.say("DATA")]
        if said[-1][:3] == "354":
            self.f.write(re.sub(rb"(?m)^\.", b"..", data) + b".\r\n")
            self.f.flush()
            said.append(self.read())
        return said

    def close(self):
        try:
            self.say("QUIT")
        except OSError:
            pass
        self.f.close()
        self.sock.close()
