"""Both ends of the wire, written for the tests alone: a strict sink that notes all it gets, and a client that says just
what it is told. They share nothing with the relay they judge."""

import collections
import re
import socket
import threading

import mail


class Closed(Exception):
    """The other end hung up."""


class Wire:
    """Lines and octets of a socket."""

    def __init__(self, sock, patience):
        self.sock = sock
        self.sock.settimeout(patience)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def more(self):
        try:
            chunk = self.sock.recv(1 << 18)
        except ConnectionError as e:
            raise Closed(str(e)) from e
        if not chunk:
            raise Closed("end of file")
        self.buffer += chunk

    def line(self):
        """The next line without its end; its end must be CRLF."""
        while True:
            at = self.buffer.find(b"\n")
            if at >= 0:
                line = bytes(self.buffer[: at + 1])
                del self.buffer[: at + 1]
                return line[:-2] if line.endswith(b"\r\n") else line
            self.more()

    def octets(self, n):
        while len(self.buffer) < n:
            self.more()
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def text(self):
        """A text up to its final dot, still stuffed; CRLF of the last line included."""
        self.buffer[:0] = b"\r\n"       # so that a text may begin with its end
        seen = 0
        while True:
            at = self.buffer.find(b"\r\n.\r\n", seen)
            if at >= 0:
                data = bytes(self.buffer[2: at + 2])
                del self.buffer[: at + 5]
                return data
            seen = max(0, len(self.buffer) - 4)
            self.more()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except ConnectionError as e:
            raise Closed(str(e)) from e

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass


class Sink:
    """Takes mail as the local parts in mail.py say, and notes it. Each session has a thread."""

    offers = ["PIPELINING", "SIZE 60000000", "8BITMIME", "CHUNKING", "ENHANCEDSTATUSCODES"]

    def __init__(self, port=0):
        self.lock = threading.Lock()
        self.delivered = collections.defaultdict(list)      # (ident, rcpt) -> digests
        self.reports = []                                   # texts from the null sender
        self.faults = collections.Counter()                 # what a peer did on the wire that it must not do
        self.seen = set()
        self.calm = False                                   # never turns a session away
        self.sessions = self.mails = self.chunked = self.pipelined = 0
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def close(self):
        # Only shutting it down wakes the thread that waits in accept().
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def first(self, what):
        """Is this the first time?"""
        with self.lock:
            fresh = what not in self.seen
            self.seen.add(what)
            return fresh

    def fault(self, what):
        with self.lock:
            self.faults[what] += 1

    def serve(self, sock):
        with self.lock:
            self.sessions += 1
            number = self.sessions
        try:
            Session(self, Wire(sock, 120), number).run()
        except (Closed, OSError):
            pass
        finally:
            sock.close()

    def take(self, sender, rcpts, data):
        self.inspect(data)
        if sender == "":
            with self.lock:
                self.reports.append(data)
            return
        ident, hashed = mail.ident_of(data), mail.digest(data)
        with self.lock:
            self.mails += 1
            for rcpt in rcpts:
                self.delivered[ident, rcpt].append(hashed)

    def inspect(self, data):
        if re.search(rb"(?<!\r)\n|\r(?!\n)", data):
            self.fault("a bare CR or LF in the text")
        if b"\0" in data:
            self.fault("a NUL in the text")
        if max(map(len, data.split(b"\r\n")), default=0) > 998:
            self.fault("a line of more than 998 octets")


class Session:
    def __init__(self, sink, wire, number):
        self.sink, self.wire, self.number = sink, wire, number
        self.greeted = False
        self.extended = False
        self.reset()

    def reset(self):
        self.sender = None
        self.rcpts = []
        self.chunks = None

    def say(self, reply):
        self.wire.send(reply.encode() + b"\r\n")

    def alone(self, what):
        """Nothing may follow `what` before its reply (RFC 2920 3.1)."""
        if self.wire.buffer:
            self.sink.fault(f"more behind {what} before its reply")

    def run(self):
        if self.number % 41 == 0 and not self.sink.calm:
            self.say("421 4.3.2 sink: not now")
            return
        self.say("220 sink.example ESMTP")
        while True:
            line = self.wire.line()
            if line.endswith(b"\n"):
                self.sink.fault("a command ends in a bare LF")
            if len(line) > 510 and not line.startswith((b"MAIL", b"RCPT")):
                self.sink.fault("a command line too long")
            verb, _, rest = line.decode("latin-1").partition(" ")
            if not self.command(verb.upper(), rest):
                return

    def command(self, verb, rest):
        """False ends the session."""
        if verb in ("EHLO", "HELO"):
            self.alone(verb)
            if not rest.strip():
                self.sink.fault(f"{verb} without a name")
            self.greeted, self.extended = True, verb == "EHLO"
            self.reset()
            offers = ["sink.example"] + (self.sink.offers if self.extended else [])
            for offer in offers[:-1]:
                self.say(f"250-{offer}")
            self.say(f"250 {offers[-1]}")
        elif verb == "MAIL":
            return self.mail(rest)
        elif verb == "RCPT":
            return self.rcpt(rest)
        elif verb == "DATA":
            return self.data()
        elif verb == "BDAT":
            return self.bdat(rest)
        elif verb == "RSET":
            self.reset()
            self.say("250 2.0.0 reset")
        elif verb == "NOOP":
            self.say("250 2.0.0 yes")
        elif verb == "QUIT":
            self.alone(verb)
            self.say("221 2.0.0 bye")
            return False
        else:
            self.sink.fault(f"unknown command {verb[:20]}")
            self.say("500 5.5.2 what?")
        return True

    def fate(self, *which):
        """Does the sender's name ask for one of these now?"""
        local = (self.sender or "").partition("-")[0]
        return local in which and (local == "dot554" or self.sink.first((local, self.sender)))

    def mail(self, rest):
        found = re.fullmatch(r"FROM:<([^<> ]*)>((?: [^ ]+)*)", rest, re.I)
        if not self.greeted or self.sender is not None or not found:
            self.sink.fault("MAIL out of order or malformed: " + rest[:60])
            self.say("503 5.5.1 no")
            return True
        if not self.extended and found.group(2):
            self.sink.fault("parameters without EHLO")
        for word in found.group(2).split():
            if word.partition("=")[0].upper() not in ("SIZE", "BODY"):
                self.sink.fault("a parameter that was not offered: " + word)
        self.sender = found.group(1)
        if self.fate("mail451"):
            self.sender = None
            self.say("451 4.3.0 sink: later")
            return True
        self.say("250 2.1.0 sender ok")
        return True

    def rcpt(self, rest):
        found = re.fullmatch(r"TO:<([^<> ]+)>((?: [^ ]+)*)", rest, re.I)
        if self.sender is None:
            self.say("503 5.5.1 MAIL first")        # a pipelining client cannot know
            return True
        if not found:
            self.sink.fault("RCPT malformed: " + rest[:60])
            self.say("501 5.5.4 no")
            return True
        if found.group(2):
            self.sink.fault("a parameter that was not offered: " + found.group(2))
        if self.wire.buffer:
            self.sink.pipelined += 1
        rcpt = found.group(1)
        kind = rcpt.partition("-")[0]
        if self.fate("rcpt421"):
            self.say("421 4.3.2 sink: closing")
            return False
        if self.sender.startswith("many452-") and len(self.rcpts) == 30:
            self.say("452 4.5.3 sink: enough for one")
        elif kind in ("perm", "gone"):
            self.say("550 5.1.1 sink: nobody here")
        elif kind == "tmp" and self.sink.first(rcpt):
            self.say("450 4.2.1 sink: not yet")
        else:
            self.rcpts.append(rcpt)
            self.say("250 2.1.5 recipient ok")
        return True

    def data(self):
        self.alone("DATA")
        if self.sender is None or not self.rcpts or self.chunks is not None:
            self.say("503 5.5.1 no recipients")
            return True
        if self.fate("data451"):
            self.say("451 4.3.0 sink: later")
            self.reset()
            return True
        self.say("354 go")
        if self.fate("cut"):
            self.wire.octets(100)
            return False
        text = self.wire.text()
        if re.search(rb"^\.(?!\.)", text, re.M):
            self.sink.fault("a line begins with one dot")
        return self.done(re.sub(rb"^\.", b"", text, flags=re.M))

    def bdat(self, rest):
        found = re.fullmatch(r"(\d+)( LAST)?", rest.strip(), re.I)
        if not found:
            self.sink.fault("BDAT malformed")
            self.say("501 5.5.4 no")
            return False
        if self.fate("cut"):
            return False
        chunk = self.wire.octets(int(found.group(1)))
        if self.sender is None or not self.rcpts:
            self.say("503 5.5.1 no recipients")
            return True
        self.chunks = (self.chunks or []) + [chunk]
        if self.fate("data451"):
            self.say("451 4.3.0 sink: later")
            self.reset()
            return True
        if not found.group(2):
            self.say("250 2.0.0 chunk ok")
            return True
        with self.sink.lock:
            self.sink.chunked += 1
        return self.done(b"".join(self.chunks))

    def done(self, data):
        if self.fate("dot451"):
            self.say("451 4.3.0 sink: later")
        elif self.fate("dot554"):
            self.say("554 5.6.0 sink: never")
        elif self.fate("dot421"):
            self.say("421 4.3.2 sink: closing")
            return False
        else:
            self.sink.take(self.sender, self.rcpts, data)
            self.say("250 2.0.0 sink: noted")
        self.reset()
        return True


class Refused(Exception):
    pass


class Client:
    """Says a transaction in one of three ways: "step" by step, "pipelined", or in chunks by "bdat" where offered."""

    def __init__(self, port, patience=60):
        self.wire = Wire(socket.create_connection(("127.0.0.1", port), timeout=patience), patience)
        self.expect(220)
        self.send("EHLO client.test.example")
        self.offers = [line[4:].partition(" ")[0].upper() for line in self.expect(250)[1:]]

    def send(self, line):
        self.wire.send(line.encode() + b"\r\n")

    def reply(self):
        lines = []
        while True:
            lines.append(self.wire.line().decode("latin-1"))
            if lines[-1][3:4] != "-":
                return lines

    def expect(self, code):
        lines = self.reply()
        if not lines[0].startswith(str(code)):
            raise Refused(f"wanted {code}, got {lines[-1]}")
        return lines

    def deliver(self, m, way):
        body = " BODY=8BITMIME" if m.kind == "eightbit" and "8BITMIME" in self.offers else ""
        commands = [f"MAIL FROM:<{m.sender}>{body}"] + [f"RCPT TO:<{rcpt}>" for rcpt in m.rcpts]
        bdat = way == "bdat" and "CHUNKING" in self.offers
        if way == "step" or "PIPELINING" not in self.offers:
            for command in commands:
                self.send(command)
                self.expect(250)
        else:
            self.wire.send("".join(c + "\r\n" for c in commands + ([] if bdat else ["DATA"])).encode())
            for _ in commands:
                self.expect(250)
        if bdat:
            self.chunks(m.data)
            return
        if way == "step" or "PIPELINING" not in self.offers:
            self.send("DATA")
        self.expect(354)
        self.wire.send(re.sub(rb"^\.", b"..", m.data, flags=re.M) + b".\r\n")
        self.expect(250)

    def chunks(self, data):
        """In three chunks; the last one empty for every other length. All in one write when the text is short."""
        cut = len(data) // 3
        parts = [data[:cut], data[cut:]] + ([b""] if len(data) % 2 else [])
        wire = b""
        for i, part in enumerate(parts):
            wire += b"BDAT %d%s\r\n" % (len(part), b" LAST" if i == len(parts) - 1 else b"") + part
        self.wire.send(wire)
        for _ in parts:
            self.expect(250)

    def quit(self):
        try:
            self.send("QUIT")
            self.expect(221)
        finally:
            self.wire.close()
