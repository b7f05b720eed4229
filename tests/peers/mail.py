"""The mails of the test bed: what is sent, and what must come out of the far end.

Local parts say what the sink answers, so that anyone can tell what must become of a recipient:
  ok-...    taken                          tmp-...   450 the first time, then taken
  perm-...  550 always                     gone-...  550 always, a peer that is the next hop refuses it at RCPT itself
Senders say what befalls the whole transaction, the first time only where it is no 5xx: mail451, data451, dot451,
dot554, rcpt421 (and hangs up), dot421 (and hangs up), cut (hangs up inside the text), many452 (at most 30 recipients at
once).
"""

import dataclasses
import hashlib
import random
import re

DOMAIN = "test.example"
FATES = ("mail451", "data451", "dot451", "dot554", "rcpt421", "dot421", "cut", "many452")
# Fields that a relay may add on the way.
TRACE = {b"received", b"return-path", b"delivered-to", b"x-original-to", b"envelope-to", b"delivery-date",
         b"authentication-results"}


@dataclasses.dataclass
class Mail:
    ident: str
    kind: str
    sender: str
    rcpts: list
    data: bytes             # CRLF lines, not dot-stuffed

    def fate(self, rcpt):
        """What must become of a recipient: "delivered" or "failed"."""
        if self.sender.startswith("dot554") or rcpt.startswith(("perm-", "gone-")):
            return "failed"
        return "delivered"


def fields(header):
    """The fields of a header block, each with its folds and last CRLF."""
    return re.findall(rb"[^\r\n][^\n]*\n(?:[ \t][^\n]*\n)*", header)


def split(data):
    """Header block (with its last CRLF) and the rest from the empty line on."""
    at = data.find(b"\r\n\r\n")
    return (data, b"") if at < 0 else (data[: at + 2], data[at + 2:])


def digest(data):
    """A hash of all but the trace fields."""
    header, rest = split(data)
    h = hashlib.sha256()
    for field in fields(header):
        if field.split(b":", 1)[0].strip().lower() not in TRACE:
            h.update(field)
    h.update(rest)
    return h.hexdigest()


def ident_of(data):
    found = re.search(rb"^X-Test-Id: (\S+)\r$", split(data)[0], re.M)
    return found.group(1).decode() if found else None


class Generator:
    def __init__(self, prefix, seed):
        self.prefix = prefix
        self.random = random.Random(seed)
        self.count = 0

    def words(self, n):
        line = "".join(self.random.choice("abcdefghij klmnop qrstuvwxyz0123456789") for _ in range(n))
        return line.strip().encode() or b"x"

    def lines(self, size):
        out = []
        while size > 0:
            out.append(self.words(self.random.randint(1, 76)))
            size -= len(out[-1]) + 2
        return out

    def text(self, kind):
        r = self.random
        if kind == "empty":
            return []
        if kind == "dots":
            choice = [b".", b"..", b".x", b"...", b". ", b"x.", b".\t."]
            return [r.choice(choice) for _ in range(r.randint(1, 30))]
        if kind == "long":
            return [b"y" * n for n in (998, r.randint(900, 998), 997, 998)] * r.randint(1, 4)
        if kind == "eightbit":
            some = (0xc3, 0xa9, 0xe9, 0xff, 0x80, 0x20, 0x41)
            return [bytes(r.choice(some) for _ in range(70)) + b"z" for _ in range(20)]
        if kind == "blank":
            head = [b"", b"", b"From me to you", b">From you", b"  two before", b"two behind  ", b"\ttab\t", b" "]
            return head + [b""] * r.randint(1, 9)
        if kind == "big":
            line = self.words(74)
            return [line[:74].ljust(74, b"z")] * (20_000_000 // 76)
        return self.lines(r.randint(200, 6000))

    def make(self, kind, rcpts, fate=None):
        self.count += 1
        ident = f"{self.prefix}-{self.count}"
        rcpts = [f"{kind_of}-{ident}-{i}@{DOMAIN}" for i, kind_of in enumerate(rcpts)]
        sender = f"{fate or 'from'}-{ident}@{DOMAIN}"
        header = [
            f"From: Some One <{sender}>",
            f"To: {rcpts[0]}" if len(rcpts) < 3 else "To: everyone:;",
            f"Subject: {kind} {self.count}",
            "Date: Mon, 23 Nov 2026 18:05:40 +0000",
            f"Message-ID: <{ident}@{DOMAIN}>",
            f"X-Test-Id: {ident}",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=iso-8859-1" if kind == "eightbit" else "Content-Type: text/plain",
            "Content-Transfer-Encoding: " + ("8bit" if kind == "eightbit" else "7bit"),
        ]
        if kind == "header":
            header += [f"X-Field-{i}: " + "\r\n\t".join(self.words(60).decode() for _ in range(5)) for i in range(20)]
            header += ["X-Empty:", "X-Odd:no blank", "X-Colon: a: b: c", "x-lower: case"]
        data = b"\r\n".join([h.encode() for h in header] + [b""] + self.text(kind)) + b"\r\n"
        return Mail(ident, kind, sender, rcpts, data)

    def batch(self, refused_by_peer):
        """Some five hundred mails of all kinds, in a mixed order."""
        r = self.random
        mails = []
        for kind, n in (("small", 190), ("empty", 40), ("dots", 60), ("long", 40), ("eightbit", 50), ("blank", 40),
                        ("header", 20)):
            mails += [self.make(kind, ["ok"] * r.choice((1, 1, 1, 2, 3))) for _ in range(n)]
        for fate in FATES:
            rcpts, n = (60, 2) if fate == "many452" else (2, 5)
            mails += [self.make("small", ["ok"] * rcpts, fate) for _ in range(n)]
        for i in range(12):
            mails.append(self.make("small", ["ok", "tmp", "perm"][i % 3:] or ["perm"]))
        for i in range(10 if refused_by_peer else 2):
            mails.append(self.make("small", ["gone", "ok"][: 1 + i % 2]))
        for _ in range(3):
            hundred = ["ok"] * 80 + ["tmp"] * 10 + ["perm"] * 10
            r.shuffle(hundred)
            mails.append(self.make("small", hundred))
        mails += [self.make("big", ["ok"]) for _ in range(2)]
        r.shuffle(mails)
        return mails
