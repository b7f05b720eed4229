"""A queue that the real Postfix wrote, taken into a spool: `waypost spool import SPOOL --from postfix QUEUE`.

    waiting.py [--corpus DIR]     keep queue files there, to feed the fuzz target with"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from kit import Milter, NextHop, Session, free_port
from checks import any_failed, check, done, until
import servers

WAYPOST = str(servers.build() / "waypost")
LINE = b"x" * 5000


class OldPostfix(servers.Postfix):
    """Tries once and then waits for long, with its directories two deep."""
    more = """
smtpd_error_sleep_time = 0
minimal_backoff_time = 1h
maximal_backoff_time = 2h
queue_run_delay = 1h
hash_queue_depth = 2
"""


def text(ident, rest=b"text\r\n"):
    return b"Subject: " + ident + b"\r\nX-Ident: " + ident + b"\r\n\r\n" + rest


BODIES = {
    b"some": b"..two dots\r\n.one\r\n \r\nlast\r\n",
    b"utf8": "gr\u00fc\u00dfe\r\n".encode(),
    b"long": LINE + b"\r\n" + b"y" * 2048 + b"\r\n" + b"z" * 2047 + b"\r\n",
    b"large": b"".join(b"%06d " % i + b"l" * 60 + b"\r\n" for i in range(12000)),
    b"held": b"held\r\n",
    b"null": b"of nobody\r\n",
    b"empty": b"",
    b"local": b"from a program\r\n",
    b"edited": b"the old body\r\n",
}
NEW = b"a new body,\r\n" + b"with a long line " * 300 + b"\r\n.dot\r\n"


def fill(port):
    """Each to somebody whom the next hop takes never in this life of Postfix."""
    s = Session(port)
    s.say("EHLO there.example")
    said = [
        s.mail("<ann@there.example> RET=HDRS ENVID=an+2Bid BODY=8BITMIME",
               ["<now@ok.example>", '<"b b"@later.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o+2Bo@x.example', "<c@later.example> NOTIFY=NEVER"],
               text(b"some", BODIES[b"some"])),
        s.mail("<\u00e4@there.example> SMTPUTF8 BODY=8BITMIME", ["<j\u00f6rg@later.example>"], text(b"utf8", BODIES[b"utf8"])),
        s.mail("<ann@there.example>", ["<long@later.example>"], text(b"long", BODIES[b"long"])),
        s.mail("<ann@there.example>", ["<large@later.example>"], text(b"large", BODIES[b"large"])),
        s.mail("<ann@there.example>", ["<held@later.example>"], text(b"held", BODIES[b"held"])),
        s.mail("<>", ["<null@later.example>"], text(b"null", BODIES[b"null"])),
        s.mail("<ann@there.example>", ["<empty@later.example>"], b"Subject: empty\r\nX-Ident: empty\r\n\r\n"),
        s.mail("<ann@there.example>", ["<edited@later.example>", "<dropped@later.example>"],
               b"X-Gone: soon\r\n" + text(b"edited", BODIES[b"edited"])),
    ]
    s.close()
    check(all(a[:1] in "23" for m in said for a in m), "Postfix takes the mails", said)


def run(*args, stdin=None):
    return subprocess.run([WAYPOST, *map(str, args)], capture_output=True, text=True, timeout=120, check=False, stdin=stdin)


def files(queue, *which):
    return [f for q in which for f in (queue / q).rglob("*") if f.is_file()]


def made_by_postfix(folder, hop):
    """A queue directory, of a Postfix that has ended."""
    milter = Milter(b"edited")
    postfix = OldPostfix(folder / "postfix", hop.port, free_port())
    postfix.more += f"smtpd_milters = inet:127.0.0.1:{milter.port}\nmilter_protocol = 2\nmilter_default_action = accept\n"
    queue = postfix.folder / "var/spool/postfix"
    postfix.start()
    try:
        fill(postfix.port)
        sent = postfix.run("/usr/sbin/sendmail", "-t", "-i", "-f", "cron@there.example", "-N", "delay,failure", "-R", "full", "-V", "e=1",
                           text=b"To: <to@later.example>\nBcc: bcc@later.example\n" + text(b"local", BODIES[b"local"]).replace(b"\r\n", b"\n"))
        check(sent.returncode == 0, "a program hands one in", sent)
        check(until(lambda: len(files(queue, "deferred")) == len(BODIES) and not files(queue, "active", "incoming")), "all is put off",
              files(queue, "deferred", "active", "incoming"))
        check(until(lambda: len(hop.got()) == 1), "one recipient was served", hop.got())
        held = [f for f in files(queue, "deferred") if b"X-Ident: held" in f.read_bytes()]
        check(postfix.run("/usr/sbin/postsuper", "-h", held[0].name).returncode == 0, "one is held")
        refused = run("spool", "import", folder / "none", "--from", "postfix", queue)
        check(refused.returncode == 1 and "stop it first" in refused.stderr, "a queue in use is left alone", refused)
    finally:
        postfix.stop()
        milter.close()
    return queue


def spoil(queue):
    """Files that a crash, a disk or somebody else made of good ones. How many are to be refused."""
    good = next(f for f in files(queue, "deferred") if b"X-Ident: some" in f.read_bytes()).read_bytes()
    dice = random.Random(7)
    bad = {f"TORN{i}": good[:dice.randrange(len(good))] for i in range(20)}
    bad["EMPTY"] = b""
    bad["NOISE"] = dice.randbytes(3000)
    bad["NODOMAIN"] = good.replace(b"R\x0fc@later.example", b"R\x0fc.later.example")
    bad["CONTROL"] = good.replace(b"R\x0fc@later.example", b"R\x0fc\n@ater.example")
    bad["ROUND"] = good.replace(b"M\x00N", b"p\x01" + b"9M\x00N", 1)
    bad["TWOSENDERS"] = good.replace(b"M\x00N", b"S\x00M\x00N", 1)
    bad["LINEEND"] = good.replace(b"N\x01 N", b"N\x01\nN", 1)
    for name, octets in bad.items():
        f = queue / "deferred" / name
        f.write_bytes(octets)
        f.chmod(0o700)
    unfinished = queue / "incoming" / "UNFINISHED"
    unfinished.write_bytes(good)
    unfinished.chmod(0o600)
    (queue / "active" / "LINK").symlink_to("/etc/passwd")
    return len(bad) + 2


class Relay(servers.Waypost):
    """With a way out for all that the spool holds."""

    def start(self):
        self.folder.mkdir()
        config = self.folder / "waypost.conf"
        config.write_text(f"""waypost 1
hostname mx.test.example
postmaster postmaster@test.example
listen smtp 127.0.0.1:{self.port}
spool {{ dir {self.folder.parent}/spool; min_free 16MiB }}
control {self.folder}/control.sock
backend out {{ server 127.0.0.1:{self.next} }}
route default {{ via out }}
""")
        self.spawn(WAYPOST, "serve", "-c", str(config))

    def asks(self, *args):
        return run(*args, "--socket", self.folder / "control.sock")


def compare(hop, ident):
    """What came out, beside what was put in: Postfix wrote a Received field above it, and we another one."""
    got = hop.got(b"X-Ident: " + ident + b"\r\n")
    if not check(len(got) == 1, f"{ident} comes once", len(got)):
        return None
    want = text(ident, BODIES[ident])
    if ident in (b"local", b"edited"):      # whose header Postfix completed, or a filter edited
        want = b"\r\n\r\n" + (NEW if ident == b"edited" else BODIES[ident])
    return got[0] if check(got[0][2].endswith(want), f"{ident} comes whole", got[0][2][-300:]) else None


def serve(folder, arrived, hop):
    relay = Relay(folder / "relay", hop.port, free_port())
    relay.start()
    try:
        check(until(lambda: len(hop.got()) == len(BODIES) - 1), "what waited goes out", len(hop.got()), relay.told())
        lines = [json.loads(line) for line in relay.asks("queue", "list", "--json").stdout.splitlines()]
        waits = [line for line in lines if "state" in line]
        check([line["state"] for line in waits] == ["held"], "what was held is held", lines)
        when = [time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)) for t in arrived]
        check([line["accepted"][:19] for line in waits] == when, "since the time when Postfix took it", waits, when)
        relay.asks("queue", "release", "--all")
        check(until(lambda: len(hop.got()) == len(BODIES)), "and goes when it is released", relay.told())
    finally:
        relay.stop()
    mails = {ident: compare(hop, ident) for ident in BODIES}
    some = mails[b"some"]
    if some:
        check(some[0].startswith("<ann@there.example>") and "RET=HDRS" in some[0] and "ENVID=an+2Bid" in some[0],
              "sender, RET, ENVID", some[0])
        to = {r.split(">")[0]: r for r in some[1]}
        check(set(to) == {'<"b b"@later.example', "<c@later.example"}, "only who was not served yet, quoted where need be", some[1])
        check("NOTIFY=SUCCESS,DELAY" in to.get('<"b b"@later.example', "") and "ORCPT=rfc822;o+2Bo@x.example" in to.get('<"b b"@later.example', ""),
              "NOTIFY and ORCPT", some[1])
        check("NOTIFY=NEVER" in to.get("<c@later.example", ""), "NOTIFY=NEVER", some[1])
    local = mails[b"local"]
    if local:
        check("RET=FULL" in local[0] and "ENVID=e+3D1" in local[0] and sorted(r.split(">")[0] for r in local[1]) == ["<bcc@later.example", "<to@later.example"]
              and all("NOTIFY=FAILURE,DELAY" in r for r in local[1]), "what sendmail was told", local[:2])
    edited = mails[b"edited"]
    if edited:
        header = b"\r\n" + edited[2].split(b"\r\n\r\n")[0] + b"\r\n"
        check(b"\r\nX-Milter: was here,\r\n\tand folded\r\n" in header and b"\r\nSubject: changed, and much longer than it was before\r\n" in header
              and b"X-Gone" not in header and b"Subject: edited" not in header, "what a filter edited is edited", header)
        check(sorted(r.split(">")[0] for r in edited[1]) == ["<added@later.example", "<edited@later.example"], "and its recipients", edited[1])
    if mails[b"null"]:
        check(mails[b"null"][0].startswith("<>"), "the null sender", mails[b"null"][0])
    if mails[b"utf8"]:
        check("SMTPUTF8" in mails[b"utf8"][0] and "BODY=8BITMIME" in mails[b"utf8"][0] and mails[b"utf8"][1][0].startswith("<j\u00f6rg@later.example>"), "SMTPUTF8", mails[b"utf8"][:2])


def main():
    folder = servers.pathlib.Path(tempfile.mkdtemp(prefix="waypost-import-"))
    first = NextHop(answer=lambda r: "451 4.2.0 later" if "later.example" in r else "250 2.1.5 ok")
    second = NextHop()
    try:
        queue = made_by_postfix(folder, first)
        if "--corpus" in sys.argv:
            for f in files(queue, "deferred", "hold"):
                if f.stat().st_size < 20000:
                    shutil.copy(f, servers.pathlib.Path(sys.argv[-1]) / f"postfix-{f.stat().st_size}")
        bad = spoil(queue)
        before = {f: f.read_bytes() for f in files(queue, "incoming", "active", "deferred", "hold")}
        arrived = [int(f.read_bytes().split(b"create_time=")[1][:10]) for f in files(queue, "hold")]

        (folder / "spool").mkdir(mode=0o700)
        os.chown(folder / "spool", 65534, 65534)        # a relay of that user's ran here
        said = run("spool", "import", folder / "spool", queue, "--json")    # known by its directories
        lines = [json.loads(line) for line in said.stdout.splitlines()]
        result = {r: [line for line in lines if line.get("result") == r] for r in ("taken", "held", "refused", "settled", "known")}
        check(said.returncode == 1, "some were refused, and the exit code says so", said)
        check(len(result["taken"]) == len(BODIES) - 1 and len(result["held"]) == 1, "what waits is taken", lines)
        check(len(result["refused"]) == bad and all(line["reason"] for line in result["refused"]), "what is none is refused, with a reason each", bad, lines)
        check(lines[-1] == {"taken": len(BODIES), "recipients": len(BODIES) + 3, "held": 1, "settled": 0, "known": 0, "refused": bad}, "the sum", lines[-1])
        check({f.stat().st_uid for f in (folder / "spool").iterdir()} == {65534}, "the spool's files are its user's")
        check(before == {f: f.read_bytes() for f in files(queue, "incoming", "active", "deferred", "hold")}, "Postfix' queue is as it was")

        again = run("spool", "import", folder / "spool", "--from", "postfix", queue)
        check("0 messages taken" in again.stdout and f"{len(BODIES)} in the spool already" in again.stdout, "and nothing twice", again.stdout[-300:])
        check(run("spool", "verify", folder / "spool").returncode == 0, "the spool is sound")
        serve(folder, arrived, second)
        if any_failed():
            print(said.stdout[-3000:], said.stderr)
    finally:
        first.close()
        second.close()
        servers.remove(folder)


if not servers.peers_ready():
    print("waiting.py: there are no peers here (packaging/peers.sh): skipped")
    print("1 passed, 0 failed")
    sys.exit(0)
main()
done()
