"""Ten set-ups of Postfix and what `waypost import postfix` makes of them, compared address by address: both run on loopback with the same
next hops, hear the same commands from a client of the networks and from a stranger, and must answer alike and send the same mail the same
way. Where they are wanted to differ, the set-up's `probes` say so, and why; and then they must.

    setups.py [NAME ...]        only these, such as 05-sender-relayhost; --keep leaves the files of each run"""
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback

from kit import HERE, NextHop, Session
import checks
from checks import check, until
import servers

WAYPOST = str(servers.build() / "waypost")
OWN, STRANGER = "127.0.1.5", "127.0.2.9"
BASE = """
compatibility_level = 3.6
inet_protocols = ipv4
smtpd_peername_lookup = no
smtp_host_lookup = native
smtp_dns_support_level = disabled
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
smtp_address_preference = ipv4
maillog_file = /var/log/postfix.log
queue_directory = /var/spool/postfix
data_directory = /var/lib/postfix
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
smtp_tcp_port = 1
minimal_backoff_time = 1h
maximal_backoff_time = 1h
queue_run_delay = 1h
"""
SERVICES = """
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
local unix - n n - - local
virtual unix - n n - - virtual
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Probe:
    def __init__(self, line):
        text, _, wanted = line.partition("!")
        self.who, self.sender, self.rcpt = text.split()
        self.sender = "" if self.sender == "<>" else self.sender
        self.differs = wanted.split(":")[0].split() if wanted else None
        self.name = f"{self.who} {self.sender or '<>'} -> {self.rcpt}"
        self.source = {"own": OWN, "stranger": STRANGER}[self.who]


class Hops:
    """A next hop for each %name% of a set-up."""

    def __init__(self, folder):
        self.folder, self.hops = folder, {}

    def know(self, lines):
        """"c1 knows ann bob": and nobody else."""
        for line in lines:
            name, _, *who = line.split()
            self.place(name)
            self.hops[name].answer = lambda rcpt, who=who: "250 2.1.5 ok" if rcpt.strip("<").split("@")[0] in who else "550 5.1.1 nobody here"

    def place(self, name, lmtp=False):
        if name == "own":
            return "127.0.1.0/24"
        if name == "reinject":
            return str(servers.free_port())
        if name not in self.hops:
            self.hops[name] = NextHop(name, lmtp=lmtp)
        return f"[127.0.0.1]:{self.hops[name].port}"

    def fill(self, text):
        """Those behind lmtp: speak that."""
        for before, name in re.findall(r"(lmtp:)?%(\w+)%", text):
            if before:
                self.place(name, lmtp=True)
        return re.sub(r"%(\w+)%", lambda m: self.place(m[1]), text)

    def unix(self, path):
        self.hops["boxes"] = NextHop("boxes", path=path, lmtp=True)

    def outcome(self, ident):
        """Where a message came out, to whom, and from which address."""
        mark = b"X-Ident: " + ident.encode() + b"\r\n"       # in the header: a report has it below
        return sorted((name, rcpt.split(">")[0].strip("<").lower(), peer) for name, hop in self.hops.items() for _, rcpts, data, peer in hop.got(mark)
                      if mark in data.split(b"\r\n\r\n")[0] + b"\r\n" for rcpt in rcpts)

    def close(self):
        for hop in self.hops.values():
            hop.close()


class OldPostfix(servers.Chrooted):
    """Runs on a set-up as it is, and on what the test bed needs behind it."""
    name = "postfix"

    def start(self, setup, hops):
        for path in sorted(setup.iterdir()):
            if path.name in ("probes", "hops", "master.cf"):
                continue
            text = hops.fill(path.read_text())
            where = "etc/aliases" if path.name == "aliases" and "/etc/aliases" in (setup / "main.cf").read_text() else f"etc/postfix/{path.name}"
            self.write(where, text + (BASE if path.name == "main.cf" else ""))
        main = (self.folder / "etc/postfix/main.cf").read_text()
        named = set(re.findall(r"@([\w.-]+\.example)", (setup / "probes").read_text()))    # where nothing listens: mail by MX waits
        self.write("etc/hosts", "127.0.0.1 localhost\n" + "".join(f"127.213.0.1 {name}\n" for name in sorted(named)))
        master = hops.fill((setup / "master.cf").read_text()) if (setup / "master.cf").exists() else ""
        self.write("etc/postfix/master.cf", f"127.0.0.1:{self.port} inet n - n - - smtpd\n" + SERVICES + master)
        for kind, path in re.findall(r"\b(hash):(/etc/[\w/._-]+)", main):
            tool = "/usr/sbin/postalias" if path.endswith("aliases") else "/usr/sbin/postmap"
            made = self.run(tool, f"{kind}:{path}")
            if made.returncode:
                raise RuntimeError(f"{path}: {made.stderr.decode()}")
        self.folder_of("var/spool/postfix")
        for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"):
            self.folder_of(f"var/spool/postfix/{name}", servers.Postfix.USER, 0, 0o700)
        self.folder_of("var/spool/postfix/public", servers.Postfix.USER, servers.Postfix.DROP, 0o2710)
        self.folder_of("var/spool/postfix/maildrop", servers.Postfix.USER, servers.Postfix.DROP, 0o1730)
        self.folder_of("var/spool/postfix/pid")
        self.folder_of("var/lib/postfix", servers.Postfix.USER, servers.Postfix.USER, 0o700)
        self.spawn("chroot", str(self.folder), "/usr/lib/postfix/sbin/master", "-d")

    def logs(self):
        return super().logs() + [self.folder / "var/log/postfix.log"]

    def waiting(self):
        """Idents of what lies in the queue; None while something is under way."""
        queue = self.folder / "var/spool/postfix"
        if any(f.is_file() for q in ("incoming", "active", "maildrop") for f in (queue / q).rglob("*")):
            return None
        try:
            return {i.decode() for f in (queue / "deferred").rglob("*") if f.is_file() for i in re.findall(rb"X-Ident: (\S+?)N", f.read_bytes())}
        except FileNotFoundError:
            return None


class Imported(servers.Server):
    """waypost on what the import wrote."""
    name = "waypost"

    def start(self, postfix):
        source = postfix.folder / "etc/postfix"
        master = source / "master.cf"
        text = master.read_text()
        master.write_text(text.replace(f"127.0.0.1:{postfix.port} inet", f"127.0.0.1:{self.port} inet"))
        said = subprocess.run([WAYPOST, "import", "postfix", str(source), "--root", str(postfix.folder), "--out", str(self.folder), "--json"],
                              capture_output=True, text=True, timeout=60, check=False)
        master.write_text(text)
        self.said = said
        config = self.folder / "waypost.conf"
        if said.returncode:
            raise RuntimeError(f"import: {said.returncode} {said.stdout[-3000:]} {said.stderr} {config.exists() and config.read_text()}")
        self.report = [json.loads(line) for line in said.stdout.splitlines()]
        self.config = config.read_text()
        checked = subprocess.run([WAYPOST, "check", "-c", str(config)], capture_output=True, text=True, timeout=60, check=False)
        if checked.returncode:
            raise RuntimeError(f"check: {checked.stdout} {checked.stderr}")
        config.write_text(self.config.replace("dir /var/lib/waypost/spool", f"dir {self.folder}/spool; min_free 16MiB")
                          .replace("control /run/waypost/control.sock", f"control {self.folder}/control.sock\nthreads 1\nlog {{ level warn }}\ndns {{ server 127.0.0.1:1; hosts off; timeout 1s }}")
                          .replace("unix:/", f"unix:{postfix.folder}/"))
        self.spawn(WAYPOST, "serve", "-c", str(config))

    def asks(self, *args):
        return subprocess.run([WAYPOST, *args, "--socket", str(self.folder / "control.sock")], capture_output=True, text=True, timeout=60, check=False)

    def by_mx(self, probe):
        told = self.asks("explain", "rcpt", probe.rcpt, "--from", probe.sender, "--client", probe.source)
        return bool(re.search(r"\bmx\b", told.stdout, re.I))


def rcpt(port, probe, ident):
    """Say it, and send a mail when it is taken. The class of the answer."""
    s = Session(port, probe.source)
    s.say("EHLO client.example")
    said = s.mail(f"<{probe.sender}>", [f"<{probe.rcpt}>"], f"Subject: {ident}\r\nX-Ident: {ident}\r\n\r\ntext\r\n".encode())
    s.close()
    refused = next((a for a in said[:2] if a[0] != "2"), None)
    return (refused or said[-1])[0], said


def every_line_is_told(setup, report):
    """Of each parameter that main.cf sets something is said, at its line."""
    number, wanted = 0, []
    for line in (setup / "main.cf").read_text().splitlines():
        number += 1
        found = re.match(r"(\w+)\s*=", line)
        if found:
            wanted.append((number, found[1]))
    told = {(f["line"], f["name"]) for f in report if f.get("file") == "main.cf"}
    lines = {f["line"] for f in report if f.get("file") == "main.cf"}
    return [w for w in wanted if w not in told and w[0] not in lines]


class Run:
    def __init__(self, setup, folder):
        self.setup, self.folder = setup, servers.pathlib.Path(folder)
        self.lines = []
        self.results = []

    def check(self, ok, what, *more):
        self.results.append((bool(ok), f"{self.setup.name}: {what}", more))

    def run(self):
        hops = Hops(self.folder)
        postfix, waypost = OldPostfix(self.folder / "postfix", 0), Imported(self.folder / "waypost", 0)
        try:
            if "/run/boxes.sock" in (self.setup / "main.cf").read_text():
                hops.unix(str(postfix.folder / "run/boxes.sock"))
            if (self.setup / "hops").exists():
                hops.know((self.setup / "hops").read_text().splitlines())
            postfix.start(self.setup, hops)
            waypost.start(postfix)
            self.compare(hops, postfix, waypost)
        except Exception:       # what stops one set-up does not hide the others
            self.check(False, "runs", traceback.format_exc(), postfix.told()[-5:])
        finally:
            waypost.stop()
            postfix.stop()
            hops.close()
        return self.results

    def compare(self, hops, postfix, waypost):
        missing = every_line_is_told(self.setup, waypost.report)
        self.check(not missing, "each line of main.cf is told of", missing)
        probes = [Probe(line) for line in (self.setup / "probes").read_text().splitlines() if line.strip() and line[0] != "#"]
        said = {}
        for n, p in enumerate(probes):
            ident = f"{self.setup.name}-{n}"
            said[n] = rcpt(postfix.port, p, f"p-{ident}"), rcpt(waypost.port, p, f"w-{ident}")
        until(lambda: postfix.waiting() is not None, 20)
        waits = postfix.waiting() or set()
        for n, p in enumerate(probes):
            old, new = said[n]
            if old[0] != new[0] or old[0] != "2":
                right = [old[0], new[0]] == (p.differs or [old[0], old[0]])
                self.check(right, p.name, f"Postfix {old[1][-2 if old[0] == '2' else -1]}", f"waypost {new[1]}", f"wanted {p.differs}")
                continue
            ident = f"{self.setup.name}-{n}"
            old_out = hops.outcome(f"p-{ident}")
            old_out += [("mx", p.rcpt)] if f"p-{ident}" in waits else []
            if old_out == [("mx", p.rcpt)]:
                new_out = old_out if waypost.by_mx(p) else ["not by mx"]
            elif p.differs:
                until(lambda: hops.outcome(f"w-{ident}"), 2)
                new_out = hops.outcome(f"w-{ident}")
            else:
                until(lambda: hops.outcome(f"w-{ident}") == old_out, 10)
                new_out = hops.outcome(f"w-{ident}")
            if p.differs:
                self.check(p.differs == ["2", "2"] and old_out != new_out, p.name + " differs as is said", p.differs, old_out, new_out)
            else:
                self.check(old_out == new_out, p.name, f"Postfix sends {old_out}", f"waypost sends {new_out}", waypost.told()[-3:] if old_out != new_out else "")


def main():
    keep = "--keep" in sys.argv
    names = [a for a in sys.argv[1:] if a[0] != "-"]
    setups = [s for s in sorted((HERE / "setups").iterdir()) if not names or s.name in names]
    folder = tempfile.mkdtemp(prefix="waypost-import-")
    os.chmod(folder, 0o755)
    runs = []
    for s in setups:
        os.mkdir(f"{folder}/{s.name}")
        runs.append(Run(s, f"{folder}/{s.name}"))
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for results in pool.map(Run.run, runs):
            for ok, what, more in results:
                check(ok, what, *more)
    if keep:
        print(f"kept: {folder} ({time.monotonic() - began:.1f} s)")
    else:
        servers.remove(folder)


if not servers.peers_ready():
    print("setups.py: there are no peers here (packaging/peers.sh): skipped")
    print("1 passed, 0 failed")
    sys.exit(0)
main()
checks.done()
