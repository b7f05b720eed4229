"""The life of Debian's packages in a bare Debian 12: what their scripts do, what dpkg says of it, and what mail meets meanwhile. In mount and network
namespaces of its own (tests/suite.d/39-package.sh), as root."""
import atexit
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import smtplib
import socket
import stat
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "kit"))
from checks import PATIENCE, check, count, done, until, whole_lines  # noqa: E402
from manager import Manager  # noqa: E402

TOP = os.path.realpath(f"{HERE}/../..")
BUILD = os.path.join(TOP, os.environ.get("WAYPOST_BUILD", "build"))
WAYPOST = f"{BUILD}/waypost"
CONF = "/etc/waypost/waypost.conf"
SINK = 2600                     # where the next hop is, when it is up
OURS = "waypost"

TOLD = f"""
backend inside {{ server 127.0.0.1:{SINK} }}
relay_domain example.com {{ backend inside; recipients any }}
route default {{ via inside }}
"""


def run(*argv, **more):
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, **more)


def packages(version=None):
    """Make them; {name: path}."""
    out = tempfile.mkdtemp(prefix="packages-", dir=TMP)
    env = dict(os.environ, WAYPOST_PACKAGES=out, WAYPOST_BUILD=BUILD)
    got = run(f"{TOP}/packaging/deb.sh", *([version] if version else []), env=env)
    if not check(got.returncode == 0, "deb.sh", got):
        done()
    return {os.path.basename(p).split("_")[0]: p for p in glob.glob(f"{out}/*.deb")}


class Debian:
    """A copy of the bare Debian, with our manager in it."""

    def __init__(self, base):
        self.root = f"{TMP}/root"
        subprocess.run(["cp", "-a", base, self.root], check=True)
        os.makedirs(f"{self.root}/proc", exist_ok=True)
        subprocess.run(["mount", "--bind", "/proc", f"{self.root}/proc"], check=True)
        self.log = open(f"{TMP}/log", "ab")
        self.manager = Manager(self.root, "waypost.service", self.log)

    def run(self, *argv, user=None, **more):
        by = ["setpriv", "--reuid", user, "--regid", user if user == OURS else "nogroup", "--clear-groups"] if user else []
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        if "input" in more:
            return subprocess.run(["chroot", self.root, *by, *argv], capture_output=True, text=True, timeout=PATIENCE, env=env, **more)
        return run("chroot", self.root, *by, *argv, env=env, **more)

    def dpkg(self, *argv):
        return self.run("dpkg", "--force-unsafe-io", *argv)

    def install(self, *paths):
        """Nobody is there to be asked: a question would be an end of file, and an error."""
        for path in paths:
            shutil.copy(path, f"{self.root}/root/")
        got = self.dpkg("--install", *(f"/root/{os.path.basename(p)}" for p in paths))
        for path in paths:
            os.unlink(f"{self.root}/root/{os.path.basename(path)}")
        return got

    def waypost(self, *argv):
        return self.run("waypost", *argv)

    def read(self, path):
        with open(self.root + path) as f:
            return f.read()

    def write(self, path, text):
        with open(self.root + path, "w") as f:
            f.write(text)

    def what(self, path):
        """(mode, user, group) of it."""
        st = os.lstat(self.root + path)
        uid, gid = self.manager.uid_of(OURS)
        return oct(stat.S_IMODE(st.st_mode)), OURS if st.st_uid == uid else st.st_uid, OURS if st.st_gid == gid else st.st_gid

    def files(self):
        """All there is, but what dpkg keeps of itself and what is mounted."""
        found = {}
        for folder, below, names in os.walk(self.root):
            at = folder[len(self.root):] or "/"
            below[:] = [b for b in below if os.path.join(at, b) not in ("/proc", "/sys", "/dev", "/run/manager", "/var/lib/dpkg", "/root")]
            for name in below + names:
                path = os.path.join(folder, name)
                st = os.lstat(path)
                held = ""
                if stat.S_ISREG(st.st_mode):
                    with open(path, "rb") as f:
                        held = hashlib.sha256(f.read()).hexdigest()
                elif stat.S_ISLNK(st.st_mode):
                    held = os.readlink(path)
                found[os.path.join(at, name)] = (st.st_mode, st.st_uid, st.st_gid, held)
        return found

    def end(self):
        self.manager.end()
        self.log.close()


class Sink:
    """The next hop; up between start() and stop()."""

    def __init__(self):
        self.dir, self.p = f"{TMP}/sink", None
        os.mkdir(self.dir)
        atexit.register(self.stop)

    def start(self):
        self.p = subprocess.Popen([WAYPOST, "sink", "-l", f"127.0.0.1:{SINK}", "--capture", self.dir], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        check(until(lambda: reachable(SINK)), "the next hop is up")

    def stop(self):
        if self.p and self.p.poll() is None:
            self.p.terminate()
            self.p.wait(PATIENCE)

    def has(self, text):
        for path in glob.glob(f"{self.dir}/*"):
            with open(path, "rb") as f:
                if text.encode() in f.read():
                    return True
        return False


def reachable(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def send(port, subject, to="ann@example.com"):
    with smtplib.SMTP("127.0.0.1", port, "client.example", PATIENCE) as s:
        return s.sendmail("bob@example.org", [to], f"Subject: {subject}\r\n\r\nbody\r\n")


def refusal(port, to):
    try:
        send(port, "no", to)
    except smtplib.SMTPRecipientsRefused as e:
        return e.recipients[to][0]
    return 250


def listening():
    """What listens over TCP in our network namespace: {(hexadecimal address, port)}."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in whole_lines(f"/proc/net/{name}")[1:]:
            word = line.split()
            if word[3] == "0A":
                addr, port = word[1].split(":")
                found.add((addr, int(port, 16)))
    return found


def status(pid):
    return dict(line.split(":\t", 1) for line in whole_lines(f"/proc/{pid}/status"))


def child_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(word) for word in f.read().split()]


def waiting(d):
    got = d.waypost("queue", "list", "--json")
    return got.stdout.count('"id"') if got.returncode == 0 else -1


def installed(d, sink):
    """As it comes: it runs, as who it should, and does nothing."""
    manager = d.manager
    got = d.install(FIRST["waypost"])
    check(got.returncode == 0 and not got.stderr, "it installs", got)
    check(("start waypost.service", 0) in manager.asked and manager.active(), "its service is enabled and started", manager.asked, log())
    with open(f"{d.root}/etc/passwd") as f:
        mine = [line.rstrip("\n").split(":") for line in f if line.startswith(OURS + ":")]
    check(len(mine) == 1 and 100 <= int(mine[0][2]) < 1000 and mine[0][5:] == ["/var/lib/waypost", "/usr/sbin/nologin"], "a system user", mine)
    check(d.what("/var/lib/waypost") == ("0o750", OURS, OURS), "whose state is", d.what("/var/lib/waypost"))
    check(d.what(CONF) == ("0o644", 0, 0), "and whose configuration is not")
    got = d.waypost("check")
    check(got.returncode == 0 and got.stdout == f"{CONF}: good\n", "the configuration is good", got)
    check(listening() == {("0100007F", 2525)}, "only loopback is listened on", listening())
    for to in ("ann@example.com", "postmaster", "postmaster@localhost.localdomain", "root@localhost", "ann@[127.0.0.1]"):
        check(refusal(2525, to) // 100 == 5, "nothing is relayed or taken", to, refusal(2525, to))
    main = manager.process.pid
    uid = str(manager.uid_of(OURS)[0])
    bind = f"{1 << 10:016x}"
    for pid, cap in ((main, bind), *((child, "0" * 16) for child in child_of(main))):
        s = status(pid)
        check(s["Uid"].split() == [uid] * 4 and s["CapEff"] == s["CapPrm"] == cap and s["CapBnd"] == bind and s["NoNewPrivs"] == "1", "who it runs as", s)
    check(len(child_of(main)) == 1, "the parent and its worker")
    got = d.dpkg("--verify", "waypost")
    check(got.returncode == 0 and not got.stdout, "dpkg --verify", got)
    for path in ("/usr/share/man/man8/waypost.8.gz", "/usr/share/man/man5/waypost.conf.5.gz", "/usr/lib/sysctl.d/50-waypost.conf",
                 "/usr/share/bash-completion/completions/waypost", "/usr/share/doc/waypost/examples/waypost.socket"):
        check(os.path.exists(d.root + path), "there is", path)


def told(d, sink):
    """The admin says what to relay."""
    text = d.read(CONF)
    changed = "\n".join(line for line in text.split("\n") if not line.startswith("route untold"))
    changed = changed.replace("postmaster@localhost.localdomain #", "postmaster@example.com #").replace("listen smtp 127.0.0.1:2525", "listen smtp 127.0.0.1:25")
    d.write(CONF, changed + TOLD)
    check(d.manager.tell("reload") == 0, "a reload, as the unit says", log())
    check(listening() == {("0100007F", 25)}, "a port below 1024", listening())
    sink.start()
    check(send(25, "first mail") == {} and until(lambda: sink.has("first mail")), "mail goes through", log())
    check(refusal(25, "ann@elsewhere.example") // 100 == 5, "and not to others")
    sink.stop()
    check(send(25, "waits for long") == {} and waiting(d) == 1, "mail waits", log())


def sendmail(d, sink):
    got = d.install(FIRST["waypost-sendmail"])
    check(got.returncode == 0, "the links install", got)
    check(d.what("/var/spool/waypost-drop") == ("0o1733", OURS, OURS), "the drop directory", d.what("/var/spool/waypost-drop"))
    check(("try-restart waypost.service", 0) in d.manager.asked and d.manager.active(), "the relay sees it", d.manager.asked, log())
    for name in ("/usr/sbin/sendmail", "/usr/lib/sendmail", "/usr/bin/mailq", "/usr/bin/newaliases"):
        check(os.path.realpath(f"{d.root}{name}").endswith("/usr/bin/waypost"), name)
    check(not any(os.lstat(f"{d.root}/usr/bin/waypost").st_mode & bit for bit in (stat.S_ISUID, stat.S_ISGID)), "nothing is set-uid")
    got = d.run("sendmail", "ann@example.com", user="nobody", input="Subject: by socket\n\nbody\n")
    check(got.returncode == 0 and until(lambda: waiting(d) == 2), "sendmail to the running relay", got, log())
    check(d.manager.tell("stop") == 0, "it stops")
    got = d.run("sendmail", "ann@example.com", user="nobody", input="Subject: by drop\n\nbody\n")
    check(got.returncode == 0 and len(os.listdir(f"{d.root}/var/spool/waypost-drop")) == 1, "sendmail while it is down", got)
    check(d.manager.tell("start") == 0 and until(lambda: waiting(d) == 3), "is taken in later", log())
    got = d.run("mailq")
    check(got.returncode == 0 and got.stdout.count("example.com") == 3, "mailq", got)
    got = d.dpkg("--verify", "waypost-sendmail")
    check(got.returncode == 0 and not got.stdout, "dpkg --verify of the links", got)
    fields = {name: run("dpkg-deb", "-f", path, "Provides", "Conflicts", "Replaces").stdout for name, path in FIRST.items()}
    check("Conflicts: mail-transport-agent" in fields["waypost-sendmail"] and "Provides: mail-transport-agent" in fields["waypost-sendmail"] and
          not fields["waypost"], "only the links stand in for other mail servers", fields)


def upgraded(d, sink):
    """A session in the middle of a message goes on to its 250 while the new version is installed; one that connects meanwhile waits and is served."""
    before = d.read(CONF), d.manager.process.pid
    s = smtplib.SMTP("127.0.0.1", 25, "client.example", PATIENCE)
    s.ehlo()
    s.mail("bob@example.org")
    s.rcpt("ann@example.com")
    s.putcmd("data")
    check(s.getreply()[0] == 354, "a message is under way")
    s.send("Subject: through an upgrade\r\n\r\n")
    mark = os.path.getsize(f"{TMP}/log")
    result = []
    t = threading.Thread(target=lambda: result.append(d.install(*SECOND.values())))
    t.start()
    check(until(lambda: "draining" in log(mark) or not t.is_alive()) and t.is_alive(), "the old version drains, and waits", log(mark))
    late = socket.create_connection(("127.0.0.1", 25), PATIENCE)
    s.send("body\r\n.\r\n")
    check(s.getreply()[0] == 250, "the session ends well")
    t.join(PATIENCE)
    check(not t.is_alive() and result[0].returncode == 0, "it upgrades, and asks nothing", result, log(mark))
    check(("restart waypost.service", 0) in d.manager.asked and d.manager.active() and d.manager.process.pid != before[1], "it was restarted", d.manager.asked)
    check(late.recv(4) == b"220 ", "who came meanwhile is served by the new one")
    late.close()
    s.close()
    check(d.read(CONF) == before[0] and not glob.glob(f"{d.root}{CONF}.*"), "the changed configuration is kept")
    check(d.run("dpkg-query", "-W", "-f", "${Version}", "waypost").stdout == NEWER, "the version is the new one")
    check(until(lambda: waiting(d) == 4), "all mail still waits", waiting(d), log(mark))
    got = d.dpkg("--verify", "waypost")
    check(got.stdout.split() == ["??5??????", "c", CONF], "dpkg --verify knows what was changed", got)

    # A configuration that the next version cannot load does not end the relay that runs on it.
    d.write(CONF, before[0] + "\nno_such_directive on\n")
    pid = d.manager.process.pid
    got = d.install(*FIRST.values())
    check(got.returncode == 0 and "no_such_directive" in got.stderr and "not restarted" in got.stderr, "an error is told", got)
    check(d.manager.active() and d.manager.process.pid == pid and send(25, "still there") == {}, "and the old relay goes on", log())
    d.write(CONF, before[0])
    got = d.install(*SECOND.values())
    check(got.returncode == 0 and d.manager.process.pid != pid and until(lambda: waiting(d) == 5), "mended", got, log())


def removed(d, sink, before):
    got = d.dpkg("--remove", "waypost-sendmail", "waypost")
    check(got.returncode == 0 and "5 messages still wait" in got.stderr, "it is removed, and tells what still waits", got)
    check(("stop waypost.service", 0) in d.manager.asked and not d.manager.active(), "it was stopped", d.manager.asked)
    check(not os.path.exists(f"{d.root}/usr/bin/waypost") and os.path.exists(f"{d.root}{CONF}"), "the program goes, the configuration stays")
    check(os.listdir(f"{d.root}/var/lib/waypost") != [], "and so does mail")
    got = d.install(*SECOND.values())
    check(got.returncode == 0 and d.manager.active() and until(lambda: waiting(d) == 5), "installed again, it knows its mail", got, log())
    sink.start()
    check(d.waypost("queue", "retry", "--all").returncode == 0, "another try")
    for subject in ("waits for long", "by socket", "by drop", "through an upgrade", "still there"):
        check(until(lambda: sink.has(subject)), "it arrives", subject, log())  # noqa: B023
    check(until(lambda: waiting(d) == 0), "nothing waits")
    sink.stop()
    drop, local = f"{d.root}/var/spool/waypost-drop", f"{d.root}/run/waypost/local.sock"
    got = d.dpkg("--remove", "waypost-sendmail")
    check(got.returncode == 0 and os.path.isdir(drop) and d.manager.tell("restart") == 0 and os.path.exists(local), "without the links the rest stays", got, log())
    got = d.dpkg("--purge", "waypost-sendmail")
    check(got.returncode == 0 and not got.stderr and not os.path.exists(drop), "their purge takes the directory", got)
    check(d.manager.asked[-1] == ("reload waypost.service", 0) and not os.path.exists(local) and d.manager.active(), "and tells the relay", d.manager.asked[-1], log())
    got = d.dpkg("--remove", "waypost")
    check(got.returncode == 0 and not got.stderr, "removed", got)
    got = d.dpkg("--purge", "waypost")
    check(got.returncode == 0 and not got.stderr, "purged", got)

    after = d.files()
    # Debian's accounts stay; useradd keeps a copy of each file it changes, dpkg writes a log, ldconfig and man-db caches.
    may = {f"/etc/{name}{old}" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid") for old in ("", "-")}
    may |= {"/var/log/dpkg.log", "/var/log/alternatives.log", "/var/cache/ldconfig/aux-cache", "/etc/.pwd.lock", "/var/log", "/run/adduser"}
    differ = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p) and p not in may)
    check(not differ, "nothing is left, nothing else was touched", differ)
    left = [line for line in d.read("/etc/passwd").split("\n") if OURS in line]
    check(len(left) == 1, "but the account, whose number must not become another's", left)
    check(not d.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", "waypost*").stdout.strip(), "dpkg has forgotten it")


def contained(d, sink):
    """packaging/Containerfile, as far as it goes without an engine: its last stage's own words for user, files, start and health, on a read-only
    root with the volume alone to write in, no capability, and our package where it has apt fetch it."""
    with open(f"{TOP}/packaging/Containerfile") as f:
        stage = f.read().split("\nFROM ")[-1].split("\n")
    word = {}
    for line in stage:
        word.setdefault(line.split(" ", 1)[0], []).append(line.split(" ", 1)[-1])
    d.run("userdel", OURS)
    check(all(d.run("sh", "-ec", line).returncode == 0 for line in word["RUN"] if line.startswith("groupadd")), "a user is made")
    uid = word["USER"][0].split(":")[0]
    got = d.install(FIRST["waypost"])
    check(got.returncode == 0 and d.what("/var/lib/waypost") == ("0o750", OURS, OURS) and str(d.manager.uid_of(OURS)[0]) == uid, "the package takes that user", got)
    d.manager.tell("stop")
    shutil.copytree(f"{TOP}/packaging/container", f"{d.root}/etc/waypost", dirs_exist_ok=True)
    state = f"{d.root}{word['VOLUME'][0]}"
    shutil.rmtree(state)
    os.mkdir(state, 0o750)
    os.chown(state, int(uid), int(uid))

    mounts = [f"mount --rbind {d.root} {d.root}", f"mount -o remount,bind,ro {d.root}", f"mount -o remount,bind,rw {state}"]
    mounts.insert(0, f"mount --bind {state} {state}")
    me = ["chroot", d.root, "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", "-all"]

    def command(argv):
        return ["unshare", "--mount", "sh", "-ec", "\n".join([*mounts, f"exec {shlex.join([*me, *argv])}"])]

    start = json.loads(word["ENTRYPOINT"][0]) + json.loads(word["CMD"][0])
    health = json.loads(word["HEALTHCHECK"][0].split("CMD ", 1)[1])
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    check(run(*command(["touch", "/etc/waypost/x"]), env=env).returncode != 0 and run(*command(["touch", word["VOLUME"][0] + "/x"]), env=env).returncode == 0,
          "only the volume can be written")
    roles = {
        "untold": {},
        "gateway": {"WAYPOST_ROLE": "gateway", "WAYPOST_DOMAIN": "example.com", "WAYPOST_BACKEND": f"127.0.0.1:{SINK}"},
        "smarthost": {"WAYPOST_ROLE": "smarthost", "WAYPOST_DOMAIN": "example.org", "WAYPOST_SMARTHOST": f"127.0.0.1:{SINK}", "WAYPOST_NETWORK": "127.0.0.0/8"},
        "mx": {"WAYPOST_ROLE": "mx", "WAYPOST_DOMAIN": "example.org", "WAYPOST_NETWORK": "127.0.0.0/8"},
    }
    for role, said in roles.items():
        if said:
            said |= {"WAYPOST_POSTMASTER": "postmaster@example.com", "WAYPOST_HOSTNAME": "mx.example.com", "WAYPOST_LOG_FORM": "text"}
        got = run(*command(["waypost", "check"]), env=env | said)
        check(got.returncode == 0 and got.stdout == f"{CONF}: good\n", "the configuration is good", role, got)
    got = run(*command(["waypost", "check"]), env=env | {"WAYPOST_ROLE": "gateway"})
    check(got.returncode == 2 and '"WAYPOST_DOMAIN"' in got.stdout and '"WAYPOST_BACKEND"' in got.stdout, "what is missing is named", got)

    sink.start()
    for role in ("untold", "smarthost"):
        p = subprocess.Popen(command(start), env=env | roles[role], stdin=subprocess.DEVNULL, stdout=d.log, stderr=d.log)
        ports = [int(port) for port in word["EXPOSE"][0].split()]
        check(until(lambda: p.poll() is not None or all(map(reachable, ports))) and p.poll() is None, "it serves its ports", role, log())  # noqa: B023
        check(until(lambda: run(*command(health), env=env).returncode == 0), "it is healthy", role, log())
        s = status(p.pid)
        check(s["Uid"].split() == [uid] * 4 and s["CapEff"] == "0" * 16 and s["CapBnd"] == "0" * 16, "without any capability", s)
        if role == "untold":
            check(refusal(2525, "ann@example.com") // 100 == 5 and refusal(2587, "postmaster") // 100 == 5, "untold it takes nothing")
        else:
            with smtplib.SMTP("127.0.0.1", 2587, "client.example", PATIENCE) as c:
                c.sendmail("app@example.org", ["who@elsewhere.example"], "Subject: out of the box\r\n\r\nbody\r\n")
            check(until(lambda: sink.has("out of the box")), "mail goes out", log())
            got = run(*command(["waypost", "stats"]), env=env | roles[role])
            check(got.returncode == 0, "it can be asked", got)
        if role == "untold":
            p.terminate()
        else:
            got = run(*command(["waypost", "drain"]), env=env | roles[role])
            check(got.returncode == 0, "drain, as before a stop", got)
        check(p.wait(PATIENCE) == 0, "it ends well", log())
        check(run(*command(health), env=env).returncode != 0, "and is healthy no more", role)
    sink.stop()


def log(mark=0):
    with open(f"{TMP}/log", errors="replace") as f:
        f.seek(mark)
        return f.read()[-3000:]


def fetched():
    """Where our packages are made and the bare Debian is fetched: outside, where there is a network."""
    paths = packages(), packages(), packages(NEWER)
    for name, path in paths[0].items():
        with open(path, "rb") as a, open(paths[1][name], "rb") as b:
            check(a.read() == b.read(), "made twice it is the same", name)
    needs = run("dpkg-deb", "-f", paths[0]["waypost"], "Depends").stdout
    names = [need.split()[0] for need in needs.split(",")]
    check("libc6" in names and "libunbound8" in names, "what it needs was found by dpkg-shlibdeps", needs)
    got = subprocess.run([f"{TOP}/packaging/base.sh", *names], stdout=subprocess.PIPE, text=True)
    if not check(got.returncode == 0, "a bare Debian"):
        done()
    return paths[0], paths[2], got.stdout.strip()


def inside():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    d, sink = Debian(BASE), Sink()
    atexit.register(d.end)
    before = d.files()
    installed(d, sink)
    told(d, sink)
    sendmail(d, sink)
    upgraded(d, sink)
    removed(d, sink, before)
    contained(d, sink)
    done()


NEWER = "99.1"
if "--inside" in sys.argv:
    TMP, FIRST, SECOND, BASE = json.loads(sys.argv[2])
    open(f"{TMP}/log", "w").close()
    inside()
may = run("unshare", "--mount", "--net", "true")
if os.geteuid() != 0 or may.returncode:
    print("skipped: namespaces of our own, since we may have none:", may.stderr.strip() or "not root")
    print("0 passed, 0 failed")
    sys.exit(0)
TMP = tempfile.mkdtemp(prefix="waypost-package-")
atexit.register(shutil.rmtree, TMP)
FIRST, SECOND, BASE = fetched()
got = subprocess.run(["unshare", "--mount", "--net", sys.executable, "-B", __file__, "--inside", json.dumps([TMP, FIRST, SECOND, BASE])],
                     stdout=subprocess.PIPE, text=True)
print(got.stdout, end="")
counts = re.search(r"^(\d+) passed, (\d+) failed$", got.stdout, re.M)
if check(counts, "the test in there came to its end", got.returncode):
    count(int(counts[1]), int(counts[2]))
done()
