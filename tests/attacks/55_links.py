"""Class 55 (CVE-2008-2936, CVE-2020-8793): links in the spool and in its place lead nowhere; what the relay makes is its own alone."""
import glob
import stat

from kit import *


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


# What is made is for its owner only.
with Relay(hop := Hop()) as relay:
    relay.send()
    relay.settled(delivered=1)
    check(mode(relay.dir + "/spool") == 0o700, "the spool's mode", oct(mode(relay.dir + "/spool")))
    for f in glob.glob(relay.dir + "/spool/*"):
        check(mode(f) == 0o600, "a file's mode", f, oct(mode(f)))
    check(mode(relay.dir + "/control.sock") == 0o660, "the control socket's")
hop.close()

# A symbolic link in the place of each file that is written: nothing is written through it.
for name in ("lock", "00000001.seg", "00000002.seg", "00000001.idx", "00000001.old"):
    with Relay(None, start=False) as relay:
        os.mkdir(relay.dir + "/spool", 0o700)
        victim = relay.dir + "/victim"
        with open(victim, "wb") as f:
            f.write(b"precious")
        os.symlink(victim, f"{relay.dir}/spool/{name}")
        relay.start(wait=False)
        up = until(lambda: relay.process.poll() is not None or relay.greets())
        if relay.process.poll() is None:
            check(relay.send().startswith(("250", "4")), "it works or says not now", name)
        check(open(victim, "rb").read() == b"precious", "nothing is written through a link", name, bool(up))

# A link in the place of the spool, and in that of the log.
with Relay(None, start=False) as relay:
    os.mkdir(relay.dir + "/elsewhere", 0o700)
    os.symlink(relay.dir + "/elsewhere", relay.dir + "/spool")
    relay.start(wait=False)
    until(lambda: relay.process.poll() is not None or relay.greets())
    check(os.listdir(relay.dir + "/elsewhere") == [], "a spool that is a link is not used", os.listdir(relay.dir + "/elsewhere"))
    check(not relay.greets(), "and no mail is taken")
with Relay(None, start=False) as relay:
    with open(relay.dir + "/victim", "w") as f:
        f.write("precious")
    os.symlink(relay.dir + "/victim", relay.dir + "/relay.log")
    relay.start(wait=False)
    relay.process.wait(PATIENCE)
    check(relay.process.returncode not in (0, None) and open(relay.dir + "/victim").read() == "precious", "a log that is a link is refused")

# A spool that everybody may write in.
with Relay(None, start=False) as relay:
    os.mkdir(relay.dir + "/spool")
    os.chmod(relay.dir + "/spool", 0o777)
    relay.start(wait=False)
    until(lambda: relay.process.poll() is not None or relay.greets())
    check(not relay.greets(), "a spool that others may write in is refused", relay.log())
    check("spool" in relay.log() + (relay.process.stderr.read() if relay.process.poll() is not None else ""), "with a word why", relay.log())
done()
