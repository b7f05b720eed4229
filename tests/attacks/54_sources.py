"""Class 54 for sources of recipients: a web service with a certificate of an unknown hand, for another name, or out of date is not believed, and is told neither
password nor address."""
import http.server
import ssl

from kit import *

asked = []


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


d = tempfile.mkdtemp(prefix="waypost-attack-")
os.chmod(d, 0o755)


def openssl(*words):
    subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=d)


def authority(name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")


def certificate(name, by, san, begins, ends):
    with open(f"{d}/ca.cnf", "w") as f:
        f.write(f"[ca]\ndefault_ca=x\n[x]\ndatabase={d}/index\nserial={d}/serial\nnew_certs_dir={d}\ndefault_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
                f"[e]\nsubjectAltName={san}\n")
    open(f"{d}/index", "w").close()
    with open(f"{d}/serial", "w") as f:
        f.write("01\n")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=web", "-keyout", f"{name}.key", "-out", f"{name}.req")
    openssl("ca", "-batch", "-config", "ca.cnf", "-cert", f"{by}.pem", "-keyfile", f"{by}.key", "-extensions", "e", "-startdate", begins, "-enddate", ends, "-in", f"{name}.req",
            "-out", f"{name}.pem", "-notext")


authority("ours")
authority("theirs")
NOW = ("20200101000000Z", "20490101000000Z")
certificate("good", "ours", "IP:127.0.0.1", *NOW)
certificate("unknown", "theirs", "IP:127.0.0.1", *NOW)
certificate("named", "ours", "DNS:other.example", *NOW)
certificate("expired", "ours", "IP:127.0.0.1", "20200101000000Z", "20210101000000Z")
certificate("early", "ours", "IP:127.0.0.1", "20480101000000Z", "20490101000000Z")
with open(f"{d}/token", "w") as f:
    f.write("t0ken")
os.chmod(f"{d}/token", 0o644)
os.chmod(f"{d}/ours.pem", 0o644)
for name, want in (("good", "250 "), ("unknown", "451 4.3.0"), ("named", "451 4.3.0"), ("expired", "451 4.3.0"), ("early", "451 4.3.0")):
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    web.handle_error = lambda *what: None # we hang up on it
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{d}/{name}.pem", f"{d}/{name}.key")
    web.socket = context.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    asked.clear()
    source = f'http "https://127.0.0.1:{web.server_port}/{{address}}" {{ allow_private on; ca {d}/ours.pem; bearer file:{d}/token; timeout 5s }}'
    with Relay(Hop(), extra="relay_domain known.example { backend inside; recipients { " + source + " } }\n") as relay:
        said = relay.send(to=["ann@known.example"])
        check(said.startswith(want), f"{name}: {want}", said, relay.log()[-1500:])
        check(len(asked) == (name == "good"), f"{name}: who is not believed is told nothing", asked)
        relay.alive()
    web.shutdown()
shutil.rmtree(d)
done()
