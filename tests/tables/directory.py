"""The sources that tests/tables/tables.py asks: a slapd, a web service that also misbehaves, a sink. Each on loopback, in a directory of its own."""
import http.server
import os
import signal
import socket
import subprocess
import threading
import time

BASE = "dc=corp,dc=example,dc=com"
LDIF = f"""dn: {BASE}
objectClass: dcObject
objectClass: organization
o: Corp
dc: corp

dn: cn=waypost,{BASE}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: waypost
userPassword: hush

"""
CONF = """include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.2.840.113556.1.2.210 NAME 'proxyAddresses' EQUALITY caseIgnoreMatch SYNTAX '1.3.6.1.4.1.1466.115.121.1.15' )
objectclass ( 1.2.840.113556.1.9999 NAME 'mailbox' SUP top AUXILIARY MAY ( proxyAddresses ) )
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {dir}/pid
sizelimit 5
{tls}
database mdb
maxsize 8388608
suffix "{base}"
directory {dir}/db
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=waypost,{base}" read by * none
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def wait_for(port, process):
    end = time.monotonic() + 30
    while not listens(port):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{process.args[0]} does not listen at {port}")
        time.sleep(0.02)


class Slapd:
    """people: login -> addresses, the first of which is the primary one (SMTP:, as Exchange writes it)."""

    def __init__(self, dir, people):
        self.dir, self.port, self.tls_port = dir, free_port(), free_port()
        os.makedirs(dir + "/db")
        self.certificates()
        with open(dir + "/slapd.conf", "w") as f:
            tls = f"TLSCACertificateFile {dir}/ca.pem\nTLSCertificateFile {dir}/cert.pem\nTLSCertificateKeyFile {dir}/key.pem"
            f.write(CONF.format(dir=dir, base=BASE, tls=tls))
        with open(dir + "/people.ldif", "w") as f:
            f.write(LDIF)
            for name, addresses in people.items():
                f.write(f"dn: uid={name},{BASE}\nobjectClass: inetOrgPerson\nobjectClass: mailbox\nuid: {name}\ncn: {name}\nsn: {name}\n")
                f.write(f"mail: {addresses[0]}\nproxyAddresses: SMTP:{addresses[0]}\n")
                f.writelines(f"proxyAddresses: smtp:{a}\n" for a in addresses[1:])
                f.write("\n")
        subprocess.run(["/usr/sbin/slapadd", "-f", dir + "/slapd.conf", "-l", dir + "/people.ldif"], check=True, stderr=subprocess.DEVNULL)
        self.process = None
        self.start()

    def certificates(self):
        d = self.dir

        def openssl(*words):
            subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=test CA", "-keyout", d + "/ca.key", "-out", d + "/ca.pem")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", d + "/key.pem", "-out", d + "/req.pem")
        with open(d + "/ext", "w") as f:
            f.write("subjectAltName=IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", d + "/req.pem", "-CA", d + "/ca.pem", "-CAkey", d + "/ca.key", "-CAcreateserial", "-days", "2", "-extfile", d + "/ext", "-out", d + "/cert.pem")
        os.chmod(d + "/ca.pem", 0o644)

    def start(self):
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        self.process = subprocess.Popen(["/usr/sbin/slapd", "-d", "0", "-f", self.dir + "/slapd.conf", "-h", urls], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.port, self.process)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(30)


class Web:
    """GET /u/ADDRESS: 200 for who is in `known`, else 404. `mode` is what it does instead: 500, redirect, hang, endless, json, junk."""

    def __init__(self, known):
        self.known, self.mode, self.asked, self.tokens = known, "", [], []
        self.let_go = threading.Event()
        self.port = free_port()
        self.server = None
        self.start()

    def start(self):
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                web.asked.append(self.path)
                web.tokens.append(self.headers.get("Authorization"))
                known = self.path.removeprefix("/u/") in web.known
                code, body, head = (200 if known else 404), b"", {}
                if web.mode == "hang":
                    web.let_go.wait(60)
                if web.mode in ("hang", "gone"):
                    self.close_connection = True
                    return
                if web.mode == "500":
                    code = 500
                elif web.mode == "redirect":
                    code, head = 302, {"Location": f"http://127.0.0.1:{web.port}/u/ann%40example.com"}
                elif web.mode == "json":
                    code, body = 200, b'{"found": %s}' % (b"true" if known else b"false")
                elif web.mode == "junk":
                    code, body = 200, b'{"found": "perhaps"}'
                self.send_response(code)
                for k, v in head.items():
                    self.send_header(k, v)
                if web.mode == "endless":
                    self.end_headers()
                    try:
                        while True:
                            self.wfile.write(b"x" * 65536)
                    except OSError:
                        return
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words):
                pass
        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *who):   # whoever asked has gone
                pass
        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.mode = "gone"      # the connections it has end too
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()


class Sink:
    def __init__(self, waypost, port, *options):
        self.args = [waypost, "sink", "-l", f"127.0.0.1:{port}", *options]
        self.port = port
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.port, self.process)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
