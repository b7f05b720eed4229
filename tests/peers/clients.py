#!/usr/bin/python3
"""The clients that people reach for: swaks, msmtp, curl and Python's smtplib, each through the relay to the sink.

  clients.py [--relay waypost|none|postfix|exim|opensmtpd]"""

import argparse
import os
import pathlib
import signal
import smtplib
import subprocess
import sys
import tempfile
import time

import mail
import servers
import smtp

KINDS = ("small", "empty", "dots", "long", "eightbit", "blank", "header")


def command(*args, text=None, wanted=0):
    done = subprocess.run(args, input=text, capture_output=True, timeout=60)
    if (done.returncode == 0) != (wanted == 0):
        said = (done.stdout[-400:] + done.stderr[-400:]).decode(errors="replace")
        raise RuntimeError(f"{args[0]} ended with {done.returncode}: {said}")


class Swaks:
    name = "swaks"
    unlike = ("empty",)     # it cannot send a text without a line

    def __init__(self, port, folder):
        self.port, self.folder, self.count = port, folder, 0

    def send(self, m, wanted=0):
        path = self.folder / "swaks.eml"
        path.write_bytes(m.data[:-2])       # it ends the last line itself
        self.count += 1
        way = (["--pipeline"], [], ["--protocol", "SMTP"], ["--quit-after", "DATA"])[self.count % 3]
        command("swaks", "--server", f"127.0.0.1:{self.port}", "--helo", "swaks.test.example", "--from", m.sender,
                "--to", ",".join(m.rcpts), "--data", f"@{path}", "--timeout", "20", *way, wanted=wanted)


class Msmtp:
    name = "msmtp"
    unlike = ()

    def __init__(self, port, folder):
        self.port = port

    def send(self, m, wanted=0):
        command("msmtp", "--file=/dev/null", "--host=127.0.0.1", f"--port={self.port}", f"--from={m.sender}",
                "--domain=msmtp.test.example", "--timeout=20", "--", *m.rcpts,
                text=m.data.replace(b"\r\n", b"\n"), wanted=wanted)


class Curl:
    name = "curl"
    unlike = ()

    def __init__(self, port, folder):
        self.port, self.folder = port, folder

    def send(self, m, wanted=0):
        path = self.folder / "curl.eml"
        path.write_bytes(m.data)
        to = [word for rcpt in m.rcpts for word in ("--mail-rcpt", rcpt)]
        command("curl", "--silent", "--show-error", "--max-time", "30",
                f"smtp://127.0.0.1:{self.port}/curl.test.example", "--mail-from", m.sender, *to,
                "--upload-file", str(path), wanted=wanted)


class Smtplib:
    """One connection for all of its mails, with the small talk that other clients leave out."""

    name = "smtplib"
    unlike = ()

    def __init__(self, port, folder):
        self.port, self.connection = port, None

    def send(self, m, wanted=0):
        if self.connection is None:
            self.connection = smtplib.SMTP("127.0.0.1", self.port, "smtplib.test.example", timeout=30)
            self.connection.ehlo()
            self.connection.noop()
            self.connection.mail("nobody@test.example")
            self.connection.rset()
        options = ["BODY=8BITMIME"] if self.connection.has_extn("8bitmime") else []
        try:
            refused = self.connection.sendmail(m.sender, m.rcpts, m.data, mail_options=options)
        except smtplib.SMTPException as e:
            if not wanted:
                raise RuntimeError(f"smtplib: {e}") from e
            return
        if refused or wanted:
            raise RuntimeError(f"smtplib: refused {refused}, wanted {wanted}")

    def close(self):
        if self.connection:
            self.connection.quit()


class Raw:
    """The test bed's own, for the ways that no other client has: a chunk at a time, and a group in one write."""

    name = "raw"
    unlike = ()

    def __init__(self, port, folder):
        self.client, self.count = smtp.Client(port), 0

    def send(self, m, wanted=0):
        self.count += 1
        try:
            self.client.deliver(m, ("bdat", "pipelined", "step")[self.count % 3])
        except smtp.Refused as e:
            if not wanted:
                raise RuntimeError(f"raw: {e}") from e
            return
        if wanted:
            raise RuntimeError("raw: it was taken")

    def close(self):
        self.client.wire.close()


def run(client_type, port, sink, folder, judged):
    """One client; returns what went wrong a check."""
    make = mail.Generator(client_type.name, client_type.name)
    client = client_type(port, folder)
    kinds = [kind for kind in KINDS if kind not in client.unlike]
    mails = [make.make(kind, ["ok"] * n) for kind in kinds for n in (1, 3)] + [make.make("big", ["ok"])]
    wrong = []
    for m in mails:
        try:
            client.send(m)
        except (RuntimeError, OSError, subprocess.TimeoutExpired, smtp.Closed) as e:
            wrong.append(f"{m.ident} ({m.kind}): {e}")
    if judged:
        # Through us, but neither from nor to those that we relay for.
        stranger = make.make("small", ["ok"])
        stranger.sender, stranger.rcpts = "someone@elsewhere.example", ["other@far.example"]
        try:
            client.send(stranger, wanted=1)
        except (RuntimeError, OSError) as e:
            wrong.append(f"a stranger's mail: {e}")
    if hasattr(client, "close"):
        client.close()
    wanted = {(m.ident, rcpt): [mail.digest(m.data)] for m in mails for rcpt in m.rcpts}
    end = time.monotonic() + 20
    while time.monotonic() < end and not wanted.keys() <= sink.delivered.keys():
        time.sleep(0.1)
    with sink.lock:
        got = {key: hashes for key, hashes in sink.delivered.items() if key[0].startswith(client.name + "-")}
    kind = {m.ident: m.kind for m in mails}
    bodies = [f"{rcpt} ({kind.get(ident)}): {'another text' if got.get((ident, rcpt)) else 'not there'}"
              for ident, rcpt in wanted.keys() | got.keys() if got.get((ident, rcpt)) != wanted.get((ident, rcpt))]
    return {"handed in": wrong, "delivered": bodies}


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--relay", default="waypost", choices=["waypost", "none", *servers.PEERS])
    args = parse.parse_args()
    if args.relay == "waypost" and not servers.relay_built():
        print("clients: no relay is built: the clients against the test bed alone")
        args.relay = "none"
    relay_type = {"none": None, "waypost": servers.Waypost}.get(args.relay, servers.PEERS.get(args.relay))
    chroot = args.relay in servers.PEERS
    folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=servers.ROOTS if chroot else None))
    folder.chmod(0o755)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sink = smtp.Sink()
    sink.calm = True
    relay = relay_type(folder / "relay", sink.port) if relay_type else None
    passed = failed = 0
    try:
        if relay:
            relay.start()
        for client in (Swaks, Msmtp, Curl, Smtplib, Raw):
            checks = run(client, relay.port if relay else sink.port, sink, folder, args.relay == "waypost")
            for check, wrong in checks.items():
                passed += not wrong
                failed += bool(wrong)
                if wrong:
                    print(f"FAIL {client.name}: {check}: {len(wrong)} wrong")
                    print("".join(f"  {w}\n" for w in wrong[:8]), end="")
        if relay:
            wrong = relay.broken()
            passed += not wrong
            failed += bool(wrong)
            print("".join(f"FAIL {w}\n" for w in wrong), end="")
        # Without a relay the faults are the clients' own.
        if relay:
            passed += not sink.faults
            failed += bool(sink.faults)
            for what, n in sink.faults.items():
                print(f"FAIL wire: {what}: {n} times")
        if failed and relay:
            print("".join(f"  {line}\n" for line in relay.told()), end="")
    finally:
        if relay:
            relay.stop()
        sink.close()
        servers.remove(folder)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
