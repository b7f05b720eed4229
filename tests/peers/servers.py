"""Real mail servers, each in a chroot of its own, and the relay under test. All have start(), stop(), a port, and relay
everything to 127.0.0.1:next."""

import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
ROOTS = TOP / "build-peers"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def wait_for(port, process, seconds=20):
    """Until somebody greets on the port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended with {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
                if s.recv(3) == b"220":
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"nobody greets on port {port}")


class Server:
    """A process and its log."""

    name = "?"
    process = None

    def __init__(self, folder, next_port, port=None):
        self.folder = pathlib.Path(folder)
        self.port = port or free_port()
        self.next = next_port

    def spawn(self, *args, **more):
        self.log = open(self.folder.parent / (self.folder.name + ".log"), "ab")
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        self.process = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=env, start_new_session=True, **more)
        try:
            wait_for(self.port, self.process)
        except RuntimeError as e:
            raise RuntimeError(f"{self.name}: {e}\n" + "\n".join(self.told())) from e

    def stop(self):
        """End the process and what it started: its session is ours alone."""
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.log.close()
        self.process = None

    def broken(self):
        """What it should not have done to itself: ended, or said that something in it is wrong."""
        wrong = []
        if self.process.poll() is not None:
            wrong.append(f"{self.name} ended with {self.process.returncode}")
        for word in ("AddressSanitizer", "runtime error:", "this must hold"):
            wrong += [f"{self.name}: {line}" for line in self.told(word)]
        return wrong

    def pids(self):
        """The process and all that it started: its session is ours alone."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.getsid(int(entry.name)) == self.process.pid:
                    found.append(int(entry.name))
            except ProcessLookupError:
                pass
        return found

    def kick(self):
        """Try again now what waits, where waiting cannot be made short by configuration."""

    def logs(self):
        """Files that tell what it did."""
        return [self.folder.parent / (self.folder.name + ".log")]

    def told(self, about=""):
        """The last lines of its logs, or those that contain a word."""
        lines = []
        for path in self.logs():
            if path.exists():
                lines += [line[:300] for line in path.read_text(errors="replace").splitlines() if about in line]
        return lines[-12:]


class Chrooted(Server):
    """One of the roots that packaging/peers.sh makes. The run has a copy of links; what it writes is its own."""

    def __init__(self, folder, next_port, port=None, refuse_gone=False):
        super().__init__(folder, next_port, port)
        self.refuse_gone = refuse_gone
        root = str(ROOTS / self.name)
        if subprocess.run(["cp", "-al", root, str(self.folder)], stderr=subprocess.DEVNULL, check=False).returncode:
            shutil.rmtree(self.folder, ignore_errors=True)      # another file system: links do not reach there
            subprocess.run(["cp", "-a", root, str(self.folder)], check=True)
        for device, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
            path = self.folder / "dev" / device
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
            path.chmod(0o666)
            path.open("rb").close()     # a file system mounted nodev says no

    def write(self, path, text):
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)    # it may be a link to the root's own
        path.write_text(text)

    def folder_of(self, path, uid=0, gid=0, mode=0o755):
        path = self.folder / path
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, uid, gid)
        path.chmod(mode)

    def run(self, *args, text=b""):
        """A command in the chroot."""
        return subprocess.run(["chroot", str(self.folder), *args], input=text, capture_output=True,
                              env={"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C"}, timeout=60)

    def sendmail(self, m):
        """Hand a mail in by the server's own command, with the line ends that users of it write."""
        done = self.run("/usr/sbin/sendmail", "-i", "-f", m.sender, "--", *m.rcpts, text=m.data.replace(b"\r\n", b"\n"))
        if done.returncode:
            raise RuntimeError(f"{self.name}: sendmail: {(done.stdout + done.stderr).decode(errors='replace')}")


class Postfix(Chrooted):
    name = "postfix"
    USER, DROP = 64101, 64102
    # Lines for main.cf: here a pace that a test can wait for.
    more = """
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
transport_retry_time = 1s
"""

    def start(self):
        self.write("etc/postfix/main.cf", f"""
compatibility_level = 3.6
myhostname = postfix.peer.example
mydestination =
alias_maps =
local_recipient_maps =
local_transport = error:nobody is local
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{self.next}
smtp_host_lookup = native
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = {"check_recipient_access regexp:/etc/postfix/gone," if self.refuse_gone else ""} permit
smtp_tls_security_level = none
smtpd_tls_security_level = none
message_size_limit = 60000000
mailbox_size_limit = 0
notify_classes =
local_header_rewrite_clients =
append_dot_mydomain = no
maillog_file = /var/log/postfix.log
queue_directory = /var/spool/postfix
data_directory = /var/lib/postfix
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
{self.more}
""")
        self.write("etc/postfix/gone", "/^gone-/ 550 5.1.1 gone\n")
        services = [f"127.0.0.1:{self.port} inet n - n - - smtpd"]
        services += ["{} {} {} - n {} {} {}".format(*service) for service in (
            ("pickup", "unix", "n", 1, 1, "pickup"), ("cleanup", "unix", "n", "-", 0, "cleanup"),
            ("qmgr", "unix", "n", 300, 1, "qmgr"), ("rewrite", "unix", "-", "-", "-", "trivial-rewrite"),
            ("bounce", "unix", "-", "-", 0, "bounce"), ("defer", "unix", "-", "-", 0, "bounce"),
            ("trace", "unix", "-", "-", 0, "bounce"), ("verify", "unix", "-", "-", 1, "verify"),
            ("flush", "unix", "n", "1000?", 0, "flush"), ("proxymap", "unix", "-", "-", "-", "proxymap"),
            ("smtp", "unix", "-", "-", "-", "smtp"), ("relay", "unix", "-", "-", "-", "smtp"),
            ("showq", "unix", "n", "-", "-", "showq"), ("error", "unix", "-", "-", "-", "error"),
            ("retry", "unix", "-", "-", "-", "error"), ("discard", "unix", "-", "-", "-", "discard"),
            ("anvil", "unix", "-", "-", 1, "anvil"), ("scache", "unix", "-", "-", 1, "scache"),
            ("postlog", "unix-dgram", "n", "-", 1, "postlogd"))]
        self.write("etc/postfix/master.cf", "\n".join(services) + "\n")
        self.folder_of("var/spool/postfix")
        for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
                     "saved", "trace"):
            self.folder_of(f"var/spool/postfix/{name}", self.USER, 0, 0o700)
        self.folder_of("var/spool/postfix/public", self.USER, self.DROP, 0o2710)
        self.folder_of("var/spool/postfix/maildrop", self.USER, self.DROP, 0o1730)
        self.folder_of("var/spool/postfix/pid")
        self.folder_of("var/lib/postfix", self.USER, self.USER, 0o700)
        self.spawn("chroot", str(self.folder), "/usr/lib/postfix/sbin/master", "-d")

    def kick(self):
        # With a back-off as short as ours it may find a file still locked by the last attempt ("skipped, still being
        # delivered"), and then lets it lie.
        self.run("/usr/sbin/postqueue", "-f")

    def logs(self):
        return super().logs() + [self.folder / "var/log/postfix.log"]


class PlainPostfix(Postfix):
    """A relay with the settings that Debian ships."""

    more = ""


class TunedPostfix(Postfix):
    """A pure relay made as fast as its manual tells, to measure beside. Queue files are synced as always."""

    more = """
default_process_limit = 200
default_destination_concurrency_limit = 64
initial_destination_concurrency = 64
default_destination_rate_delay = 0s
default_destination_recipient_limit = 100
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
in_flow_delay = 0
smtp_connection_cache_destinations = 127.0.0.1
smtp_connection_reuse_count_limit = 10000
smtp_connection_reuse_time_limit = 600s
smtpd_client_connection_count_limit = 0
smtpd_client_event_limit_exceptions = static:all
smtpd_delay_reject = no
smtpd_timeout = 300s
disable_dns_lookups = yes
enable_long_queue_ids = no
max_use = 10000
max_idle = 300s
"""


class Exim(Chrooted):
    name = "exim"
    USER = 64103

    def start(self):
        self.write("etc/exim4/exim4.conf", f"""
primary_hostname = exim.peer.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
log_file_path = /var/log/exim4/%slog
log_selector = +smtp_connection
keep_environment =
tls_advertise_hosts =
host_lookup =
rfc1413_query_timeout = 0s
message_size_limit = 60000000
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
smtp_load_reserve = 1000
queue_run_max = 4
remote_max_parallel = 1
chunking_advertise_hosts = *
pipelining_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
delay_warning =
never_users =
begin acl
rcpt:
  deny  condition = {"yes" if self.refuse_gone else "no"}
        local_parts = ^gone-
        message = gone
  accept hosts = 127.0.0.1
begin routers
smart:
  driver = manualroute
  transport = out
  route_list = * 127.0.0.1::{self.next} byname
  self = send
begin transports
out:
  driver = smtp
  allow_localhost
  hosts_avoid_tls = *
  hosts_try_chunking = *
  hosts_try_fastopen =
  connection_max_messages = 100
begin retry
* * F,1h,1s
begin rewrite
""")
        self.folder_of("var/spool/exim4", self.USER, self.USER, 0o750)
        self.folder_of("var/log/exim4", self.USER, self.USER, 0o750)
        self.folder_of("run/exim4", self.USER, self.USER, 0o750)
        self.spawn("chroot", str(self.folder), "/usr/sbin/exim4", "-bdf", "-q1s")

    def logs(self):
        return super().logs() + [self.folder / "var/log/exim4" / name for name in ("mainlog", "paniclog")]


class OpenSmtpd(Chrooted):
    name = "opensmtpd"
    USER, QUEUE = 64104, 64105

    def start(self):
        gone = 'match from any for rcpt-to regex "^gone-" reject\n' if self.refuse_gone else ""
        self.write("etc/smtpd.conf", f"""
smtp max-message-size "60M"
queue ttl 1h
mta limit max-failures-per-session 100000
mta limit conn-delay-host 0
mta limit conn-delay-route 0
mta limit conn-delay-source 0
mta limit conn-delay-connector 0
mta limit conn-delay-relay 0
mta limit conn-delay-domain 0
mta limit reconn-delay-route 0
listen on 127.0.0.1 port {self.port} hostname opensmtpd.peer.example
listen on socket
action "out" relay host "smtp://127.0.0.1:{self.next}"
{gone}match from any for any action "out"
""")
        self.folder_of("var/spool/smtpd", mode=0o711)
        self.folder_of("var/spool/smtpd/offline", 0, self.QUEUE, 0o770)
        self.folder_of("var/lib/opensmtpd/empty")
        self.folder_of("run")
        control = self.folder / "usr/sbin/smtpctl"      # it wants its group; a copy, the file itself is the root's own
        program = control.read_bytes()
        control.unlink()
        control.write_bytes(program)
        os.chown(control, 0, self.QUEUE)
        control.chmod(0o2755)
        self.spawn("chroot", str(self.folder), "/usr/sbin/smtpd", "-d")

    def kick(self):
        # Its first retry is after 400 s, and a route that failed rests, whatever the configuration says.
        for line in self.control("show", "routes").splitlines():
            route, _, rest = line.partition(".")
            if "penalty=0" not in rest:
                self.control("resume", "route", route.strip())
        self.control("schedule", "all")

    def control(self, *args):
        done = self.run("/usr/sbin/smtpctl", *args)
        if done.returncode:
            raise RuntimeError("smtpctl: " + done.stderr.decode())
        return done.stdout.decode()


class Waypost(Server):
    """The relay under test."""

    name = "waypost"

    def start(self):
        self.folder.mkdir()
        (self.folder / "recipients.txt").write_text("@test.example\n")
        config = self.folder / "waypost.conf"
        config.write_text(f"""waypost 1
hostname mx.test.example
postmaster postmaster@test.example
listen smtp 127.0.0.1:{self.port}
spool {{ dir {self.folder}/spool }}
control {self.folder}/control.sock
backend inner {{ server 127.0.0.1:{self.next} priority 10; bounce_brake off }}
relay_domain test.example {{ backend inner; recipients {{ file recipients.txt }} }}
network local 127.0.0.0/8 {{ relay_from test.example }}
route default {{ via inner }}
retry [ 1s 1s 2s ] for 1h
""")
        self.spawn(str(build() / "waypost"), "serve", "-c", str(config))

    def kick(self):
        # What hung up inside the text had our final dot already: that is tried again late, unless an operator asks.
        socket_path = str(self.folder / "control.sock")
        subprocess.run([str(build() / "waypost"), "queue", "retry", "--all", "--socket", socket_path],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


PEERS = {c.name: c for c in (Postfix, Exim, OpenSmtpd)}


def build():
    return pathlib.Path(os.environ.get("WAYPOST_BUILD", TOP / "build"))


def relay_built():
    program = build() / "waypost"
    if not os.access(program, os.X_OK):
        return False
    said = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, timeout=20)
    return said.returncode in (0, 2) and "serve" in said.stdout + said.stderr


def peers_ready():
    return all((ROOTS / name / ".complete").exists() for name in PEERS)


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
