"""As much of a service manager as a unit file needs: in a root folder of its own, that is read-only to the service but where its unit says
otherwise, as the unit's user with the unit's capabilities. Its `systemctl` is a script in there that asks us, so that Debian's own
deb-systemd-helper and deb-systemd-invoke can be what packages call."""
import array
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import threading

PATIENCE = 60

SYSTEMCTL = """#!/bin/sh
echo "$*" >/run/manager/ask
read -r code text </run/manager/answer
[ -z "$text" ] || echo "$text"
exit "$code"
"""

# What stands between fork and exec: the descriptors from 3 on, and the environment that says whose they are.
STARTER = """import os, sys
n = int(sys.argv[1])
for i, fd in enumerate(sys.argv[2:2 + n]):
    os.dup2(int(fd), 3 + i)
if n:
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2 + n], sys.argv[2 + n:])"""


class Unit:
    def __init__(self, path):
        self.value = {}
        with open(path) as f:
            for line in f:
                if "=" in line and line[0] not in "#;[":
                    key, value = line.strip().split("=", 1)
                    self.value.setdefault(key, []).append(value)

    def all(self, key):
        return [word for value in self.value.get(key, []) for word in value.split()]

    def one(self, key, absent=None):
        return self.value[key][-1] if key in self.value else absent


class Manager:
    def __init__(self, root, name, log):
        self.root, self.name, self.log = root, name, log
        self.link = f"{root}/etc/systemd/system/multi-user.target.wants/{name}"
        self.process, self.stored, self.asked = None, {}, []
        os.makedirs(f"{root}/run/manager", exist_ok=True)
        os.makedirs(f"{root}/run/systemd/system", exist_ok=True)
        for fifo in ("ask", "answer"):
            os.mkfifo(f"{root}/run/manager/{fifo}")
        with open(f"{root}/usr/bin/systemctl", "w") as f:
            f.write(SYSTEMCTL)
        os.chmod(f"{root}/usr/bin/systemctl", 0o755)
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(f"{root}/run/manager/notify")
        os.chmod(f"{root}/run/manager/notify", 0o666)
        self.ready = threading.Event()
        threading.Thread(target=self.hear, daemon=True).start()
        threading.Thread(target=self.serve, daemon=True).start()

    # ---- what the service says ----

    def hear(self):
        while True:
            text, passed, _, _ = socket.recv_fds(self.notices, 8192, 16)
            words = dict(line.split("=", 1) for line in text.decode().split("\n") if "=" in line)
            if words.get("READY") == "1":
                self.ready.set()
            if words.get("FDSTORE") == "1":
                for fd in passed:
                    self.stored.setdefault(words.get("FDNAME", "stored"), []).append(fd)
            elif words.get("FDSTOREREMOVE") == "1":
                for fd in self.stored.pop(words.get("FDNAME"), []):
                    os.close(fd)

    def path_of(self, kind):
        return {"StateDirectory": "/var/lib", "LogsDirectory": "/var/log", "RuntimeDirectory": "/run"}[kind]

    def start(self):
        unit = Unit(f"{self.root}/lib/systemd/system/{self.name}")
        user, group = unit.one("User"), unit.one("Group")
        uid, gid = self.uid_of(user)
        writable = []
        for kind in ("StateDirectory", "LogsDirectory", "RuntimeDirectory"):
            for name in unit.all(kind):
                path = f"{self.root}{self.path_of(kind)}/{name}"
                if not os.path.isdir(path):
                    os.mkdir(path)
                    os.chown(path, uid, gid)
                os.chmod(path, int(unit.one(kind + "Mode", "0755"), 8))
                writable.append(path)
        for path in unit.all("ReadWritePaths"):
            if os.path.isdir(self.root + path.lstrip("-")):
                writable.append(self.root + path.lstrip("-"))
        assert unit.one("ProtectSystem") == "strict" and unit.one("NoNewPrivileges") == "yes" and unit.one("Type") == "notify"
        script = [f"mount --bind {p} {p}" for p in writable]
        script = [f"mount --rbind {self.root} {self.root}", f"mount -o remount,bind,ro {self.root}", *script]
        script += [f"mount -o remount,bind,rw {p}" for p in writable]
        capability = ",".join("+" + c.removeprefix("CAP_").lower() for c in unit.all("AmbientCapabilities"))
        command = ["chroot", self.root, "setpriv", "--reuid", user, "--regid", group, "--init-groups", "--no-new-privs", "--inh-caps", capability,
                   "--ambient-caps", capability, "--bounding-set", f"-all,{capability}", *shlex.split(unit.one("ExecStart"))]
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        script.append(f"umask {unit.one('UMask', '0022')}; ulimit -n {min(int(unit.one('LimitNOFILE')), most)}; exec {shlex.join(command)}")
        fds = [(name, fd) for name, held in self.stored.items() for fd in held]
        high = [fd for _, fd in fds]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": "/run/manager/notify"}
        if fds:
            env |= {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(name for name, _ in fds)}
        self.ready.clear()
        self.process = subprocess.Popen([sys.executable, "-c", STARTER, str(len(high)), *map(str, high), "unshare", "--mount", "sh", "-ec", "\n".join(script)],
                                        env=env, pass_fds=high, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        for _ in range(PATIENCE * 10):
            if self.ready.wait(0.1) or self.process.poll() is not None:
                break
        return 0 if self.process.poll() is None and self.ready.is_set() else 1

    def uid_of(self, name):
        with open(f"{self.root}/etc/passwd") as f:
            for line in f:
                word = line.split(":")
                if word[0] == name:
                    return int(word[2]), int(word[3])
        raise KeyError(name)

    # ---- what it is told ----

    def active(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """As KillMode=mixed does it: the main process hears SIGTERM."""
        if not self.active():
            return 0
        self.process.terminate()
        return 0 if self.process.wait(PATIENCE) == 0 else 1

    def forget(self):
        """A service that is stopped, not restarted, has no store any more."""
        for fds in self.stored.values():
            for fd in fds:
                os.close(fd)
        self.stored = {}

    def obey(self, verb):
        if verb == "is-active":
            return 0 if self.active() else 3, ""
        if verb == "is-enabled":
            return (0, "enabled") if os.path.islink(self.link) else (1, "disabled")
        if verb == "preset":
            os.makedirs(os.path.dirname(self.link), exist_ok=True)
            os.symlink(f"/lib/systemd/system/{self.name}", self.link)
            return 0, ""
        if verb == "start":
            return 0 if self.active() else self.start(), ""
        if verb == "reload":
            unit = Unit(f"{self.root}/lib/systemd/system/{self.name}")
            command = ["setpriv", "--reuid", unit.one("User"), "--regid", unit.one("Group"), "--init-groups", *shlex.split(unit.one("ExecReload"))]
            return subprocess.run(["chroot", self.root, *command], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, timeout=PATIENCE).returncode, ""
        if verb == "stop":
            code = self.stop()
            self.forget()
            return code, ""
        if verb == "restart" or (verb == "try-restart" and self.active()):
            return self.stop() or self.start(), ""
        return 0, ""

    def tell(self, verb):
        """systemctl VERB, by the admin."""
        return self.obey(verb)[0]

    def serve(self):
        while True:
            with open(f"{self.root}/run/manager/ask") as f:
                words = [w for w in f.read().split() if not w.startswith("-")]
            if not words:
                continue
            try:
                code, text = self.obey(words[0])
            except Exception as e:  # noqa: BLE001: whoever asked waits for an answer
                code, text = 1, repr(e)
            self.asked.append((" ".join(words[:2]), code))
            with open(f"{self.root}/run/manager/answer", "w") as f:
                f.write(f"{code} {text}\n")

    def end(self):
        if self.active():
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self.forget()
